"""Batches of patches: sampled, read, augmented; the same for a seed, an epoch and an iteration, whoever makes them.

What augmentation draws is known before a patch is read, so that of its margin only what is needed is read, and of
that only what lies inside the image. Arrays are (C, z, y, x) and (z, y, x); tensors of a batch have a leading B, and
no z in 2D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from nnrules.errors import Problem, RunError, StoreError
from torch import Tensor

from nnrules_runtime.train.case_cache import CaseCache
from nnrules_runtime.train.sampling import (
    LocatedCase,
    Patch,
    PatchSampler,
    Phase,
    Stream,
    sample_generator,
)

__all__ = [
    "Batch",
    "BatchKey",
    "BatchSource",
    "PatchAugmentation",
    "PatchDraw",
    "PreviousStage",
    "StoredCases",
]

Triple = tuple[int, int, int]


class BatchKey(NamedTuple):
    """Which batch of a training.

    Attributes:
        phase: training or validation.
        epoch: from 0.
        iteration: of the phase in this epoch, from 0.
    """

    phase: Phase
    epoch: int
    iteration: int

    def __str__(self) -> str:
        """As in messages."""
        return f"{self.phase.name.lower()} batch {self.iteration} of epoch {self.epoch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of patches.

    Attributes:
        image: ``(B, C, *patch)`` float32, contiguous.
        target: ``(B, *patch)`` int16, contiguous.
        key: which batch it is.
        case_ids: the case of each sample.
    """

    image: Tensor
    target: Tensor
    key: BatchKey
    case_ids: tuple[str, ...]


class StoredCases(Protocol):
    """Preprocessed cases: a part of ``nnrules_runtime.preprocess.store.CaseStore``."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases, sorted."""

    def case(self, case_id: str) -> LocatedCase:
        """One case."""


class PreviousStage(Protocol):
    """Segmentations of a cascade's previous stage on the grid of the preprocessed cases."""

    def read(self, case_id: str, start: Triple, stop: Triple) -> npt.NDArray[Any]:
        """Labels (z, y, x) of a box inside the image."""


class PatchDraw(Protocol):
    """What was drawn for a sample: a part of ``nnrules_runtime.augment.SampleDraw``."""

    @property
    def offset(self) -> Triple:
        """First voxel of the initial patch that is needed."""

    @property
    def size(self) -> Triple:
        """Voxels of it that are needed."""


class PatchAugmentation(Protocol):
    """A part of ``nnrules_runtime.augment.Augmentation``."""

    @property
    def needs_previous(self) -> bool:
        """Whether samples come with the previous stage's segmentation."""

    def draw(self, generator: np.random.Generator, /) -> Any:
        """Everything random about one sample: a :class:`PatchDraw`."""

    def apply(
        self, draw: Any, image: Tensor, label: Tensor, /, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augmented image ``(C, *patch)`` and label ``(*patch)``; may overwrite what it is given."""


class BatchSource:
    """Makes the batches of one phase.

    Args:
        store: preprocessed cases.
        case_ids: those to draw from.
        sampler: places the patches.
        augmentation: that of the phase.
        seed: of the training.
        phase: training or validation.
        samples: which samples of a batch to make, see :func:`~nnrules_runtime.train.sampling.rank_samples`;
            default: all.
        previous: segmentations of the previous stage, in the second stage of a cascade.
        cache_bytes: memory for cases that are kept decompressed, in each process.

    Raises:
        StoreError: there are no cases, or some were not preprocessed.
        RunError: the previous stage's segmentations are missing, or there is no use for them.
    """

    def __init__(
        self,
        store: StoredCases,
        case_ids: Sequence[str],
        sampler: PatchSampler,
        augmentation: PatchAugmentation,
        *,
        seed: int,
        phase: Phase = Phase.TRAIN,
        samples: range | None = None,
        previous: PreviousStage | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.case_ids = tuple(case_ids)
        self.phase = phase
        self.samples = range(sampler.batch_size) if samples is None else samples
        _check_cases(store, self.case_ids, phase)
        _check_previous(augmentation, previous)
        self._store = store
        self._sampler = sampler
        self._augmentation = augmentation
        self._seed = seed
        self._previous = previous
        self._cache = CaseCache(cache_bytes)

    def batch(
        self,
        epoch: int,
        iteration: int,
        *,
        on_sample: Callable[[int, int], None] | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> Batch:
        """One batch.

        Args:
            epoch: from 0.
            iteration: of this phase in the epoch, from 0.
            on_sample: is told the place in the batch and the index of the case before a sample is made.
            out: tensors to write to.

        Raises:
            StoreError: a case is damaged.
        """
        case_ids = []
        for place, sample in enumerate(self.samples):
            sampling, augmentation = (
                sample_generator(
                    seed=self._seed,
                    phase=self.phase,
                    epoch=epoch,
                    iteration=iteration,
                    sample=sample,
                    stream=stream,
                )
                for stream in (Stream.SAMPLING, Stream.AUGMENTATION)
            )
            index = self._sampler.choose_case(len(self.case_ids), sampling)
            case_ids.append(self.case_ids[index])
            if on_sample is not None:
                on_sample(sample, index)
            case = self._store.case(self.case_ids[index])
            patch = self._sampler.place(case, sample, self.phase, sampling)
            image, label = self._sample(self.case_ids[index], case, patch, augmentation)
            if self._sampler.is_2d:
                image, label = image[:, 0], label[0]
            if out is None:
                out = _empty(len(self.samples), image, label)
            out[0][place].copy_(image)
            out[1][place].copy_(label)
        assert out is not None, "a rank without samples makes no batches"
        key = BatchKey(self.phase, epoch, iteration)
        return Batch(image=out[0], target=out[1], key=key, case_ids=tuple(case_ids))

    def _sample(
        self, case_id: str, case: LocatedCase, patch: Patch, random: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        draw: PatchDraw = self._augmentation.draw(random)
        start = _added(patch.start, draw.offset)
        stop = _added(start, draw.size)
        inside = _Inside.of(start, stop, case.shape)
        sampler = self._sampler
        if inside is None:
            image = torch.full((case.num_channels, *draw.size), sampler.border_image, dtype=torch.float32)
            label = torch.full(draw.size, sampler.border_label, dtype=torch.int16)
        else:
            read_image, read_label = self._cache.read(case_id, case, inside.start, inside.stop)
            image = inside.placed(read_image, np.float32, sampler.border_image)
            label = inside.placed(read_label, np.int16, sampler.border_label)
        if self._previous is None:
            return self._augmentation.apply(draw, image, label)
        previous = torch.full(draw.size, sampler.border_previous, dtype=torch.int16)
        if inside is not None:
            segmentation = self._previous.read(case_id, inside.start, inside.stop)
            previous = inside.placed(segmentation, np.int16, sampler.border_previous)
        return self._augmentation.apply(draw, image, label, previous=previous)


class _Inside(NamedTuple):
    """The part of a box that lies inside the image.

    Attributes:
        start: its first voxel in the image.
        stop: one past its last voxel in the image.
        offset: its first voxel in the box.
        size: edges of the box.
    """

    start: Triple
    stop: Triple
    offset: Triple
    size: Triple

    @classmethod
    def of(cls, start: Triple, stop: Triple, shape: Triple) -> _Inside | None:
        """The part, or ``None`` where box and image have no voxel in common."""
        first = _triple(max(edge, 0) for edge in start)
        last = _triple(min(edge, size) for edge, size in zip(stop, shape, strict=True))
        if any(low >= high for low, high in zip(first, last, strict=True)):
            return None
        offset = _triple(low - edge for low, edge in zip(first, start, strict=True))
        return cls(first, last, offset, _triple(high - low for low, high in zip(start, stop, strict=True)))

    def placed(self, values: npt.NDArray[Any], dtype: npt.DTypeLike, border: float) -> Tensor:
        """Values (…, z, y, x) of the part as a tensor of the box, writable, with the border around them."""
        if values.shape[-3:] == self.size:
            return torch.from_numpy(np.array(values, dtype))  # a copy: what was read may be kept
        box = np.full((*values.shape[:-3], *self.size), border, dtype)
        z, y, x = (
            slice(first, first + edge) for first, edge in zip(self.offset, values.shape[-3:], strict=True)
        )
        box[..., z, y, x] = values
        return torch.from_numpy(box)


def _empty(num_samples: int, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.empty((num_samples, *image.shape), dtype=torch.float32),
        torch.empty((num_samples, *label.shape), dtype=torch.int16),
    )


def _added(first: Triple, second: Triple) -> Triple:
    return _triple(one + other for one, other in zip(first, second, strict=True))


def _triple(values: Any) -> Triple:
    z, y, x = values
    return z, y, x


def _check_cases(store: StoredCases, case_ids: Sequence[str], phase: Phase) -> None:
    missing = sorted(set(case_ids) - set(store.ids))
    if case_ids and not missing:
        return
    shown = ", ".join(missing[:5]) + (f", … ({len(missing)} in all)" if len(missing) > 5 else "")
    raise StoreError(
        Problem(
            where=f"{phase.name.lower()} cases",
            what="cases have not been preprocessed" if case_ids else "there are no cases",
            got=shown or None,
            fix="Run `nnrules run preprocess`; for a case that failed there, its message says why."
            if case_ids
            else "Choose another fold.",
        )
    )


def _check_previous(augmentation: PatchAugmentation, previous: PreviousStage | None) -> None:
    if augmentation.needs_previous == (previous is not None):
        return
    raise RunError(
        Problem(
            where="previous stage",
            what="its segmentations are needed and not there"
            if augmentation.needs_previous
            else "its segmentations are not used by this configuration",
            fix="Train the previous stage on all folds first; its models predict all cases."
            if augmentation.needs_previous
            else None,
        )
    )
