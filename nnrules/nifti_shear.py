"""NIfTI files whose axes are not quite at right angles.

An image grid in ITK has orthonormal axes. SimpleITK refuses a NIfTI file whose sform is sheared by more
than about 0.01° and that has no qform to fall back on. Registration tools leave such files behind, mostly
with a shear far below a voxel; here the nearest orthonormal axes are taken for those, and the others are
left to the error.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from nnrules.nifti_file import NiftiHeader, open_nifti, read_nifti_header

__all__ = ["MAX_SHEAR_DEGREES", "shear_degrees", "write_unsheared"]

MAX_SHEAR_DEGREES = 0.5
"""Up to here a shear is taken for rounding: 200 voxels away it moves a voxel by less than two."""


def _nearest(header: NiftiHeader) -> tuple[np.ndarray, float]:
    """The nearest 3×4 affine with right-angled axes of equal spacing, and the largest angle to the stored."""
    affine = np.reshape(np.asarray(header.sform, dtype=np.float64), (3, 4))
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        return affine, 90.0
    axes = affine[:, :3] / spacing
    left, _, right = np.linalg.svd(axes)
    nearest = left @ right
    cosines = np.clip((axes * nearest).sum(axis=0), -1.0, 1.0)
    return np.column_stack([nearest * spacing, affine[:, 3]]), float(np.degrees(np.arccos(cosines)).max())


def shear_degrees(path: Path) -> float:
    """Angle in degrees by which the sform's axes miss the nearest right-angled ones.

    Returns 0 where a qform stands in, and for files that are no NIfTI or damaged: reading them says why.
    """
    try:
        header = read_nifti_header(path)
    except (OSError, EOFError, zlib.error):
        return 0.0
    if header is None or header.sform_code <= 0 or header.qform_code > 0:
        return 0.0
    return _nearest(header)[1]


def write_unsheared(path: Path, target: Path) -> None:
    """Write an unpacked copy of a NIfTI file whose sform is the nearest with orthonormal axes.

    Args:
        path: the sheared file, packed or not; it is not changed.
        target: the copy, with the ending ``.nii``.

    Raises:
        ValueError: when the file is no NIfTI file.
    """
    header = read_nifti_header(path)
    if header is None:
        raise ValueError(f"{path} is no NIfTI file")
    with open_nifti(path) as stream:
        content = bytearray(stream.read())
    struct.pack_into(header.sform_format, content, header.sform_offset, *_nearest(header)[0].ravel())
    target.write_bytes(content)
