"""The bytes of a ZIP archive round its contents, as a function of names, sizes and checksums alone.

A bundle is a ZIP archive (APPNOTE 6.3.10) without compression, times and comments, so that

- the same content gives the same bytes,
- any program for archives can show it, and weights could be mapped where they lie: each content begins at a multiple
  of 64 bytes, padded in an extra field as ``zipalign`` does,
- a reader can compare every byte that is no content with what must be there. Nothing can hide in an archive that is
  read so, and no two readers can disagree about it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "CENTRAL", "END", "END_64", "LOCATOR", "Entry", "Layout", "layout"]

ALIGNMENT = 64

# Signature, version needed, flags, method, time, date, CRC-32, two sizes, lengths of name and extra field.
_LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
"""Signature, version made by, version needed, flags, method, time, date, CRC-32, two sizes, lengths of name, extra
field and comment, disk, internal and external attributes, offset of the local header."""
END = struct.Struct("<4s4H2IH")
"""Signature, two numbers of disks, two numbers of entries, size and offset of the directory, length of the comment."""
END_64 = struct.Struct("<4sQ2H2I4Q")
"""Signature, size of the rest, two versions, two numbers of disks, two of entries, size and offset of the directory."""
LOCATOR = struct.Struct("<4sIQI")
"""Signature, disk, offset of the ZIP64 end record, number of disks."""

_MAX_16, _MAX_32 = 0xFFFF, 0xFFFF_FFFF
_VERSION, _VERSION_64 = 20, 45
_MADE_BY_UNIX = 3 << 8
_MODE = 0o100644 << 16  # a plain file, rw-r--r--
_DATE = 1 << 5 | 1  # 1 January 1980, the earliest there is
_EXTRA_64, _EXTRA_ALIGN = 0x0001, 0xD935
_NO_FLAGS = _STORED = _TIME = _DISK = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One content of an archive.

    Attributes:
        name: ASCII, parts separated by ``/``.
        size: bytes.
        crc: CRC-32.
    """

    name: str
    size: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An archive without its contents.

    Attributes:
        headers: what stands before each content.
        starts: where each content begins, bytes.
        directory: what stands after the last content.
        directory_start: where that begins.
    """

    headers: tuple[bytes, ...]
    starts: tuple[int, ...]
    directory: bytes
    directory_start: int

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return self.directory_start + len(self.directory)


def layout(entries: Sequence[Entry]) -> Layout:
    """Lay an archive out.

    Args:
        entries: in their order.
    """
    position = 0
    headers, starts, records = [], [], []
    for entry in entries:
        header = _local(entry, position)
        records.append(_central(entry, position))
        headers.append(header)
        starts.append(position + len(header))
        position += len(header) + entry.size
    central = b"".join(records)
    return Layout(
        headers=tuple(headers),
        starts=tuple(starts),
        directory=central + _end(len(entries), len(central), position),
        directory_start=position,
    )


def _local(entry: Entry, position: int) -> bytes:
    is_large = entry.size >= _MAX_32
    extra = struct.pack("<2H2Q", _EXTRA_64, 16, entry.size, entry.size) if is_large else b""
    name = entry.name.encode("ascii")
    # The padding's own field: its kind and length, and the alignment.
    unpadded = position + _LOCAL.size + len(name) + len(extra) + 6
    padding = -unpadded % ALIGNMENT
    extra += struct.pack("<3H", _EXTRA_ALIGN, 2 + padding, ALIGNMENT) + bytes(padding)
    size = _MAX_32 if is_large else entry.size
    fixed = _LOCAL.pack(
        b"PK\x03\x04",
        _VERSION_64 if is_large else _VERSION,
        _NO_FLAGS,
        _STORED,
        _TIME,
        _DATE,
        entry.crc,
        size,
        size,
        len(name),
        len(extra),
    )
    return fixed + name + extra


def _central(entry: Entry, position: int) -> bytes:
    large = [entry.size] * 2 if entry.size >= _MAX_32 else []
    if position >= _MAX_32:
        large.append(position)
    extra = struct.pack(f"<2H{len(large)}Q", _EXTRA_64, 8 * len(large), *large) if large else b""
    version = _VERSION_64 if large else _VERSION
    name = entry.name.encode("ascii")
    size = min(entry.size, _MAX_32)
    fixed = CENTRAL.pack(
        b"PK\x01\x02",
        _MADE_BY_UNIX | version,
        version,
        _NO_FLAGS,
        _STORED,
        _TIME,
        _DATE,
        entry.crc,
        size,
        size,
        len(name),
        len(extra),
        0,
        _DISK,
        0,
        _MODE,
        min(position, _MAX_32),
    )
    return fixed + name + extra


def _end(count: int, size: int, start: int) -> bytes:
    records = b""
    if count >= _MAX_16 or size >= _MAX_32 or start >= _MAX_32:
        both = _MADE_BY_UNIX | _VERSION_64, _VERSION_64
        records = END_64.pack(
            b"PK\x06\x06", END_64.size - 12, *both, _DISK, _DISK, count, count, size, start
        ) + LOCATOR.pack(b"PK\x06\x07", _DISK, start + size, 1)
    shown = min(count, _MAX_16)
    return records + END.pack(
        b"PK\x05\x06", _DISK, _DISK, shown, shown, min(size, _MAX_32), min(start, _MAX_32), 0
    )
