"""Writing one case of a store."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping, Sequence
from errno import EIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.errors import ImageError, Problem

from nnrules_runtime.files import atomic_file, atomic_folder
from nnrules_runtime.preprocess.prepared import LabelKey, PreparedCase
from nnrules_runtime.preprocess.store import (
    FORMAT_VERSION,
    HEADER_NAME,
    INDEX_NAME,
    case_folder_name,
)
from nnrules_runtime.preprocess.store_arrays import frame_checksum, open_array

__all__ = ["array_layout", "write_array", "write_case", "write_index"]

_CHUNK_EDGE = 64
_CHUNK_EDGE_2D = 512
_BLOCK_EDGE = 32
_BLOCK_EDGE_2D = 64
# Larger arrays are compressed into their file, so that no second copy of them is in memory.
_IN_MEMORY_BYTES = 128 * 2**20
_LOCATIONS_CHUNK = 2**16
_LOCATIONS_BLOCK = 2**12


def write_case(
    store: Path,
    case_id: str,
    prepared: PreparedCase,
    *,
    key: str,
    recipe: str,
    image_dtype: str,
    label_dtype: str,
    patch_is_2d: bool,
) -> int:
    """Write a case, whole or not at all.

    Args:
        store: folder of the store; must exist.
        case_id: the case.
        prepared: its arrays; with a label map.
        key: hash of everything that it was made from.
        recipe: digest of the preprocessing.
        image_dtype: ``"float32"`` or ``"float16"``.
        label_dtype: ``"int8"``, ``"int16"`` or ``"int32"``.
        patch_is_2d: whether patches are single slices along axis 0.

    Returns:
        Bytes on disk.

    Raises:
        ImageError: values that the type cannot hold.
        RunError: the disk is full or the folder cannot be written.
    """
    assert prepared.label is not None, "only cases with a label map are stored"
    image = _narrowed(prepared.image, image_dtype, case_id, "image", "float32")
    label = _narrowed(prepared.label, label_dtype, case_id, "label", "int16")
    chunks, blocks = array_layout(label.shape, patch_is_2d)
    with atomic_folder(store / case_folder_name(case_id)) as folder:
        files = {
            "image": write_array(folder / "image.b2nd", image, (1, *chunks), (1, *blocks)),
            "label": write_array(folder / "label.b2nd", label, chunks, blocks),
            "locations": _write_locations(folder / "locations.b2nd", prepared.locations, label.shape),
        }
        header = {
            "format": FORMAT_VERSION,
            "id": case_id,
            "key": key,
            "recipe": recipe,
            "shape": list(label.shape),
            "num_channels": len(image),
            "geometry": prepared.geometry.to_json(),
            "original_classes": [list(labels) for labels in prepared.original_classes],
            "locations": [
                {"labels": list(labels), "num_stored": len(voxels)}
                for labels, voxels in prepared.locations.items()
            ],
            "files": files,
        }
        (folder / HEADER_NAME).write_text(json.dumps(header), encoding="utf-8")
    return sum(int(entry["bytes"]) for entry in files.values())


def write_index(store: Path, groups: Mapping[str, str | None]) -> None:
    """Write which cases a store is to hold. A file that says so already stays, even where the disk is full.

    Args:
        store: folder of the store; must exist.
        groups: the cases, each with its group or ``None``.

    Raises:
        RunError: it cannot be written.
    """
    content = json.dumps({"format": FORMAT_VERSION, "cases": dict(groups)}).encode()
    with contextlib.suppress(OSError):
        if (store / INDEX_NAME).read_bytes() == content:
            return
    with atomic_file(store / INDEX_NAME) as path:
        path.write_bytes(content)


def _narrowed(array: npt.NDArray[Any], dtype: str, case_id: str, name: str, wider: str) -> npt.NDArray[Any]:
    if array.dtype == dtype:
        return array
    wanted = np.dtype(dtype)
    low, high = float(array.min()), float(array.max())
    limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
    if low < float(limits.min) or high > float(limits.max):
        raise ImageError(
            Problem(
                where=case_id,
                what=f"the type that the plan stores the {name} in cannot hold its values",
                got=f"{low:.6g} to {high:.6g} in {dtype}",
                fix=f"Plan with --set preprocessing.storage.{name}_dtype={wider}.",
            )
        )
    return array.astype(wanted)


def array_layout(shape: Sequence[int], patch_is_2d: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks, the unit of checksums, and blocks, the unit of decompression, of an array ``(Z, Y, X)``.

    Blocks of 128 kB fit the second-level cache; a patch touches few voxels beyond its border.
    """
    if patch_is_2d:
        chunk, block = (1, _CHUNK_EDGE_2D, _CHUNK_EDGE_2D), (1, _BLOCK_EDGE_2D, _BLOCK_EDGE_2D)
    else:
        chunk, block = (_CHUNK_EDGE,) * 3, (_BLOCK_EDGE,) * 3
    chunks = tuple(min(edge, size) for edge, size in zip(chunk, shape, strict=True))
    return chunks, tuple(min(edge, size) for edge, size in zip(block, chunks, strict=True))


def write_array(
    path: Path, array: npt.NDArray[Any], chunks: Sequence[int], blocks: Sequence[int]
) -> Mapping[str, Any]:
    """Write an array file.

    Args:
        path: the file.
        array: not empty.
        chunks: shape of a chunk.
        blocks: shape of a block.

    Returns:
        What :class:`~nnrules_runtime.preprocess.store_arrays.StoredArray` must know to read it.

    Raises:
        OSError: it cannot be written.
    """
    import blosc2  # type: ignore[import-untyped]  # noqa: PLC0415 - takes 0.2 s; workers have it already

    # Zstandard 1 with byte shuffle: on normalised CT as small as level 5 and as fast to read; LZ4 reads twice as
    # fast and takes a third more room, at 2 ms a patch of 80 x 96 x 96.
    cparams = blosc2.CParams(
        codec=blosc2.Codec.ZSTD,
        clevel=1,
        filters=[blosc2.Filter.SHUFFLE],
        filters_meta=[0],
        typesize=array.dtype.itemsize,
        nthreads=1,
    )
    layout = {"chunks": chunks, "blocks": blocks, "cparams": cparams}
    contiguous = np.ascontiguousarray(array)
    try:
        if array.nbytes <= _IN_MEMORY_BYTES:
            # The same bytes: appending chunk by chunk to a file takes Blosc2 as long as all compression.
            path.write_bytes(blosc2.asarray(contiguous, **layout).to_cframe())
        else:
            blosc2.asarray(contiguous, urlpath=str(path), mode="w", **layout)
        written = open_array(path)
        checksums = [zlib.crc32(written.schunk.get_chunk(index)) for index in range(written.schunk.nchunks)]
        # Frame format of C-Blosc2: the length of the header is a big-endian number at byte 11; the chunks follow.
        with path.open("rb") as stream:
            header_stop = int.from_bytes(stream.read(15)[11:], "big")
        trailer_start = header_stop + written.schunk.cbytes
    except (RuntimeError, ValueError) as exc:
        # Blosc2 does not say that the disk is full, and may find out when it reads back.
        raise OSError(EIO, f"Blosc2 could not write the array ({exc}); is the disk full?") from None
    return {
        "bytes": path.stat().st_size,
        "crc32": checksums,
        "frame": [header_stop, trailer_start, frame_checksum(path, header_stop, trailer_start)],
    }


def _write_locations(
    path: Path, locations: Mapping[LabelKey, npt.NDArray[np.int32]], shape: Sequence[int]
) -> Mapping[str, Any]:
    dtype = np.uint32 if np.prod(shape, dtype=np.int64) <= np.iinfo(np.uint32).max else np.uint64
    parts = [np.zeros(0, dtype)]
    for voxels in locations.values():
        flat = np.sort(np.ravel_multi_index(tuple(voxels.T), tuple(shape)))
        parts.append(np.diff(flat, prepend=0).astype(dtype))
    joined = np.concatenate(parts)
    if not joined.size:  # Blosc2 cannot map an empty array
        joined = np.zeros(1, dtype)
    chunk = min(_LOCATIONS_CHUNK, joined.size)
    return write_array(path, joined, (chunk,), (min(_LOCATIONS_BLOCK, chunk),))
