"""Is an image file whole? Checks that SimpleITK leaves out.

SimpleITK (2.5) fills the missing part of a cut-off NIfTI file with zeros and drops the missing pages of a
cut-off TIFF, both without an error; for MetaImage it writes to stderr. A cut-off download would train a
model on zeros. The checks here read headers and file sizes only. :func:`count_hidden_values`
reads the whole of a NIfTI file, to find flipped bits and voxels that are not numbers as well.

Whatever else is wrong passes: SimpleITK then says what it is.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from math import isfinite, prod
from pathlib import Path
from typing import Any, BinaryIO

from nnrules.errors import ImageError, Problem
from nnrules.nifti_file import NiftiHeader, count_nonfinite, read_nifti_header, unpacked_size

__all__ = ["check_complete", "count_hidden_values"]

_FIX = "Copy or download the file again."
_METAIMAGE_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
# From nifti1.h: integers, floats, complex numbers, colours.
_NIFTI_TYPES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METAIMAGE_HEADER_BYTES = 1 << 16
_TIFF_TYPE_FORMATS = {3: "H", 4: "I", 16: "Q"}
_TIFF_STRIPS = {273: 279, 324: 325}  # tag of the offsets of strips or tiles: tag of their byte counts


def check_complete(path: Path, ending: str) -> None:
    """Compare the size of an image file with what its header promises.

    Args:
        path: an existing file.
        ending: its ending in lower case, one of ``image_io.SUPPORTED_ENDINGS``.

    Raises:
        ImageError: when bytes are missing.
    """
    try:
        if ending in (".nii", ".nii.gz"):
            _check_nifti(path)
        elif ending in (".tif", ".tiff"):
            with path.open("rb") as stream:
                _check_tiff(path, stream)
        elif ending in (".mha", ".mhd"):
            _check_metaimage(path)
        elif ending == ".png":
            _check_png(path)
    except (OSError, EOFError, zlib.error) as exc:
        raise ImageError(_damaged(path, str(exc))) from None


def count_hidden_values(path: Path, ending: str) -> tuple[int, int]:
    """Read every byte of a NIfTI file: compare its checksum, and count what SimpleITK hides.

    SimpleITK reads NaN and infinity in NIfTI files as 0, without a word.

    Args:
        path: an existing file.
        ending: its ending in lower case. Formats other than NIfTI hide nothing and are not opened.

    Returns:
        The number of NaN and of infinite values.

    Raises:
        ImageError: when the file is cut off or damaged.
    """
    if ending not in (".nii", ".nii.gz"):
        return 0, 0
    try:
        return count_nonfinite(path)
    except (OSError, EOFError, zlib.error) as exc:
        raise ImageError(_damaged(path, str(exc))) from None


def _damaged(path: Path, reason: str) -> Problem:
    return Problem(where=str(path), what="the file is damaged or cut off", got=reason, fix=_FIX)


def _cut_off(path: Path, present: int, expected: int) -> ImageError:
    return ImageError(
        Problem(
            where=str(path),
            what="the file is cut off",
            got=f"{present} bytes",
            expected=f"{expected} bytes, as its header says",
            fix=_FIX,
        )
    )


def _other_content(path: Path, kind: str) -> ImageError:
    return ImageError(
        Problem(
            where=str(path),
            what=f"the file is damaged, or not the {kind} file that its ending says",
            fix="Copy or export the file again, or give it its right ending.",
        )
    )


def _check_nifti(path: Path) -> None:
    header = read_nifti_header(path)
    if header is None:
        raise _other_content(path, "NIfTI")
    if header.data_type not in _NIFTI_TYPES:  # its C library would write to stderr, too
        what, fix = "the header names an unknown type of voxels", "Copy or export the file again."
        raise ImageError(Problem(where=str(path), what=what, got=f"datatype {header.data_type}", fix=fix))
    _check_nifti_size(path, header)
    if not all(isfinite(spacing) and spacing > 0 for spacing in header.spacing_xyz):
        raise ImageError(
            Problem(
                where=str(path),
                what="the spacing in the header is not a size",
                got=" × ".join(f"{spacing:g}" for spacing in header.spacing_xyz),
                expected="numbers above 0, in mm",
                fix="Write the true spacing into the header: readers take 1 mm for 0 and NaN, without a word.",
            )
        )


def _check_nifti_size(path: Path, header: NiftiHeader) -> None:
    if not header.is_compressed:
        present = path.stat().st_size
    else:
        with path.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            stated = int.from_bytes(stream.read(4), "little")
        if stated == header.num_bytes % (1 << 32):
            return
        # A gzip file ends with its unpacked size. Files in several parts and files with trailing bytes state
        # another one and still are whole, so only unpacking decides.
        present = unpacked_size(path)
    if present < header.num_bytes:
        raise _cut_off(path, present, header.num_bytes)


def _check_metaimage(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(_METAIMAGE_HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    for line in start.split(b"\n"):
        position += len(line) + 1
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    element = _METAIMAGE_BYTES.get(fields.get("ElementType", ""))
    data = fields.get("ElementDataFile", "")
    if not data or "NDims" not in fields:
        raise _other_content(path, "MetaImage")
    if element is None or data.startswith("LIST") or "%" in data:
        return
    try:
        if fields.get("CompressedData", "False").lower() == "true":
            expected = int(fields.get("CompressedDataSize", "0"))
        else:
            components = int(fields.get("ElementNumberOfChannels", "1"))
            expected = prod(int(size) for size in fields["DimSize"].split()) * components * element
    except (KeyError, ValueError):
        return
    if data == "LOCAL":
        raw, expected = path, expected + position
    else:
        raw = path.parent / data
    if not raw.is_file():
        fix = "Copy the file with the voxels beside its header."
        raise ImageError(
            Problem(where=str(path), what="the file with the voxels is missing", expected=str(raw), fix=fix)
        )
    if raw.stat().st_size < expected:
        raise _cut_off(raw, raw.stat().st_size, expected)


def _check_png(path: Path) -> None:
    # SimpleITK reports an image without voxels where the signature is wrong; a cut-off one it refuses.
    with path.open("rb") as stream:
        if stream.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
            raise _other_content(path, "PNG")


def _check_tiff(path: Path, stream: BinaryIO) -> None:
    """Follow the chain of pages and check that each page's strips or tiles lie within the file."""
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        return
    try:
        is_big = struct.unpack_from(order + "H", start, 2)[0] == 43
        pointer = order + ("Q" if is_big else "I")
        offset = struct.unpack_from(pointer, start, 8 if is_big else 4)[0]
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            if offset >= size:
                raise _cut_off(path, size, offset + 1)
            tags, offset = _tiff_page(stream, offset, order, is_big=is_big)
            end = max(_tiff_ends(stream, tags, order, pointer), default=0)
            if end > size:
                raise _cut_off(path, size, end)
    except struct.error:  # a read past the end of the file
        raise ImageError(_damaged(path, f"cut off within a page, after {size} bytes")) from None


def _tiff_page(
    stream: BinaryIO, offset: int, order: str, *, is_big: bool
) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """Tags of one page, each with type, count and value (or its place), and the next page's offset."""
    count_format, entry_format, next_format = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")

    def read(layout: str) -> tuple[Any, ...]:
        return struct.unpack(order + layout, stream.read(struct.calcsize(order + layout)))

    stream.seek(offset)
    entries = [read(entry_format) for _ in range(read(count_format)[0])]
    return {tag: (kind, number, value) for tag, kind, number, value in entries}, read(next_format)[0]


def _tiff_ends(
    stream: BinaryIO, tags: dict[int, tuple[int, int, bytes]], order: str, pointer: str
) -> Iterator[int]:
    """First byte after each strip or tile of a page, and after the lists that say where they are."""

    def numbers(tag: int) -> Iterator[int]:
        kind, count, value = tags[tag]
        width = count * struct.calcsize(order + _TIFF_TYPE_FORMATS[kind])
        if width > len(value):
            place = struct.unpack(pointer, value)[0]
            if place + width > os.fstat(stream.fileno()).st_size:
                yield place + width
                return
            stream.seek(place)
            value = stream.read(width)
        yield from struct.unpack(f"{order}{count}{_TIFF_TYPE_FORMATS[kind]}", value[:width])

    for offsets, lengths in _TIFF_STRIPS.items():
        if all(tag in tags and tags[tag][0] in _TIFF_TYPE_FORMATS for tag in (offsets, lengths)):
            for start, length in zip_longest(numbers(offsets), numbers(lengths), fillvalue=0):
                yield start + length
