"""Labels at the voxels of an affine grid, without interpolating one indicator image a label.

Where all 2^D voxels around a position have one label, so has the position, whatever the rule. Elsewhere (a few per
cent) the labels of these voxels and their linear weights decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch.nn.functional import pad

from nnrules_runtime.augment.warp import AffineGrid, Block, flat_index, nearest_voxels
from nnrules_runtime.values import Section

__all__ = ["LabelRule", "LabelWarp", "mark_cells"]

# The peer (batchgeneratorsv2 0.3.6) compares indicators times this in float16: near ties become ties.
_SCORE_SCALE = 1000.0

# Labels are less than this (they are int16).
_NO_LABEL = 2**15

# Voxels that are looked at together to find mixed cells: they stay in the processor's cache.
_SLAB = 2**17


def mark_cells(codes: torch.Tensor) -> torch.Tensor:
    """The value of each cell of 2^D neighbouring voxels, or the type's largest where it has more than one.

    Args:
        codes: uint8 or int32 (L, S), D = 2 or 3; none is the type's largest.

    Returns:
        (L, S flattened): entry i is the cell whose lowest corner is voxel i. Entries at the end of an axis, where no
        cell begins, mean nothing.
    """
    shape = codes.shape[1:]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    mixed = torch.iinfo(codes.dtype).max
    flat = codes.reshape(-1)
    found = torch.full_like(flat, mixed)
    overlap = sum(strides)
    slab = max(_SLAB, 2 * overlap)
    for start in range(0, len(flat) - overlap, slab):
        smallest = largest = flat[start : start + slab + overlap]
        low, high = torch.aminmax(smallest)
        if low == high:
            # Most of a patch, often.
            found[start : start + len(smallest) - overlap].fill_(low)
            continue
        for stride in strides:
            largest = torch.maximum(largest[:-stride], largest[stride:])
            smallest = torch.minimum(smallest[:-stride], smallest[stride:])
        found[start : start + len(largest)] = largest.masked_fill_(largest != smallest, mixed)
    return found.view(len(codes), -1)


Decide = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """How weighted labels become one.

    Attributes:
        decide: from labels (2^D, N), weights (2^D, N) and the nearest voxel's label (N) to labels (N), all float32,
            in which labels are exact.
        outside_is_label: whether voxels outside of the patch take part with the border's label (batchgeneratorsv2), or
            every position outside has it (``scipy.ndimage``).
    """

    decide: Decide
    outside_is_label: bool

    @classmethod
    def from_plan(cls, section: Section) -> LabelRule:
        """Read ``label_rule`` and ``label_threshold``."""
        name = section.require("label_rule", "argmax_nearest", "argmax", "threshold")
        if name != "threshold":
            return cls(decide=_ArgMax(nearest=name == "argmax_nearest"), outside_is_label=True)
        threshold = section.value("label_threshold")
        if threshold is None:
            section.refuse(
                "label_threshold", "the rule `threshold` needs one", got="null", expected="a number"
            )
        return cls(decide=_Threshold(float(threshold or 0.0)), outside_is_label=False)


def _scores(corners: torch.Tensor, weights: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Sum of the weights of one label: float32 (N), added in the order of the corners."""
    total = torch.zeros_like(weights[0])
    is_label = torch.empty_like(total)
    for corner, weight in zip(corners, weights, strict=True):
        total.addcmul_(weight, torch.eq(corner, label, out=is_label))
    return total


@dataclass(frozen=True, slots=True)
class _ArgMax:
    """The largest score wins. Ties: the nearest voxel's label if it is tied, else the smallest."""

    nearest: bool

    def __call__(self, corners: torch.Tensor, weights: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        weights = weights * _SCORE_SCALE
        low, high = corners.amin(0), corners.amax(0)
        low_score, high_score = (_scores(corners, weights, label) for label in (low, high))
        # Where two labels share the weight, their scores are all of it; where there is a third, it has some, or none.
        many = (low_score + high_score < _SCORE_SCALE * (1 - 1e-5)).nonzero()[:, 0]
        low_score, high_score = low_score.half(), high_score.half()
        result = torch.where(high_score > low_score, high, low)
        if self.nearest:
            result = torch.where(high_score == low_score, nearest, result)
        if len(many):
            result[many] = self._among_many(corners[:, many], weights[:, many], nearest[many])
        return result

    def _among_many(
        self, corners: torch.Tensor, weights: torch.Tensor, nearest: torch.Tensor
    ) -> torch.Tensor:
        scores = torch.stack([_scores(corners, weights, corner) for corner in corners]).half()
        tied = scores == scores.amax(0)
        smallest = corners.masked_fill(~tied, _NO_LABEL).amin(0)
        if not self.nearest:
            return smallest
        return torch.where((tied & (corners == nearest)).any(0), nearest, smallest)


@dataclass(frozen=True, slots=True)
class _Threshold:
    """Of the labels whose score reaches the threshold the largest; 0 where none does."""

    threshold: float

    def __call__(self, corners: torch.Tensor, weights: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        nothing = -float(_NO_LABEL)
        result = torch.full_like(nearest, nothing)
        for corner in corners:
            reaches = _scores(corners, weights, corner) >= self.threshold
            result = torch.where(reaches, torch.maximum(result, corner), result)
        return result.masked_fill_(result == nothing, 0)


class LabelWarp:
    """Segmentations (L, S) on their way to the voxels of a grid.

    Labels are kept as their distance from the smallest one, as bytes where they fit, with one voxel of border where the
    grid reaches outside.

    Args:
        labels: int16 (L, S).
        grid: the positions.
        border: label outside.
        rule: how linear indicators become a label, or ``None`` for the nearest voxel's label.
    """

    def __init__(self, labels: torch.Tensor, grid: AffineGrid, border: int, rule: LabelRule | None) -> None:
        self._rule, self._border = rule, border
        self._shape, self._dtype = grid.shape, labels.dtype
        self._margin = 1 if grid.reaches_outside(labels.shape[1:]) else 0
        bounds = [int(bound) for bound in torch.aminmax(labels)] + [border] * self._margin
        self._smallest = min(bounds)
        self._constant = min(bounds) == max(bounds)
        self._result = torch.empty(len(labels), math.prod(grid.shape), dtype=labels.dtype)
        # Of mixed voxels: plane and index in it, index of the lowest corner, and fractions (D, N).
        self._mixed: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._outside: list[torch.Tensor] = []
        if self._constant:
            return
        small = max(bounds) - self._smallest < torch.iinfo(torch.uint8).max
        codes = (labels - self._smallest if self._smallest else labels).to(
            torch.uint8 if small else torch.int32
        )
        if self._margin:
            codes = pad(codes, (1, 1) * len(grid.shape), value=border - self._smallest)
        self._codes = codes
        self._cells = mark_cells(codes) if rule is not None else codes.reshape(len(codes), -1)

    @property
    def marks_outside(self) -> bool:
        """Whether blocks have to mark positions outside."""
        return self._rule is not None and not self._rule.outside_is_label

    def sample(self, block: Block) -> None:
        """Sample at one block."""
        if self._constant:
            return
        voxels = block.floors if self._rule is not None else nearest_voxels(block)
        index = flat_index(voxels, self._codes.shape[1:], self._margin)
        found = torch.stack([cells.index_select(0, index) for cells in self._cells])
        for values, out in zip(found.to(self._dtype), self._result, strict=True):
            block.write(values, out)
        if self._rule is None:
            return
        if block.outside is not None:
            self._outside.append(block.places(block.outside.nonzero()[:, 0]))
        # Looking for single bytes takes numpy a quarter of the time.
        mixed = torch.from_numpy(np.flatnonzero(found.numpy() == torch.iinfo(found.dtype).max))
        if len(mixed):
            self._note(block, index, mixed)

    def _note(self, block: Block, index: torch.Tensor, mixed: torch.Tensor) -> None:
        """Keep what decides the mixed voxels of a block: positions in (L, N flattened)."""
        where, plane = mixed, None
        if len(self._cells) > 1:
            plane = mixed // len(index)
            where = mixed - plane * len(index)
        fractions = torch.stack([fraction.index_select(0, where) for fraction in block.fractions])
        place, lowest = block.places(where), index.index_select(0, where)
        if plane is not None:
            place.add_(plane, alpha=self._result.shape[1])
            lowest.add_(plane, alpha=self._cells.shape[1])
        self._mixed.append((place, lowest, fractions))

    def _decide(self, rule: LabelRule) -> None:
        """Write the mixed voxels of the result."""
        place, lowest, fractions = (torch.cat(parts, dim=-1) for parts in zip(*self._mixed, strict=True))
        strides = [math.prod(self._codes.shape[1 + axis + 1 :]) for axis in range(len(fractions))]
        values = self._codes.reshape(-1)

        def labels(index: torch.Tensor) -> torch.Tensor:
            return values.index_select(0, index).to(torch.float32).add_(self._smallest)

        nearest = lowest.clone()
        for fraction, stride in zip(fractions, strides, strict=True):
            nearest.add_(fraction > 0.5, alpha=stride)
        corners, weights = [], []
        sides = [(1 - fraction, fraction) for fraction in fractions]
        for corner in product((0, 1), repeat=len(strides)):
            offset = sum(side * stride for side, stride in zip(corner, strides, strict=True))
            corners.append(labels(lowest + offset))
            # x · y · z, as torch.nn.functional.grid_sample multiplies.
            weight = sides[-1][corner[-1]]
            for axis in range(len(strides) - 2, -1, -1):
                weight = weight * sides[axis][corner[axis]]
            weights.append(weight)
        decided = rule.decide(torch.stack(corners), torch.stack(weights), labels(nearest))
        self._result.view(-1)[place] = decided.to(self._dtype)

    def finish(self) -> torch.Tensor:
        """The result, int16 (L, *P), after the last block."""
        result = self._result
        if self._constant:
            result.fill_(self._smallest)
        else:
            # Mixed cells overflow here, and are overwritten.
            result.add_(self._smallest)
            if self._rule is not None and self._mixed:
                self._decide(self._rule)
            if self._outside:
                result[:, torch.cat(self._outside)] = self._border
        return result.view(-1, *self._shape)
