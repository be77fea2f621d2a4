"""A case after preprocessing, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnrules_runtime.preprocess.geometry import CaseGeometry

__all__ = ["ANNOTATED", "LabelKey", "PreparedCase"]

LabelKey = tuple[int, ...]
"""The label values of a class (one) or of a region (all that it is made of)."""

ANNOTATED: LabelKey = (-1,)
"""Key of the sample of all annotated voxels that is stored where there is an ignore label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCase:
    """A case after preprocessing. All axes are transposed axes.

    Attributes:
        image: ``(C, Z, Y, X)`` float32, normalised.
        label: ``(Z, Y, X)`` int16: label values, and the outside label where there is neither image nor label.
            For an image without a reference ``None``, or, where asked for, 0 inside and the outside label outside.
        geometry: what was done to the grid.
        locations: for each class or region that is present, some of its voxels or all: ``(n, 3)`` int32, in the
            order of drawing. Empty without a reference.
        original_classes: classes or regions that the crop had before resampling, which may have removed some.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int16] | None
    geometry: CaseGeometry
    locations: Mapping[LabelKey, npt.NDArray[np.int32]]
    original_classes: tuple[LabelKey, ...]
