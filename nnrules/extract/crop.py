"""The crop to non-zero voxels, which nnU-Net applies before everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["nonzero_box"]


def nonzero_box(image: npt.NDArray[Any]) -> tuple[slice, slice, slice]:
    """Smallest box that holds every voxel where any channel is not zero.

    nnU-Net fills the holes of the non-zero mask first; that changes the mask, but never its bounding box.
    Planes are looked at from the outside inwards, so that an image without a margin costs six planes.

    Args:
        image: ``(C, Z, Y, X)``.

    Returns:
        Slices along z, y, x. An image that is zero everywhere keeps its whole extent (as in nnunetv2 2.8.1).
    """
    box = [slice(0, size) for size in image.shape[1:]]
    for axis in range(3):
        planes = np.moveaxis(image[(slice(None), *box)], axis + 1, 0)
        first = next((index for index in range(len(planes)) if planes[index].any()), None)
        if first is None:
            return slice(0, image.shape[1]), slice(0, image.shape[2]), slice(0, image.shape[3])
        last = next(index for index in reversed(range(len(planes))) if planes[index].any())
        box[axis] = slice(first, last + 1)
    return box[0], box[1], box[2]
