"""Metrics of one class in one case, from four counts of voxels.

Undefined values are NaN here and null in files. Conventions are the plan's where it has one (Dice and IoU of empty
classes); a ratio whose denominator is 0 is undefined. Sources: the releases' own evaluations, nnunet 1.7.1
(precision, recall, accuracy) and nnunetv2 2.8.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = ["METRICS", "Counts", "Empty", "overlap_of_empty"]


class Counts(NamedTuple):
    """Voxels of one class in one case; ignored ones are in none of them."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def num_predicted(self) -> int:
        """Voxels that are predicted to be of the class."""
        return self.tp + self.fp

    @property
    def num_reference(self) -> int:
        """Voxels that are of the class."""
        return self.tp + self.fn


class Empty(NamedTuple):
    """What an overlap is where a class is empty.

    Attributes:
        both: in reference and prediction.
        one: in one of them.
    """

    both: float
    one: float


def overlap_of_empty(counts: Counts, empty: Empty) -> float | None:
    """The conventional overlap where reference, prediction or both are empty; ``None`` where neither is."""
    if counts.num_predicted and counts.num_reference:
        return None
    return empty.one if counts.num_predicted or counts.num_reference else empty.both


def _dice(counts: Counts, empty: Empty) -> float:
    by_convention = overlap_of_empty(counts, empty)
    if by_convention is not None:
        return by_convention
    return 2 * counts.tp / (2 * counts.tp + counts.fp + counts.fn)


def _iou(counts: Counts, empty: Empty) -> float:
    by_convention = overlap_of_empty(counts, empty)
    if by_convention is not None:
        return by_convention
    return counts.tp / (counts.tp + counts.fp + counts.fn)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


METRICS: Mapping[str, Callable[[Counts, Empty], float]] = {
    "dice": _dice,
    "iou": _iou,
    "precision": lambda counts, _: _share(counts.tp, counts.num_predicted),
    "recall": lambda counts, _: _share(counts.tp, counts.num_reference),
    "accuracy": lambda counts, _: _share(counts.tp + counts.tn, sum(counts)),
    "tp": lambda counts, _: counts.tp,
    "fp": lambda counts, _: counts.fp,
    "fn": lambda counts, _: counts.fn,
    "tn": lambda counts, _: counts.tn,
    "num_predicted": lambda counts, _: counts.num_predicted,
    "num_reference": lambda counts, _: counts.num_reference,
}
"""Metrics that a plan may ask for, by name."""
