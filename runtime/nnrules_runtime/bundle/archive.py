"""Reading the archive of a bundle without trusting anything.

Nothing is ever extracted. An archive is read only if every byte that is no content is as :mod:`layout
<nnrules_runtime.bundle.layout>` says; contents are compared with the digests of the manifest when they are used.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nnrules.errors import ModelError, Problem

from nnrules_runtime.bundle.layout import CENTRAL, END, END_64, LOCATOR, Entry, layout
from nnrules_runtime.bundle.names import REFUSED, name_problems

__all__ = ["Archive", "damaged"]

_PIECE_BYTES = 1 << 20
# A bundle has a few entries a fold; the directory takes about a hundred bytes for each.
_MAX_DIRECTORY_BYTES = 1 << 22
_MAX_32 = 0xFFFF_FFFF
_UNIX = 3


def damaged(
    where: Path | str, what: str, got: str | None = None, *, expected: str | None = None
) -> ModelError:
    """The error for a bundle that is not as it was written."""
    fix = "Copy it again from where it came from, or make it again with `nnrules run bundle`."
    return ModelError(Problem(where=str(where), what=what, got=got, expected=expected, fix=fix))


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive whose structure has been checked.

    Attributes:
        path: the file.
        entries: by name, in their order.
        starts: where each begins, bytes.
    """

    path: Path
    entries: Mapping[str, Entry]
    starts: Mapping[str, int]

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Check the structure of an archive.

        Raises:
            ModelError: there is no such file, or it is not as nnrules writes one.
        """
        if not path.is_file():
            what = "this is no file" if path.exists() else "there is no such bundle"
            raise ModelError(Problem(where=str(path), what=what, fix="Name a file of `nnrules run bundle`."))
        try:
            with path.open("rb") as stream:
                entries = _entries(stream, path)
                starts = _check_layout(stream, entries, path)
        except OSError as exc:
            raise damaged(path, "the bundle cannot be read", exc.strerror or str(exc)) from None
        names = [entry.name for entry in entries]
        return cls(
            path=path,
            entries=dict(zip(names, entries, strict=True)),
            starts=dict(zip(names, starts, strict=True)),
        )

    def place(self, name: str) -> Path:
        """How a content is called in errors: the bundle's path and its name in it."""
        return self.path / name

    def read(self, name: str, sha256: str | None, *, limit: int | None = None) -> bytes:
        """A content, verified.

        Args:
            name: one of ``entries``.
            sha256: its digest; ``None``: its CRC-32 is all that is known.
            limit: most bytes it may have.

        Raises:
            ModelError: it is too large, damaged, or cut off.
        """
        size = self.entries[name].size
        if limit is not None and size > limit:
            what = "this is larger than such a document can be"
            raise damaged(self.place(name), what, f"{size} bytes", expected=f"at most {limit}")
        content = b"".join(self._pieces(name, piece_bytes=size or 1))
        if sha256 is None:
            self._compare(name, f"{zlib.crc32(content):08x}", f"{self.entries[name].crc:08x}", "CRC-32")
        else:
            self._compare(name, hashlib.sha256(content).hexdigest(), sha256, "SHA-256")
        return content

    def verify(self, name: str, sha256: str) -> None:
        """Compare a content with its digest, piece by piece.

        Raises:
            ModelError: it is another one, or cut off.
        """
        digest = hashlib.sha256()
        crc = 0
        for piece in self._pieces(name, piece_bytes=_PIECE_BYTES):
            digest.update(piece)
            crc = zlib.crc32(piece, crc)
        self._compare(name, digest.hexdigest(), sha256, "SHA-256")
        # Other programs rely on it.
        self._compare(name, f"{crc:08x}", f"{self.entries[name].crc:08x}", "CRC-32")

    def _pieces(self, name: str, *, piece_bytes: int) -> Iterator[bytes]:
        left = self.entries[name].size
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.starts[name])
                while left and (piece := stream.read(min(left, piece_bytes))):
                    left -= len(piece)
                    yield piece
        except OSError as exc:
            raise damaged(self.place(name), "this cannot be read", exc.strerror or str(exc)) from None
        if left:
            raise damaged(self.place(name), "the bundle was cut off after it was opened")

    def _compare(self, name: str, got: str, expected: str, kind: str) -> None:
        if got != expected:
            what = "this is not what was put into the bundle"
            raise damaged(self.place(name), what, f"{kind} {got}", expected=expected)


def _entries(stream: BinaryIO, path: Path) -> list[Entry]:
    """The entries of the directory, whatever else is wrong with the archive."""
    stream.seek(0)
    if stream.read(4) != b"PK\x03\x04":
        raise ModelError(
            Problem(
                where=str(path),
                what="this is no bundle",
                expected="a file of `nnrules run bundle`, or a folder of models",
                fix="Check the path.",
            )
        )
    directory = _directory(stream, path)
    entries, problems = [], []
    position = 0
    try:
        while position < len(directory):
            entry, problem, position = _entry(directory, position)
            entries.append(entry)
            if problem is not None:
                problems.append(Problem(where=str(path), what=problem, got=repr(entry.name), fix=REFUSED))
    except (struct.error, IndexError):
        raise damaged(path, "the archive's directory is damaged") from None
    problems += name_problems([entry.name for entry in entries], str(path))
    if problems:
        raise ModelError(problems)
    return entries


def _directory(stream: BinaryIO, path: Path) -> bytes:
    """The bytes of the archive's directory, without its end records."""
    size = stream.seek(0, 2)
    length = min(size, END.size + LOCATOR.size + END_64.size)
    stream.seek(size - length)
    tail = stream.read(length)
    what = "the bundle is cut off, or bytes follow its end"
    if len(tail) < END.size or tail[-END.size :][:4] != b"PK\x05\x06":
        raise damaged(path, what)
    *_, directory_bytes, start, _ = END.unpack(tail[-END.size :])
    end = size - END.size
    if _MAX_32 in (directory_bytes, start) and len(tail) == END.size + LOCATOR.size + END_64.size:
        *_, directory_bytes, start = END_64.unpack(tail[: END_64.size])
        end -= LOCATOR.size + END_64.size
    if start + directory_bytes != end:
        raise damaged(path, what)
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise damaged(
            path, "the archive's directory is larger than a bundle's can be", f"{directory_bytes} bytes"
        )
    stream.seek(start)
    return stream.read(directory_bytes)


def _entry(directory: bytes, position: int) -> tuple[Entry, str | None, int]:
    """An entry of the directory, what is wrong with it, and where the next one begins."""
    fields = CENTRAL.unpack_from(directory, position)
    mark, made_by, _, flags, method, _, _, crc, _, size, name_bytes, extra_bytes, comment_bytes = fields[:13]
    mode = fields[15] >> 16
    if mark != b"PK\x01\x02":
        raise IndexError
    position += CENTRAL.size
    name = directory[position : position + name_bytes].decode("utf-8", "replace")
    extra = directory[position + name_bytes :][:extra_bytes]
    if size == _MAX_32:  # then it stands in the extra field, after its kind and length
        (size,) = struct.unpack_from("<Q", extra, 4)
    problem = None
    if flags & 1:
        problem = "this part of the archive is encrypted"
    elif method:
        problem = "this part of the archive is compressed, which those of a bundle never are"
    elif made_by >> 8 == _UNIX and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        problem = "this is a link" if stat.S_ISLNK(mode) else "this is no plain file"
    return Entry(name, size, crc), problem, position + name_bytes + extra_bytes + comment_bytes


def _check_layout(stream: BinaryIO, entries: Sequence[Entry], path: Path) -> tuple[int, ...]:
    """Compare every byte that is no content; where contents begin."""
    what = "this archive is not as nnrules writes one: it was changed, or made by another program"
    size = stream.seek(0, 2)
    if sum(entry.size for entry in entries) > size:
        raise damaged(path, what, "contents larger than the file")
    expected = layout(entries)
    stream.seek(expected.directory_start)
    if size != expected.size or stream.read() != expected.directory:
        raise damaged(path, what, "another directory of contents")
    for entry, header, start in zip(entries, expected.headers, expected.starts, strict=True):
        stream.seek(start - len(header))
        if stream.read(len(header)) != header:
            raise damaged(path / entry.name, what, "another header")
    return expected.starts
