"""The mean of several predictions of one image, on the image's own grid.

Members of an ensemble predict on grids of their own. Their probabilities meet tile by tile, so that memory holds those
of a tile and never those of a whole image. The result is what nnU-Net has when it stores the probabilities of every
member and averages the files (nnunetv2 2.8.1 ``ensemble_folders``, nnunet 1.7.1 ``merge``): probabilities are rounded
to the type in which a member would store them, summed up in float32, and the mean is rounded to the plan's type.

Shapes: K outputs, z y x voxels in the order of axes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnrules.errors import Problem, RunError
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export import Exporter
from nnrules_runtime.predict.export_placed import Placed, Share
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.predict.export_tiling import (
    FIXED_BYTES,
    each_tile,
    fitting_tile,
    grid_bytes,
    threads_within,
    tile_rows,
)
from nnrules_runtime.predict.export_values import Box
from nnrules_runtime.resampling.threads import thread_count
from nnrules_runtime.values import Section

__all__ = ["AverageExporter", "Share"]

Array = NDArray[Any]
Triple = tuple[int, int, int]

_DEFAULT_MEMORY_BYTES = 1 << 30
# Values of a tile beside the scratch of interpolation: as activated, as stored, the sum and the mean.
_COPIES_OF_A_TILE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageExporter:
    """Exports the mean of several predictions.

    Attributes:
        rule: how probabilities become labels.
        dtype: of the mean.
        outside_label: label where no member sees anything.
        label_dtype: of segmentations.
        whole_image: whether probabilities cover the whole image, or the crop alone.
    """

    rule: OutputRule
    dtype: np.dtype[Any]
    outside_label: int
    label_dtype: np.dtype[Any]
    whole_image: bool

    @classmethod
    def from_plan(cls, root: Section, configuration: Section, labels: LabelSet) -> AverageExporter:
        """Read ``empirical.ensembles``, and the export of the first member's configuration.

        Args:
            root: the plan.
            configuration: of the first member.
            labels: the dataset's labels.
        """
        ensembles = root.section("empirical").section("ensembles")
        ensembles.require("average", "probabilities")
        exporter = Exporter.from_plan(root, configuration, labels)
        return cls(
            rule=exporter.rule,
            dtype=np.dtype(ensembles.require("dtype", "float32", "float16")),
            outside_label=exporter.outside_label,
            label_dtype=exporter.label_dtype,
            whole_image=exporter.whole_image,
        )

    def segmentation(
        self,
        shares: Sequence[Share],
        *,
        memory_bytes: int = _DEFAULT_MEMORY_BYTES,
        num_threads: int | None = None,
        where: str = "prediction",
    ) -> Array:
        """The segmentation of the whole image.

        Args:
            shares: of the members, of images of one shape.
            memory_bytes: most bytes to take beside the predictions and the result.
            num_threads: threads; by default as many as torch uses.
            where: the case, for errors.

        Returns:
            Labels (z, y, x), in the plan's type.

        Raises:
            RunError: the memory is too small even for the smallest tiles, the plan refuses a spacing, or the images
                differ in shape.
        """
        threads = thread_count() if num_threads is None else num_threads
        members = self._members(shares, where, threads=threads)
        extent = _union([member.box for member in members])
        used, tile = _tiling(members, memory_bytes, threads, where)
        result = np.full(shares[0].geometry.original_shape, self.outside_label, self.label_dtype)

        def one(box: Box) -> None:
            first = members[0].certain(box)
            if first is not None and all(member.certain(box) == first for member in members[1:]):
                result[box] = self.rule.values[first]
                return
            mean = self._mean(members, box).astype(np.float32, copy=False)
            result[box] = self.rule.labels(mean, activated=True, dtype=self.label_dtype)

        each_tile(one, tile_rows(extent, tile), used)
        return result

    def probabilities(
        self,
        shares: Sequence[Share],
        *,
        memory_bytes: int = _DEFAULT_MEMORY_BYTES,
        num_threads: int | None = None,
        where: str = "prediction",
    ) -> tuple[Array, Box]:
        """The mean of the probabilities; arguments and errors as for :meth:`segmentation`.

        Returns:
            ``(K, z, y, x)`` in the type of the mean, and the box of the image that they cover. Outside of the crop
            background is 1 (labels), or all are 0 (regions).
        """
        threads = thread_count() if num_threads is None else num_threads
        members = self._members(shares, where, threads=0)
        extent = _union([member.box for member in members])
        used, tile = _tiling(members, memory_bytes, threads, where)
        whole = shares[0].geometry.original_shape
        covered: Box = (slice(0, whole[0]), slice(0, whole[1]), slice(0, whole[2]))
        if not self.whole_image:
            covered = extent
        shape = [part.stop - part.start for part in covered]
        result = np.zeros((len(self.rule.values), *shape), self.dtype)
        if self.rule.background is not None:
            result[self.rule.background] = 1

        def one(box: Box) -> None:
            at = tuple(
                slice(part.start - of.start, part.stop - of.start)
                for part, of in zip(box, covered, strict=True)
            )
            result[(slice(None), *at)] = self._mean(members, box)

        each_tile(one, tile_rows(extent, tile), used)
        return result, covered

    def _members(self, shares: Sequence[Share], where: str, *, threads: int) -> list[Placed]:
        shapes = {share.geometry.original_shape for share in shares}
        if len(shapes) != 1:
            raise RunError(
                Problem(
                    where=where,
                    what="images of several shapes cannot be averaged",
                    got=" and ".join(" x ".join(str(edge) for edge in shape) for shape in sorted(shapes)),
                    fix="Bring them onto one grid, or predict them apart.",
                )
            )
        return [Placed.of(share, self.rule, where=where, threads=threads) for share in shares]

    def _mean(self, members: Sequence[Placed], box: Box) -> Array:
        """``(K, z, y, x)`` of a tile."""
        total = members[0].values(box)
        for member in members[1:]:
            total += member.values(box)
        total /= len(members)
        mean: Array = total.astype(self.dtype, copy=False)
        return mean


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box around some."""
    first, second, third = (
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )
    return first, second, third


def _tiling(
    members: Sequence[Placed], memory_bytes: int, threads: int, where: str
) -> tuple[int, tuple[int, int, int]]:
    """Threads and tiles that stay within the memory."""
    outputs = len(members[0].tiled.values)
    maps = [member for member in members if member.winners is not None]
    fixed = FIXED_BYTES + sum(grid_bytes(outputs + 1, member.tiled.values.shape[1:]) for member in maps)

    def cost(tile: Triple) -> int:
        values = _COPIES_OF_A_TILE * 4 * outputs * int(np.prod(tile))
        return values + max(member.cost(tile) for member in members)

    tile = fitting_tile(cost, (memory_bytes - fixed) // threads)
    return threads_within(memory_bytes, fixed, cost(tile), threads, where), tile
