"""Connected components of a mask, and which of them stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK

from nnrules_runtime.values import Section

__all__ = ["Components"]

_SITK: Any = SimpleITK  # without types
# Counting and looking up are done in parts: NumPy widens each index to eight bytes.
_CHUNK_VOXELS = 1 << 20

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """``postprocessing.components`` of a plan: what a component is, and which of several stay.

    The largest stays, with all others of its size.

    Attributes:
        connectivity: neighbours of a voxel: ``face`` (6, or 4 in 2D) or ``full`` (26, or 8).
        size: what ``min_size`` is in: ``voxels``, or ``volume`` in mm³. The order of sizes within an image is the same.
        min_size: components of at least this size stay as well; ``None``: only the largest.
    """

    connectivity: Literal["face", "full"]
    size: Literal["voxels", "volume"] = "voxels"
    min_size: float | None = None

    @classmethod
    def from_plan(cls, postprocessing: Section) -> Components:
        """Read ``postprocessing.components``."""
        section = postprocessing.section("components")
        section.require("keep", "largest")
        section.require("ties", "keep_all")
        min_size = section.value("min_size")
        return cls(
            connectivity=section.require("connectivity", "face", "full"),
            size=section.require("size", "voxels", "volume"),
            min_size=None if min_size is None else float(min_size),
        )

    def smaller(self, mask: Mask, spacing: Sequence[float]) -> Mask | None:
        """The voxels of the components that do not stay.

        Args:
            mask: ``(Z, Y, X)``, C-contiguous; an edge of one voxel along z is a 2D image.
            spacing: mm along z, y, x; read only where ``min_size`` is a volume.

        Returns:
            Of the same shape; ``None`` where nothing is removed.
        """
        labelling = _SITK.ConnectedComponentImageFilter()
        labelling.SetFullyConnected(self.connectivity == "full")
        image = labelling.Execute(_SITK.GetImageFromArray(mask.view(np.uint8)))
        count = int(labelling.GetObjectCount())
        if count <= 1:
            return None
        # A view, so ``image`` must live on.
        flat = _SITK.GetArrayViewFromImage(image).reshape(-1)
        sizes = np.zeros(count + 1, np.int64)
        for start in range(0, flat.size, _CHUNK_VOXELS):
            sizes += np.bincount(flat[start : start + _CHUNK_VOXELS], minlength=count + 1)
        removed = ~self._stays(sizes[1:], math.prod(spacing))
        if not removed.any():
            return None
        is_removed = np.concatenate([[False], removed])  # background is no component
        result = np.empty(flat.size, np.bool_)
        for start in range(0, flat.size, _CHUNK_VOXELS):
            chunk = slice(start, start + _CHUNK_VOXELS)
            result[chunk] = is_removed[flat[chunk]]
        return result.reshape(mask.shape)

    def _stays(self, sizes: npt.NDArray[np.int64], voxel_mm3: float) -> Mask:
        """Which components stay, by their numbers of voxels."""
        stays: Mask = sizes == sizes.max()
        if self.min_size is not None:
            stays |= sizes * (voxel_mm3 if self.size == "volume" else 1.0) >= self.min_size
        return stays
