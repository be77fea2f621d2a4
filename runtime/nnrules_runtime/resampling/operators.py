"""Interpolation along one axis as a banded matrix.

Voxels are centred: output voxel ``j`` of ``size_out`` samples the input at ``(j + 0.5) * size_in / size_out - 0.5``,
and beyond the border the outermost voxel repeats. This is what scikit-image's ``resize(mode="edge",
anti_aliasing=False)`` computes, through scipy's ``zoom(mode="nearest", grid_mode=True)``. Interpolation in three axes
is the product of three such matrices.

A cubic spline interpolates through its cardinal function, the sum over integers t of B3(u - t) * sqrt(3) * z**|t|
with the pole z = sqrt(3) - 2 (Unser, Aldroubi, Eden 1993); it decays by a factor of 3.7 a voxel, so a short band is
all of it. scipy filters a border of 12 repeated voxels instead of infinitely many; the difference is below 1e-13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLUMNS",
    "AxisOperator",
    "Block",
    "axis_operator",
    "linear_taps",
    "nearest_index",
    "source_coordinates",
]

_POLE = math.sqrt(3.0) - 2.0
# Voxels to either side that the cubic cardinal function is followed for: sqrt(3) * |pole|**reach is 5e-9, 3e-14.
_CUBIC_REACH = {np.dtype(np.float32): 15, np.dtype(np.float64): 24}
# Output voxels of a block. A wide band wastes less in a large block, but a product with COLUMNS columns must stay
# below the size (about 2**18 multiplications in OpenBLAS) from which a library starts threads of its own: they
# stall for seconds where other processes hold the cores, and worker processes must not start any.
COLUMNS = 128
MOST_MULTIPLICATIONS = 2**18
_LARGEST_BLOCK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some neighbouring rows of an operator, dense over the columns that they need.

    Attributes:
        start: first output voxel.
        stop: one past the last output voxel.
        first: first input voxel.
        last: one past the last input voxel.
        weights: (stop - start, last - first), C-contiguous.
    """

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class AxisOperator:
    """Interpolation along one axis.

    Attributes:
        size_in: voxels before.
        size_out: voxels after.
        order: 0 nearest, 1 linear, 3 cubic spline.
        index: the input voxel of each output voxel where every output is a copy (order 0, or sizes are equal).
        columns: (size_out, taps) input voxel of each tap; empty where ``index`` is given.
        weights: (size_out, taps) float64 weight of each tap.
        dtype: of dense forms.
        blocks: the operator as dense blocks; empty where ``index`` is given.
    """

    size_in: int
    size_out: int
    order: int
    index: NDArray[np.intp] | None
    columns: NDArray[np.intp]
    weights: NDArray[np.float64]
    dtype: np.dtype[Any]
    blocks: tuple[Block, ...]

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens along this axis."""
        return self.size_in == self.size_out

    @property
    def is_convex(self) -> bool:
        """Whether every output lies between the smallest and the largest of its inputs."""
        return self.index is not None or self.order == 1

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The input voxels ``first, last`` (one past) that the output voxels from start to stop are made of."""
        if self.index is not None:
            part = self.index[start:stop]
            return int(part.min()), int(part.max()) + 1
        columns = self.columns[start:stop]
        return int(columns.min()), int(columns.max()) + 1

    def dense(self, start: int, stop: int, first: int, last: int) -> NDArray[Any]:
        """Rows start to stop, columns first to last (which must hold their span), as a dense matrix."""
        rows = np.arange(stop - start)[:, None]
        matrix = np.zeros((stop - start, last - first))
        if self.index is not None:
            matrix[rows[:, 0], self.index[start:stop] - first] = 1
        else:
            np.add.at(matrix, (rows, self.columns[start:stop] - first), self.weights[start:stop])
        return matrix.astype(self.dtype)


def source_coordinates(size_in: int, size_out: int) -> NDArray[np.float64]:
    """Where each output voxel samples the input, in input voxels; unbounded."""
    return (np.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5


def nearest_index(size_in: int, size_out: int) -> NDArray[np.intp]:
    """The nearest input voxel of each output voxel; halves go up."""
    inside = np.clip(source_coordinates(size_in, size_out), 0, size_in - 1)
    return np.minimum(np.floor(inside + 0.5).astype(np.intp), size_in - 1)


def linear_taps(
    size_in: int, size_out: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """The two neighbours of each output voxel and the weight of the second, to the bit as in scipy.

    Returns:
        First neighbour, second neighbour, weight of the second in [0, 1). Beyond the border both are the outermost
        voxel, and the weights are those of the unbounded place (scipy 1.17.1 bounds the voxels, not the place).
    """
    coordinates = source_coordinates(size_in, size_out)
    floor = np.floor(coordinates)
    lower = floor.astype(np.intp)
    return np.clip(lower, 0, size_in - 1), np.clip(lower + 1, 0, size_in - 1), coordinates - floor


def _cubic_taps(size_in: int, size_out: int, reach: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    coordinates = source_coordinates(size_in, size_out)
    floor = np.floor(coordinates)
    fraction = (coordinates - floor)[:, None]
    # B-spline weights of the four coefficients at floor - 1 ... floor + 2.
    spline = [
        (1 - fraction) ** 3 / 6,
        2 / 3 - fraction**2 * (2 - fraction) / 2,
        2 / 3 - (1 - fraction) ** 2 * (1 + fraction) / 2,
        fraction**3 / 6,
    ]
    offsets = np.arange(1 - reach, reach + 1)
    weights = np.zeros((size_out, offsets.size))
    for shift, part in zip(range(-1, 3), spline, strict=True):
        # Coefficient floor + shift contains the input voxel floor + offset by the inverse filter's response.
        weights += part * (math.sqrt(3.0) * _POLE ** np.abs(shift - offsets))
    columns = np.clip(floor.astype(np.intp)[:, None] + offsets, 0, size_in - 1)
    return columns, weights


def _block_size(scale: float, taps: int) -> int:
    size = _LARGEST_BLOCK
    while size > 1 and size * (size * scale + taps) * COLUMNS > MOST_MULTIPLICATIONS:
        size -= 1
    return size


@lru_cache(maxsize=512)
def _operator(size_in: int, size_out: int, order: int, dtype: np.dtype[Any]) -> AxisOperator:
    columns, weights = np.zeros((0, 0), np.intp), np.zeros((0, 0))
    if size_in == size_out or order == 0:
        index = nearest_index(size_in, size_out)
        return AxisOperator(size_in, size_out, order, index, columns, weights, dtype, ())
    if order == 1:
        lower, upper, share = linear_taps(size_in, size_out)
        columns, weights = np.stack((lower, upper), 1), np.stack((1 - share, share), 1)
    else:
        columns, weights = _cubic_taps(size_in, size_out, _CUBIC_REACH[dtype])
    bare = AxisOperator(size_in, size_out, order, None, columns, weights, dtype, ())
    blocks = []
    size = _block_size(size_in / size_out, columns.shape[1])
    for start in range(0, size_out, size):
        stop = min(start + size, size_out)
        first, last = bare.span(start, stop)
        blocks.append(Block(start, stop, first, last, bare.dense(start, stop, first, last)))
    return replace(bare, blocks=tuple(blocks))


def axis_operator(size_in: int, size_out: int, order: int, dtype: Any = np.float32) -> AxisOperator:
    """Interpolation from ``size_in`` to ``size_out`` voxels along one axis.

    Args:
        size_in: voxels before, at least 1.
        size_out: voxels after, at least 1.
        order: 0 nearest, 1 linear, 3 cubic spline.
        dtype: float32 or float64; of the weights.
    """
    return _operator(int(size_in), int(size_out), int(order), np.dtype(dtype))
