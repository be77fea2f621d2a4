"""NIfTI files below SimpleITK: the header fields that it does not show, and the voxels that it changes."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, cast

import numpy as np

__all__ = ["NiftiHeader", "count_nonfinite", "open_nifti", "read_nifti_header", "unpacked_size"]

_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_OFFSET = 1 << 32  # the header and its extensions are far smaller
_FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI's codes of float32 and float64


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """The few fields of a NIfTI header that SimpleITK does not show.

    Attributes:
        is_compressed: whether the file is packed with gzip, whatever its ending says.
        byte_order: ``"<"`` or ``">"``, as for :mod:`struct`.
        data_type: NIfTI's code of the voxel type.
        data_offset: where the voxels start in the unpacked file.
        num_bytes: size of the unpacked file, from the data's offset, shape and type.
        qform_code: 0 where the header holds no qform.
        sform_code: 0 where the header holds no sform.
        sform_offset: where the 12 numbers of the sform start.
        sform_format: :mod:`struct` format of the sform.
        sform: its three rows, RAS world coordinates.
        spacing_xyz: spacing of up to three axes as stored, mm; without axes of a single voxel, where it often is 0.
    """

    is_compressed: bool
    byte_order: str
    data_type: int
    data_offset: int
    num_bytes: int
    qform_code: int
    sform_code: int
    sform_offset: int
    sform_format: str
    sform: tuple[float, ...]
    spacing_xyz: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Offsets and :mod:`struct` formats of the two versions of the header."""

    sizes: tuple[str, int]
    spacing: tuple[str, int]  # after a number that is no spacing
    data_type: tuple[str, int]  # followed by the bits of a voxel
    data_offset: tuple[str, int]
    codes: tuple[str, int]  # of qform and sform
    sform: tuple[str, int]


# From nifti1.h and nifti2.h of the NIfTI Data Format Working Group; keys are the sizes of the header.
_LAYOUTS = {
    348: _Layout(
        sizes=("8h", 40),
        spacing=("8f", 76),
        data_type=("2h", 70),
        data_offset=("f", 108),
        codes=("2h", 252),
        sform=("12f", 280),
    ),
    540: _Layout(
        sizes=("8q", 16),
        spacing=("8d", 104),
        data_type=("2h", 12),
        data_offset=("q", 168),
        codes=("2i", 344),
        sform=("12d", 400),
    ),
}


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as probe:
        return probe.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def open_nifti(path: Path) -> IO[bytes]:
    """Open a file to read its unpacked bytes; whether it is packed is seen from its first two."""
    opened = gzip.open(path, "rb") if _is_compressed(path) else path.open("rb")  # noqa: SIM115  (the caller closes)
    return cast("IO[bytes]", opened)  # GzipFile has what we use, but not every method of BinaryIO


def read_nifti_header(path: Path) -> NiftiHeader | None:
    """Read the header of a NIfTI-1 or NIfTI-2 file, packed or not; ``None`` where it is not one.

    Raises:
        OSError, EOFError, zlib.error: when the file cannot be read or unpacked.
    """
    with open_nifti(path) as stream:
        header = stream.read(max(_LAYOUTS))
    if len(header) < min(_LAYOUTS):
        return None
    for order in "<>":
        size = struct.unpack_from(order + "i", header)[0]
        layout = _LAYOUTS.get(size)
        if layout is None or len(header) < size:
            continue
        sizes = struct.unpack_from(order + layout.sizes[0], header, layout.sizes[1])
        if not 1 <= sizes[0] <= 7 or min(sizes[1 : sizes[0] + 1]) < 1:
            return None
        data_type, bits = struct.unpack_from(order + layout.data_type[0], header, layout.data_type[1])
        offset = struct.unpack_from(order + layout.data_offset[0], header, layout.data_offset[1])[0]
        if not 0 <= offset < _MAX_OFFSET:  # false for NaN, too
            return None
        codes = struct.unpack_from(order + layout.codes[0], header, layout.codes[1])
        sform_format = order + layout.sform[0]
        spacings = struct.unpack_from(order + layout.spacing[0], header, layout.spacing[1])
        axes = range(1, min(sizes[0], 3) + 1)
        return NiftiHeader(
            is_compressed=_is_compressed(path),
            byte_order=order,
            data_type=data_type,
            data_offset=int(offset),
            num_bytes=int(offset) + (prod(sizes[1 : sizes[0] + 1]) * bits + 7) // 8,
            qform_code=codes[0],
            sform_code=codes[1],
            sform_offset=layout.sform[1],
            sform_format=sform_format,
            sform=struct.unpack_from(sform_format, header, layout.sform[1]),
            spacing_xyz=tuple(spacings[axis] for axis in axes if sizes[axis] > 1),
        )
    return None


def unpacked_size(path: Path) -> int:
    """Number of unpacked bytes; reads the whole file and compares its checksum.

    Raises:
        OSError, EOFError, zlib.error: when the file is cut off or damaged.
    """
    with open_nifti(path) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""))


def count_nonfinite(path: Path) -> tuple[int, int]:
    """Count the NaN and the infinite voxels of a NIfTI file; its checksum is compared on the way.

    Returns:
        The two counts; (0, 0) for files of whole numbers.

    Raises:
        OSError, EOFError, zlib.error: when the file is cut off or damaged.
    """
    header = read_nifti_header(path)
    name = _FLOAT_TYPES.get(header.data_type) if header is not None else None
    if header is None or name is None:
        unpacked_size(path)
        return 0, 0
    dtype = np.dtype(header.byte_order + name)
    num_nan = num_infinite = 0
    with open_nifti(path) as stream:
        stream.read(header.data_offset)
        left = header.num_bytes - header.data_offset
        # Bytes after the voxels are read as well: the checksum stands behind them.
        while chunk := stream.read(_CHUNK_BYTES):
            voxels = chunk[: min(left, len(chunk)) // dtype.itemsize * dtype.itemsize]
            left -= len(voxels)
            values = np.frombuffer(voxels, dtype)
            if not np.isfinite(values).all():
                num_nan += int(np.isnan(values).sum())
                num_infinite += int(np.isinf(values).sum())
    return num_nan, num_infinite
