"""Images between grids: one banded matrix an axis.

Shapes: C channel, Z Y X voxels before, a prime after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnrules_runtime.resampling.operators import COLUMNS, MOST_MULTIPLICATIONS, AxisOperator, axis_operator
from nnrules_runtime.resampling.threads import each, thread_count

__all__ = ["apply_axis", "compute_dtype", "value_range", "zoom", "zoom_planes"]

Array = NDArray[Any]


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type to interpolate in: float64 stays, everything else becomes float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def value_range(array: Array) -> tuple[Any, Any]:
    """Smallest and largest value; NaN is passed over where there is any, as scikit-image's clip does."""
    low, high = array.min(), array.max()
    if np.isnan(low):
        low, high = np.nanmin(array), np.nanmax(array)
    return low, high


def zoom(
    array: Array,
    new_shape: Sequence[int],
    order: int,
    clip: bool = True,
    *,
    num_threads: int | None = None,
) -> Array:
    """Interpolate an image to another grid over the same extent.

    Equals scikit-image's ``resize(channel, new_shape, order, mode="edge", anti_aliasing=False, clip=clip)`` for
    each channel, to float32 precision (to 1e-12 for float64).

    Args:
        array: any leading axes, then as many axes as ``new_shape`` has (1 to 3). Other types than float64 are
            interpolated in float32.
        new_shape: voxels after.
        order: 0 nearest, 1 linear, 3 cubic spline.
        clip: clip each channel (each index of the leading axes) to its range before.
        num_threads: threads; by default as many as torch uses, one where torch is not loaded.

    Returns:
        A new array of the leading axes and ``new_shape``: float64 for float64, else float32; order 0 keeps the type.
    """
    spatial = len(new_shape)
    shape, target = array.shape[array.ndim - spatial :], tuple(int(size) for size in new_shape)
    lead = array.shape[: array.ndim - spatial]
    dtype = array.dtype if order == 0 else compute_dtype(array.dtype)
    filler = (1,) * (3 - spatial)
    channels = array.reshape((math.prod(lead), *filler, *shape))
    operators = [
        axis_operator(before, after, order, compute_dtype(array.dtype))
        for before, after in zip((*filler, *shape), (*filler, *target), strict=True)
    ]
    threads = thread_count() if num_threads is None else num_threads
    result = np.empty((math.prod(lead), *filler, *target), dtype)
    for source, out in zip(channels, result, strict=True):
        _zoom_volume(source, operators, out, threads)
        # A convex combination stays inside the range by itself.
        if clip and not all(operator.is_convex for operator in operators):
            np.clip(out, *value_range(source), out=out)
    return result.reshape((*lead, *target))


def zoom_planes(planes: Array, out: Array, order: int, clip: bool, num_threads: int) -> None:
    """Interpolate each plane on its own, clipped to its own range.

    Args:
        planes: (Z, Y, X).
        out: (Z, Y', X'), written.
        order: 0, 1 or 3.
        clip: whether to clip.
        num_threads: threads.
    """
    dtype = compute_dtype(planes.dtype)
    rows = axis_operator(planes.shape[1], out.shape[1], order, dtype)
    columns = axis_operator(planes.shape[2], out.shape[2], order, dtype)
    clips = clip and not (rows.is_convex and columns.is_convex)

    def one(index: int) -> None:
        _zoom_plane(planes[index], rows, columns, out[index])
        if clips:
            np.clip(out[index], *value_range(planes[index]), out=out[index])

    each(one, range(len(planes)), num_threads)


def _zoom_volume(source: Array, operators: Sequence[AxisOperator], out: Array, threads: int) -> None:
    """(Z, Y, X) -> (Z', Y', X'), without clipping. What shrinks the volume most comes first."""
    depth, rows, columns = operators
    plane_ratio = rows.size_out * columns.size_out / (rows.size_in * columns.size_in)
    if rows.is_identity and columns.is_identity:
        _apply_depth(depth, source.astype(out.dtype, copy=False), out, threads)
    elif depth.index is not None:
        first_of = _first_uses(depth.index)
        each(lambda z: _zoom_plane(source[depth.index[z]], rows, columns, out[z]), set(first_of), threads)  # type: ignore[index]
        for z, first in enumerate(first_of):
            if z != first:
                out[z] = out[first]
    elif depth.size_out <= depth.size_in * plane_ratio:
        for block in depth.blocks:
            part = source[block.first : block.last].astype(out.dtype, copy=False)
            between = np.empty((block.stop - block.start, *source.shape[1:]), out.dtype)
            _multiply_rows(block.weights, _flat(part), _flat(between), threads)
            _zoom_each(between, rows, columns, out[block.start : block.stop], threads)
    else:
        between = np.empty((len(source), *out.shape[1:]), out.dtype)
        _zoom_each(source, rows, columns, between, threads)
        _apply_depth(depth, between, out, threads)


def _first_uses(index: NDArray[np.intp]) -> list[int]:
    """For each entry the position of the first entry with its value."""
    _, first, position = np.unique(index, return_index=True, return_inverse=True)
    return [int(at) for at in first[position]]


def _zoom_each(planes: Array, rows: AxisOperator, columns: AxisOperator, out: Array, threads: int) -> None:
    each(lambda z: _zoom_plane(planes[z], rows, columns, out[z]), range(len(planes)), threads)


def _flat(volume: Array) -> Array:
    return volume.reshape(len(volume), -1)


def _apply_depth(operator: AxisOperator, source: Array, out: Array, threads: int) -> None:
    if operator.index is not None:
        out[...] = source[operator.index]
        return
    source, result = _flat(np.ascontiguousarray(source)), _flat(out)
    for block in operator.blocks:
        _multiply_rows(
            block.weights, source[block.first : block.last], result[block.start : block.stop], threads
        )


def _multiply_rows(weights: Array, source: Array, out: Array, threads: int) -> None:
    """(m, n) @ (n, columns) -> (m, columns), in shares of the columns."""
    columns = source.shape[1]
    share = -(-columns // (threads * COLUMNS)) * COLUMNS
    each(
        lambda at: _multiply(weights, source[:, at : at + share], out[:, at : at + share]),
        range(0, columns, max(share, COLUMNS)),
        threads,
    )


def _multiply(weights: Array, source: Array, out: Array) -> None:
    """(m, n) @ (n, columns) -> (m, columns) as one call of small products that stay in the calling thread."""
    columns = source.shape[1]
    full = columns // COLUMNS * COLUMNS
    if full:
        pieces = source[:, :full].reshape(len(source), -1, COLUMNS).transpose(1, 0, 2)
        # Splitting the last axis makes a view, so that the products are written where they belong.
        results = out[:, :full].reshape(len(out), -1, COLUMNS).transpose(1, 0, 2)
        np.matmul(weights, pieces, out=results)
    if full < columns:
        np.matmul(weights, source[:, full:], out=out[:, full:])


def _zoom_plane(plane: Array, rows: AxisOperator, columns: AxisOperator, out: Array) -> None:
    """(Y, X) -> (Y', X')."""
    plane = plane.astype(out.dtype, copy=False)
    if rows.index is not None and columns.index is not None:
        np.copyto(out, plane[rows.index[:, None], columns.index])
    elif rows.is_identity:
        _apply_columns(columns, plane, out)
    elif columns.is_identity:
        _apply_rows(rows, plane, out)
    elif rows.size_out * columns.size_in <= rows.size_in * columns.size_out:
        between = np.empty((rows.size_out, columns.size_in), out.dtype)
        _apply_rows(rows, plane, between)
        _apply_columns(columns, between, out)
    else:
        between = np.empty((rows.size_in, columns.size_out), out.dtype)
        _apply_columns(columns, plane, between)
        _apply_rows(rows, between, out)


def _apply_rows(operator: AxisOperator, plane: Array, out: Array) -> None:
    for block in operator.blocks:
        _multiply(block.weights, plane[block.first : block.last], out[block.start : block.stop])


def _apply_columns(operator: AxisOperator, plane: Array, out: Array) -> None:
    full = len(plane) // COLUMNS * COLUMNS
    pieces = plane[:full].reshape(-1, COLUMNS, plane.shape[1])
    results = out[:full].reshape(-1, COLUMNS, out.shape[1])
    for block in operator.blocks:
        weights = block.weights.T
        if full:
            np.matmul(
                pieces[:, :, block.first : block.last], weights, out=results[:, :, block.start : block.stop]
            )
        if full < len(plane):
            np.matmul(
                plane[full:, block.first : block.last], weights, out=out[full:, block.start : block.stop]
            )


def apply_axis(weights: Array, array: Array, axis: int) -> Array:
    """Multiply one axis of a small (K, Z, Y, X) array by a matrix of (voxels after, voxels before)."""
    product: Array
    if axis == 3:
        product = np.matmul(array, np.ascontiguousarray(weights.T))
    elif axis == 2:
        product = np.matmul(weights, array)
    else:
        channels, depth, rows, columns = array.shape
        product = np.empty((channels, len(weights), rows, columns), array.dtype)
        if weights.size * rows * columns <= MOST_MULTIPLICATIONS:
            flat = product.reshape(channels, len(weights), rows * columns)
            np.matmul(weights, array.reshape(channels, depth, rows * columns), out=flat)
        else:
            # A small product for each row, so that no threads are started.
            np.matmul(weights, array.transpose(0, 2, 1, 3), out=product.transpose(0, 2, 1, 3))
    return product
