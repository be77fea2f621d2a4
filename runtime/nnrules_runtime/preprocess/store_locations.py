"""Stored voxels of classes and regions, decoded when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from nnrules_runtime.preprocess.prepared import LabelKey
from nnrules_runtime.preprocess.store_arrays import StoredArray

__all__ = ["LocationCache", "Locations"]

Triple = tuple[int, int, int]


class LocationCache:
    """Decoded locations, the most recently used ones, within a limit of memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._entries: OrderedDict[tuple[str, LabelKey], npt.NDArray[np.int32]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, LabelKey]) -> npt.NDArray[np.int32] | None:
        """The voxels of a case and class, if they are still here."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: tuple[str, LabelKey], value: npt.NDArray[np.int32]) -> None:
        """Keep voxels; the least recently used ones make room."""
        with self._lock:
            if key not in self._entries:
                self._entries[key] = value
                self._size += value.nbytes
            while self._size > self._limit and len(self._entries) > 1:
                _, dropped = self._entries.popitem(last=False)
                self._size -= dropped.nbytes


class Locations(Mapping[LabelKey, npt.NDArray[np.int32]]):
    """Stored voxels of each class or region of a case: ``(n, 3)`` int32 in transposed axes, read-only.

    A class is read and decoded when it is asked for; asking what there is, and how much, costs nothing.
    """

    def __init__(
        self,
        case_id: str,
        counts: Mapping[LabelKey, int],
        array: StoredArray,
        shape: Triple,
        cache: LocationCache,
    ) -> None:
        self._case_id = case_id
        self._array = array
        self._shape = shape
        self._cache = cache
        self.counts: Mapping[LabelKey, int] = counts

    def __iter__(self) -> Iterator[LabelKey]:
        return iter(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __contains__(self, key: object) -> bool:
        return key in self.counts

    def __getitem__(self, key: LabelKey) -> npt.NDArray[np.int32]:
        """The voxels of a class or region, in C order of the array.

        Raises:
            KeyError: none of them are stored.
            StoreError: the file is damaged.
        """
        known = self._cache.get((self._case_id, key))
        if known is not None:
            return known
        start = 0
        for other, count in self.counts.items():
            if other == key:
                break
            start += count
        else:
            raise KeyError(key)
        differences = self._array.read((start,), (start + self.counts[key],))
        flat = np.cumsum(differences, dtype=np.int64)
        if flat.size and flat[-1] >= np.prod(self._shape):
            raise self._array.damaged("locations outside of the image", None)
        voxels = np.stack(np.unravel_index(flat, self._shape), axis=1).astype(np.int32)
        voxels.flags.writeable = False
        self._cache.put((self._case_id, key), voxels)
        return voxels
