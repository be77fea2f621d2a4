"""The random numbers of a training: a function of seed, phase, epoch, iteration and sample, and of nothing else."""

from __future__ import annotations

import enum
import secrets

import numpy as np

__all__ = ["Phase", "Stream", "new_seed", "rank_samples", "sample_generator", "seed_of_fold"]

_MAX_SEED = 2**64


class Phase(enum.IntEnum):
    """What a batch is for; each has random numbers of its own."""

    TRAIN = 0
    VALIDATION = 1


class Stream(enum.IntEnum):
    """What random numbers are for, so that one use does not shift those of the other."""

    SAMPLING = 0
    AUGMENTATION = 1


def new_seed() -> int:
    """A seed for a training whose plan has none: drawn once, recorded, and used like any other."""
    return secrets.randbits(63)


def seed_of_fold(seed: int, fold: int | str) -> int:
    """The seed of one training, so that folds which train on the same cases are not the same model."""
    number = [1, fold] if isinstance(fold, int) else [0]
    return int(np.random.SeedSequence([seed, *number]).generate_state(1, np.uint64)[0])


def sample_generator(
    *, seed: int, phase: Phase, epoch: int, iteration: int, sample: int, stream: Stream = Stream.SAMPLING
) -> np.random.Generator:
    """The random numbers of one sample.

    Philox (Salmon et al., SC 2011) numbers its draws by a counter, of which sample, iteration and epoch are three
    words here: samples never share a draw, and neither workers nor what was drawn before matter.

    Args:
        seed: of the training, 0 to 2**64 - 1.
        phase: training or validation.
        epoch: from 0.
        iteration: of the epoch, from 0.
        sample: place in the batch of all ranks together, from 0.
        stream: what the numbers are for.
    """
    if not 0 <= seed < _MAX_SEED:
        raise ValueError(f"a seed is a number from 0 to 2**64 - 1, not {seed}")
    words = np.array([0, sample, iteration, epoch], dtype=np.uint64)
    key = np.array([seed, 2 * phase + stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=words, key=key))


def rank_samples(batch_size: int, rank: int, num_ranks: int) -> range:
    """The samples of a batch that one of several devices gets: as even as possible, the first ones take one more.

    Which samples are forced is decided for the whole batch, so that their number does not depend on ranks.
    """
    share, rest = divmod(batch_size, num_ranks)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))
