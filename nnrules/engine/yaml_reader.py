"""Typed access to YAML nodes that collects problems instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from nnrules.engine.expressions import Expression, constant_expression, parse_expression
from nnrules.engine.model import Template
from nnrules.engine.source import Place, YamlList, YamlMap, YamlNode, YamlScalar
from nnrules.engine.suggest import suggest
from nnrules.errors import Problem, RuleError
from nnrules.functions import BUILTINS

__all__ = ["Reader", "shown_node"]

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RESERVED = {
    "and",
    "or",
    "not",
    "if",
    "else",
    "in",
    "true",
    "false",
    "none",
    "dim",
    "inherited",
    "config",
    "plan",
    "channel",
    "cases",
    "dataset",
    "crop",
    "classes",
    "budget",
    "extra",
    "has",
    "updated",
}


class Reader:
    """Typed access to YAML nodes that collects problems instead of stopping."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def complain(self, place: Place, what: str, **more: str | None) -> None:
        """Note one problem."""
        self.problems.append(place.problem(what, **more))

    def attempt(self, make: Callable[[], T]) -> T | None:
        """Run a step that may raise, and note its problems."""
        try:
            return make()
        except RuleError as exc:
            self.problems += exc.problems
            return None

    def mapping(self, node: YamlNode | None, place: Place, what: str) -> YamlMap:
        """The node as a mapping, or an empty one after a complaint."""
        if isinstance(node, YamlMap):
            return node
        if node is not None and not (isinstance(node, YamlScalar) and node.value is None):
            self.complain(node.place, f"{what} must be a mapping of names to values", got=shown_node(node))
        return YamlMap(place, {}, {})

    def keys(self, node: YamlMap, allowed: Iterable[str], required: Iterable[str], what: str) -> None:
        """Complain about unknown and missing keys."""
        allowed = tuple(allowed)
        for key in node.items:
            if key not in allowed:
                self.complain(
                    node.keys[key],
                    f"unknown field '{key}' in {what}",
                    expected=", ".join(allowed),
                    fix=suggest(key, allowed),
                )
        missing = [key for key in required if key not in node.items]
        if missing:
            names = ", ".join(missing)
            self.complain(node.place, f"{what} lacks {names}", fix=f"Add {names}.")

    def text(self, node: YamlMap, key: str) -> str | None:
        """A text field."""
        value = node.items.get(key)
        if value is None:
            return None
        if isinstance(value, YamlScalar) and isinstance(value.value, str):
            return " ".join(value.value.split())
        if (
            isinstance(value, YamlScalar)
            and isinstance(value.value, (int, float))
            and not isinstance(value.value, bool)
            and key == "unit"
        ):
            return str(value.value)
        self.complain(value.place, f"'{key}' must be text", got=shown_node(value))
        return None

    def choice(self, node: YamlMap, key: str, allowed: tuple[str, ...], default: str) -> str:
        """A text field with a fixed set of values."""
        value = self.text(node, key)
        if value is None:
            return default
        if value not in allowed:
            self.complain(
                node.items[key].place,
                f"unknown {key}",
                got=value,
                expected=", ".join(allowed),
                fix=suggest(value, allowed),
            )
            return default
        return value

    def number(self, node: YamlMap, key: str) -> float | None:
        """A number field."""
        value = node.items.get(key)
        if value is None:
            return None
        if (
            isinstance(value, YamlScalar)
            and isinstance(value.value, (int, float))
            and not isinstance(value.value, bool)
        ):
            return value.value
        self.complain(value.place, f"'{key}' must be a number", got=shown_node(value))
        return None

    def expression(self, node: YamlNode) -> Expression | None:
        """An expression; a plain number or truth value is one, too."""
        if isinstance(node, YamlScalar) and isinstance(node.value, str):
            text, place = node.value, node.place
            if place.file.lines[place.line - 1][place.column - 1] in "\"'":
                place = place.shifted(1)  # a quoted text begins behind its quote
            return self.attempt(lambda: parse_expression(text, place))
        if isinstance(node, YamlScalar) and node.value is not None:
            return constant_expression(node.value, node.place)
        self.complain(node.place, "an expression is needed here", got=shown_node(node))
        return None

    def expressions(self, node: YamlNode | None, place: Place, what: str) -> dict[str, Expression]:
        """A mapping of names to expressions."""
        result = {}
        mapping = self.mapping(node, place, what)
        for name, value in mapping.items.items():
            self.name(name, mapping.keys[name])
            expression = self.expression(value)
            if expression is not None:
                result[name] = expression
        return result

    def name(self, name: str, place: Place) -> None:
        """Complain about a name that expressions could not use."""
        if not _NAME.match(name):
            self.complain(place, f"'{name}' is not a name", expected="small letters, digits and underscores")
        elif name in _RESERVED or name in BUILTINS or name.startswith("config_"):
            self.complain(place, f"'{name}' belongs to the rule language", fix="Choose another name.")

    def template(self, node: YamlNode) -> Template | None:
        """An expression, or a mapping or list of them."""
        if isinstance(node, YamlMap):
            entries = {key: self.template(value) for key, value in node.items.items()}
            return {key: value for key, value in entries.items() if value is not None}
        if isinstance(node, YamlList):
            return tuple(value for item in node.items if (value := self.template(item)) is not None)
        return self.expression(node)


def shown_node(node: YamlNode) -> str:
    """A node as text for a message."""
    if isinstance(node, YamlScalar):
        return "nothing" if node.value is None else repr(node.value)
    return "a list" if isinstance(node, YamlList) else "a mapping"
