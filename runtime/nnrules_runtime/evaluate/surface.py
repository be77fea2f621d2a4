"""Distances between the surfaces of two masks.

The surface of a mask is the set of its voxels with a face neighbour outside it; outside the image is outside the mask,
but along axes with a single voxel there is no outside (2D images have outlines, not faces). Distances are between
centres of voxels, in mm, exact Euclidean with the spacing of each axis. Every surface voxel counts the same.

* Surface Dice at a tolerance: the share of both surfaces' voxels within the tolerance of the other surface (Nikolov et
  al. 2021, counted in voxels as MONAI does, not weighted by area).
* Hausdorff 95: the larger of the 95th percentiles (linear interpolation) of the distances in the two directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK
from nnrules.axes import xyz_from_zyx

__all__ = ["DEFAULT_TOLERANCE_MM", "SurfaceScores", "surface_of", "surface_scores"]

DEFAULT_TOLERANCE_MM = 1.0
"""About one voxel of a usual CT or MRI in its plane. State the tolerance of your task instead, where there is one."""

_PERCENTILE = 95.0

_SITK: Any = SimpleITK  # without types

Mask = npt.NDArray[np.bool_]


class SurfaceScores(NamedTuple):
    """Scores of two surfaces.

    Attributes:
        surface_dice: 0 to 1.
        hausdorff_95_mm: mm.
    """

    surface_dice: float
    hausdorff_95_mm: float


def surface_of(mask: Mask, *, flat_axes: Sequence[int] = ()) -> Mask:
    """The voxels of a mask ``(Z, Y, X)`` with a face neighbour outside it, or at the border of the array.

    Args:
        mask: the mask.
        flat_axes: axes along which nothing is outside.
    """
    inner = mask.copy()
    for axis in range(mask.ndim):
        if axis in flat_axes:
            continue
        first = tuple(slice(None, -1) if index == axis else slice(None) for index in range(mask.ndim))
        second = tuple(slice(1, None) if index == axis else slice(None) for index in range(mask.ndim))
        inner[first] &= mask[second]
        inner[second] &= mask[first]
        for end in (0, -1):
            inner[tuple(end if index == axis else slice(None) for index in range(mask.ndim))] = False
    return mask & ~inner


def surface_scores(
    prediction: Mask,
    reference: Mask,
    spacing: Sequence[float],
    *,
    tolerance_mm: float,
    flat_axes: Sequence[int] = (),
) -> SurfaceScores:
    """Compare two masks, neither of them empty.

    Args:
        prediction: ``(Z, Y, X)``, cropped at will: what is outside the array is outside the mask.
        reference: of the same shape.
        spacing: mm, z, y, x.
        tolerance_mm: largest distance at which surfaces agree.
        flat_axes: axes along which the whole image has one voxel.
    """
    surfaces = [surface_of(mask, flat_axes=flat_axes) for mask in (prediction, reference)]
    to_reference = _distances(surfaces[1], spacing)[surfaces[0]]
    to_prediction = _distances(surfaces[0], spacing)[surfaces[1]]
    # Distances are stored as float32: a surface at exactly the tolerance is within it.
    limit = tolerance_mm * (1 + 1e-6)
    within = int(np.count_nonzero(to_reference <= limit)) + int(np.count_nonzero(to_prediction <= limit))
    largest = max(float(np.percentile(side, _PERCENTILE)) for side in (to_reference, to_prediction))
    return SurfaceScores(within / (to_reference.size + to_prediction.size), largest)


def _distances(surface: Mask, spacing: Sequence[float]) -> npt.NDArray[Any]:
    """Distance in mm of each voxel to the nearest voxel of a surface, float32."""
    image = _SITK.GetImageFromArray(surface.view(np.uint8))
    image.SetSpacing([float(edge) for edge in xyz_from_zyx(spacing)])
    signed = _SITK.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    # Where surfaces are thick, their inner voxels have negative distances to the rim.
    distances: npt.NDArray[Any] = np.maximum(_SITK.GetArrayViewFromImage(signed), 0)
    return distances
