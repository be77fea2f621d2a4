"""Reading a prediction on the network's grid, in parts and in single precision.

Shapes: K outputs, Z Y X voxels, transposed axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.resampling.threads import each

__all__ = ["Box", "certain_outputs", "largest_outputs", "rounded_to", "single_precision", "value_ranges"]

Array = NDArray[Any]
Box = tuple[slice, slice, slice]

# torch starts threads for more elements than this; parts are worked on in threads of their own.
_SERIAL_ELEMENTS = 1 << 15
_PART_ELEMENTS = 1 << 20
# An output is certain to be the largest if it is so by this much: far more than rounding to float16 (2**-11) takes.
_CERTAIN_RATIO = 1.02
_CERTAIN_DIFFERENCE = 0.02
_ARITHMETIC_ERROR = 1e-5


def single_precision(values: torch.Tensor, box: Box) -> Array:
    """A contiguous float32 copy of a box, made by NumPy: torch would start threads for it.

    Args:
        values: (K, Z, Y, X) float16, bfloat16, float32 or float64.
        box: of (Z, Y, X).
    """
    where = (slice(None), *box)
    if values.dtype == torch.bfloat16:  # the upper half of a float32
        bits = values.view(torch.int16).numpy()[where].astype(np.int32)
        return (bits << 16).view(np.float32)
    return values.numpy()[where].astype(np.float32, order="C")


def rounded_to(array: Array, dtype: torch.dtype) -> Array:
    """float32 values that a type of less precision has."""
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype).float().numpy()
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def largest_outputs(values: torch.Tensor, threads: int) -> Array:
    """The index of the largest output at each voxel, ties to the smaller.

    Args:
        values: (K, Z, Y, X) contiguous.
        threads: threads.

    Returns:
        (Z, Y, X) uint8, or uint16 for more than 256 outputs.
    """
    flat = values.reshape(len(values), -1)
    result = np.empty(flat.shape[1], np.uint8 if len(values) <= 256 else np.uint16)

    def some(start: int) -> None:
        part = flat[:, start : start + _SERIAL_ELEMENTS]
        best = part[0].float().numpy().copy()
        index = result[start : start + _SERIAL_ELEMENTS]
        index[:] = 0
        for number in range(1, len(part)):
            output = part[number].float().numpy()
            # The numbers ascend, so that a maximum writes the newest.
            np.maximum(index, np.multiply(output > best, number, dtype=result.dtype), out=index)
            np.maximum(best, output, out=best)

    each(some, range(0, flat.shape[1], _SERIAL_ELEMENTS), threads)
    return result.reshape(tuple(values.shape[1:]))


def certain_outputs(values: torch.Tensor, threads: int, *, are_probabilities: bool) -> Array:
    """The index of the output that is the largest by far at each voxel.

    By so far that it is still the largest, by more than rounding to half precision can hide, in every mean with
    positive weights over voxels where it is: rounded to the type of ``values``, and after a softmax.

    Args:
        values: (K, Z, Y, X) contiguous; logits of a softmax, or probabilities.
        threads: threads.
        are_probabilities: which of both.

    Returns:
        (Z, Y, X) uint8, or uint16 for more than 255 outputs; the largest value of the type where none is certain.
    """
    flat = values.reshape(len(values), -1)
    result = np.empty(flat.shape[1], np.uint8 if len(values) <= 255 else np.uint16)
    uncertain = 255 if result.dtype == np.uint8 else 65535
    # Values are rounded once or twice, each time by half of this at most.
    relative = max(torch.finfo(values.dtype).eps, _ARITHMETIC_ERROR)

    def some(start: int) -> None:
        part = flat[:, start : start + _SERIAL_ELEMENTS]
        best = part[0].float().numpy().copy()
        second = np.full_like(best, -np.inf)
        index = result[start : start + _SERIAL_ELEMENTS]
        index[:] = 0
        for number in range(1, len(part)):
            output = part[number].float().numpy()
            np.maximum(index, np.multiply(output > best, number, dtype=result.dtype), out=index)
            np.maximum(second, np.minimum(best, output), out=second)
            np.maximum(best, output, out=best)
        with np.errstate(invalid="ignore"):  # infinite values are not certain
            if are_probabilities:
                certain = best >= _CERTAIN_RATIO * second
            else:
                margin = _CERTAIN_DIFFERENCE + relative * (np.abs(best) + np.abs(second))
                certain = best - second >= margin
        index[~certain] = uncertain

    each(some, range(0, flat.shape[1], _SERIAL_ELEMENTS), threads)
    return result.reshape(tuple(values.shape[1:]))


def value_ranges(
    values: torch.Tensor, separate: int | None, activate: OutputRule | None
) -> tuple[Array, Array]:
    """Smallest and largest value of each output, or of each slice of each output.

    Args:
        values: (K, Z, Y, X).
        separate: the axis whose slices have ranges of their own.
        activate: applied before.

    Returns:
        Two of (K, 1, 1, 1), the separate axis at its full size.
    """
    outputs, depth, rows, columns = values.shape
    shape = [outputs, 1, 1, 1]
    if separate is not None:
        shape[separate + 1] = values.shape[separate + 1]
    low, high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
    axes = tuple(axis + 1 for axis in range(3) if axis != separate)
    thickness = max(1, _PART_ELEMENTS // (outputs * columns))
    for z in range(depth):
        for y in range(0, rows, thickness):
            box = (slice(z, z + 1), slice(y, min(y + thickness, rows)), slice(0, columns))
            part = single_precision(values, box)
            part = part if activate is None else activate.probabilities(part)
            where: list[slice] = [slice(None)] * 4
            if separate is not None:
                where[separate + 1] = box[separate]
            at = tuple(where)
            low[at] = np.minimum(low[at], part.min(axis=axes, keepdims=True))
            high[at] = np.maximum(high[at], part.max(axis=axes, keepdims=True))
    return low, high
