"""Images that come as arrays: their axes and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.errors import Problem, UsageError

__all__ = ["with_all_axes"]

# The spacing along z of an image without that axis, in units of its larger spacing: as of 2D files that are read.
_THICK = 999.0
Array = npt.NDArray[Any]


def with_all_axes(image: Array, spacing: Sequence[float]) -> tuple[Array, tuple[float, float, float]]:
    """An image with all of its axes.

    Args:
        image: ``(C, Z, Y, X)``; ``(Z, Y, X)`` or ``(Y, X)`` of a single channel.
        spacing: mm (z, y, x), or (y, x).

    Returns:
        ``(C, Z, Y, X)`` and three spacings.

    Raises:
        UsageError: the array has other axes, or the spacing is none.
    """
    if image.ndim not in (2, 3, 4):
        raise UsageError(
            Problem(
                where="image",
                what="wrong number of axes",
                got=f"shape {image.shape}",
                expected="(channel, z, y, x), (z, y, x) or (y, x)",
            )
        )
    millimetres = [float(edge) for edge in spacing]
    if len(millimetres) == 2 and (image.ndim == 2 or image.shape[-3] == 1):
        millimetres.insert(0, _THICK * max(millimetres))
    if len(millimetres) != 3 or not all(np.isfinite(edge) and edge > 0 for edge in millimetres):
        raise UsageError(
            Problem(
                where="image",
                what="wrong spacing",
                got=str(tuple(spacing)),
                expected="a positive number of mm for each of z, y, x (or y, x of a 2D image)",
            )
        )
    array = image if image.ndim == 4 else image[None] if image.ndim == 3 else image[None, None]
    return array, (millimetres[0], millimetres[1], millimetres[2])
