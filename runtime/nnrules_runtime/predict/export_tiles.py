"""Interpolation of predictions tile by tile, so that memory never holds all outputs on the image's grid.

A tile is a box of the image's grid; the voxels of the network's grid that it is made of are converted and multiplied
by one small matrix an axis. Where interpolation is convex (nearest, linear), what holds for all of these voxels holds
for the tile: a tile within one label is filled without interpolation, and an output that cannot win is left out.

Shapes: K outputs, Z Y X voxels of the network's grid, a prime on the image's grid; transposed axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnrules_runtime.predict.export_rule import OutputRule, argmax_first
from nnrules_runtime.predict.export_tiling import each_tile, tile_rows
from nnrules_runtime.predict.export_values import (
    Box,
    largest_outputs,
    rounded_to,
    single_precision,
    value_ranges,
)
from nnrules_runtime.resampling.interpolate import apply_axis
from nnrules_runtime.resampling.operators import AxisOperator, axis_operator

__all__ = ["TiledPrediction"]

Array = NDArray[Any]
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class TiledPrediction:
    """A prediction on the network's grid, to be read on the image's grid.

    Attributes:
        values: (K, Z, Y, X) on the host, contiguous; float16, bfloat16, float32 or float64.
        operators: of each axis.
        separate: the axis that is interpolated after the others, slices being clipped on their own.
        clip: whether values are clipped to their range before, where interpolation can leave it.
        cast_between: whether slices return to the type of ``values`` before the separate axis is interpolated.
        activate: applied to (K, ...) float32 before interpolation; ``None``: values are interpolated as they are.
        low: smallest value of each output (K, 1, 1, 1), or of each slice of each output (as ``separate``).
        high: the largest.
    """

    values: torch.Tensor
    operators: tuple[AxisOperator, AxisOperator, AxisOperator]
    separate: int | None
    clip: bool
    cast_between: bool
    activate: OutputRule | None
    low: Array | None
    high: Array | None

    @classmethod
    def of(
        cls,
        values: torch.Tensor,
        shape: Sequence[int],
        *,
        order: int,
        separate: int | None,
        separate_order: int,
        clip: bool,
        cast_between: bool = False,
        activate: OutputRule | None = None,
    ) -> TiledPrediction:
        """Prepare a prediction.

        Args:
            values: (K, Z, Y, X).
            shape: (Z', Y', X').
            order: spline order; in plane where an axis is separate.
            separate: the separate axis.
            separate_order: spline order along it.
            clip: as the attribute.
            cast_between: as the attribute.
            activate: as the attribute.
        """
        values = values.detach().cpu().contiguous()
        first, second, third = (
            axis_operator(before, after, separate_order if axis == separate else order)
            for axis, (before, after) in enumerate(zip(values.shape[1:], shape, strict=True))
        )
        operators = (first, second, third)
        leaves_range = clip and any(
            not operator.is_convex for axis, operator in enumerate(operators) if axis != separate
        )
        low, high = value_ranges(values, separate, activate) if leaves_range else (None, None)
        return cls(values, operators, separate, clip, cast_between, activate, low, high)

    @property
    def shape(self) -> Triple:
        """(Z', Y', X')."""
        first, second, third = (operator.size_out for operator in self.operators)
        return first, second, third

    @property
    def is_convex(self) -> bool:
        """Whether every interpolated value lies between those that it is made of."""
        return all(operator.is_convex for operator in self.operators)

    def source(self, box: Box) -> Box:
        """The box of the network's grid that a tile is made of."""
        first, second, third = (
            slice(*operator.span(part.start, part.stop))
            for operator, part in zip(self.operators, box, strict=True)
        )
        return first, second, third

    def read(self, source: Box) -> Array:
        """(K, z, y, x) values of a box of the network's grid, float32, activated where asked."""
        part = single_precision(self.values, source)
        return part if self.activate is None else self.activate.probabilities(part)

    def interpolate(self, part: Array, box: Box, source: Box, outputs: Array | None = None) -> Array:
        """(K, z', y', x') of a tile, rounded to the type of the prediction.

        Args:
            part: what :meth:`read` gave for ``source``, of all outputs or of those in ``outputs``.
            box: the tile.
            source: its box of the network's grid.
            outputs: indices of the outputs in ``part``; ``None``: all.
        """
        result = part
        for axis in sorted(range(3), key=lambda each: each == self.separate):
            if axis == self.separate and self.cast_between:
                result = self._rounded(self._clipped(result, source, outputs))
            elif axis == self.separate:
                result = self._clipped(result, source, outputs)
            operator, rows, columns = self.operators[axis], box[axis], source[axis]
            if operator.index is not None:
                if not operator.is_identity:
                    result = result.take(operator.index[rows] - columns.start, axis=axis + 1)
            else:
                matrix = operator.dense(rows.start, rows.stop, columns.start, columns.stop)
                result = apply_axis(matrix, np.ascontiguousarray(result), axis + 1)
        if self.separate is None:
            result = self._clipped(result, source, outputs)
        return self._rounded(result)

    def _clipped(self, array: Array, source: Box, outputs: Array | None) -> Array:
        if self.low is None or self.high is None:
            return array
        low, high = self.low, self.high
        if outputs is not None:
            low, high = low[outputs], high[outputs]
        if self.separate is not None:
            part = [slice(None)] * 4
            part[self.separate + 1] = source[self.separate]
            low, high = low[tuple(part)], high[tuple(part)]
        return np.asarray(np.clip(array, low, high))

    def _rounded(self, array: Array) -> Array:
        # nnunetv2 2.8.1 returns the interpolated values in the type that it was given, so that half-precision
        # predictions have ties.
        if self.activate is None and self.values.dtype in (torch.float16, torch.bfloat16):
            return rounded_to(array, self.values.dtype)
        return array

    def tiles(self, tile: Triple) -> Iterator[list[Box]]:
        """The grid in tiles, a list for each row of tiles."""
        first, second, third = (slice(0, size) for size in self.shape)
        return tile_rows((first, second, third), tile)

    def write_labels(
        self, out: Array, rule: OutputRule, *, activated: bool, tile: Triple, threads: int
    ) -> None:
        """Labels of the whole grid.

        Args:
            out: (Z', Y', X') any strides, written.
            rule: how values become labels.
            activated: whether the interpolated values are probabilities.
            tile: edges of a tile.
            threads: threads.
        """
        if rule.regions:
            cut = rule.cut(activated=activated)

            def one(box: Box) -> None:
                self._regions(box, out, rule, cut)
        else:
            lookup = np.asarray(rule.values, out.dtype)
            winners = largest_outputs(self.values, threads) if self.is_convex else None

            def one(box: Box) -> None:
                out[box] = lookup[self._argmax(box, winners)]

        each_tile(one, self.tiles(tile), threads)

    def write_values(self, out: Array, rule: OutputRule | None, *, tile: Triple, threads: int) -> None:
        """Values of the whole grid, activated by ``rule`` after interpolation where given.

        Args:
            out: (K, Z', Y', X') any strides, written.
            rule: activation.
            tile: edges of a tile.
            threads: threads.
        """

        def one(box: Box) -> None:
            source = self.source(box)
            values = self.interpolate(self.read(source), box, source)
            out[(slice(None), *box)] = values if rule is None else rule.probabilities(values)

        each_tile(one, self.tiles(tile), threads)

    def _argmax(self, box: Box, winners: Array | None) -> Any:
        source = self.source(box)
        if winners is not None:
            around = winners[source]
            first = around[0, 0, 0]
            if (around == first).all():
                return first
        part = self.read(source)
        if winners is None:
            return argmax_first(self.interpolate(part, box, source))
        flat = part.reshape(len(part), -1)
        # Some output is everywhere at least `sure`; one that nowhere reaches it cannot be the largest anywhere. The
        # margin keeps those that rounding could lift to a tie.
        sure = flat.min(axis=1).max()
        kept = np.flatnonzero(flat.max(axis=1) >= sure - abs(sure) * 1e-2 - 1e-6)
        if len(kept) < len(part):
            part = part[kept]
        return kept[argmax_first(self.interpolate(part, box, source, kept))]

    def _regions(self, box: Box, out: Array, rule: OutputRule, cut: float) -> None:
        source = self.source(box)
        part = self.read(source)
        result = np.zeros([edge.stop - edge.start for edge in box], out.dtype)
        for number, value in enumerate(rule.values):
            region = part[number : number + 1]
            if self.is_convex and region.max() <= cut:
                continue
            if self.is_convex and region.min() > cut:
                result[...] = value
                continue
            inside = self.interpolate(region, box, source, np.array([number]))[0] > cut
            result[inside] = value
        out[box] = result
