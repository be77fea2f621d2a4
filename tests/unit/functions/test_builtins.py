# ruff: noqa: E501 - rules in one line read like a table
"""Each builtin pinned by an example worked out by hand, and its typing rule."""

import math
from typing import Any

import numpy as np
import pytest
from nnrules.engine.types import BOOL, COLUMN, MATRIX, NUM, STR, ListType, MaskedType, Type, VecType
from nnrules.functions import BUILTINS, TypingError
from nnrules.functions.catalog import broadcast
from nnrules.functions.numbers import power

V2, V3, B3 = VecType(2, NUM), VecType(3, NUM), VecType(3, BOOL)

EXAMPLES: dict[str, list[tuple[tuple[Any, ...], Any]]] = {
    "abs": [((-2,), 2), (((-1.5, 2),), (1.5, 2))],
    "round": [((0.5,), 0), ((1.5,), 2), ((2.5,), 2), (((3.5, -0.5, -1.5),), (4, 0, -2))],
    "floor": [((-0.5,), -1), (((1.9, 2),), (1, 2))],
    "ceil": [((-0.5,), 0), (((1.1, 2),), (2, 2))],
    "truncate": [((-1.9,), -1), ((1.9,), 1)],
    "log": [((1,), 0.0), ((math.e,), 1.0)],
    "sin": [((0,), 0.0)],
    "cos": [((0,), 1.0)],
    "minimum": [((1, 2), 1), (((1, 5, 3), 3), (1, 3, 3)), (((True, False), 2), (1, 0))],
    "maximum": [((1, 2), 2), (((1, 5, 3), (2, 2, 2)), (2, 5, 3))],
    "round_up": [((5, 4), 8), ((8, 4), 8), (((5.5, 0, -1), (2, 4, 4)), (6, 0, 0))],
    "where": [((True, 1, 2), 1), (((True, False), (1, 2), 9), (1, 9))],
    "min": [(((3, 1, 2),), 1), ((3, 1), 1)],
    "max": [(((3, 1, 2),), 3), ((3, 1), 3)],
    "sum": [(((0.1, 0.2, 0.3),), 0.1 + 0.2 + 0.3), (((),), 0)],
    "prod": [(((2, 3, 4),), 24), (((),), 1)],
    "mean": [(((1, 2),), 1.5)],
    "any": [(((False, True),), True), (((),), False)],
    "all": [(((False, True),), False), (((),), True)],
    "count": [(((True, False, True),), 2)],
    "argmax": [(((1, 3, 3),), 1)],
    "argmin": [(((2, 1, 1),), 1)],
    "argsort": [(((2, 1, 1),), (1, 2, 0))],
    "zeros": [((3, 3), (0, 0, 0))],
    "ones": [((2, 2), (1, 1))],
    "unit": [((3, 1), (0, 1, 0))],
    "is_axis": [((3, 2), (False, False, True))],
    "largest_to_front": [(((1, 1, 5),), (2, 0, 1)), (((5, 1, 5),), (0, 1, 2))],
    "inverse": [(((2, 0, 1),), (1, 2, 0))],
    "take": [(((7, 8, 9), (2, 0, 1)), (9, 7, 8))],
    "drop_first": [(((7, 8, 9),), (8, 9))],
    "prepend": [(((1, 2), 0), (0, 1, 2))],
    "append": [(((1, 2), 3), (1, 2, 3))],
    "repeat": [(((1, 2), 2), ((1, 2), (1, 2))), ((1, -3), ())],
    "length": [(((1, 2),), 2), (((),), 0)],
    "first": [(((1, 2, 3), 2), (1, 2)), (((1,), 5), (1,)), (((1,), -1), ())],
    "lower": [(("Straße CT",), "strasse ct")],
    "percentile": [((np.array([1.0, 2.0, 4.0]), 50), 2.0), ((np.array([[1.0, 2], [3, 6]]), 25), (1.5, 3.0))],
    "median": [((np.array([1.0, 2.0, 4.0, 8.0]),), 3.0), ((np.array([[1.0, 2], [3, 6]]),), (2.0, 4.0))],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_examples_by_hand(name: str) -> None:
    assert EXAMPLES[name]
    for arguments, wanted in EXAMPLES[name]:
        got = BUILTINS[name].call(*arguments)
        assert repr(got) == repr(wanted), f"{name}{arguments}"


def test_every_builtin_is_documented_and_counted() -> None:
    for name, declared in BUILTINS.items():
        assert declared.name == name
        assert declared.doc.split(".")[0], name
        assert declared.signature.startswith(f"{name}(")
        assert 1 <= declared.min_args <= declared.max_args, name
    assert BUILTINS["max"].max_args == 16
    assert (BUILTINS["where"].min_args, BUILTINS["where"].max_args) == (3, 3)


def test_reductions_of_columns_give_plain_numbers() -> None:
    """What a rule compares must be a Python truth value, which NumPy's numbers do not give."""
    column = np.array([0.5, 0.25])
    for name, wanted in (("min", 0.25), ("max", 0.5), ("sum", 0.75), ("mean", 0.375), ("prod", 0.125)):
        got = BUILTINS[name].call(column)
        assert type(got) is float, name
        assert got == wanted


def test_sums_run_from_first_to_last_on_every_python() -> None:
    values = (1e16, 1.0, -1e16, 1.0)
    assert BUILTINS["sum"].call(values) == ((1e16 + 1.0) + -1e16) + 1.0
    assert BUILTINS["mean"].call(values) == (((1e16 + 1.0) + -1e16) + 1.0) / 4


def test_powers_are_bounded_and_real() -> None:
    assert power(2, 10) == 1024
    assert type(power(2, 10)) is int
    assert power(2, -1) == 0.5
    with pytest.raises(OverflowError):
        power(2, 257)
    with pytest.raises(OverflowError):
        power(10**9, 250)
    with pytest.raises(ValueError, match="not a real number"):
        power(-8, 0.5)


def test_lists_do_not_grow_without_limit() -> None:
    with pytest.raises(OverflowError):
        BUILTINS["repeat"].call(1, 10_001)


@pytest.mark.parametrize(
    ("name", "kinds", "wanted"),
    [
        ("abs", [NUM], NUM), ("abs", [V3], V3), ("abs", [MATRIX], MATRIX), ("abs", [COLUMN], COLUMN),
        ("minimum", [V3, NUM], V3), ("minimum", [MATRIX, V3], MATRIX), ("round_up", [V2, V2], V2),
        ("where", [B3, V3, NUM], V3), ("where", [BOOL, NUM, NUM], NUM), ("where", [B3, B3, BOOL], B3),
        ("max", [V3], NUM), ("max", [NUM, NUM], NUM), ("max", [COLUMN], NUM), ("max", [MaskedType(3, NUM)], NUM),
        ("any", [B3], BOOL), ("count", [MaskedType(3, BOOL)], NUM), ("argmax", [V3], NUM), ("argsort", [V2], V2),
        ("zeros", [NUM], V3), ("is_axis", [NUM], B3), ("take", [B3, V3], B3), ("drop_first", [V3], V2),
        ("prepend", [V3, NUM], ListType(NUM)), ("append", [ListType(V3), V2], ListType(ListType(NUM))),
        ("append", [ListType(None), STR], ListType(STR)), ("repeat", [V3, NUM], ListType(V3)), ("length", [V3], NUM),
        ("first", [V3, NUM], ListType(NUM)), ("first", [ListType(STR), NUM], ListType(STR)), ("lower", [STR], STR),
        ("percentile", [MATRIX, NUM], V3), ("percentile", [COLUMN, NUM], NUM), ("median", [MATRIX], V3),
        ("median", [ListType(NUM)], NUM),
    ],
)  # fmt: skip
def test_types_of_results(name: str, kinds: list[Type], wanted: Type) -> None:
    assert BUILTINS[name].typing(kinds, 3) == wanted


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("abs", [BOOL]), ("abs", [STR]), ("abs", [ListType(NUM)]), ("minimum", [V2, V3]), ("minimum", [MATRIX, V2]),
        ("minimum", [COLUMN, V3]), ("where", [NUM, NUM, NUM]), ("where", [BOOL, NUM, STR]), ("where", [B3, MATRIX, NUM]),
        ("where", [BOOL, NUM, BOOL]), ("max", [NUM]), ("max", [V3, NUM]), ("max", [B3]), ("any", [V3]), ("any", [BOOL]),
        ("argmax", [MaskedType(3, NUM)]), ("argmax", [ListType(NUM)]), ("zeros", [V3]), ("take", [V3, V2]),
        ("drop_first", [VecType(1, NUM)]), ("prepend", [NUM, NUM]), ("append", [ListType(NUM), STR]),
        ("repeat", [NUM, STR]), ("length", [NUM]), ("first", [NUM, NUM]), ("lower", [NUM]), ("percentile", [NUM, NUM]),
        ("percentile", [MATRIX, STR]), ("median", [STR]),
    ],
)  # fmt: skip
def test_wrong_types_are_refused(name: str, kinds: list[Type]) -> None:
    with pytest.raises(TypingError):
        BUILTINS[name].typing(kinds, 3)


def test_broadcasting() -> None:
    assert broadcast([NUM, NUM], BOOL) == BOOL
    assert broadcast([COLUMN, NUM], NUM) == COLUMN
    with pytest.raises(TypingError, match="equal length"):
        broadcast([V2, V3], NUM)
    with pytest.raises(TypingError, match="case matrix"):
        broadcast([MATRIX, COLUMN], NUM)
