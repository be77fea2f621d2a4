"""Label maps between grids: every label's indicator is interpolated, then a rule chooses.

Where all neighbours of a voxel have one label, it has that label; only voxels between different labels are computed.
Their indicators are summed in scipy's order and precision (corners in C order, float64), so that ties are ties here
exactly where they are in scikit-image's ``resize``.

Shapes: Z Y X voxels before, a prime after; N voxels that are computed, 8 corners (fewer where an axis has one tap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnrules_runtime.resampling.interpolate import zoom
from nnrules_runtime.resampling.operators import linear_taps, nearest_index

__all__ = ["LabelRule", "zoom_labels"]

Array = NDArray[Any]

# Voxels that are computed at once: scratch of a few MB that stays in the cache.
_CHUNK = 1 << 15
# Voxels of a slab in which the rest is filled.
_SLAB_VOXELS = 1 << 24


@dataclass(frozen=True, slots=True)
class LabelRule:
    """How interpolated indicators become a label.

    Attributes:
        name: ``argmax_nearest`` (ties to the nearest voxel's label if it is tied, else to the smallest; batchgenerators
            from 0.25.4), ``argmax`` (ties to the smallest) or ``threshold`` (labels that reach the threshold are
            written in ascending order, else 0; batchgenerators to 0.25.3).
        threshold: of ``threshold``.
    """

    name: Literal["argmax_nearest", "argmax", "threshold"]
    threshold: float = 0.5


def zoom_labels(labels: Array, new_shape: Sequence[int], orders: Sequence[int], rule: LabelRule) -> Array:
    """Interpolate a label map to another grid over the same extent.

    Args:
        labels: (Z, Y, X), a signed integer type; any values but the smallest of the type.
        new_shape: (Z', Y', X').
        orders: spline order of each axis: 0 and 1 mixed at will, or 3 (and 0).
        rule: how indicators become labels.

    Returns:
        (Z', Y', X') in the type of ``labels``.
    """
    shape = tuple(int(size) for size in new_shape)
    if shape == labels.shape:
        return labels.copy()
    effective = [
        0 if before == after else order
        for before, after, order in zip(labels.shape, shape, orders, strict=True)
    ]
    if 3 in effective:
        return _spline_labels(labels, shape, effective, rule)
    return _linear_labels(labels, shape, effective, rule)


@dataclass(frozen=True, slots=True)
class _Taps:
    """The neighbours along one axis: ``lower`` and, where there are two, ``upper`` with its ``share``."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    share: NDArray[np.float64] | None
    nearest: NDArray[np.intp]


def _taps(size_in: int, size_out: int, order: int) -> _Taps:
    nearest = nearest_index(size_in, size_out)
    if order == 0:
        return _Taps(nearest, nearest, None, nearest)
    lower, upper, share = linear_taps(size_in, size_out)
    return _Taps(lower, upper, share, nearest)


def _linear_labels(labels: Array, shape: tuple[int, ...], orders: Sequence[int], rule: LabelRule) -> Array:
    axes = [
        _taps(before, after, order) for before, after, order in zip(labels.shape, shape, orders, strict=True)
    ]
    undecided = np.iinfo(labels.dtype).min
    base = np.where(_is_mixed(labels, axes), undecided, labels)
    result = np.empty(shape, labels.dtype)
    thickness = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        slab = result[start : start + thickness]
        _fill(base, axes, start, slab)
        where = np.flatnonzero(slab.reshape(-1) == undecided)
        voxels = slab.reshape(-1)
        for at in range(0, len(where), _CHUNK):
            part = where[at : at + _CHUNK]
            z, y, x = np.unravel_index(part, slab.shape)
            voxels[part] = _decide(labels, axes, (z + start, y, x), rule)
    return result


def _is_mixed(labels: Array, axes: Sequence[_Taps]) -> Array:
    """For each voxel before, whether it and its upper neighbours (along axes with two taps) differ."""
    low = high = labels
    for axis, taps in enumerate(axes):
        if taps.share is None:
            continue
        for_lower, for_upper = [slice(None)] * 3, [slice(None)] * 3
        for_lower[axis], for_upper[axis] = slice(None, -1), slice(1, None)
        lowest, highest = low.copy(), high.copy()
        np.minimum(low[tuple(for_lower)], low[tuple(for_upper)], out=lowest[tuple(for_lower)])
        np.maximum(high[tuple(for_lower)], high[tuple(for_upper)], out=highest[tuple(for_lower)])
        low, high = lowest, highest
    return np.asarray(low != high)


def _fill(base: Array, axes: Sequence[_Taps], start: int, out: Array) -> None:
    """Copy the lower neighbour of each voxel of a slab; columns first, as whole rows and planes copy faster."""
    planes, position = np.unique(axes[0].lower[start : start + len(out)], return_inverse=True)
    rows, columns = axes[1].lower, axes[2].lower
    for number, plane in enumerate(planes):
        wanted = np.flatnonzero(position == number)
        out[wanted[0]] = base[plane].take(columns, axis=1).take(rows, axis=0)
        for other in wanted[1:]:
            out[other] = out[wanted[0]]


def _decide(labels: Array, axes: Sequence[_Taps], at: tuple[Array, Array, Array], rule: LabelRule) -> Array:
    """The labels of N voxels at (z, y, x) between different labels."""
    corners, weights = _corners(labels, axes, at)
    nearest = None
    if rule.name == "argmax_nearest":
        nearest = labels[tuple(taps.nearest[index] for taps, index in zip(axes, at, strict=True))]
    low, high = corners[0].copy(), corners[0].copy()
    for corner in corners[1:]:
        np.minimum(low, corner, out=low)
        np.maximum(high, corner, out=high)
    several = np.zeros(len(low), bool)
    for corner in corners:
        several |= (corner != low) & (corner != high)
    # Nearly everywhere only two labels meet.
    decided = _choose([low, high], corners, weights, nearest, rule)
    where = np.flatnonzero(several)
    if where.size:
        fewer = [corner[where] for corner in corners]
        candidates = list(np.sort(np.stack(fewer), axis=0))
        near = None if nearest is None else nearest[where]
        decided[where] = _choose(candidates, fewer, [weight[where] for weight in weights], near, rule)
    return decided


def _corners(
    labels: Array, axes: Sequence[_Taps], at: tuple[Array, Array, Array]
) -> tuple[list[Array], list[NDArray[np.float64]]]:
    """Labels and weights of the corners in C order, the weight as (depth * row) * column."""
    positions: list[Array] = [np.zeros(len(at[0]), np.intp)]
    weights: list[NDArray[np.float64]] = [np.ones(len(at[0]))]
    for taps, index, stride in zip(
        axes, at, (labels.shape[1] * labels.shape[2], labels.shape[2], 1), strict=True
    ):
        lower = taps.lower[index] * stride
        if taps.share is None:
            positions = [position + lower for position in positions]
            continue
        upper, share = taps.upper[index] * stride, taps.share[index]
        rest = 1.0 - share
        positions = [position + step for position in positions for step in (lower, upper)]
        weights = [weight * factor for weight in weights for factor in (rest, share)]
    flat = labels.reshape(-1)
    return [flat[position] for position in positions], weights


def _choose(
    candidates: Sequence[Array],
    corners: Sequence[Array],
    weights: Sequence[NDArray[np.float64]],
    nearest: Array | None,
    rule: LabelRule,
) -> Array:
    """Apply the rule to ascending candidate labels (N each, repetitions allowed)."""
    best = np.full(len(corners[0]), -1.0)
    winner = np.zeros_like(corners[0])
    of_nearest = np.zeros(len(best))
    for candidate in candidates:
        score = np.zeros(len(best))
        for corner, weight in zip(corners, weights, strict=True):
            score += weight * (corner == candidate)
        if rule.name == "threshold":
            np.copyto(winner, candidate, where=score >= rule.threshold)
            continue
        if nearest is not None:
            np.copyto(of_nearest, score, where=nearest == candidate)
        better = score > best
        np.copyto(winner, candidate, where=better)
        np.copyto(best, score, where=better)
    if nearest is not None:
        np.copyto(winner, nearest, where=(of_nearest == best) & (of_nearest > 0))
    return winner


def _spline_labels(labels: Array, shape: tuple[int, ...], orders: Sequence[int], rule: LabelRule) -> Array:
    """Cubic indicators of every label, clipped to 0 and 1; ties to within rounding of float64."""
    chosen = labels
    for axis, order in enumerate(orders):
        if order == 0:
            chosen = chosen.take(nearest_index(labels.shape[axis], shape[axis]), axis=axis)
    nearest = labels[
        np.ix_(*(nearest_index(before, after) for before, after in zip(labels.shape, shape, strict=True)))
    ]
    result = np.zeros(shape, labels.dtype)
    best = np.full(shape, -1.0)
    of_nearest = np.zeros(shape)
    for label in np.unique(labels):
        score = zoom((chosen == label).astype(np.float64), shape, 3)
        if rule.name == "threshold":
            result[score >= rule.threshold] = label
            continue
        np.copyto(of_nearest, score, where=nearest == label)
        better = score > best
        result[better] = label
        np.copyto(best, score, where=better)
    if rule.name == "argmax_nearest":
        np.copyto(result, nearest, where=(of_nearest == best) & (of_nearest > 0))
    return result
