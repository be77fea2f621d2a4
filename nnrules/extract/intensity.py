"""Intensity statistics over the foreground voxels of all cases, one channel at a time.

Every voxel counts once and nothing is sampled: whole numbers are kept as counts, other numbers as they are,
in memory up to a limit and in a temporary file beyond. Percentiles are exact order statistics, found in a few
passes over the data and without a sorted copy of it.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nnrules.extract.order_statistics import Block, order_statistics

__all__ = [
    "DEFAULT_FLOAT_LIMIT_BYTES",
    "PERCENTS",
    "IntensityPool",
    "ValueSummary",
    "statistics_document",
    "summarise",
]

logger = logging.getLogger(__name__)

DEFAULT_FLOAT_LIMIT_BYTES = 2**30
"""Foreground values that are not counted stay in memory up to this many bytes a channel, then go to disk."""

PERCENTS = (0.5, 50.0, 99.5)
"""Percentiles of a fingerprint, as nnU-Net defines them (paper, normalisation of CT)."""

_BLOCK_VALUES = 2**20
_MAX_COUNTED_RANGE = 2**20
_MAX_PENDING = 2**20
_LARGEST_EXACT_FLOAT = 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValueSummary:
    """The foreground values of one channel of one case, without loss except for their order.

    Attributes:
        values: distinct whole numbers, rising, int64, when ``counts`` is there; else all values, float32 or
            float64, in any order.
        counts: int64, how often each value occurs, or ``None``.
    """

    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64] | None


def summarise(values: npt.NDArray[Any]) -> ValueSummary:
    """Summarise values, as counts wherever they are whole numbers in a range of at most 2**20.

    Images that hold whole numbers as floats (CT is often stored so) are counted as well: that is exact too
    and takes a fraction of the space.

    Args:
        values: one-dimensional, of an integer, bool or float type, finite.
    """
    if values.size == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return ValueSummary(values=nothing, counts=nothing)
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    is_integer = values.dtype.kind in "iu"
    lowest, highest = values.min(), values.max()
    if float(highest) - float(lowest) < _MAX_COUNTED_RANGE and (is_integer or _all_whole(values)):
        return _counted(values, int(lowest), int(highest))
    if is_integer:
        values = values.astype(np.float64)  # exact up to 2**53, far beyond what images hold
    # Adding zero turns -0.0 into 0.0, so that equal values have equal bits.
    return ValueSummary(values=values + values.dtype.type(0), counts=None)


def _all_whole(values: npt.NDArray[Any]) -> bool:
    if max(abs(float(values.min())), abs(float(values.max()))) > _LARGEST_EXACT_FLOAT:
        return False
    # Most float images that are not whole show it within a few voxels; the rest is looked at in blocks.
    head = values[:64]
    return bool((head == np.rint(head)).all()) and all(
        bool((block == np.rint(block)).all()) for block in _blocks(values)
    )


def _counted(values: npt.NDArray[Any], lowest: int, highest: int) -> ValueSummary:
    counts = np.zeros(highest - lowest + 1, dtype=np.int64)
    for block in _blocks(values):  # bincount works on 8-byte integers; blocks keep that copy small
        counts += np.bincount(block.astype(np.int64) - lowest, minlength=len(counts))
    distinct = np.flatnonzero(counts)
    return ValueSummary(values=distinct + lowest, counts=counts[distinct])


def _blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(values), _BLOCK_VALUES):
        yield values[start : start + _BLOCK_VALUES]


class IntensityPool:
    """Pools the values of one channel over cases and gives their statistics.

    Use it as a context manager: on exit the temporary file is gone. Add summaries in case order; the results
    then do not depend on who computed the summaries, or when.

    Args:
        float_limit_bytes: see :data:`DEFAULT_FLOAT_LIMIT_BYTES`.
        spill_directory: folder for the temporary file; the system's by default.
    """

    def __init__(
        self,
        *,
        float_limit_bytes: int = DEFAULT_FLOAT_LIMIT_BYTES,
        spill_directory: Path | None = None,
    ) -> None:
        self._limit_bytes = float_limit_bytes
        self._spill_directory = spill_directory
        self._spill: IO[bytes] | None = None
        self._spilled: list[tuple[int, np.dtype[Any], int]] = []
        self._floats: list[npt.NDArray[Any]] = []
        self._pending: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        self._num_pending = 0
        self._num_merged = 0

    def __enter__(self) -> IntensityPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spill is not None:
            self._spill.close()
            self._spill = None
        self._spilled.clear()

    @property
    def has_spilled(self) -> bool:
        """Whether values have gone to disk."""
        return self._spill is not None

    def add(self, summary: ValueSummary) -> None:
        """Add the values of one more case."""
        if summary.counts is not None:
            self._pending.append((summary.values, summary.counts))
            self._num_pending += len(summary.values)
            if self._num_pending > max(_MAX_PENDING, self._num_merged):
                self._merge_counts()
        elif summary.values.size:
            self._floats.append(summary.values)
            if sum(chunk.nbytes for chunk in self._floats) > self._limit_bytes:
                self._write_floats()

    def _merge_counts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All counted values so far, distinct and rising, with their counts."""
        if not self._pending:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        values = np.concatenate([values for values, _ in self._pending])
        counts = np.concatenate([counts for _, counts in self._pending])
        if values.size:
            order = np.argsort(values, kind="stable")
            values, counts = values[order], counts[order]
            starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
            values, counts = values[starts], np.add.reduceat(counts, starts)
        self._pending, self._num_pending, self._num_merged = [(values, counts)], 0, len(values)
        return values, counts

    def _write_floats(self) -> None:
        if self._spill is None:
            # Unnamed where the system allows it, so that even a killed process leaves nothing behind.
            self._spill = tempfile.TemporaryFile(dir=self._spill_directory)  # noqa: SIM115
            logger.info("foreground values exceed %d bytes and go to a temporary file", self._limit_bytes)
        for chunk in self._floats:
            self._spilled.append((self._spill.seek(0, 2), chunk.dtype, len(chunk)))
            self._spill.write(np.ascontiguousarray(chunk).data)
        self._floats.clear()

    def _float_blocks(self) -> Iterator[npt.NDArray[np.float64]]:
        for offset, dtype, length in self._spilled:
            assert self._spill is not None
            for start in range(0, length, _BLOCK_VALUES):
                num_values = min(_BLOCK_VALUES, length - start)
                self._spill.seek(offset + start * dtype.itemsize)
                raw = self._spill.read(num_values * dtype.itemsize)
                yield np.frombuffer(raw, dtype=dtype).astype(np.float64)
        for chunk in self._floats:
            for block in _blocks(chunk):
                yield block.astype(np.float64)

    def _all_blocks(self) -> Iterator[Block]:
        values, counts = self._merge_counts()
        if values.size:
            yield values.astype(np.float64), counts
        for block in self._float_blocks():
            yield block, None

    def statistics(self) -> dict[str, float] | None:
        """Mean, standard deviation, extremes and percentiles of everything that was added.

        Mean and standard deviation (divided by n) are computed in float64; percentiles are interpolated
        linearly and equal ``numpy.percentile`` of all values in float64.

        Returns:
            The entry of the fingerprint document, or ``None`` when there is no value at all.
        """
        num_values, sums, lowest, highest = 0, [], math.inf, -math.inf
        for block, counts in self._all_blocks():
            num_values += len(block) if counts is None else int(counts.sum())
            sums.append(float(block.sum() if counts is None else block @ counts))
            lowest, highest = min(lowest, float(block.min())), max(highest, float(block.max()))
        if num_values == 0:
            return None
        mean = min(max(math.fsum(sums) / num_values, lowest), highest)  # rounding must not leave the range
        squares = []
        for block, counts in self._all_blocks():
            deviation = np.square(block - mean)
            squares.append(float(deviation.sum() if counts is None else deviation @ counts))
        return statistics_document(
            mean=mean,
            std=math.sqrt(math.fsum(squares) / num_values),
            minimum=lowest,
            maximum=highest,
            percentiles=self._percentiles(num_values),
        )

    def _percentiles(self, num_values: int) -> list[float]:
        positions = [(num_values - 1) * (percent / 100) for percent in PERCENTS]
        ranks = {rank for position in positions for rank in (math.floor(position), math.ceil(position))}
        found = order_statistics(self._all_blocks, ranks)
        return [
            _interpolate(
                found[math.floor(position)], found[math.ceil(position)], position - math.floor(position)
            )
            for position in positions
        ]


def _interpolate(below: float, above: float, fraction: float) -> float:
    """Linear interpolation that rounds as numpy's does: from the nearer end."""
    difference = above - below
    return above - difference * (1 - fraction) if fraction >= 0.5 else below + difference * fraction


def statistics_document(
    *, mean: float, std: float, minimum: float, maximum: float, percentiles: Sequence[float]
) -> dict[str, float]:
    """The entry of one channel in the fingerprint document, all in the units of the image.

    Args:
        mean: of all values.
        std: population standard deviation (divided by n).
        minimum: smallest value.
        maximum: largest value.
        percentiles: those at :data:`PERCENTS`.
    """
    low, median, high = (float(value) for value in percentiles)
    return {
        "mean": float(mean),
        "std": float(std),
        "min": float(minimum),
        "median": median,
        "max": float(maximum),
        "percentile_00_5": low,
        "percentile_99_5": high,
    }
