"""The Dice of hard predictions on validation patches, by which the progress of a training is followed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

__all__ = ["MovingAverage", "PseudoDice", "PseudoDiceResult"]


@dataclass(frozen=True, slots=True)
class PseudoDiceResult:
    """Pseudo Dice of an epoch.

    Attributes:
        by_head: Dice by the name of the foreground class or region; ``None`` where it was neither in the reference
            nor predicted.
        mean: mean of those that are defined; ``None`` where none is.
    """

    by_head: dict[str, float | None]
    mean: float | None


class PseudoDice:
    """Counts of true positive, false positive and false negative voxels, summed over batches.

    Counts stay on the device of the predictions; only :meth:`result` waits for them.

    Args:
        labels: the labels of the dataset.
        region_threshold: probability above which a region is predicted.
    """

    def __init__(self, labels: LabelSet, *, region_threshold: float) -> None:
        self._labels = labels
        self._threshold = region_threshold
        self._counts: Tensor | None = None

    @classmethod
    def from_plan(cls, training: Section, labels: LabelSet) -> PseudoDice:
        """Read ``training.progress``."""
        progress = training.section("progress")
        progress.require("metric", "pseudo_dice")
        progress.require("aggregation", "sum_over_batches")
        progress.require("undefined_classes", "left_out")
        return cls(labels, region_threshold=progress.value("region_threshold"))

    def reset(self) -> None:
        """Forget all counts, before an epoch."""
        self._counts = None

    @torch.no_grad()
    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: ``(B, K, *patch)``, full resolution.
            target: label map ``(B, *patch)``, an integer type; voxels with the ignore label do not count.
        """
        labels = self._labels
        regions = labels.has_regions
        predicted = torch.sigmoid(logits.float()) > self._threshold if regions else logits.argmax(1)
        valid = None if labels.ignore_label is None else target != labels.ignore_label
        counts = []
        for head in labels.foreground_heads:
            has = _any_of(target, labels.heads[head])
            says = predicted[:, head] if regions else predicted == head
            if valid is not None:
                has, says = has & valid, says & valid
            both = (has & says).sum()
            counts.append(torch.stack([both, says.sum() - both, has.sum() - both]))
        batch = torch.stack(counts)
        self._counts = batch if self._counts is None else self._counts + batch

    def counts(self) -> Tensor:
        """True positive, false positive and false negative voxels, int64 ``(foreground heads, 3)``, of all ranks."""
        if self._counts is None:
            return torch.zeros((len(self._labels.foreground_heads), 3), dtype=torch.int64)
        counts = self._counts.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        return counts

    def result(self) -> PseudoDiceResult:
        """Dice = 2 TP / (2 TP + FP + FN) of what was added since :meth:`reset`."""
        by_head: dict[str, float | None] = {}
        for head, (both, wrong, missed) in zip(
            self._labels.foreground_heads, self.counts().tolist(), strict=True
        ):
            size = 2 * both + wrong + missed
            by_head[self._labels.head_names[head]] = 2 * both / size if size else None
        defined = [value for value in by_head.values() if value is not None]
        return PseudoDiceResult(by_head, sum(defined) / len(defined) if defined else None)


def _any_of(target: Tensor, values: tuple[int, ...]) -> Tensor:
    found = target == values[0]
    for value in values[1:]:
        found |= target == value
    return found


@dataclass(frozen=True, slots=True)
class MovingAverage:
    """The average of the pseudo Dice over epochs, recent ones counting more.

    Attributes:
        decay: weight of the average so far.
    """

    decay: float

    @classmethod
    def from_plan(cls, training: Section) -> MovingAverage:
        """Read ``training.progress.average_decay``."""
        return cls(training.section("progress").value("average_decay"))

    def __call__(self, average: float | None, value: float | None) -> float | None:
        """The average after one more epoch.

        Args:
            average: the average so far; ``None`` before the first value.
            value: the epoch's; ``None`` where it is undefined, which changes nothing (nnunetv2 2.8.1's average would
                be undefined from then on).
        """
        if value is None:
            return average
        return value if average is None else self.decay * average + (1 - self.decay) * value
