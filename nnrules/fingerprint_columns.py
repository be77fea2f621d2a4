"""Fast checks of the columns of a fingerprint document.

A fingerprint may hold thousands of cases, and JSON Schema takes milliseconds a hundred rows. So the columns
are checked here in bulk, and the schema sees the document with its columns cut to one row: the two together
accept and refuse exactly what the full schema does, plus what no schema can say (equal lengths).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from nnrules.errors import Problem

__all__ = ["check_columns", "without_long_columns"]

_NUM_SHOWN = 20
_NUMBERS = frozenset({int, float})
_ORIENTATION_AXES = (frozenset("LR"), frozenset("AP"), frozenset("SI"))


def _is_number(value: object) -> bool:
    try:
        return type(value) in _NUMBERS and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond the largest float
        return False


def _all_of(values: Sequence[object], types: frozenset[type]) -> bool:
    # type() and not isinstance(): a bool is an int, but not a number in JSON.
    return set(map(type, values)) <= types


def _all_numbers(values: Sequence[Any], *, lower: float, inclusive: bool, upper: float = math.inf) -> bool:
    if not _all_of(values, _NUMBERS):
        return False
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError:
        return False
    above = array >= lower if inclusive else array > lower
    return bool((above & (array <= upper) & np.isfinite(array)).all())


def _all_positive_zyx(values: Sequence[Any]) -> bool:
    if not _all_of(values, frozenset({list})) or set(map(len, values)) != {3}:
        return False
    return _all_numbers(list(chain.from_iterable(values)), lower=0, inclusive=False)


def _is_positive_zyx(value: Any) -> bool:
    return type(value) is list and len(value) == 3 and all(_is_number(item) and item > 0 for item in value)


def _is_orientation(value: Any) -> bool:
    if type(value) is not str:
        return False
    return value == "" or (
        len(value) == 3 and all(any(letter in axis for letter in value) for axis in _ORIENTATION_AXES)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What one entry of a column may be.

    Attributes:
        expected: in words, for messages.
        every: whether a whole column is right; fast.
        single: whether one entry is right; only called when ``every`` said no, to name the cases.
        stand_in: an entry that is right.
    """

    expected: str
    stand_in: Any
    every: Callable[[Sequence[Any]], bool]
    single: Callable[[Any], bool]


def _typed(expected: str, stand_in: object, *types: type) -> _Kind:
    wanted = frozenset(types)
    return _Kind(
        expected=expected,
        stand_in=stand_in,
        every=lambda values: _all_of(values, wanted),
        single=lambda value: type(value) in wanted,
    )


_COUNT = _Kind(
    expected="an integer >= 0",
    stand_in=0,
    # As in JSON Schema, 1.0 is an integer.
    every=lambda values: (
        _all_numbers(values, lower=0, inclusive=True) and all(value == int(value) for value in set(values))
    ),
    single=lambda value: _is_number(value) and value >= 0 and value == int(value),
)
_POSITIVE_ZYX = _Kind(
    expected="three finite numbers > 0, z y x",
    stand_in=[1, 1, 1],
    every=_all_positive_zyx,
    single=_is_positive_zyx,
)
_NAME = _Kind(
    expected="text that is not empty",
    stand_in="x",
    every=lambda values: _all_of(values, frozenset({str})) and all(values),
    single=lambda value: type(value) is str and value != "",
)
_RATIO = _Kind(
    expected="a number > 0 and <= 1",
    stand_in=1,
    every=lambda values: _all_numbers(values, lower=0, inclusive=False, upper=1),
    single=lambda value: _is_number(value) and 0 < value <= 1,
)
_ORIENTATION = _Kind(
    expected="three letters such as LPS, or empty text for 2D",
    stand_in="",
    every=lambda values: _all_of(values, frozenset({str})) and all(map(_is_orientation, set(values))),
    single=_is_orientation,
)
_FINITE = _Kind(
    expected="a finite number",
    stand_in=0,
    every=lambda values: _all_numbers(values, lower=-math.inf, inclusive=True),
    single=_is_number,
)
_BOOLEAN = _typed("true or false", True, bool)
_STRING = _typed("text", "", str)
_OPTIONAL_STRING = _typed("text or null", None, str, type(None))

_CASE_KINDS: Mapping[str, _Kind] = {
    "id": _NAME,
    "shape": _POSITIVE_ZYX,
    "shape_before_crop": _POSITIVE_ZYX,
    "spacing": _POSITIVE_ZYX,
    "size_ratio": _RATIO,
    "orientation": _ORIENTATION,
    "group": _OPTIONAL_STRING,
    "subject": _OPTIONAL_STRING,
}
_EXTRA_KINDS: Mapping[Any, _Kind] = {"number": _FINITE, "boolean": _BOOLEAN, "string": _STRING}


def _booleans(num_channels: int | None) -> _Kind:
    def single(value: Any) -> bool:
        if type(value) is not list or not value or (num_channels is not None and len(value) != num_channels):
            return False
        return all(type(item) is bool for item in value)

    return _Kind(
        expected=f"{num_channels or 'some'} times true or false, one a channel",
        stand_in=[True],
        every=lambda values: all(map(single, values)),
        single=single,
    )


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _columns(document: Any) -> list[tuple[str, list[Any], _Kind]]:
    """Every column that is a list: its JSON path, its values, what its entries may be."""
    found: list[tuple[str, Any, _Kind]] = []
    cases = _mapping(document, "cases")
    channel_names = _mapping(document, "dataset").get("channel_names")
    # Without channel names, which the schema reports, only the entries themselves are looked at.
    num_channels = len(channel_names) if isinstance(channel_names, list) and channel_names else None
    for name, values in cases.items():
        if name in _CASE_KINDS:
            found.append((f"cases.{name}", values, _CASE_KINDS[name]))
        elif name == "channels_present":
            found.append((f"cases.{name}", values, _booleans(num_channels)))
    found += [
        (f"cases.class_voxels.{label}", values, _COUNT)
        for label, values in _mapping(cases, "class_voxels").items()
    ]
    for name, column in _mapping(_mapping(document, "extra"), "columns").items():
        kind = column.get("type") if isinstance(column, dict) else None
        if isinstance(kind, str) and kind in _EXTRA_KINDS:
            found.append((f"extra.columns.{name}.values", column.get("values"), _EXTRA_KINDS[kind]))
    return [(path, values, kind) for path, values, kind in found if isinstance(values, list) and values]


def _case_name(ids: Any, row: int) -> str:
    if isinstance(ids, list) and row < len(ids) and isinstance(ids[row], str):
        return f"[{row}] (case {ids[row]})"
    return f"[{row}]"


def _row_problems(where: str, path: str, values: list[Any], kind: _Kind, ids: Any) -> list[Problem]:
    wrong = [row for row, value in enumerate(values) if not kind.single(value)]
    problems = [
        Problem(
            where=f"{where}: {path}{_case_name(ids, row)}",
            what="wrong value",
            got=repr(values[row])[:80],
            expected=kind.expected,
        )
        for row in wrong[:_NUM_SHOWN]
    ]
    if len(wrong) > _NUM_SHOWN:
        problems.append(
            Problem(
                where=f"{where}: {path}",
                what=f"{len(wrong) - _NUM_SHOWN} more cases have a wrong value",
                expected=kind.expected,
            )
        )
    return problems


def _duplicates(where: str, ids: Any) -> list[Problem]:
    if not isinstance(ids, list) or not _all_of(ids, frozenset({str})) or len(set(ids)) == len(ids):
        return []
    repeated = sorted(name for name, number in Counter(ids).items() if number > 1)
    return [
        Problem(
            where=f"{where}: cases.id",
            what="case ids stand twice",
            got=", ".join(repeated[:_NUM_SHOWN]),
            fix="Give each case one entry.",
        )
    ]


def check_columns(document: Any, where: str) -> list[Problem]:
    """Check types, ranges and lengths of all columns of a fingerprint document.

    Args:
        document: the parsed JSON, of any form; what is no list is left for the schema to report.
        where: name of the document, for messages.

    Returns:
        The problems, each with the case id; at most 20 a column, then their number.
    """
    ids = _mapping(document, "cases").get("id")
    problems = _duplicates(where, ids)
    for path, values, kind in _columns(document):
        if not kind.every(values):
            problems += _row_problems(where, path, values, kind, ids)
        if isinstance(ids, list) and len(values) != len(ids):
            problems.append(
                Problem(
                    where=f"{where}: {path}",
                    what="the column does not have one entry a case",
                    got=f"{len(values)} entries",
                    expected=f"{len(ids)}, as in cases.id",
                )
            )
    return problems


def without_long_columns(document: Any) -> Any:
    """The document with each column that :func:`check_columns` looks at replaced by one right entry.

    What is left is small and lets the JSON Schema check everything else: fields, their names, other types.
    Wrong entries are gone too: they have been reported with their case, once is enough.
    """
    if not isinstance(document, dict):
        return document
    stand_ins = {path: [kind.stand_in] for path, _, kind in _columns(document)}

    def cut(value: Any, path: str) -> Any:
        if path in stand_ins:
            return stand_ins[path]
        if isinstance(value, dict):
            return {key: cut(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        return value

    return {
        key: cut(value, str(key)) if key in ("cases", "extra") else value for key, value in document.items()
    }
