"""TensorBoard's events of a training; needs the extra ``tensorboard``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard.writer import SummaryWriter

from nnrules_runtime.train.metrics import EpochMetrics

__all__ = ["Events"]

_FIELDS = (
    "loss",
    "validation_loss",
    "mean_dice",
    "average_dice",
    "learning_rate",
    "seconds_per_iteration",
    "share_waiting",
)


class Events:
    """Writes each epoch's metrics; a context manager and a callable.

    Args:
        folder: where the events lie.
        purge_from: epochs from this one on will be written again.
    """

    def __init__(self, folder: Path, *, purge_from: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=purge_from)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def __call__(self, metrics: EpochMetrics) -> None:
        """Write an epoch."""
        for name in _FIELDS:
            self._write(name, getattr(metrics, name), metrics.epoch)
        for name, value in metrics.dice.items():
            self._write(f"dice/{name}", value, metrics.epoch)

    def _write(self, name: str, value: float | None, epoch: int) -> None:
        if value is not None:
            self._writer.add_scalar(name, value, epoch)
