"""How a builtin of the rule language is declared.

A builtin has a name, a signature and a text for the rule reference, a typing rule, and a pure implementation on
*packed* values: an axis vector is a tuple of numbers or booleans, a case matrix or column a float64 array. The
compiler may inline a builtin (``engine.inline``); a property test holds the inlined form to this implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nnrules.engine.types import (
    BOOL,
    COLUMN,
    MATRIX,
    NUM,
    ListType,
    MaskedType,
    Scalar,
    Special,
    Type,
    VecType,
)

__all__ = ["BUILTINS", "Builtin", "Typing", "TypingError", "broadcast", "builtin", "numbers"]

Typing = Callable[[Sequence[Type], int], Type]


class TypingError(Exception):
    """A call with arguments of the wrong types; the text says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """One function that rules may call.

    Attributes:
        name: how rules call it.
        signature: the call with argument names, for the reference.
        doc: what it computes, first sentence first.
        min_args, max_args: how many arguments it takes.
        typing: result type from the argument types and the dimension of the configuration.
        call: the implementation on packed values; receives the dimension first if ``uses_dim``.
        uses_dim: whether the result depends on the dimension of the configuration (2 or 3).
    """

    name: str
    signature: str
    doc: str
    min_args: int
    max_args: int
    typing: Typing
    call: Callable[..., Any]
    uses_dim: bool = False


BUILTINS: dict[str, Builtin] = {}


def builtin(signature: str, typing: Typing, *, uses_dim: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Register the decorated function as a builtin; its docstring is the reference text.

    Args:
        signature: e.g. ``percentile(values, q)``; optional arguments end in ``?``; ``...`` allows any number more.
        typing: the typing rule.
        uses_dim: whether the implementation takes the dimension as first argument.
    """
    name, _, inside = signature.partition("(")
    parts = [part.strip() for part in inside.rstrip(")").split(",") if part.strip()]
    required = sum(1 for part in parts if not part.endswith("?") and part != "...")
    limit = 16 if "..." in parts else len(parts)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        BUILTINS[name] = Builtin(
            name=name,
            signature=signature,
            doc=(function.__doc__ or "").strip(),
            min_args=required,
            max_args=limit,
            typing=typing,
            call=function,
            uses_dim=uses_dim,
        )
        return function

    return register


def _shape(kind: Type) -> str | int:
    if isinstance(kind, VecType):
        return kind.length
    if isinstance(kind, Special):
        return kind.name
    return "scalar"


def broadcast(kinds: Sequence[Type], item: Scalar) -> Type:
    """The type of an elementwise result over ``kinds`` with scalars of type ``item``.

    Raises:
        TypingError: shapes that do not go together, or a list, text or record among them.
    """
    shapes = set()
    for kind in kinds:
        if kind in (NUM, BOOL) or kind in (MATRIX, COLUMN) or isinstance(kind, VecType):
            shapes.add(_shape(kind))
        else:
            raise TypingError(f"numbers or axis vectors, not {kind}")
    shapes.discard("scalar")
    if not shapes:
        return item
    if MATRIX.name in shapes:
        if shapes <= {MATRIX.name, 3}:
            return MATRIX
        raise TypingError("a case matrix together with 3-vectors or numbers")
    if len(shapes) > 1:
        raise TypingError("axis vectors of equal length")
    (shape,) = shapes
    return COLUMN if shape == COLUMN.name else VecType(int(shape), item)


def numbers(kinds: Sequence[Type]) -> None:
    """Demand numbers (a boolean axis vector counts true as 1).

    Raises:
        TypingError: when an argument is no number, vector, matrix or column.
    """
    for kind in kinds:
        scalar = kind.item if isinstance(kind, (VecType, MaskedType, ListType)) else kind
        if scalar not in (NUM, MATRIX, COLUMN) and not (isinstance(kind, VecType) and kind.item == BOOL):
            raise TypingError(f"numbers, not {kind}")
