"""The types of the rule language.

``number``, ``boolean`` and ``text`` are scalars. An *axis vector* has one scalar an axis (its length is known when a
rule is compiled, because each rule is compiled for the dimension it runs in). A *case matrix* has a row a case and a
column an axis, a *case column* one number a case. A *list* holds any number of values of one type (stages, names),
a *record* named values of any type. ``null`` is JSON's.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnrules.engine.source import Json

__all__ = [
    "BOOL",
    "COLUMN",
    "JSON",
    "MATRIX",
    "NULL",
    "NUM",
    "STR",
    "ListType",
    "MaskedType",
    "RecordType",
    "Scalar",
    "Special",
    "Type",
    "VecType",
    "holds_record",
    "type_of_json",
    "unify",
]


@dataclass(frozen=True, slots=True)
class Scalar:
    """number, boolean or text."""

    name: str

    def __str__(self) -> str:
        """The name as rules call it."""
        return self.name


@dataclass(frozen=True, slots=True)
class Special:
    """case matrix, case column, null, or opaque JSON."""

    name: str

    def __str__(self) -> str:
        """The name as rules call it."""
        return self.name


@dataclass(frozen=True, slots=True)
class VecType:
    """An axis vector of ``length`` scalars."""

    length: int
    item: Scalar

    def __str__(self) -> str:
        """E.g. ``axis vector of 3 numbers``."""
        return f"axis vector of {self.length} {self.item.name}s"


@dataclass(frozen=True, slots=True)
class MaskedType:
    """The selected entries of an axis vector, ``v[mask]``; only reductions take it."""

    length: int
    item: Scalar

    def __str__(self) -> str:
        """Read aloud."""
        return "selection of axes"


@dataclass(frozen=True, slots=True)
class ListType:
    """A list; ``item`` is ``None`` while it is known to be empty."""

    item: Type | None

    def __str__(self) -> str:
        """E.g. ``list of number``."""
        return "list" if self.item is None else f"list of {self.item}"


@dataclass(frozen=True, slots=True)
class RecordType:
    """Named values in a fixed order."""

    fields: tuple[tuple[str, Type], ...]

    def __str__(self) -> str:
        """The field names."""
        return "record with " + ", ".join(name for name, _ in self.fields)

    def field(self, name: str) -> tuple[int, Type] | None:
        """Position and type of a field."""
        for position, (key, kind) in enumerate(self.fields):
            if key == name:
                return position, kind
        return None


Type = Scalar | Special | VecType | MaskedType | ListType | RecordType

NUM = Scalar("number")
BOOL = Scalar("boolean")
STR = Scalar("text")
MATRIX = Special("case matrix")
COLUMN = Special("case column")
NULL = Special("null")
JSON = Special("JSON value")


def type_of_json(value: Json) -> Type:
    """The type under which a constant is read by other rules."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, (int, float)):
        return NUM
    if isinstance(value, str):
        return STR
    if isinstance(value, dict):
        return RecordType(tuple((key, type_of_json(item)) for key, item in value.items()))
    kinds = {type_of_json(item) for item in value}
    if len(kinds) > 1:
        return JSON
    if not kinds:
        return ListType(None)
    (kind,) = kinds
    return VecType(len(value), kind) if isinstance(kind, Scalar) and kind != STR else ListType(kind)


def holds_record(kind: Type) -> bool:
    """Whether values of this type have named fields somewhere, which only the type knows the names of."""
    return isinstance(kind, RecordType) or (
        isinstance(kind, ListType) and kind.item is not None and holds_record(kind.item)
    )


def unify(left: Type, right: Type) -> Type | None:
    """The common type of two outcomes of one decision, or None when other rules could not read either safely."""
    if left == right:
        return left
    if isinstance(left, ListType) and isinstance(right, ListType):
        if left.item is None or right.item is None:
            return left if right.item is None else right
        item = unify(left.item, right.item)
        return None if item is None else ListType(item)
    if isinstance(left, VecType) and isinstance(right, VecType):
        return ListType(left.item) if left.item == right.item else None
    pair = (left, right)
    for vector, other in (pair, pair[::-1]):
        if isinstance(vector, VecType) and isinstance(other, ListType) and other.item in (None, vector.item):
            return ListType(vector.item)
    # null, or records of different fields: stored in the plan, but no rule may compute with them.
    if NULL in pair or JSON in pair or all(isinstance(kind, RecordType) for kind in pair):
        return JSON
    return None
