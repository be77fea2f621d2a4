"""Packed values and their JSON forms.

Generated code works on packed values: an axis vector is a tuple, a record a tuple of its fields in the order of its
type, a case matrix a float64 array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnrules.engine.program import PLACEHOLDER
from nnrules.engine.source import Json
from nnrules.engine.types import BOOL, NUM, STR, ListType, RecordType, Type, VecType

__all__ = ["fill_text", "is_finite", "matches", "render", "repack", "unpack"]


def unpack(value: Any, kind: Type) -> Json:
    """The JSON form of a packed value; a case matrix or column becomes a summary."""
    if isinstance(kind, RecordType):
        return {name: unpack(item, inner) for (name, inner), item in zip(kind.fields, value, strict=True)}
    if isinstance(kind, ListType) and kind.item is not None:
        inner_kind = kind.item
        return [unpack(item, inner_kind) for item in value]
    if isinstance(value, np.ndarray):
        return {
            "cases": len(value),
            "min": value.min(axis=0).tolist(),
            # Halved, so that the mean of the middle two stays finite.
            "median": (np.median(value / 2, axis=0) * 2).tolist(),
            "max": value.max(axis=0).tolist(),
        }
    return _plain(value)


def _plain(value: Any) -> Json:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    result: Json = value
    return result


def is_finite(value: Json) -> bool:
    """Whether a JSON value holds no infinite number and no NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, dict) or all(map(is_finite, value.values()))


def matches(value: Json, kind: Type) -> bool:
    """Whether a JSON value can stand for a value of this type."""
    if kind in (NUM, BOOL, STR):
        wanted = (int, float) if kind == NUM else (bool,) if kind == BOOL else (str,)
        return isinstance(value, wanted) and not (kind == NUM and isinstance(value, bool))
    if isinstance(kind, VecType):
        return (
            isinstance(value, list)
            and len(value) == kind.length
            and all(matches(v, kind.item) for v in value)
        )
    if isinstance(kind, ListType):
        item = kind.item
        return isinstance(value, list) and (item is None or all(matches(v, item) for v in value))
    if isinstance(kind, RecordType):
        names = {name for name, _ in kind.fields}
        return (
            isinstance(value, dict)
            and set(value) == names
            and all(matches(value[n], k) for n, k in kind.fields)
        )
    return True


def repack(value: Json, kind: Type) -> Any:
    """The packed form of a JSON value of this type (record fields in the type's order)."""
    if isinstance(kind, RecordType) and isinstance(value, dict):
        return tuple(repack(value[name], inner) for name, inner in kind.fields)
    if isinstance(kind, ListType) and isinstance(value, list) and kind.item is not None:
        inner_kind = kind.item
        return tuple(repack(item, inner_kind) for item in value)
    # Without a type for its entries a list stays as it is, so that objects in it keep their names.
    return tuple(value) if isinstance(kind, VecType) and isinstance(value, list) else value


def render(value: Any) -> str:
    """A value as it stands in a text for people: at most five significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (
            f"{value:.5g}"
            if not math.isfinite(value) or value != int(value) or abs(value) >= 1e15
            else str(int(value))
        )
    if isinstance(value, (tuple, list)):
        nested = not value or isinstance(value[0], (tuple, list))
        return str(list(value)) if nested else " × ".join(map(render, value))
    return str(value)


def fill_text(text: str, names: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """A text for people with its ``{placeholders}`` filled."""
    shown = dict(zip(names, map(render, values), strict=False))
    return PLACEHOLDER.sub(lambda found: shown.get(found[1].strip(), found[0]), text)
