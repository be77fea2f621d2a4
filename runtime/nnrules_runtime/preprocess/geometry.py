"""What preprocessing did to the grid of a case, so that a prediction can be taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CaseGeometry"]

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseGeometry:
    """The grids of one case.

    Original axes are (z, y, x) of the file; transposed axes are the original ones in the order of the
    configuration's ``transpose_forward``: transposed axis ``i`` is original axis ``transpose_forward[i]``.

    Attributes:
        original_shape: voxels of the image, original axes.
        original_spacing: mm, original axes.
        transpose_forward: order of the axes.
        crop_start: first voxel of the crop, transposed axes.
        crop_stop: one past the last voxel of the crop, transposed axes.
        network_shape: voxels after resampling, transposed axes.
        network_spacing: mm after resampling, transposed axes.
    """

    original_shape: Triple
    original_spacing: tuple[float, float, float]
    transpose_forward: Triple
    crop_start: Triple
    crop_stop: Triple
    network_shape: Triple
    network_spacing: tuple[float, float, float]

    @property
    def transpose_backward(self) -> Triple:
        """The order that undoes ``transpose_forward``."""
        first, second, third = (self.transpose_forward.index(axis) for axis in range(3))
        return (first, second, third)

    @property
    def transposed_shape(self) -> Triple:
        """Voxels of the whole image, transposed axes."""
        first, second, third = (self.original_shape[axis] for axis in self.transpose_forward)
        return (first, second, third)

    @property
    def transposed_spacing(self) -> tuple[float, float, float]:
        """Original spacing in mm, transposed axes."""
        first, second, third = (self.original_spacing[axis] for axis in self.transpose_forward)
        return (first, second, third)

    @property
    def crop_shape(self) -> Triple:
        """Voxels of the crop before resampling, transposed axes."""
        first, second, third = (
            stop - start for start, stop in zip(self.crop_start, self.crop_stop, strict=True)
        )
        return (first, second, third)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {name: list(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> CaseGeometry:
        """From :meth:`to_json`."""
        return cls(**{name: tuple(document[name]) for name in cls.__slots__})
