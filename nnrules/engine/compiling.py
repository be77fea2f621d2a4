"""The common ground of the expression compiler: names, constants, errors at places."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import Expression
from nnrules.engine.source import Json
from nnrules.engine.types import BOOL, JSON, MaskedType, Type, VecType, type_of_json
from nnrules.errors import RuleError
from nnrules.functions import TypingError

__all__ = ["REDUCTIONS", "Compiling", "Names", "constant_value", "pack_json"]

REDUCTIONS = ("min", "max", "sum", "prod", "mean", "any", "all", "count")
"""Builtins that take a selection ``v[mask]``."""


class Names(Protocol):
    """What names mean where an expression stands."""

    dim: int

    def lookup(self, em: Emitter, name: str) -> Value | None:
        """The value of a dotted name, or None when nothing of that name is declared."""

    def has(self, name: str) -> str | None:
        """Python code for ``has(name)``, or None when the name can never be present."""

    def call(self, em: Emitter, name: str, args: list[Value]) -> Value | None:
        """A call of a function of the pack, or None when there is none of that name."""

    def known(self) -> Iterable[str]:
        """All names, for suggestions."""

    def known_functions(self) -> Iterable[str]:
        """All functions of the pack, for suggestions."""

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        """The argument names of a function of the pack."""


def constant_value(value: Json) -> Value:
    """A value that is known when the rule is compiled."""
    kind = type_of_json(value)
    if isinstance(kind, VecType):
        assert isinstance(value, list)
        return Value(kind, elements=[repr(item) for item in value])
    return Value(kind, code=repr(pack_json(value)), const=value)


def pack_json(value: Json) -> object:
    """The packed form of a constant: lists and objects become tuples.

    A list of entries of different types stays as it is, because no type says what its tuples would mean.
    """
    if isinstance(value, dict):
        return tuple(pack_json(item) for item in value.values())
    if isinstance(value, list) and type_of_json(value) != JSON:
        return tuple(pack_json(item) for item in value)
    return value


class Compiling(ABC):
    """What every part of the expression compiler works with.

    Args:
        em: where statements go.
        names: what names mean here.
    """

    def __init__(self, em: Emitter, names: Names) -> None:
        self.em = em
        self.names = names
        self.expression: Expression | None = None

    def fail(self, node: ast.AST, what: str, **more: str | None) -> RuleError:
        """The error to raise at a part of the current expression."""
        assert self.expression is not None
        return RuleError(self.expression.at(node).problem(what, **more))

    def whole(self, node: ast.expr) -> Value:
        """As ``visit``, where a value is kept: a selection has no value of its own."""
        value = self.visit(node)
        if isinstance(value.type, MaskedType):
            raise self.fail(
                node,
                "a selection v[mask] can only be reduced",
                expected=f"one of {', '.join(REDUCTIONS)} around it",
            )
        return value

    @abstractmethod
    def visit(self, node: ast.expr) -> Value:
        """Compile one node."""

    def typed(self, node: ast.AST, rule: Callable[[], Type]) -> Type:
        """The result of a typing rule, or an error at ``node``."""
        try:
            return rule()
        except TypingError as exc:
            raise self.fail(node, "wrong types", expected=str(exc)) from None

    def truth(self, node: ast.expr) -> Value:
        """Compile a node that must be a truth value, or one an axis."""
        value = self.visit(node)
        if value.type != BOOL and not (isinstance(value.type, VecType) and value.type.item == BOOL):
            raise self.fail(
                node, "nothing counts as true or false by itself", got=str(value.type), fix="Compare it."
            )
        return value
