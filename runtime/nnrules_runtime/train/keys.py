"""The order of a training's batches, decided epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator

from nnrules_runtime.train.batches import BatchKey
from nnrules_runtime.train.budget import EpochSize, Position, Schedule
from nnrules_runtime.train.sampling import Phase

__all__ = ["EpochKeys"]


class EpochKeys(Iterator[BatchKey]):
    """The keys of all batches; a loader that prepares batches ahead takes them before the epoch has begun.

    Args:
        schedule: says how long each epoch is.
        position: how far the training is; read whenever a length is decided.
        epoch: the first epoch.
        iteration: its first training iteration.
    """

    def __init__(self, schedule: Schedule, position: Position, *, epoch: int, iteration: int) -> None:
        self._schedule = schedule
        self._position = position
        self._sizes: dict[int, EpochSize | None] = {}
        self._cut: set[int] = set()
        self._keys = self._all(epoch, iteration)

    def __next__(self) -> BatchKey:
        return next(self._keys)

    def size_of(self, epoch: int) -> EpochSize | None:
        """Length of an epoch, the same each time; ``None``: there is no such epoch."""
        if epoch not in self._sizes:
            self._sizes[epoch] = self._schedule.epoch_size(epoch, self._position)
        return self._sizes[epoch]

    def end_training_of(self, epoch: int) -> None:
        """Leave out the training iterations of an epoch that have not been asked for yet."""
        self._cut.add(epoch)

    def _all(self, epoch: int, iteration: int) -> Iterator[BatchKey]:
        while (size := self.size_of(epoch)) is not None:
            for index in range(iteration, size.num_iterations):
                if epoch in self._cut:
                    break
                yield BatchKey(Phase.TRAIN, epoch, index)
            for index in range(size.num_validation_iterations):
                yield BatchKey(Phase.VALIDATION, epoch, index)
            epoch, iteration = epoch + 1, 0
