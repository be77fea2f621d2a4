"""Writing the archive of a bundle: whole or not at all, and the same contents as the same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnrules.errors import ModelError, Problem

from nnrules_runtime.bundle.layout import Entry, layout
from nnrules_runtime.files import atomic_file

__all__ = ["Content", "write_archive"]

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Something to be put into an archive.

    Attributes:
        entry: its name, size and checksum.
        sha256: digest of its bytes, hexadecimal.
        source: the bytes, or the file that holds them.
    """

    entry: Entry
    sha256: str
    source: bytes | Path

    @classmethod
    def of(cls, name: str, source: bytes | Path) -> Content:
        """Measure a content.

        Args:
            name: in the archive.
            source: the bytes, or a file, which is read once here and once when the archive is written.

        Raises:
            ModelError: the file cannot be read.
        """
        size, crc, digest = 0, 0, hashlib.sha256()
        for piece in _pieces_of(source):
            size += len(piece)
            crc = zlib.crc32(piece, crc)
            digest.update(piece)
        return cls(entry=Entry(name, size, crc), sha256=digest.hexdigest(), source=source)

    def pieces(self) -> Iterator[bytes]:
        """The bytes, once more.

        Raises:
            ModelError: the file cannot be read or is another one than it was.
        """
        digest = hashlib.sha256()
        for piece in _pieces_of(self.source):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != self.sha256:
            raise ModelError(
                Problem(
                    where=str(self.source),
                    what="this file was changed while it was put into a bundle",
                    fix="Bundle again when no training writes there.",
                )
            )


def write_archive(path: Path, contents: Sequence[Content]) -> None:
    """Write an archive; the same contents give the same bytes.

    Args:
        path: an existing file is replaced when the new one is whole.
        contents: in their order.

    Raises:
        RunError: the file cannot be written.
        ModelError: a content cannot be read or has changed.
    """
    placed = layout([content.entry for content in contents])
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        for header, content in zip(placed.headers, contents, strict=True):
            stream.write(header)
            for piece in content.pieces():
                stream.write(piece)
        stream.write(placed.directory)


def _pieces_of(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with source.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except OSError as exc:
        raise ModelError(
            Problem(where=str(source), what="this cannot be read", got=exc.strerror or str(exc))
        ) from None
