"""What is known about each epoch: one line of ``metrics.jsonl``.

A training that continues from a checkpoint drops the lines of epochs that it will run again, so that the file reads
as if the training had never been interrupted.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnrules.errors import Problem, RunError

from nnrules_runtime.files import atomic_file

__all__ = ["METRICS_FILE", "EpochMetrics", "MetricsLog", "peak_memory_bytes"]

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One epoch.

    Attributes:
        epoch: its index, counted from 0.
        num_iterations: training iterations in it.
        learning_rate: of its first iteration.
        loss: mean training loss.
        validation_loss: mean loss of the validation patches; ``None`` without validation iterations.
        dice: pseudo Dice of each foreground class or region by name; ``None`` where it is undefined.
        mean_dice: mean of the defined ones.
        average_dice: their moving average, by which the best checkpoint is chosen.
        is_best: whether the best weights are this epoch's.
        seconds: wall-clock time of the epoch, with validation; where it was interrupted, of the last session's part.
        seconds_per_iteration: of a training iteration, with waiting for its batch.
        share_waiting: share of the training iterations' time that went by waiting for batches, 0 to 1.
        num_skipped: training iterations without a step, as the loss or the gradient was not finite.
        peak_memory_bytes: largest memory of this process so far, without its workers.
        peak_gpu_memory_bytes: largest memory on the CUDA device in this epoch; ``None`` elsewhere.
    """

    epoch: int
    num_iterations: int
    learning_rate: float
    loss: float | None
    validation_loss: float | None
    dice: Mapping[str, float | None]
    mean_dice: float | None
    average_dice: float | None
    is_best: bool
    seconds: float
    seconds_per_iteration: float
    share_waiting: float
    num_skipped: int
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


class MetricsLog:
    """The file of a training's epochs.

    Args:
        path: the file; it appears with the first epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, metrics: EpochMetrics) -> None:
        """Add an epoch.

        Raises:
            RunError: the disk is full or the file not writable.
        """
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(_finite(asdict(metrics)), sort_keys=True, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as exc:
            fix = "Free space on the disk; the same command continues from the last checkpoint."
            raise RunError(
                Problem(
                    where=str(self.path), what="this cannot be written", got=exc.strerror or str(exc), fix=fix
                )
            ) from None

    def read(self) -> list[dict[str, Any]]:
        """All epochs in order. A last line that was cut off by a crash is left out."""
        if not self.path.is_file():
            return []
        epochs = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("epoch"), int):
                epochs.append(entry)
        return epochs

    def keep_before(self, epoch: int) -> None:
        """Drop this epoch and all after it: they will be run again."""
        if not self.path.is_file():
            return
        kept = [entry for entry in self.read() if entry["epoch"] < epoch]
        text = "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in kept)
        if text != self.path.read_text(encoding="utf-8", errors="replace"):
            with atomic_file(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value
