"""Read and write images and labels through SimpleITK: NIfTI, NRRD, MetaImage, TIFF and PNG.

Whatever the file, arrays come out as ``(C, Z, Y, X)`` (images) or ``(Z, Y, X)`` (labels) and the geometry as
:class:`nnrules.image_geometry.Geometry`, whose module states the spacing of files that have none.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnrules.errors import ImageError, Problem
from nnrules.image_geometry import (
    READERS,
    Geometry,
    checked_ending,
    file_ending_of,
    geometry_of_header,
    to_canonical,
)
from nnrules.image_integrity import check_complete
from nnrules.image_write import write_image
from nnrules.nifti_shear import MAX_SHEAR_DEGREES, shear_degrees, write_unsheared
from nnrules.simpleitk import simpleitk

__all__ = [
    "SUPPORTED_ENDINGS",
    "Geometry",
    "file_ending_of",
    "read_geometry",
    "read_image",
    "read_label",
    "to_canonical",
    "write_image",
]

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
_ITK_PREFIX = re.compile(r"^((ITK|sitk::) ?ERROR: )?(\w+\(0x[0-9a-f]+\): )?")

SUPPORTED_ENDINGS: tuple[str, ...] = tuple(READERS)
"""Endings that can be read and written, in lower case; files may spell them in any case."""


def read_geometry(path: Path) -> Geometry:
    """Read the header only; no voxel is loaded.

    Raises:
        ImageError: when the file is missing, of an unknown kind, damaged, cut off, or has other than 2 or 3
            spatial axes.
    """

    def read(reader: Any) -> Geometry:
        reader.ReadImageInformation()
        return geometry_of_header(path, reader, reader.GetNumberOfComponents())

    return _with_reader(path, read)


def read_image(paths: Sequence[Path]) -> tuple[npt.NDArray[Any], Geometry]:
    """Read the channels of one case.

    Args:
        paths: one file per channel, or files that hold several: a fourth axis (4D NIfTI of the Medical
            Segmentation Decathlon) or several components per voxel (RGB PNG). Alpha of a PNG is dropped.

    Returns:
        The array ``(C, Z, Y, X)``, C-contiguous and writable, in the files' common numpy type; and the
        geometry of the first file with ``num_channels`` of them all.

    Raises:
        ImageError: with a problem for each file that cannot be read or has another shape than the first.
            Differences in spacing, origin and direction are left to :mod:`nnrules.dataset_check`, which knows
            tolerances.
        ValueError: when ``paths`` is empty.
    """
    if not paths:
        raise ValueError("read_image needs at least one path")
    arrays: list[npt.NDArray[Any]] = []
    geometries: list[Geometry] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            array, geometry = _read_one(path)
        except ImageError as exc:
            problems.extend(exc.problems)
            continue
        arrays.append(array)
        geometries.append(geometry)
        if geometry.shape != geometries[0].shape:
            problems.append(
                Problem(
                    where=str(path),
                    what="a channel has another shape than the first one",
                    got=f"{geometry.shape} (z, y, x)",
                    expected=f"{geometries[0].shape}",
                    fix="Resample the channels of a case to one grid.",
                )
            )
    if problems:
        raise ImageError(problems)
    if len(arrays) == 1:
        return arrays[0], geometries[0]
    joined = np.concatenate(arrays)
    return joined, replace(geometries[0], num_channels=len(joined))


def read_label(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Read a label map.

    Returns:
        The array ``(Z, Y, X)`` of an integer type (the stored one; int32 or int64 for files that hold whole
        numbers as floats) and its geometry.

    Raises:
        ImageError: when the file cannot be read, has several channels that differ, or holds values that are
            not whole numbers; the values are named.
    """
    channels, geometry = _read_one(path)
    label = channels[0]
    if len(channels) > 1 and not all(np.array_equal(label, other) for other in channels[1:]):
        raise ImageError(
            Problem(
                where=str(path),
                what="a label map with several channels",
                got=f"{len(channels)} channels that differ",
                expected="one channel of label values",
                fix="Store label values, not colours or one-hot channels; save PNG in grey.",
            )
        )
    geometry = replace(geometry, num_channels=1)
    if np.issubdtype(label.dtype, np.integer):
        return label, geometry
    with np.errstate(invalid="ignore"):
        whole = label.astype(np.int64)
    is_wrong = whole != label
    if is_wrong.any():
        values = np.unique(label[is_wrong])
        shown = ", ".join(f"{value:.6g}" for value in values[:5]) + (", …" if len(values) > 5 else "")
        raise ImageError(
            Problem(
                where=str(path),
                what="label values that are not whole numbers",
                got=f"{shown} ({int(is_wrong.sum())} of {label.size} voxels)",
                expected="whole numbers",
                fix="Resample labels with nearest-neighbour interpolation, and store them as integers.",
            )
        )
    narrow = whole.astype(np.int32)
    return (narrow if np.array_equal(narrow, whole) else whole), geometry


def _with_reader(path: Path, read: Callable[[Any], _T]) -> _T:
    """Call ``read`` with a SimpleITK reader of ``path``, and turn what it raises into ImageError."""
    ending = checked_ending(path)
    if not path.is_file():
        raise ImageError(
            Problem(
                where=str(path),
                what="not a file" if path.exists() else "no such file",
                fix="Check the path, or the case id and the file ending in dataset.json.",
            )
        )
    check_complete(path, ending)
    try:
        return read(_reader(path, ending))
    except (RuntimeError, MemoryError) as exc:
        reason = _reason(exc)
    if "orthonormal" in reason:
        return _with_sheared(path, read)
    raise _unreadable(path, reason)


def _reason(exc: Exception) -> str:
    """The last line of what ITK says, without the class and the address of its reader."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return _ITK_PREFIX.sub("", lines[-1])


def _unreadable(path: Path, reason: str) -> ImageError:
    if "memory" in reason.lower() or "bad_alloc" in reason:
        what = "not enough memory for the image"
        fix = "Close other programs, use fewer workers, or a machine with more memory."
    elif "Unknown PixelType" in reason:
        what = "pixels of a kind that SimpleITK cannot read, such as grey with transparency"
        fix = "Save the image as grey or RGB, without transparency."
    else:
        what = "the file cannot be read as an image: it is damaged, or not what its ending says"
        fix = "Copy or export the file again."
    return ImageError(Problem(where=str(path), what=what, got=reason, fix=fix))


def _reader(path: Path, ending: str) -> Any:
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO(READERS[ending])
    reader.SetFileName(str(path))
    return reader


def _with_sheared(path: Path, read: Callable[[Any], _T]) -> _T:
    """Read a NIfTI file that SimpleITK refuses for its sheared axes from a copy without shear."""
    degrees = shear_degrees(path)
    if degrees > MAX_SHEAR_DEGREES:
        raise ImageError(
            Problem(
                where=str(path),
                what="the axes in the header are not at right angles (sheared sform)",
                got=f"{degrees:.2g}° from the nearest right-angled axes",
                expected=f"at most {MAX_SHEAR_DEGREES}°",
                fix="Resample the image to a grid without shear, or set the qform to the right axes.",
            )
        )
    _LOGGER.warning("%s: axes sheared by %.2g°, taken as the nearest right-angled ones", path, degrees)
    with tempfile.TemporaryDirectory(prefix="nnrules-") as folder:
        copy = Path(folder) / "unsheared.nii"
        write_unsheared(path, copy)
        try:
            return read(_reader(copy, ".nii"))
        except (RuntimeError, MemoryError) as exc:
            reason = _reason(exc)
    raise _unreadable(path, reason)


def _read_one(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """One file as ``(C, Z, Y, X)`` in its stored type."""

    def read(reader: Any) -> tuple[Any, npt.NDArray[Any]]:
        image = reader.Execute()
        return image, simpleitk().GetArrayFromImage(image)

    image, array = _with_reader(path, read)
    num_components = image.GetNumberOfComponentsPerPixel()
    geometry = geometry_of_header(path, image, num_components)
    if np.iscomplexobj(array):
        raise ImageError(
            Problem(
                where=str(path),
                what="complex intensities",
                expected="real numbers",
                fix="Store magnitude and phase as two channels.",
            )
        )
    if num_components > 1:
        array = np.moveaxis(array, -1, 0)  # components lie last in SimpleITK's arrays
        if image.GetDimension() == 4:
            array = array.swapaxes(0, 1)
    # Alpha is opacity, not a measurement; a PNG that was saved with it holds the same image as one without.
    array = array.reshape((-1, *geometry.shape))[: geometry.num_channels]
    return np.ascontiguousarray(array), geometry
