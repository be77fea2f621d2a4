"""A prediction on a network's grid, read in tiles on the grid of the image's file.

Shapes: K outputs, z y x voxels in the order of axes of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnrules_runtime.predict.export import Exporter, Prediction, crop_box
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.predict.export_tiles import TiledPrediction
from nnrules_runtime.predict.export_tiling import scratch_bytes
from nnrules_runtime.predict.export_values import Box, certain_outputs
from nnrules_runtime.preprocess.geometry import CaseGeometry

__all__ = ["Placed", "Share"]

Array = NDArray[Any]
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What a member contributes.

    Attributes:
        exporter: of its configuration.
        logits: ``(K, Z, Y, X)`` on its network's grid, transposed axes, as for
            :meth:`~nnrules_runtime.predict.export.Exporter.segmentation`.
        geometry: of the case in its configuration.
    """

    exporter: Exporter
    logits: Prediction
    geometry: CaseGeometry


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A prediction, to be read on the grid of the file.

    Attributes:
        tiled: on the grid of the crop, transposed axes.
        activate: applied after interpolation; ``None``: the values are probabilities then.
        dtype: in which its probabilities would be stored.
        background: the output that is 1 outside of the crop, if any.
        geometry: of the case.
        box: the crop in the order of axes of the file.
        winners: of each voxel of the network's grid the output that is certain to be the largest, or ``None``.
    """

    tiled: TiledPrediction
    activate: OutputRule | None
    dtype: np.dtype[Any]
    background: int | None
    geometry: CaseGeometry
    box: Box
    winners: Array | None

    @classmethod
    def of(cls, share: Share, rule: OutputRule, *, where: str, threads: int) -> Placed:
        """Prepare a share.

        Args:
            share: of the member.
            rule: of the ensemble.
            where: the case, for errors.
            threads: to look for certain outputs; 0: they are not looked for.
        """
        exporter = share.exporter
        tiled = exporter.tiled(share.logits, share.geometry, where=where)
        # Of logits only a softmax keeps the order of outputs by as much; a region does not win over another.
        arrive_activated = exporter.activated and not exporter.activate_before
        is_known = tiled.is_convex and not rule.regions
        is_known = is_known and (arrive_activated or exporter.rule.activation == "softmax")
        return cls(
            tiled=tiled,
            activate=None if exporter.activated else exporter.rule,
            dtype=exporter.probability_dtype,
            background=rule.background,
            geometry=share.geometry,
            box=crop_box(share.geometry),
            winners=certain_outputs(tiled.values, threads, are_probabilities=arrive_activated)
            if is_known and threads
            else None,
        )

    def certain(self, box: Box) -> int | None:
        """The output that is certain to be the largest in all of a tile, if there is one."""
        if self.winners is None or self._inside(box) != box:
            return None
        around = self.winners[self.tiled.source(self._in_crop(box))]
        first = int(around[0, 0, 0])
        is_certain = first != np.iinfo(around.dtype).max and bool((around == first).all())
        return first if is_certain else None

    def values(self, box: Box) -> Array:
        """``(K, z, y, x)`` float32 probabilities of a tile, rounded as stored, in an array that nobody else has."""
        inside = self._inside(box)
        is_empty = any(part.start >= part.stop for part in inside)
        if inside == box:
            return self._interpolated(inside)
        shape = [part.stop - part.start for part in box]
        result = np.zeros((len(self.tiled.values), *shape), np.float32)
        if self.background is not None:
            result[self.background] = 1
        if not is_empty:
            at = tuple(
                slice(part.start - of.start, part.stop - of.start)
                for part, of in zip(inside, box, strict=True)
            )
            result[(slice(None), *at)] = self._interpolated(inside)
        return result

    def _interpolated(self, inside: Box) -> Array:
        local = self._in_crop(inside)
        source = self.tiled.source(local)
        values = self.tiled.interpolate(self.tiled.read(source), local, source)
        values = values if self.activate is None else self.activate.probabilities(values)
        back = (1 + axis for axis in self.geometry.transpose_backward)
        stored = values.astype(self.dtype).transpose(0, *back)
        return np.array(stored, np.float32, order="C", copy=True)

    def _inside(self, box: Box) -> Box:
        """The part of a tile that lies in the crop."""
        first, second, third = (
            slice(max(part.start, of.start), min(part.stop, of.stop))
            for part, of in zip(box, self.box, strict=True)
        )
        return first, second, third

    def _in_crop(self, box: Box) -> Box:
        """A part of the crop on the crop's own grid, transposed axes."""
        first, second, third = (
            slice(box[axis].start - start, box[axis].stop - start)
            for axis, start in zip(self.geometry.transpose_forward, self.geometry.crop_start, strict=True)
        )
        return first, second, third

    def cost(self, tile: Triple) -> int:
        """Bytes of scratch for a tile in the order of axes of the file."""
        first, second, third = (tile[axis] for axis in self.geometry.transpose_forward)
        return scratch_bytes(len(self.tiled.values), self.tiled.operators, (first, second, third))
