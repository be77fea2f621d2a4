"""Sampling of a patch at the voxels of an affine grid: positions, and the intensities there.

Shapes: D is 2 (each slice by itself) or 3, S the edges of the array that is sampled, P the edges of the result, N the
number of voxels of a block of the result. A position is a voxel's index before rounding; it is outside below 0 and
above S - 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from nnrules_runtime.augment import spline

__all__ = [
    "CUBIC_BORDER",
    "AffineGrid",
    "Block",
    "flat_index",
    "nearest_voxels",
    "sample_cubic",
    "sample_linear",
    "sample_nearest",
]

Floats = npt.NDArray[np.float64]

# Coefficients around the array that a cubic spline needs: positions are at most one voxel outside.
CUBIC_BORDER = 2

# Voxels of the result that are worked on at a time: their positions and what is sampled there stay in the cache.
_BLOCK = 2**15

# Integers are exact in float32 up to here.
_EXACT = 2**24

# Positions are rounded to float32: so near to the border they may be outside.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Block:
    """Some voxels of the result.

    Attributes:
        rows: int64: the rows of the result, counted over all axes but the last.
        floors: float32 (N) for each axis: the voxel below each position, from -1 to S - 1.
        fractions: float32 (N) for each axis: distance from that voxel, from 0 to 1.
        beyond: whether any position may be outside. They are clamped to one voxel outside.
        outside: bool (N): which ones are; ``None`` where none is or nobody asked.
    """

    rows: torch.Tensor
    floors: list[torch.Tensor]
    fractions: list[torch.Tensor]
    beyond: bool
    outside: torch.Tensor | None

    def places(self, voxels: torch.Tensor) -> torch.Tensor:
        """Indices in the flattened result of some of these voxels: int64."""
        width = len(self.floors[0]) // len(self.rows)
        row = voxels // width
        return self.rows.index_select(0, row).sub_(row).mul_(width).add_(voxels)

    def write(self, values: torch.Tensor, out: torch.Tensor) -> None:
        """Write values (N) to the flattened result."""
        out.view(-1, len(values) // len(self.rows)).index_copy_(0, self.rows, values.view(len(self.rows), -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineGrid:
    """Positions ``origin + matrix @ index`` for each voxel of the result.

    Attributes:
        matrix: float64 (D, D).
        origin: float64 (D): position of the first voxel.
        shape: P.
    """

    matrix: Floats
    origin: Floats
    shape: tuple[int, ...]

    def extent(self) -> tuple[Floats, Floats]:
        """Smallest and largest position on each axis: float64 (D)."""
        reach = self.matrix * (np.array(self.shape) - 1)
        return self.origin + np.minimum(reach, 0).sum(axis=1), self.origin + np.maximum(reach, 0).sum(axis=1)

    def reaches_outside(self, array_shape: Sequence[int]) -> bool:
        """Whether any position may be outside of an array of these edges."""
        smallest, largest = self.extent()
        return bool((smallest < _ROUNDING).any() or (largest > np.array(array_shape) - 1 - _ROUNDING).any())

    def _tiles(self) -> Iterator[npt.NDArray[np.int64]]:
        """Rows of the result that are near to each other, a block at a time."""
        counts = self.shape[:-1]
        rows = np.arange(math.prod(counts)).reshape(counts)
        # A rotated compact tile reads a compact part of the array; a slab reads a little of all of it.
        edge = max(1, round((_BLOCK / self.shape[-1]) ** (1 / len(counts))))
        for start in product(*(range(0, count, edge) for count in counts)):
            yield rows[tuple(slice(first, first + edge) for first in start)].ravel()

    def blocks(self, array_shape: Sequence[int], *, mark_outside: bool) -> Iterator[Block]:
        """The result in blocks of whole rows.

        Args:
            array_shape: S.
            mark_outside: whether positions outside are wanted.
        """
        index = np.stack(np.unravel_index(np.arange(math.prod(self.shape[:-1])), self.shape[:-1]))
        outer = (self.matrix[:, :-1] @ index + self.origin[:, None]).astype(np.float32)
        row = (np.arange(self.shape[-1]) * self.matrix[:, -1:]).astype(np.float32)
        edges = np.array(array_shape)
        for rows in self._tiles():
            part = outer[:, rows]
            smallest = part.min(axis=1) + row.min(axis=1)
            largest = part.max(axis=1) + row.max(axis=1)
            beyond = bool((smallest < _ROUNDING).any() or (largest > edges - 1 - _ROUNDING).any())
            outside: torch.Tensor | None = None
            floors, fractions = [], []
            for axis, edge in enumerate(array_shape):
                position = torch.add(torch.from_numpy(part[axis])[:, None], torch.from_numpy(row[axis])).view(
                    -1
                )
                if beyond and mark_outside:
                    out = (position < 0).logical_or_(position > edge - 1)
                    outside = out if outside is None else outside.logical_or_(out)
                if beyond:
                    position.clamp_(-1, edge)
                floor = position.floor()
                if beyond:
                    floor.clamp_(max=edge - 1)
                floors.append(floor)
                fractions.append(position.sub_(floor))
            yield Block(torch.from_numpy(rows), floors, fractions, beyond, outside)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def flat_index(voxels: Sequence[torch.Tensor], shape: Sequence[int], shift: int = 0) -> torch.Tensor:
    """Index in a flattened array.

    Args:
        voxels: (N) for each axis, whole numbers in float32.
        shape: of the array.
        shift: is added on each axis.

    Returns:
        int64 (N).
    """
    exact = torch.float32 if math.prod(shape) < _EXACT else torch.float64
    strides = _strides(shape)
    index = torch.full_like(voxels[0], shift * sum(strides), dtype=exact)
    for voxel, stride in zip(voxels, strides, strict=True):
        index.add_(voxel, alpha=stride)
    return index.to(torch.int64)


def nearest_voxels(block: Block) -> list[torch.Tensor]:
    """The voxel nearest to each position, the lower one of two: float32 (N) for each axis, from -1 to S."""
    return [floor + (fraction > 0.5) for floor, fraction in zip(block.floors, block.fractions, strict=True)]


def sample_nearest(arrays: torch.Tensor, block: Block, border: float, out: torch.Tensor) -> None:
    """The nearest voxel's value; voxels outside have one value.

    Args:
        arrays: float32 (K, S).
        block: N positions.
        border: the value outside.
        out: float32 (K, P flattened): its rows of the block are overwritten.
    """
    shape = arrays.shape[1:]
    voxels = nearest_voxels(block)
    inside = [voxel.clamp(0, edge - 1) for voxel, edge in zip(voxels, shape, strict=True)]
    index = flat_index(inside, shape)
    for array, target in zip(arrays.reshape(len(arrays), -1), out, strict=True):
        values = array.index_select(0, index)
        for voxel, kept in zip(voxels, inside, strict=True):
            values.masked_fill_(voxel != kept, border)
        block.write(values, target)


# Sums over the voxels around positions are classes: functions that call themselves from within another function are
# cycles, and what they hold would stay in memory until Python looks for such cycles.


@dataclass(frozen=True, slots=True)
class _Lerped:
    """Linear interpolation where the two weights of an axis sum to 1.

    Attributes:
        index: flat index of the first voxel of each position.
        strides: of the axes.
        fractions: of each axis, the distance from that voxel.
    """

    index: torch.Tensor
    strides: Sequence[int]
    fractions: Sequence[torch.Tensor]

    def __call__(self, array: torch.Tensor, axis: int = 0, offset: int = 0) -> torch.Tensor:
        """Interpolate a flat array over this axis and those after it."""
        if axis == len(self.strides):
            return array[offset:].index_select(0, self.index)
        low = self(array, axis + 1, offset)
        return low.lerp_(self(array, axis + 1, offset + self.strides[axis]), self.fractions[axis])


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A weighted sum of the voxels around each position.

    Attributes:
        index: flat index of the first voxel of each position.
        strides: of the axes.
        weights: of each axis, those of the voxels along it.
        base: is taken from each voxel.
    """

    index: torch.Tensor
    strides: Sequence[int]
    weights: Sequence[Sequence[torch.Tensor]]
    base: float

    def __call__(self, array: torch.Tensor, axis: int = 0, offset: int = 0) -> torch.Tensor:
        """The sum over this axis and those after it."""
        if axis == len(self.strides):
            voxels = array[offset:].index_select(0, self.index)
            return voxels.sub_(self.base) if self.base else voxels
        first, *others = self.weights[axis]
        total = self(array, axis + 1, offset).mul_(first)
        for tap, weight in enumerate(others, start=1):
            total.addcmul_(self(array, axis + 1, offset + tap * self.strides[axis]), weight)
        return total


def sample_linear(arrays: torch.Tensor, block: Block, border: float, out: torch.Tensor) -> None:
    """Linear interpolation; voxels outside have one value.

    Args:
        arrays: float32 (K, S), with at least two voxels on each axis.
        block: N positions.
        border: the value outside.
        out: float32 (K, P flattened): its rows of the block are overwritten.
    """
    shape = arrays.shape[1:]
    strides = _strides(shape)
    floors, fractions = block.floors, block.fractions
    weights: list[tuple[torch.Tensor, ...]] = []
    if block.beyond:
        floors = [floor.clamp(0, edge - 2) for floor, edge in zip(floors, shape, strict=True)]
        moved = zip(fractions, block.floors, floors, strict=True)
        fractions = [fraction + (old - new) for fraction, old, new in moved]
        weights = [
            ((1 - fraction.abs()).clamp_min_(0), (1 - (fraction - 1).abs()).clamp_min_(0))
            for fraction in fractions
        ]
    index = flat_index(floors, shape)
    inside = _Lerped(index, strides, fractions)
    beyond = _Weighted(index, strides, weights, border) if block.beyond else None
    for array, target in zip(arrays.reshape(len(arrays), -1), out, strict=True):
        values = inside(array) if beyond is None else beyond(array).add_(border)
        block.write(values, target)


def sample_cubic(coefficients: torch.Tensor, block: Block, border: float, out: torch.Tensor) -> None:
    """Cubic spline interpolation; positions outside have one value.

    Args:
        coefficients: float32 (K, S + 2 ``CUBIC_BORDER``).
        block: N positions, with those outside marked.
        border: the value outside.
        out: float32 (K, P flattened): its rows of the block are overwritten.
    """
    shape = coefficients.shape[1:]
    strides = _strides(shape)
    weights = [spline.weights(fraction) for fraction in block.fractions]
    spline_sum = _Weighted(flat_index(block.floors, shape, CUBIC_BORDER - 1), strides, weights, 0.0)
    for array, target in zip(coefficients.reshape(len(coefficients), -1), out, strict=True):
        values = spline_sum(array)
        if block.outside is not None:
            values.masked_fill_(block.outside, border)
        block.write(values, target)
