"""Builtins on numbers, elementwise on axis vectors, case matrices and case columns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnrules.engine.types import BOOL, COLUMN, MATRIX, NUM, Type, VecType
from nnrules.functions.catalog import TypingError, broadcast, builtin, numbers

__all__ = ["elementwise", "power"]

_MAX_EXPONENT = 256


def _numeric(kinds: Sequence[Type], _dim: int) -> Type:
    numbers(kinds)
    return broadcast(kinds, NUM)


def elementwise(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a scalar function over packed values: arrays, tuples, or numbers that spread over either."""
    if any(isinstance(value, np.ndarray) for value in values):
        rows = np.broadcast_arrays(*(np.asarray(value) for value in values))
        flat = [function(*items) for items in zip(*(row.ravel().tolist() for row in rows), strict=True)]
        return np.array(flat, dtype=np.float64).reshape(rows[0].shape)
    length = next((len(value) for value in values if isinstance(value, tuple)), None)
    if length is None:
        return function(*values)
    columns = [value if isinstance(value, tuple) else (value,) * length for value in values]
    return tuple(function(*items) for items in zip(*columns, strict=True))


def power(base: float, exponent: float) -> float:
    """``base ** exponent`` of scalars, bounded, and never complex.

    Powers of NumPy arrays differ between processors in the last bit, so they are always taken on Python numbers.
    """
    if abs(exponent) > _MAX_EXPONENT:
        raise OverflowError(f"exponent {exponent} is beyond ±{_MAX_EXPONENT}")
    # Whole numbers have no limit of their own: a tower of allowed exponents would fill the memory.
    if isinstance(base, int) and (base.bit_length() - 1) * exponent > sys.float_info.max_exp:
        raise OverflowError("the power is too large for any number")
    try:
        result = base**exponent
    except OverflowError:
        raise OverflowError("the power is too large for any number") from None
    if isinstance(result, complex):
        raise ValueError(f"{base} ** {exponent} is not a real number")  # noqa: TRY004 - a value, not a type
    return float(result) if isinstance(result, float) else int(result)


@builtin("abs(x)", _numeric)
def absolute(x: Any) -> Any:
    """Magnitude of x."""
    return np.abs(x) if isinstance(x, np.ndarray) else elementwise(abs, x)


@builtin("round(x)", _numeric)
def rounded(x: Any) -> Any:
    """Nearest whole number; halves go to the even neighbour (2.5 → 2, 3.5 → 4), as in Python and NumPy."""
    return np.rint(x) if isinstance(x, np.ndarray) else elementwise(round, x)


@builtin("floor(x)", _numeric)
def floor(x: Any) -> Any:
    """Largest whole number that is not above x."""
    return np.floor(x) if isinstance(x, np.ndarray) else elementwise(math.floor, x)


@builtin("ceil(x)", _numeric)
def ceil(x: Any) -> Any:
    """Smallest whole number that is not below x."""
    return np.ceil(x) if isinstance(x, np.ndarray) else elementwise(math.ceil, x)


@builtin("truncate(x)", _numeric)
def truncate(x: Any) -> Any:
    """The whole part of x, cut towards zero."""
    return np.trunc(x) if isinstance(x, np.ndarray) else elementwise(math.trunc, x)


@builtin("log(x)", _numeric)
def log(x: Any) -> Any:
    """Natural logarithm; x must be above zero."""
    return elementwise(math.log, x)


@builtin("sin(x)", _numeric)
def sine(x: Any) -> Any:
    """Sine of x in radians."""
    return elementwise(math.sin, x)


@builtin("cos(x)", _numeric)
def cosine(x: Any) -> Any:
    """Cosine of x in radians."""
    return elementwise(math.cos, x)


@builtin("minimum(a, b)", _numeric)
def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, axis by axis."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return elementwise(lambda x, y: +(y if y < x else x), a, b)  # + makes true and false 1 and 0


@builtin("maximum(a, b)", _numeric)
def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, axis by axis."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return elementwise(lambda x, y: +(y if y > x else x), a, b)


@builtin("round_up(x, multiple)", _numeric)
def round_up(x: Any, multiple: Any) -> Any:
    """Smallest multiple of ``multiple`` that is not below x, axis by axis."""
    return elementwise(lambda value, step: math.ceil(value / step) * step, x, multiple)


def _where(kinds: Sequence[Type], _dim: int) -> Type:
    condition, *branches = kinds
    if not (condition == BOOL or (isinstance(condition, VecType) and condition.item == BOOL)):
        raise TypingError(f"a truth value, or one an axis, as first argument, not {condition}")
    if MATRIX in branches or COLUMN in branches:
        raise TypingError("numbers or axis vectors, not case matrices")
    items = {branch.item if isinstance(branch, VecType) else branch for branch in branches}
    if len(items) != 1 or not items <= {NUM, BOOL}:
        raise TypingError("two numbers (or axis vectors of numbers) to choose from")
    return broadcast(kinds, BOOL if items == {BOOL} else NUM)


@builtin("where(condition, a, b)", _where)
def where(condition: Any, a: Any, b: Any) -> Any:
    """A where the condition holds, else b, axis by axis. For one yes-or-no write ``a if condition else b``."""
    return elementwise(lambda chosen, yes, no: yes if chosen else no, condition, a, b)
