"""Array files of a store, read by chunks and compared with their checksums."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy.typing as npt
from nnrules.errors import Problem, StoreError

__all__ = ["REMEDY", "StoredArray", "frame_checksum", "open_array"]

REMEDY = "Run `nnrules run preprocess` again: it makes this case anew and leaves the others."
"""What helps against damage."""


def open_array(path: Path) -> Any:
    """A Blosc2 array, mapped into memory and read by a single thread.

    Raises:
        RuntimeError, ValueError, OSError: it is missing or damaged.
    """
    import blosc2  # type: ignore[import-untyped]  # noqa: PLC0415 - takes 0.2 s, and headers do without

    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})


def frame_checksum(path: Path, header_stop: int, trailer_start: int) -> int:
    """CRC-32 of what surrounds the chunks in a Blosc2 file: header, offsets of the chunks, trailer."""
    with path.open("rb") as stream:
        checksum = zlib.crc32(stream.read(header_stop))
        stream.seek(trailer_start)
        return zlib.crc32(stream.read(), checksum)


class StoredArray:
    """One array file with the checksums of its chunks.

    Args:
        path: the file.
        header: of ``case.json``: ``bytes``; ``crc32``, a number a chunk; ``frame``, the end of the file's header, the
            start of its trailer, and the checksum of both.
        case_id: for messages.
        remedy: what makes the file anew, for messages.
    """

    __slots__ = (
        "_case_id",
        "_checksums",
        "_frame",
        "_is_framed",
        "_num_bytes",
        "_remedy",
        "_verified",
        "path",
    )

    def __init__(self, path: Path, header: Mapping[str, Any], case_id: str, remedy: str = REMEDY) -> None:
        self.path = path
        self._case_id = case_id
        self._remedy = remedy
        self._num_bytes: int = header["bytes"]
        self._checksums: Sequence[int] = header["crc32"]
        self._frame: Sequence[int] = header["frame"]
        self._is_framed = False
        self._verified = bytearray(len(self._checksums))

    def read(self, start: Sequence[int], stop: Sequence[int] | None) -> npt.NDArray[Any]:
        """Values of a box; all values where ``stop`` is ``None``.

        Raises:
            StoreError: the file is missing, cut off or damaged.
        """
        try:
            if self.path.stat().st_size != self._num_bytes:
                raise self.damaged(f"{self.path.stat().st_size} bytes", f"{self._num_bytes} bytes")
            if not self._is_framed:
                if frame_checksum(self.path, *self._frame[:2]) != self._frame[2]:
                    raise self.damaged("another checksum of the header", None)
                self._is_framed = True
            array = open_array(self.path)
            stop = array.shape if stop is None else stop
            self._verify(array, start, stop)
            box = tuple(slice(int(first), int(last)) for first, last in zip(start, stop, strict=True))
            values: npt.NDArray[Any] = array[box]
        except FileNotFoundError:
            raise self.damaged("no such file", None) from None
        except (RuntimeError, ValueError, OSError, KeyError, IndexError) as exc:
            raise self.damaged(str(exc) or type(exc).__name__, None) from None
        return values

    def _verify(self, array: Any, start: Sequence[int], stop: Sequence[int]) -> None:
        if array.schunk.nchunks != len(self._checksums):
            raise self.damaged(f"{array.schunk.nchunks} chunks", f"{len(self._checksums)}")
        grid = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
        touched = [
            range(int(first) // chunk, -(-int(last) // chunk))
            for first, last, chunk in zip(start, stop, array.chunks, strict=True)
        ]
        for place in product(*touched):
            index = 0
            for position, size in zip(place, grid, strict=True):
                index = index * size + position
            if not self._verified[index]:
                if zlib.crc32(array.schunk.get_chunk(index)) != self._checksums[index]:
                    raise self.damaged(f"another checksum in chunk {index}", None)
                self._verified[index] = 1

    def damaged(self, got: str, expected: str | None) -> StoreError:
        """The error for this file."""
        return StoreError(
            Problem(
                where=f"{self._case_id}: {self.path}",
                what="a file of this preprocessed case is missing, cut off or damaged",
                got=got,
                expected=expected,
                # Preprocessing looks at sizes alone: it would take a damaged file of the right size for whole.
                fix=f"Remove {self.path.parent} first. {self._remedy}",
            )
        )
