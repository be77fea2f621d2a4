"""Preprocessed cases on disk, from which a patch is read without loading its case.

A store is a folder with one folder a case::

    store.json            the cases of the dataset with their groups, also those that have not been made yet
    CASE/case.json        what it is made from and for (keys), geometry, classes with counts, sizes and checksums
    CASE/image.b2nd       (C, Z, Y, X) float32 or float16: Blosc2, chunked, every chunk in small blocks
    CASE/label.b2nd       (Z, Y, X) int8, int16 or int32
    CASE/locations.b2nd   voxels for foreground sampling: flat indices, ascending within a class, as differences

Case folders appear whole (a rename) and are never changed. Every chunk has a CRC-32, and so has what surrounds the
chunks. They are compared when they are read for the first time in a process: whoever reads patches never pays for the
rest of a case.

Files are opened for each read (0.2 ms): no state crosses a fork, threads do not meet in a decompressor, and a store
of any number of cases needs two open files. They are mapped into memory, so that processes share the page cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
from nnrules.errors import Problem, StoreError

from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.preprocess.prepared import ANNOTATED, LabelKey
from nnrules_runtime.preprocess.store_arrays import REMEDY, StoredArray
from nnrules_runtime.preprocess.store_locations import LocationCache, Locations

__all__ = [
    "ANNOTATED",
    "ARRAY_NAMES",
    "FORMAT_VERSION",
    "HEADER_NAME",
    "INDEX_NAME",
    "CaseStore",
    "Locations",
    "StoredCase",
    "case_folder_name",
    "stored_key",
]

FORMAT_VERSION = 1
"""Version of the format; a store of another version is made again."""

HEADER_NAME = "case.json"
INDEX_NAME = "store.json"

ARRAY_NAMES = ("image", "label", "locations")
"""The array files of a case, without their ending ``.b2nd``."""

Triple = tuple[int, int, int]

_LOCATION_CACHE_BYTES = 64 * 2**20


def case_folder_name(case_id: str) -> str:
    """The folder of a case: its id, with what no file system could hold percent-encoded."""
    name = quote(case_id, safe=" +,=@()[]{}!#$&'~^;")
    return "%2E" + name[1:] if name.startswith(".") else name


class StoredCase:
    """One preprocessed case.

    Attributes:
        id: the case.
        key: hash of everything that this case was made from.
        recipe: digest of the preprocessing, see ``Preprocessing.digest``.
        shape: voxels (Z, Y, X), transposed axes.
        num_channels: channels of the image.
        geometry: what preprocessing did to the grid.
        present: classes or regions that have stored locations, in the order of the plan; never
            :data:`ANNOTATED`.
        original_classes: classes or regions that the case had before it was resampled.
    """

    def __init__(self, folder: Path, case_id: str, cache: LocationCache) -> None:
        header = _read_header(folder, case_id)
        self.id = case_id
        self.folder = folder
        self._cache = cache
        try:
            self.key: str = header["key"]
            self.recipe: str = header["recipe"]
            self.num_channels: int = header["num_channels"]
            z, y, x = header["shape"]
            self.shape: Triple = (z, y, x)
            self.geometry = CaseGeometry.from_json(header["geometry"])
            files = header["files"]
            self._image = StoredArray(folder / "image.b2nd", files["image"], case_id)
            self._label = StoredArray(folder / "label.b2nd", files["label"], case_id)
            self.original_classes: tuple[LabelKey, ...] = tuple(map(tuple, header["original_classes"]))
            counts = {tuple(entry["labels"]): int(entry["num_stored"]) for entry in header["locations"]}
            self._locations = Locations(
                case_id,
                counts,
                StoredArray(folder / "locations.b2nd", files["locations"], case_id),
                self.shape,
                cache,
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise _bad_header(folder, case_id, f"{type(exc).__name__}: {exc}") from None
        self.present: tuple[LabelKey, ...] = tuple(key for key in counts if key != ANNOTATED)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self.folder, self.id))

    @property
    def has_annotated(self) -> bool:
        """Whether a sample of all annotated voxels is stored, under :data:`ANNOTATED`: with an ignore label."""
        return ANNOTATED in self._locations

    def locations(self) -> Locations:
        """The stored voxels: a mapping from class or region (and :data:`ANNOTATED`) to ``(n, 3)`` int32."""
        return self._locations

    def read(
        self, start: Sequence[int], stop: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
        """Image and label of a box; only the chunks that it touches are read.

        Args:
            start: first voxel, (z, y, x) in transposed axes.
            stop: one past the last voxel; the box must be inside of the image and not empty.

        Returns:
            Image ``(C, z, y, x)`` float32 and label ``(z, y, x)`` int16; both may be written to.

        Raises:
            StoreError: a file is missing, cut off or damaged.
            ValueError: the box is not inside of the image.
        """
        limits = zip(start, stop, self.shape, strict=True)
        if any(not 0 <= first < last <= size for first, last, size in limits):
            raise ValueError(f"{self.id}: box {tuple(start)} to {tuple(stop)} in an image of {self.shape}")
        image = self._image.read((0, *start), (self.num_channels, *stop))
        label = self._label.read(start, stop)
        return image.astype(np.float32, copy=False), label.astype(np.int16, copy=False)

    def image(self) -> npt.NDArray[np.float32]:
        """The whole image ``(C, Z, Y, X)``."""
        return self._image.read((0, 0, 0, 0), None).astype(np.float32, copy=False)

    def label(self) -> npt.NDArray[np.int16]:
        """The whole label map ``(Z, Y, X)``."""
        return self._label.read((0, 0, 0), None).astype(np.int16, copy=False)


class CaseStore:
    """A folder of preprocessed cases. Cheap to send to other processes: only the path travels.

    Args:
        folder: the folder.

    Raises:
        StoreError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise StoreError(
                Problem(
                    where=str(folder),
                    what="no preprocessed cases here",
                    got="no such folder",
                    fix="Run `nnrules run preprocess` first, or check --work.",
                )
            )
        self._cases: dict[str, StoredCase] = {}
        self._groups: dict[str, str | None] | None = None
        self._cache = LocationCache(_LOCATION_CACHE_BYTES)

    def __reduce__(self) -> tuple[type[CaseStore], tuple[Path]]:
        return (CaseStore, (self.folder,))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[StoredCase]:
        return (self.case(case_id) for case_id in self.ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases of the dataset, sorted; asking for one that has not been made is an error."""
        return tuple(self.groups)

    @property
    def groups(self) -> Mapping[str, str | None]:
        """For each case, sorted, its group (such as its patient), or ``None`` for a group of its own."""
        if self._groups is None:
            path = self.folder / INDEX_NAME
            try:
                cases = json.loads(path.read_bytes())["cases"]
                self._groups = {case_id: cases[case_id] for case_id in sorted(cases)}
            except FileNotFoundError:
                self._groups = dict.fromkeys(sorted(self._folders()))
            except (OSError, ValueError, KeyError, TypeError) as exc:
                raise StoreError(
                    Problem(where=str(path), what="the list of cases is damaged", got=str(exc), fix=REMEDY)
                ) from None
        return self._groups

    def _folders(self) -> list[str]:
        return [
            unquote(entry.name)
            for entry in self.folder.iterdir()
            if not entry.name.startswith(".") and (entry / HEADER_NAME).is_file()
        ]

    def case(self, case_id: str) -> StoredCase:
        """One case; its header is read once.

        Raises:
            StoreError: it is not there, damaged, or of another version of the format.
        """
        if case_id not in self._cases:
            folder = self.folder / case_folder_name(case_id)
            self._cases[case_id] = StoredCase(folder, case_id, self._cache)
        return self._cases[case_id]

    def check(self, recipe: str, case_ids: Iterable[str]) -> None:
        """Check that cases are there and were made as a plan says.

        Args:
            recipe: ``Preprocessing.digest`` of the plan's configuration.
            case_ids: the cases that are needed.

        Raises:
            StoreError: with all cases that are missing, damaged or made for another plan.
        """
        problems: list[Problem] = []
        others: list[str] = []
        for case_id in case_ids:
            try:
                stored = self.case(case_id)
            except StoreError as exc:
                problems += exc.problems
            else:
                others += [case_id] if stored.recipe != recipe else []
        if others:
            shown = ", ".join(others[:5]) + (f", … ({len(others)} in all)" if len(others) > 5 else "")
            problems.append(
                Problem(
                    where=str(self.folder),
                    what="cases were preprocessed for another plan",
                    got=shown,
                    fix="Run `nnrules run preprocess` with this plan, or use another work folder.",
                )
            )
        if problems:
            raise StoreError(problems)


def stored_key(store: Path, case_id: str) -> str | None:
    """The key of a case whose files are there in full length, or ``None``; content is not looked at."""
    folder = store / case_folder_name(case_id)
    try:
        header = _read_header(folder, case_id)
        files = header["files"]
        if all((folder / f"{name}.b2nd").stat().st_size == files[name]["bytes"] for name in ARRAY_NAMES):
            return str(header["key"])
    except (StoreError, OSError, KeyError, TypeError):
        pass
    return None


def _reopen(folder: Path, case_id: str) -> StoredCase:
    return StoredCase(folder, case_id, LocationCache(_LOCATION_CACHE_BYTES))


def _read_header(folder: Path, case_id: str) -> dict[str, Any]:
    try:
        header = json.loads((folder / HEADER_NAME).read_bytes())
    except FileNotFoundError:
        raise StoreError(
            Problem(
                where=f"{case_id}: {folder}",
                what="the case has not been preprocessed",
                fix="Run `nnrules run preprocess`; if the case failed there, its message says why.",
            )
        ) from None
    except (OSError, ValueError) as exc:
        raise _bad_header(folder, case_id, str(exc)) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT_VERSION:
        got = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise StoreError(
            Problem(
                where=f"{case_id}: {folder / HEADER_NAME}",
                what="the case was stored in another format",
                got=str(got),
                expected=str(FORMAT_VERSION),
                fix=REMEDY,
            )
        )
    return header


def _bad_header(folder: Path, case_id: str, got: str) -> StoreError:
    return StoreError(
        Problem(
            where=f"{case_id}: {folder / HEADER_NAME}",
            what="the description of a preprocessed case is damaged",
            got=got,
            fix=REMEDY,
        )
    )
