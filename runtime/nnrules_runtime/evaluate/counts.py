"""Counting voxels: one pass over both label maps, whatever the number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules_runtime.evaluate.metrics import Counts

__all__ = ["LabelMatrix", "mask_of", "unknown_labels"]

_CHUNK_VOXELS = 1 << 18
_SHOWN_LABELS = 10


def mask_of(labels: npt.NDArray[Any], values: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Where a label map has one of the values."""
    mask: npt.NDArray[np.bool_] = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask


def unknown_labels(labels: npt.NDArray[Any], known: Sequence[int]) -> list[int]:
    """The first few values of a label map that are none of the known ones, ascending."""
    flat = labels.reshape(-1)
    found: set[int] = set()
    for start in range(0, flat.size, _CHUNK_VOXELS):
        found.update(int(value) for value in np.setdiff1d(flat[start : start + _CHUNK_VOXELS], known))
    return sorted(found)[:_SHOWN_LABELS]


class LabelMatrix:
    """Voxels by reference label and predicted label.

    Args:
        reference: label map of any shape.
        prediction: of the same shape.
        labels: values that both may hold, background among them.
        ignore: value that the reference may hold besides, or ``None``.
        leaves_out: whether voxels with it do not count.

    Attributes:
        has_unknown: whether there are other values; then there are no counts.
    """

    def __init__(
        self,
        reference: npt.NDArray[Any],
        prediction: npt.NDArray[Any],
        labels: Sequence[int],
        *,
        ignore: int | None = None,
        leaves_out: bool = False,
    ) -> None:
        self._index = {value: index for index, value in enumerate(labels)}
        known = labels if ignore is None else (*labels, ignore)
        size = len(known) + 1  # the last index is that of unknown values
        rows, columns = _table(known, size), _table(labels, size)
        cells = np.zeros(size * size, np.int64)
        flat_reference, flat_prediction = reference.reshape(-1), prediction.reshape(-1)
        for start in range(0, flat_reference.size, _CHUNK_VOXELS):
            chunk = slice(start, start + _CHUNK_VOXELS)
            pairs = _indices(flat_reference[chunk], rows) * size + _indices(flat_prediction[chunk], columns)
            cells += np.bincount(pairs, minlength=size * size)
        matrix = cells.reshape(size, size)
        self.has_unknown = bool(matrix[-1].any() or matrix[:, -1].any())
        if leaves_out and ignore is not None:
            matrix[len(labels)] = 0
        self._cells = matrix

    def counts(self, labels: Sequence[int]) -> Counts:
        """Counts of the class that is made of these labels."""
        inside = [self._index[value] for value in labels]
        tp = int(self._cells[np.ix_(inside, inside)].sum())
        fp = int(self._cells[:, inside].sum()) - tp
        fn = int(self._cells[inside].sum()) - tp
        return Counts(tp=tp, fp=fp, fn=fn, tn=int(self._cells.sum()) - tp - fp - fn)


def _table(known: Sequence[int], size: int) -> npt.NDArray[Any]:
    """Index of each value up to the highest one, and beyond it of unknown ones."""
    # Wide enough for a pair of indices.
    table = np.full(max(known) + 2, size - 1, np.uint16 if size * size <= 1 << 16 else np.int64)
    table[list(known)] = np.arange(len(known))
    return table


def _indices(values: npt.NDArray[Any], table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Look values up; whatever is outside the table is as its last entry."""
    last = len(table) - 1
    if values.min() < 0 or values.max() > last:
        values = np.where((values < 0) | (values > last), last, values)
    found: npt.NDArray[Any] = table.take(values)
    return found
