"""Reading images and labels in the orientation that a plan is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.axes import canonical_axes
from nnrules.errors import ImageError, Problem
from nnrules.image_io import Geometry, read_image, read_label, to_canonical

from nnrules_runtime.values import Section

__all__ = ["CaseReader"]

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class CaseReader:
    """``dataset.orientation_policy`` of a plan.

    Attributes:
        is_canonical: whether arrays are permuted and flipped to the closest RAS, as they were for the fingerprint;
            else they are used as stored.
    """

    is_canonical: bool

    @classmethod
    def from_plan(cls, root: Section) -> CaseReader:
        """Read ``dataset.orientation_policy``; a plan without it uses files as stored."""
        dataset = root.section("dataset")
        if "orientation_policy" not in dataset:
            return cls(False)
        return cls(dataset.choice("orientation_policy", {"as_stored": False, "canonical": True}))

    def image(self, paths: Sequence[Path]) -> tuple[npt.NDArray[Any], tuple[float, float, float], Geometry]:
        """Read the channels of a case.

        Returns:
            The array ``(C, Z, Y, X)`` in the files' type, its spacing in mm (z, y, x), and the geometry of the
            first file, which :meth:`as_in_file` and a result's file need.

        Raises:
            ImageError: see :func:`nnrules.image_io.read_image`.
        """
        array, in_file = read_image(paths)
        if not self.is_canonical:
            return array, in_file.spacing, in_file
        array, turned = to_canonical(array, in_file)
        return array, turned.spacing, in_file

    def pair(
        self, image_paths: Sequence[Path], label_path: Path
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[float, float, float]]:
        """Read the image and the label of a training case.

        Returns:
            Image ``(C, Z, Y, X)``, label ``(Z, Y, X)`` and spacing in mm (z, y, x).

        Raises:
            ImageError: a file cannot be read (both are named when both cannot), or the shapes differ.
        """
        try:
            image, spacing, in_file = self.image(image_paths)
        except ImageError as exc:
            try:
                read_label(label_path)
            except ImageError as other:
                raise ImageError([*exc.problems, *other.problems]) from None
            raise
        label, of_label = read_label(label_path)
        if in_file.shape != of_label.shape:
            raise ImageError(
                Problem(
                    where=str(label_path),
                    what="image and label differ in shape",
                    got=f"image {in_file.shape}, label {of_label.shape} (z, y, x)",
                    fix="Resample the label map to the grid of its image.",
                )
            )
        if self.is_canonical:
            # By the image's axes, as for the fingerprint.
            label, _ = to_canonical(label, in_file)
        return image, label, spacing

    def grid(self, in_file: Geometry) -> tuple[Triple, tuple[float, float, float]]:
        """Shape and spacing (z, y, x) that :meth:`image` will give, from a header."""
        if not self.is_canonical:
            return in_file.shape, in_file.spacing
        first, second, third = canonical_axes(in_file.direction_xyz).order
        shape, spacing = in_file.shape, in_file.spacing
        return (shape[first], shape[second], shape[third]), (spacing[first], spacing[second], spacing[third])

    def as_in_file(self, array: npt.NDArray[Any], in_file: Geometry) -> npt.NDArray[Any]:
        """Turn an array ``(Z, Y, X)`` or ``(C, Z, Y, X)`` on the grid of :meth:`image` back to the file's axes."""
        if not self.is_canonical or in_file.dimension == 2:
            return array
        mapping = canonical_axes(in_file.direction_xyz)
        lead = array.ndim - 3
        turned = np.flip(array, tuple(lead + axis for axis in range(3) if mapping.flips[axis]))
        back = [mapping.order.index(axis) for axis in range(3)]
        return np.ascontiguousarray(turned.transpose([*range(lead), *(lead + axis for axis in back)]))
