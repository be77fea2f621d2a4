"""Write images and label maps through SimpleITK."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules.axes import xyz_from_zyx
from nnrules.documents import write_json
from nnrules.errors import ImageError, NnrulesError, Problem
from nnrules.image_geometry import TIFF_ENDINGS, Geometry, checked_ending
from nnrules.simpleitk import simpleitk

__all__ = ["write_image"]

# The narrow formats, as ITK writes them, the narrowest integer type first; the others hold any number type.
_TIFF_TYPES = (np.uint8, np.int8, np.uint16, np.int16, np.float32)
_HELD_TYPES: dict[str, tuple[Any, ...]] = {
    ".png": (np.uint8, np.uint16),
    ".tif": _TIFF_TYPES,
    ".tiff": _TIFF_TYPES,
}

# ITK says nothing where such a file cannot be written to its end, as on a full disk.
_UNCHECKED_ENDINGS = (".nii", ".nii.gz", ".png")
_PNG_END = b"IEND\xaeB`\x82"
_NIFTI_HEADER_BYTES = 352
_GZIP_SIZE_BYTES = 4  # at the end of the file, the length of what was packed, modulo 2^32


def write_image(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write an image or a label map; the file appears whole or not at all.

    Args:
        path: output file; its ending chooses the format. A 3D TIFF gets its spacing in a JSON file beside it.
        array: ``(Z, Y, X)``, or ``(C, Z, Y, X)`` for several channels: a fourth axis in 3D, components in 2D.
        geometry: where the voxels lie; ``dimension`` 2 writes a 2D image of the only slice.

    Raises:
        ImageError: when the array does not fit the geometry, or the format cannot hold the array's type.
    """
    ending = checked_ending(path)
    channels = array[None] if array.ndim == 3 else array
    if channels.ndim != 4 or channels.shape[1:] != geometry.shape:
        raise ImageError(
            Problem(
                where=str(path),
                what="the array does not have the shape of its geometry",
                got=str(array.shape),
                expected=f"{geometry.shape} (z, y, x), after an optional axis of channels",
            )
        )
    image = _image(path, _storable(path, ending, channels), geometry)
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as exc:
        raise ImageError(_not_written(path, exc.strerror or str(exc))) from None
    try:
        simpleitk().WriteImage(image, str(folder / path.name), useCompression=True)
        if ending in _UNCHECKED_ENDINGS:
            _check_whole(folder / path.name, ending, image)
        if ending in TIFF_ENDINGS and geometry.dimension == 3:
            write_json(folder / (path.name[: -len(ending)] + ".json"), {"spacing": list(geometry.spacing)})
        # The named file last: when it is there, so is whatever it needs (the .raw of an .mhd).
        for part in sorted(folder.iterdir(), key=lambda part: part.name == path.name):
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(path.with_name(part.name))
    except NnrulesError as exc:
        raise ImageError(exc.problems) from None
    except OSError as exc:
        raise ImageError(_not_written(path, exc.strerror or str(exc))) from None
    except RuntimeError as exc:
        raise ImageError(_not_written(path, str(exc).strip().splitlines()[-1])) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_whole(file: Path, ending: str, image: Any) -> None:
    """Whether a file holds all voxels: by its length, the length that a packed file states, or its end mark.

    Raises:
        OSError: it ends early.
    """
    num_values = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    expected = _NIFTI_HEADER_BYTES + num_values * image.GetSizeOfPixelComponent()
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - len(_PNG_END)))
        tail = stream.read()
    if ending == ".png":
        is_whole = tail == _PNG_END
    elif ending == ".nii":
        is_whole = size == expected
    else:
        is_whole = int.from_bytes(tail[-_GZIP_SIZE_BYTES:], "little") == expected % 2**32
    if not is_whole:
        raise OSError(errno.ENOSPC, "No space left on device, or the file could not be written to its end")


def _not_written(path: Path, reason: str) -> Problem:
    return Problem(
        where=str(path),
        what="the image cannot be written",
        got=reason,
        fix="Check that the folder exists, is writable and has space, and that the format can hold these channels.",
    )


def _storable(path: Path, ending: str, channels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in a type that the format holds without loss."""
    if channels.dtype == np.bool_:
        return channels.astype(np.uint8)
    if channels.dtype == np.float16:
        return channels.astype(np.float32)
    if ending == ".png" and len(channels) not in (1, 3):
        raise ImageError(
            Problem(
                where=str(path),
                what=".png cannot hold these channels",  # SimpleITK would mix them up without a word
                got=str(len(channels)),
                expected="1 (grey) or 3 (RGB)",
                fix="Write one file per channel.",
            )
        )
    held = _HELD_TYPES.get(ending)
    if held is None or channels.dtype in held:
        return channels
    if np.issubdtype(channels.dtype, np.integer):
        low, high = int(channels.min(initial=0)), int(channels.max(initial=0))
        for dtype in held:
            if np.issubdtype(dtype, np.integer) and np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max:
                return channels.astype(dtype)
    raise ImageError(
        Problem(
            where=str(path),
            what=f"{ending} cannot hold these values",
            got=f"{channels.dtype}, {channels.min()} to {channels.max()}",
            expected="values of type " + ", ".join(np.dtype(dtype).name for dtype in held),
            fix="Write NRRD or NIfTI instead.",
        )
    )


def _image(path: Path, channels: npt.NDArray[Any], geometry: Geometry) -> Any:
    """The SimpleITK image of ``(C, Z, Y, X)`` with its geometry."""
    dimension, several = geometry.dimension, len(channels) > 1
    if dimension == 2:
        if geometry.shape[0] != 1:
            raise ImageError(
                Problem(
                    where=str(path),
                    what="several slices in a 2D geometry",
                    got=f"{geometry.shape} (z, y, x)",
                    fix="Write each slice to its own file.",
                )
            )
        values = np.moveaxis(channels[:, 0], 0, -1) if several else channels[0, 0]
        extra = 0
    else:
        values = channels if several else channels[0]
        extra = int(several)  # the axis of channels
    image = simpleitk().GetImageFromArray(values, isVector=dimension == 2 and several)
    direction = np.eye(dimension + extra)
    direction[:dimension, :dimension] = np.reshape(geometry.direction_xyz, (dimension, dimension))
    spacing_xyz = xyz_from_zyx(geometry.spacing)[:dimension]
    image.SetSpacing([float(value) for value in spacing_xyz] + [1.0] * extra)
    image.SetOrigin([float(value) for value in geometry.origin_xyz] + [0.0] * extra)
    image.SetDirection([float(value) for value in direction.ravel()])
    return image
