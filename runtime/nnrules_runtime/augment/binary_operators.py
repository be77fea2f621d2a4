"""Dilation, erosion, opening and closing of binary volumes with a ball.

A dilation is the union of copies of the volume, one shifted to each voxel of the element. A volume is one large integer
here, a bit a voxel: a shift in any direction is a shift of the integer and a union is an "or", 64 voxels a step. That
is ten times and more faster than a convolution by FFT, and exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["OPERATORS", "ball", "closing", "dilation", "erosion", "opening"]

Mask = npt.NDArray[np.bool_]


def ball(radius: float, num_axes: int) -> Mask:
    """The structuring element: floor(2 r + 1) samples a side, evenly from -r to r, those with norm <= r.

    For a radius that is no multiple of 0.5 this is smaller than the ball: 1.9 gives 2×2×2 of 4×4×4 samples
    (scikit-image's ``ball`` and ``disk``, as nnU-Net uses them).

    Args:
        radius: in voxels.
        num_axes: 2 for a disk, 3 for a ball.

    Returns:
        (n, n) or (n, n, n).
    """
    num = math.floor(2 * radius + 1)
    # Whether a sample at a norm of r itself is inside depends on the rounding of these very steps.
    step = 2 * radius / (num - 1) if num > 1 else 1.0
    squares = (np.arange(num) * step - radius) ** 2
    norm = squares
    for _ in range(num_axes - 1):
        norm = norm[..., None] + squares
    inside: Mask = norm <= radius * radius
    return inside


def _union_of_shifts(mask: Mask, element: Mask, before: int) -> Mask:
    """``out[i] = any(mask[i - before + k] & element[k])``; voxels outside are not set. Both have three axes."""
    margins = [(min(before, edge - 1), edge - 1 - min(before, edge - 1)) for edge in element.shape]
    padded = np.pad(mask, margins)
    shape = padded.shape
    bits = int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")
    strides = (shape[1] * shape[2], shape[2], 1)
    # Rows of the element are runs along the last axis: make each run once, by doubling, and shift it.
    rows: dict[tuple[int, int], list[int]] = {}
    for first, second in np.argwhere(element.any(axis=2)):
        run = np.flatnonzero(element[first, second])
        rows.setdefault((int(run[0]), len(run)), []).append(
            int(first) * strides[0] + int(second) * strides[1]
        )
    result = 0
    for (start, length), shifts in rows.items():
        run_bits, done = bits, 1
        while done < length:
            more = min(done, length - done)
            run_bits |= run_bits >> more
            done += more
        run_bits >>= start
        for shift in shifts:
            result |= run_bits >> shift
    num_bytes = -(-padded.size // 8)
    # Bit i of the result is the union at i of the padded volume, whose margin before is what the window needs.
    data = np.frombuffer(result.to_bytes(num_bytes, "little"), dtype=np.uint8)
    out = np.unpackbits(data, bitorder="little", count=padded.size).view(np.bool_).reshape(shape)
    return out[tuple(slice(0, edge) for edge in mask.shape)]


def _dilate(mask: Mask, element: Mask) -> Mask:
    # An even element reaches one voxel further after a voxel than before it, as padding="same" of torch.
    return _union_of_shifts(mask, element, (max(element.shape) - 1) // 2)


def _bounds(mask: Mask, margin: tuple[int, ...]) -> tuple[slice, ...]:
    """The box around the set voxels, with a margin."""
    box = []
    for axis, edge in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(0, int(found[0]) - margin[axis]), min(edge, int(found[-1]) + 1 + margin[axis])))
    return tuple(box)


def dilation(mask: Mask, element: Mask) -> Mask:
    """Every voxel that the element, centred on it, sees set. Outside of the volume nothing is set."""
    if not mask.any() or not element.any():
        return np.zeros_like(mask)
    box = _bounds(mask, element.shape)
    result = np.zeros_like(mask)
    result[box] = _dilate(mask[box], element)
    return result


def erosion(mask: Mask, element: Mask) -> Mask:
    """Every voxel that the element, centred on it, sees nothing unset. Outside of the volume all is set."""
    if not element.any():
        return np.ones_like(mask)
    if not mask.any():
        return mask.copy()
    # The element sees its own centre, so nothing is set outside of the box.
    box = _bounds(mask, element.shape)
    result = np.zeros_like(mask)
    result[box] = ~_dilate(~mask[box], element)
    return result


def opening(mask: Mask, element: Mask) -> Mask:
    """Erosion, then dilation."""
    return dilation(erosion(mask, element), element)


def closing(mask: Mask, element: Mask) -> Mask:
    """Dilation, then erosion."""
    return erosion(dilation(mask, element), element)


OPERATORS: dict[str, Callable[[Mask, Mask], Mask]] = {
    "dilation": dilation,
    "erosion": erosion,
    "opening": opening,
    "closing": closing,
}
"""The operators by their names in a plan. All take bool (Z, Y, X) and an element with three axes."""
