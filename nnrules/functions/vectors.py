"""Builtins on axis vectors: reductions, orders, permutations."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from nnrules.engine.types import BOOL, COLUMN, NUM, ListType, MaskedType, Type, VecType
from nnrules.functions.catalog import TypingError, builtin, numbers

__all__ = ["argmax", "argsort", "largest_to_front"]

_MAX_PRODUCT = 1e308


def _item(kind: Type) -> Type | None:
    if isinstance(kind, (VecType, MaskedType, ListType)):
        return kind.item
    return NUM if kind == COLUMN else None


def _reduce_numbers(kinds: Sequence[Type], _dim: int) -> Type:
    if len(kinds) > 1:
        if any(kind != NUM for kind in kinds):
            raise TypingError("one axis vector, list or case column, or several numbers")
        return NUM
    if _item(kinds[0]) != NUM:
        raise TypingError(f"an axis vector, list or case column of numbers, not {kinds[0]}")
    return NUM


def _reduce_booleans(result: Type) -> Any:
    def rule(kinds: Sequence[Type], _dim: int) -> Type:
        if _item(kinds[0]) != BOOL:
            raise TypingError(f"an axis vector of truth values, not {kinds[0]}")
        return result

    return rule


def _one_vector(kinds: Sequence[Type]) -> VecType:
    if not isinstance(kinds[0], VecType):
        raise TypingError(f"an axis vector, not {kinds[0]}")
    return kinds[0]


def _values(values: tuple[Any, ...]) -> Any:
    listed = values[0] if len(values) == 1 else values
    return listed.tolist() if isinstance(listed, np.ndarray) else listed


def _sum(values: Any) -> Any:
    """From first to last, as written out; ``sum`` of Python 3.12 and later rounds floats otherwise."""
    return reduce(operator.add, values) if values else 0


@builtin("min(values, ...)", _reduce_numbers)
def smallest(*values: Any) -> Any:
    """The smallest of the values of a vector, list or column, or of several numbers."""
    return min(_values(values))


@builtin("max(values, ...)", _reduce_numbers)
def largest(*values: Any) -> Any:
    """The largest of the values of a vector, list or column, or of several numbers."""
    return max(_values(values))


@builtin("sum(values)", _reduce_numbers)
def total(values: Any) -> Any:
    """Sum of the values."""
    return float(np.sum(values)) if isinstance(values, np.ndarray) else _sum(values)


@builtin("prod(values)", _reduce_numbers)
def product(values: Any) -> Any:
    """Product of the values, from first to last."""
    if isinstance(values, np.ndarray):
        return float(np.prod(values))
    result = math.prod(values)
    if not abs(result) < _MAX_PRODUCT:
        raise OverflowError("a product is too large for any number")
    return result


@builtin("mean(values)", _reduce_numbers)
def mean(values: Any) -> Any:
    """Arithmetic mean of the values."""
    return float(np.mean(values)) if isinstance(values, np.ndarray) else _sum(values) / len(values)


@builtin("any(conditions)", _reduce_booleans(BOOL))
def any_of(conditions: Any) -> Any:
    """Whether at least one is true."""
    return any(conditions)


@builtin("all(conditions)", _reduce_booleans(BOOL))
def all_of(conditions: Any) -> Any:
    """Whether all are true."""
    return all(conditions)


@builtin("count(conditions)", _reduce_booleans(NUM))
def count(conditions: Any) -> Any:
    """How many are true."""
    return sum(map(bool, conditions))


def _index(kinds: Sequence[Type], _dim: int) -> Type:
    numbers(kinds[:1])
    _one_vector(kinds)
    return NUM


@builtin("argmax(v)", _index)
def argmax(v: Any) -> Any:
    """The axis with the largest value, counted from 0; the first of several equal ones."""
    return v.index(max(v))


@builtin("argmin(v)", _index)
def argmin(v: Any) -> Any:
    """The axis with the smallest value, counted from 0; the first of several equal ones."""
    return v.index(min(v))


def _order(kinds: Sequence[Type], _dim: int) -> Type:
    numbers(kinds)
    return VecType(_one_vector(kinds).length, NUM)


@builtin("argsort(v)", _order)
def argsort(v: Any) -> Any:
    """The axes in ascending order of their values; equal values keep the order of the axes (a stable sort)."""
    return tuple(sorted(range(len(v)), key=v.__getitem__))


def _constant_vector(item: Any) -> Any:
    def rule(kinds: Sequence[Type], dim: int) -> Type:
        if kinds[0] != NUM:
            raise TypingError(f"a number, not {kinds[0]}")
        return VecType(dim, item)

    return rule


@builtin("zeros(n)", _constant_vector(NUM), uses_dim=True)
def zeros(dim: int, _n: int) -> Any:
    """A vector of zeros; n is ``dim``."""
    return (0,) * dim


@builtin("ones(n)", _constant_vector(NUM), uses_dim=True)
def ones(dim: int, _n: int) -> Any:
    """A vector of ones; n is ``dim``."""
    return (1,) * dim


@builtin("unit(axis)", _constant_vector(NUM), uses_dim=True)
def unit(dim: int, axis: int) -> Any:
    """The vector with 1 on ``axis`` and 0 elsewhere."""
    return tuple(int(position == axis) for position in range(dim))


@builtin("is_axis(axis)", _constant_vector(BOOL), uses_dim=True)
def is_axis(dim: int, axis: int) -> Any:
    """True on ``axis`` and false elsewhere, so that ``not`` selects the other axes."""
    return tuple(position == axis for position in range(dim))


@builtin("largest_to_front(v)", _order)
def largest_to_front(v: Any) -> Any:
    """The order of axes that puts the axis with the largest value first and keeps the others as they are.

    Of several equal ones the first counts: [1, 1, 5] → [2, 0, 1].
    """
    axis = argmax(v)
    return (axis, *(position for position in range(len(v)) if position != axis))


@builtin("inverse(order)", _order)
def inverse(order: Any) -> Any:
    """The order of axes that undoes ``order``."""
    return argsort(order)


def _take(kinds: Sequence[Type], _dim: int) -> Type:
    vector, order = kinds
    if not (isinstance(vector, VecType) and isinstance(order, VecType) and vector.length == order.length):
        raise TypingError("two axis vectors of equal length")
    return vector


@builtin("take(v, order)", _take)
def take(v: Any, order: Any) -> Any:
    """The values of v in the given order of axes, i.e. v transposed."""
    return tuple(v[int(axis)] for axis in order)


def _drop_first(kinds: Sequence[Type], _dim: int) -> Type:
    vector = _one_vector(kinds)
    if vector.length < 2:
        raise TypingError("an axis vector of at least 2 entries")
    return VecType(vector.length - 1, vector.item)


@builtin("drop_first(v)", _drop_first)
def drop_first(v: Any) -> Any:
    """V without its first axis: the in-plane part, once the coarsest axis stands first."""
    return v[1:]
