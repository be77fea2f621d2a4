"""Segmentations of a cascade's previous stage on disk, from which a patch is read without its case.

::

    previous_stage/CONFIGURATION/CASE/stage.json    what it was made from (key), by whom, shape, checksums
    previous_stage/CONFIGURATION/CASE/label.b2nd    (Z, Y, X) on the grid of CONFIGURATION, the second stage

Folders of cases appear whole, by a rename, and are never changed, like those of
:mod:`nnrules_runtime.preprocess.store`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.errors import Problem, StoreError

from nnrules_runtime.files import atomic_folder, make_folder
from nnrules_runtime.preprocess.store import case_folder_name
from nnrules_runtime.preprocess.store_arrays import StoredArray
from nnrules_runtime.preprocess.store_write import array_layout, write_array

__all__ = ["Origin", "PreviousStageStore"]

Triple = tuple[int, int, int]

_FORMAT = 1
_HEADER = "stage.json"
_LABEL = "label.b2nd"
_REMEDY = "Train the second stage again: it makes this segmentation anew and leaves the others."


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a segmentation was made from.

    Attributes:
        key: hash of all of it: weights, image and preprocessing, what the plan says about prediction and upsampling.
        weights: SHA-256 of the weights that predicted it.
        settings: hash of what the plan says.
        fold: the fold of the first stage that did not train on the case.
    """

    key: str
    weights: str
    settings: str
    fold: int


class PreviousStageStore:
    """A folder of segmentations. Cheap to send to other processes: only the path travels.

    Args:
        folder: the folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._cases: dict[str, tuple[StoredArray, Triple]] = {}

    def __reduce__(self) -> tuple[type[PreviousStageStore], tuple[Path]]:
        return (PreviousStageStore, (self.folder,))

    def origin(self, case_id: str) -> Origin | None:
        """What the segmentation of a case was made from; ``None`` where there is none, or not in full length."""
        folder = self._folder(case_id)
        try:
            header = _read_header(folder, case_id)
            if (folder / _LABEL).stat().st_size != header["file"]["bytes"]:
                return None
            return Origin(**header["origin"])
        except (StoreError, OSError, KeyError, TypeError):
            return None

    def read(self, case_id: str, start: Sequence[int], stop: Sequence[int]) -> npt.NDArray[np.int16]:
        """Labels of a box; only the chunks that it touches are read.

        Args:
            case_id: the case.
            start: first voxel, (z, y, x) in transposed axes.
            stop: one past the last voxel; the box must be inside of the image and not empty.

        Returns:
            ``(z, y, x)`` int16; may be written to.

        Raises:
            StoreError: the segmentation is missing, cut off or damaged.
            ValueError: the box is not inside of the image.
        """
        array, shape = self._case(case_id)
        if any(not 0 <= low < high <= edge for low, high, edge in zip(start, stop, shape, strict=True)):
            raise ValueError(f"{case_id}: box {tuple(start)} to {tuple(stop)} in an image of {shape}")
        return array.read(start, stop).astype(np.int16, copy=False)

    def shape(self, case_id: str) -> Triple:
        """Voxels (Z, Y, X) of a segmentation; errors as :meth:`read`."""
        return self._case(case_id)[1]

    def write(
        self, case_id: str, labels: npt.NDArray[np.integer[Any]], origin: Origin, *, patch_is_2d: bool
    ) -> None:
        """Write the segmentation of a case, whole or not at all. No other process may write the same case.

        Args:
            case_id: the case.
            labels: ``(Z, Y, X)``, transposed axes; no negative ones.
            origin: what it was made from.
            patch_is_2d: whether patches are single slices along axis 0.

        Raises:
            RunError: the disk is full or the folder cannot be written.
        """
        folder = self._folder(case_id)
        make_folder(self.folder)
        _remove_leftovers(folder)
        narrow = labels.astype(np.uint8 if labels.max(initial=0) <= np.iinfo(np.uint8).max else np.int16)
        with atomic_folder(folder) as made:
            header = {
                "format": _FORMAT,
                "id": case_id,
                "origin": {name: getattr(origin, name) for name in Origin.__slots__},
                "shape": list(labels.shape),
                "file": write_array(made / _LABEL, narrow, *array_layout(labels.shape, patch_is_2d)),
            }
            (made / _HEADER).write_text(json.dumps(header), encoding="utf-8")
        self._cases.pop(case_id, None)

    def _folder(self, case_id: str) -> Path:
        return self.folder / case_folder_name(case_id)

    def _case(self, case_id: str) -> tuple[StoredArray, Triple]:
        """Its file; the description is read once."""
        if case_id not in self._cases:
            folder = self._folder(case_id)
            header = _read_header(folder, case_id)
            try:
                z, y, x = header["shape"]
                array = StoredArray(folder / _LABEL, header["file"], case_id, remedy=_REMEDY)
            except (KeyError, TypeError, ValueError) as exc:
                raise _damaged(folder, case_id, f"{type(exc).__name__}: {exc}") from None
            self._cases[case_id] = array, (z, y, x)
        return self._cases[case_id]


def _read_header(folder: Path, case_id: str) -> dict[str, Any]:
    try:
        header = json.loads((folder / _HEADER).read_bytes())
    except FileNotFoundError:
        raise StoreError(
            Problem(
                where=f"{case_id}: {folder}",
                what="the previous stage's segmentation of this case is missing",
                fix=_REMEDY,
            )
        ) from None
    except (OSError, ValueError) as exc:
        raise _damaged(folder, case_id, str(exc)) from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        got = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise _damaged(folder, case_id, f"format {got}")
    return header


def _damaged(folder: Path, case_id: str, got: str) -> StoreError:
    return StoreError(
        Problem(
            where=f"{case_id}: {folder / _HEADER}",
            what="the description of the previous stage's segmentation is damaged",
            got=got,
            fix=f"Remove {folder} first. {_REMEDY}",
        )
    )


def _remove_leftovers(folder: Path) -> None:
    """What a process that was killed has left of this very case: see :func:`~nnrules_runtime.files.atomic_folder`."""
    name = escape(folder.name[:100])
    for pattern in (f".{name}.????????.tmp", f".{name}.*.old"):
        for path in folder.parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
