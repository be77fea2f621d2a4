"""Cubic B-splines along one axis: coefficients, weights, resizing.

A spline of order 3 goes through the voxels if its coefficients are the voxels after a recursive filter (Unser et al.,
IEEE Trans. Signal Processing 41, 1993). Every step is elementwise: the result does not depend on the number of threads.
"""

from __future__ import annotations

import math

import numpy as np
import torch

__all__ = ["REACH", "coefficients", "resize_axis", "weights"]

_POLE = math.sqrt(3) - 2

# The filter's answer to one voxel falls by |pole| a voxel: below 1e-9 after this many. A box with such a margin has
# the coefficients of the whole patch.
REACH = 16

# ``scipy.ndimage.zoom`` with mode "nearest" repeats the border this often before it filters.
_REPEAT = 12


def coefficients(array: torch.Tensor, axis: int) -> torch.Tensor:
    """Spline coefficients along one axis, as ``scipy.ndimage.spline_filter1d`` of order 3 and mode "mirror".

    Args:
        array: float32, any shape.
        axis: the axis.

    Returns:
        A new contiguous tensor of the same shape.
    """
    values = array.movedim(axis, 0).contiguous()
    if values is array or values.data_ptr() == array.data_ptr():
        values = values.clone()
    edge = values.shape[0]
    if edge > 1:
        values.mul_(6.0)
        # The signal goes on mirrored, the outermost voxel once: its period is 2 edge - 2.
        first = values[0] + _POLE ** (edge - 1) * values[edge - 1]
        for index in range(1, edge - 1):
            gain = _POLE**index + _POLE ** (2 * edge - 2 - index)
            if abs(gain) < 1e-12:
                break
            first.add_(values[index], alpha=gain)
        values[0] = first / (1 - _POLE ** (2 * edge - 2))
        for index in range(1, edge):
            values[index].add_(values[index - 1], alpha=_POLE)
        values[edge - 1].add_(values[edge - 2], alpha=_POLE).mul_(_POLE / (_POLE * _POLE - 1))
        for index in range(edge - 2, -1, -1):
            values[index].sub_(values[index + 1]).mul_(-_POLE)
    return values.movedim(0, axis).contiguous()


def weights(fraction: torch.Tensor) -> list[torch.Tensor]:
    """Weights of the coefficients before (-1), at (0) and after (1, 2) a position.

    Args:
        fraction: distance from coefficient 0, in [0, 1).

    Returns:
        Four tensors of the shape of ``fraction``, summing to 1.
    """
    rest = 1 - fraction
    before = rest.pow(3).div_(6)
    after = fraction.pow(3).div_(6)
    at = fraction.mul(0.5).sub_(1).mul_(fraction).mul_(fraction).add_(2 / 3)
    return [before, at, 1 - before - at - after, after]


def resize_axis(array: torch.Tensor, axis: int, edge: int) -> torch.Tensor:
    """Cubic resize of one axis, aligned at the outer edges of the voxels, the border repeated.

    As ``scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True)``, which is what ``skimage.transform.resize`` with
    mode "edge" does without anti-aliasing.

    Args:
        array: float32, any shape.
        axis: the axis.
        edge: its new number of voxels.

    Returns:
        A new tensor.
    """
    old = array.shape[axis]
    repeated = torch.arange(-_REPEAT, old + _REPEAT).clamp_(0, old - 1)
    padded = coefficients(array.index_select(axis, repeated), axis)
    position = (np.arange(edge) + 0.5) * (old / edge) - 0.5
    base = np.floor(position)
    fraction = torch.from_numpy((position - base).astype(np.float32))
    # Beyond the repeated border every coefficient is like the last one.
    index = torch.from_numpy(base.astype(np.int64)) + _REPEAT
    shape = [1] * array.ndim
    shape[axis] = edge
    result: torch.Tensor | None = None
    for tap, weight in enumerate(weights(fraction)):
        part = padded.index_select(axis, index + (tap - 1))
        factor = weight.view(shape)
        result = part.mul_(factor) if result is None else result.addcmul_(part, factor)
    assert result is not None
    return result
