"""Where an image's voxels lie, and the spacing of files that do not say it well.

The spacings are those of nnU-Net v2's readers (nnunetv2 2.8.1), so that fingerprints match:

- 2D PNG and TIFF hold no spacing that can be trusted: (999, 1, 1).
- Other 2D images keep their in-plane spacing and get 999 times its larger value along z.
- 3D TIFF takes its spacing from a JSON file beside it, ``{"spacing": [z, y, x]}``, named like the file
  with or without its channel number ``_0000``; without one it is (1, 1, 1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules.axes import canonical_axes, orientation_code, xyz_from_zyx, zyx_from_xyz
from nnrules.documents import read_json
from nnrules.errors import ImageError, Problem

__all__ = [
    "READERS",
    "TIFF_ENDINGS",
    "Geometry",
    "checked_ending",
    "file_ending_of",
    "geometry_of_header",
    "is_utf8",
    "name_problem",
    "to_canonical",
]

# Naming the reader spares SimpleITK the search through all of its twenty for every file: a tenth of the time
# on small NIfTI files.
READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
    ".png": "PNGImageIO",
}
"""SimpleITK's reader for each supported ending."""

TIFF_ENDINGS = (".tif", ".tiff")
_WITHOUT_SPACING = (".png", *TIFF_ENDINGS)
_THICK = 999.0
_CHANNEL_NUMBER = re.compile(r"_\d{4}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where an image's voxels lie.

    Attributes:
        shape: voxels along z, y, x; z is 1 for a 2D image.
        spacing: millimetres along z, y, x, by the conventions in this module's docstring.
        origin_xyz: world position of the first voxel in millimetres (LPS), ``dimension`` entries.
        direction_xyz: direction cosines as stored, row by row, ``dimension ** 2`` entries.
        dimension: spatial dimensions of the file, 2 or 3.
        num_channels: components of a voxel times the size of a fourth axis; alpha does not count.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin_xyz: tuple[float, ...]
    direction_xyz: tuple[float, ...]
    dimension: int
    num_channels: int

    @property
    def orientation(self) -> str:
        """Anatomical code in xyz order, see :func:`nnrules.axes.orientation_code`; ``""`` in 2D."""
        return orientation_code(self.direction_xyz)


def file_ending_of(path: Path) -> str | None:
    """The supported ending of a file name in lower case, ``.nii.gz`` whole; ``None`` for any other."""
    name = path.name.lower()
    return next((ending for ending in READERS if name.endswith(ending)), None)


def is_utf8(path: Path) -> bool:
    """Whether a path is text; on Linux a file name may be any bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def name_problem(path: Path) -> Problem:
    """The problem of a path that is not text."""
    shown = str(path).encode(errors="backslashreplace").decode()
    return Problem(where=shown, what="the name of the file is not UTF-8", fix="Rename the file.")


def checked_ending(path: Path) -> str:
    """The supported ending of a file name in lower case.

    Raises:
        ImageError: when the ending is not supported, or SimpleITK cannot be handed the name.
    """
    if not is_utf8(path):
        # SimpleITK would not raise, but end the process.
        raise ImageError(name_problem(path))
    ending = file_ending_of(path)
    if ending is None:
        raise ImageError(
            Problem(
                where=str(path),
                what="unknown kind of image file",
                got=path.name,
                expected="one of " + ", ".join(READERS),
                fix="Convert the file to one of these formats.",
            )
        )
    return ending


def geometry_of_header(path: Path, header: Any, num_components: int) -> Geometry:
    """Geometry of a file that SimpleITK has opened.

    Args:
        path: the file, for its ending, the JSON beside a 3D TIFF, and messages.
        header: a SimpleITK image, or an ``ImageFileReader`` that has read its information; both have the same
            getters.
        num_components: components of a voxel, for which they have different ones.

    Raises:
        ImageError: when there are other than 2 or 3 spatial axes, or the JSON beside a TIFF is wrong.
    """
    ending = checked_ending(path)
    size_xyz = [int(value) for value in header.GetSize()]
    direction = header.GetDirection()
    num_axes = len(size_xyz)
    if num_axes not in (2, 3, 4):
        raise ImageError(
            Problem(
                where=str(path),
                what="unsupported number of axes",
                got=f"{num_axes} axes of sizes {tuple(size_xyz)} (x first)",
                expected="2 or 3 spatial axes, or 3 and one of channels",
                fix="Store each time point or channel as its own file.",
            )
        )
    dimension = min(num_axes, 3)
    if ending == ".png" and num_components == 4:
        num_components = 3  # alpha
    z, y, x = (1, *zyx_from_xyz(size_xyz[:dimension]))[-3:]
    return Geometry(
        shape=(z, y, x),
        spacing=_spacing(path, ending, [abs(value) for value in header.GetSpacing()[:dimension]]),
        origin_xyz=tuple(header.GetOrigin())[:dimension],
        direction_xyz=tuple(
            direction[num_axes * row + column] for row in range(dimension) for column in range(dimension)
        ),
        dimension=dimension,
        num_channels=num_components * (size_xyz[3] if num_axes == 4 else 1),
    )


def _spacing(path: Path, ending: str, spacing_xyz: Sequence[float]) -> tuple[float, float, float]:
    if len(spacing_xyz) == 2:
        if ending in _WITHOUT_SPACING:
            return _THICK, 1.0, 1.0
        y, x = zyx_from_xyz(spacing_xyz)
        return _THICK * max(y, x), y, x
    if ending in TIFF_ENDINGS:
        return _spacing_beside(path, ending)
    z, y, x = zyx_from_xyz(spacing_xyz)
    return z, y, x


def _spacing_beside(path: Path, ending: str) -> tuple[float, float, float]:
    """Spacing of a 3D TIFF from the JSON file beside it, else (1, 1, 1)."""
    stem = path.name[: -len(ending)]
    candidates = [path.with_name(name + ".json") for name in (stem, _CHANNEL_NUMBER.sub("", stem))]
    beside = next((candidate for candidate in candidates if candidate.is_file()), None)
    if beside is None:
        return 1.0, 1.0, 1.0
    document = read_json(beside, ImageError)
    spacing = document.get("spacing") if isinstance(document, dict) else None
    if isinstance(spacing, list) and len(spacing) == 3 and all(_is_positive(value) for value in spacing):
        z, y, x = (float(value) for value in spacing)
        return z, y, x
    raise ImageError(
        Problem(
            where=f"{beside}: spacing",
            what="not a spacing",
            got=str(spacing),
            expected='{"spacing": [z, y, x]} with three positive numbers in mm',
            fix=f"Correct it, or remove the file to read {path.name} with a spacing of 1 mm.",
        )
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value > 0


def to_canonical(array: npt.NDArray[Any], geometry: Geometry) -> tuple[npt.NDArray[Any], Geometry]:
    """Permute and flip an array to the closest RAS; each voxel keeps its world position.

    Args:
        array: ``(Z, Y, X)`` or ``(C, Z, Y, X)``.
        geometry: where its voxels lie. 2D images come back as they are.

    Returns:
        A C-contiguous array and its geometry.
    """
    mapping = canonical_axes(geometry.direction_xyz)
    if geometry.dimension == 2 or mapping.is_identity:
        return array, geometry
    lead = array.ndim - 3
    turned = array.transpose([*range(lead), *(lead + axis for axis in mapping.order)])
    turned = np.flip(turned, tuple(lead + axis for axis in range(3) if mapping.flips[axis]))
    direction = np.reshape(geometry.direction_xyz, (3, 3))
    # Columns of the matrix are index axes in the order x, y, z.
    columns_zyx = [direction[:, 2 - axis] for axis in mapping.order]
    origin = np.array(geometry.origin_xyz)
    shape = [geometry.shape[axis] for axis in mapping.order]
    spacing = [geometry.spacing[axis] for axis in mapping.order]
    for axis, is_flipped in enumerate(mapping.flips):
        if is_flipped:
            origin = origin + columns_zyx[axis] * spacing[axis] * (shape[axis] - 1)
            columns_zyx[axis] = -columns_zyx[axis]
    return np.ascontiguousarray(turned), Geometry(
        shape=(shape[0], shape[1], shape[2]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        origin_xyz=tuple(float(value) for value in origin),
        direction_xyz=tuple(float(v) for v in np.column_stack(xyz_from_zyx(columns_zyx)).ravel()),
        dimension=3,
        num_channels=geometry.num_channels,
    )
