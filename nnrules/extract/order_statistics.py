"""Exact order statistics of data that is too large to sort.

The k-th smallest value is found digit by digit: the bits of a float64, mapped so that they rise with the
value, are read as four digits of 16 bits. One pass counts how many values start with each digit and thereby
names the digit of each wanted value; values that start otherwise are out. When few enough are left, they are
gathered and sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Block", "order_statistics"]

Block: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]
"""Values and how often each occurs; without counts, each occurs once."""

_DIGIT_BITS = 16
_KEY_BITS = 64
_GATHERED_VALUES = 2**22


def _rising_bits(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Unsigned integers in the order of the values; the values must be finite, and zero positive."""
    bits = values.view(np.uint64)
    sign = np.uint64(1 << (_KEY_BITS - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _values_of(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    sign = np.uint64(1 << (_KEY_BITS - 1))
    values: npt.NDArray[np.float64] = np.where(bits & sign, bits ^ sign, ~bits).view(np.float64)
    return values


class _Search:
    """The values whose first ``depth`` digits are ``prefix``, and the ranks that are wanted among them."""

    def __init__(self, *, depth: int, prefix: int, num_below: int, ranks: set[int]) -> None:
        self.depth, self.prefix, self.num_below, self.ranks = depth, prefix, num_below, ranks
        self.histogram = np.zeros(2**_DIGIT_BITS, dtype=np.int64)
        self.gathered: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64] | None]] = []

    def matching(
        self, bits: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64] | None]:
        if self.depth == 0:
            return bits, counts
        shift = np.uint64(_KEY_BITS - _DIGIT_BITS * self.depth)
        chosen = (bits >> shift) == np.uint64(self.prefix)
        return bits[chosen], None if counts is None else counts[chosen]

    def count(self, bits: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64] | None) -> None:
        bits, counts = self.matching(bits, counts)
        shift = np.uint64(_KEY_BITS - _DIGIT_BITS * (self.depth + 1))
        digits = ((bits >> shift) & np.uint64(2**_DIGIT_BITS - 1)).astype(np.int64)
        if counts is None:
            self.histogram += np.bincount(digits, minlength=2**_DIGIT_BITS)
        else:
            np.add.at(self.histogram, digits, counts)

    def gather(self, bits: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64] | None) -> None:
        self.gathered.append(self.matching(bits, counts))

    def narrower(self) -> list[tuple[_Search, int]]:
        """One search for each next digit that holds a wanted rank, and the number of values in it."""
        ends = self.num_below + np.cumsum(self.histogram)
        digits: dict[int, set[int]] = {}
        for rank in self.ranks:
            digits.setdefault(int(np.searchsorted(ends, rank, side="right")), set()).add(rank)
        return [
            (
                _Search(
                    depth=self.depth + 1,
                    prefix=(self.prefix << _DIGIT_BITS) | digit,
                    num_below=int(ends[digit] - self.histogram[digit]),
                    ranks=ranks,
                ),
                int(self.histogram[digit]),
            )
            for digit, ranks in digits.items()
        ]

    def results(self) -> dict[int, float]:
        bits = np.concatenate([bits for bits, _ in self.gathered])
        counts = np.concatenate(
            [
                np.ones(len(bits), dtype=np.int64) if counts is None else counts
                for bits, counts in self.gathered
            ]
        )
        order = np.argsort(bits)
        ends = self.num_below + np.cumsum(counts[order])
        wanted = sorted(self.ranks)
        found = _values_of(bits[order][np.searchsorted(ends, wanted, side="right")])
        return dict(zip(wanted, found.tolist(), strict=True))


def order_statistics(
    blocks: Callable[[], Iterable[Block]], ranks: set[int], *, gathered_values: int = _GATHERED_VALUES
) -> dict[int, float]:
    """The values at the given ranks of the sorted data.

    Args:
        blocks: gives the data anew for each pass; finite values, no negative zeros.
        ranks: from 0 for the smallest value to the number of values minus 1.
        gathered_values: how many values may be copied and sorted for one search; more are narrowed first.

    Returns:
        Rank to value.
    """
    to_count = [_Search(depth=0, prefix=0, num_below=0, ranks=set(ranks))]
    to_gather: list[_Search] = []
    while to_count:
        for values, counts in blocks():
            bits = _rising_bits(values)
            for search in to_count:
                search.count(bits, counts)
        narrower = [item for search in to_count for item in search.narrower()]
        is_small = [
            num <= gathered_values or search.depth * _DIGIT_BITS == _KEY_BITS for search, num in narrower
        ]
        to_gather += [search for (search, _), small in zip(narrower, is_small, strict=True) if small]
        to_count = [search for (search, _), small in zip(narrower, is_small, strict=True) if not small]
    for values, counts in blocks():
        bits = _rising_bits(values)
        for search in to_gather:
            search.gather(bits, counts)
    return {rank: value for search in to_gather for rank, value in search.results().items()}
