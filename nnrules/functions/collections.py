"""Builtins on lists, records, texts and cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnrules.engine.types import COLUMN, MATRIX, NUM, STR, ListType, Type, VecType, unify
from nnrules.functions.catalog import TypingError, builtin

__all__ = ["median", "percentile"]

_MAX_SIZE = 10_000


def _extended(listing: Type, item: Type) -> Type:
    if isinstance(listing, VecType):
        listing = ListType(listing.item)
    if not isinstance(listing, ListType):
        raise TypingError(f"a list, not {listing}")
    joined = item if listing.item is None else unify(listing.item, item)
    if joined is None:
        raise TypingError(f"an entry like the others ({listing.item}), not {item}")
    return ListType(joined)


@builtin("prepend(list, entry)", lambda kinds, _: _extended(kinds[0], kinds[1]))
def prepend(listing: Any, entry: Any) -> Any:
    """The list with ``entry`` before its first entry."""
    return (entry, *listing)


@builtin("append(list, entry)", lambda kinds, _: _extended(kinds[0], kinds[1]))
def append(listing: Any, entry: Any) -> Any:
    """The list with ``entry`` after its last entry."""
    return (*listing, entry)


def _repeat(kinds: Sequence[Type], _dim: int) -> Type:
    if kinds[1] != NUM:
        raise TypingError(f"a number of repetitions, not {kinds[1]}")
    return ListType(kinds[0])


@builtin("repeat(entry, n)", _repeat)
def repeat(entry: Any, n: Any) -> Any:
    """A list of n times ``entry``; n below zero counts as zero."""
    if n * _size(entry) > _MAX_SIZE:
        raise OverflowError(f"a list of {n * _size(entry)} entries is too long; at most {_MAX_SIZE}")
    return (entry,) * int(n)


def _size(value: Any) -> int:
    """Scalars in a packed value, those of lists in lists too: repeated lists of lists grow without limit."""
    return sum(map(_size, value)) if isinstance(value, tuple) else 1


def _length(kinds: Sequence[Type], _dim: int) -> Type:
    if not isinstance(kinds[0], (ListType, VecType)):
        raise TypingError(f"a list or vector, not {kinds[0]}")
    return NUM


@builtin("length(list)", _length)
def length(listing: Any) -> Any:
    """How many entries the list has."""
    return len(listing)


def _first(kinds: Sequence[Type], _dim: int) -> Type:
    if isinstance(kinds[0], VecType):
        return ListType(kinds[0].item)
    if not isinstance(kinds[0], ListType) or kinds[1] != NUM:
        raise TypingError("a list and a number of entries")
    return kinds[0]


@builtin("first(list, n)", _first)
def first(listing: Any, n: Any) -> Any:
    """The first n entries of the list (all of them if it is shorter)."""
    return tuple(listing[: max(int(n), 0)])


def _lower(kinds: Sequence[Type], _dim: int) -> Type:
    if kinds[0] != STR:
        raise TypingError(f"a text, not {kinds[0]}")
    return STR


@builtin("lower(text)", _lower)
def lower(text: Any) -> Any:
    """The text with letter case folded away, for comparisons."""
    return text.casefold()


def _over_cases(kinds: Sequence[Type], _dim: int) -> Type:
    if any(kind != NUM for kind in kinds[1:]):
        raise TypingError("a number as second argument")
    if kinds[0] == MATRIX:
        return VecType(3, NUM)
    if kinds[0] == COLUMN or (isinstance(kinds[0], (VecType, ListType)) and kinds[0].item == NUM):
        return NUM
    raise TypingError(f"a case matrix or case column, not {kinds[0]}")


def _packed(result: Any) -> Any:
    listed = result.tolist()
    return tuple(listed) if isinstance(listed, list) else listed


@builtin("percentile(values, q)", _over_cases)
def percentile(values: Any, q: Any) -> Any:
    """The q-th percentile over the cases, axis by axis for a case matrix.

    Linear interpolation between order statistics, as in ``numpy.percentile``; q runs from 0 to 100. The 50th
    percentile and the median may differ in the last bit.
    """
    return _packed(np.percentile(np.asarray(values, dtype=np.float64), q, axis=0))


@builtin("median(values)", _over_cases)
def median(values: Any) -> Any:
    """The median over the cases, axis by axis for a case matrix; the mean of the middle two for an even number."""
    return _packed(np.median(np.asarray(values, dtype=np.float64), axis=0))
