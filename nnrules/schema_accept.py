"""Says quickly whether a document fits a JSON Schema; what is wrong with one that does not, jsonschema says.

Nearly every document that is checked is valid, and jsonschema takes 18 ms for a plan and 60 ms for its own
import. Here a schema becomes a tree of Python functions, which take 2 ms. A schema with a keyword that is not
known here has no such tree, and :mod:`nnrules.schema` asks jsonschema at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Acceptor", "acceptor"]

Acceptor = Callable[[Any], bool]

# Words that describe and check nothing, besides those that begin with "x-".
_SILENT = frozenset({"$schema", "$id", "$defs", "$comment", "title", "description", "default", "examples"})
# Checked together with another keyword.
_COMPANIONS = frozenset({"then", "else", "properties", "additionalProperties", "minContains", "maxContains"})


class _UnknownKeywordError(Exception):
    """The schema says something that only jsonschema understands."""


def acceptor(schema: Mapping[str, Any]) -> Acceptor | None:
    """Compile a schema (draft 2020-12).

    Args:
        schema: the parsed schema; references only to its own ``$defs``.

    Returns:
        A function that is true exactly for the documents that jsonschema finds no error in; None when the
        schema has a keyword that is not known here.
    """
    try:
        return _Compiler(schema).compile(schema)
    except _UnknownKeywordError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPES: Mapping[str, Acceptor] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": _is_integer,
}


def _frozen(value: Any) -> Any:
    """A hashable form that tells 1 from true, but not 1 from 1.0, as JSON Schema does."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return (isinstance(value, bool), value) if isinstance(value, (bool, int, float)) else value


def _enum(wanted: list[Any]) -> Acceptor:
    known = frozenset(map(_frozen, wanted))
    return lambda value: _frozen(value) in known


def _number(test: Callable[[Any], bool]) -> Acceptor:
    return lambda value: not _is_number(value) or test(value)


def _sized(kind: type[list[Any] | str | dict[str, Any]], test: Callable[[int], bool]) -> Acceptor:
    return lambda value: not isinstance(value, kind) or test(len(value))


def _required(names: list[str]) -> Acceptor:
    wanted = frozenset(names)
    return lambda value: not isinstance(value, dict) or wanted <= value.keys()


def _pattern(text: str) -> Acceptor:
    search = re.compile(text).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _unique(wanted: bool) -> Acceptor:
    return lambda value: (
        not wanted or not isinstance(value, list) or len(set(map(_frozen, value))) == len(value)
    )


def _dependent(table: Mapping[str, list[str]]) -> Acceptor:
    needs = [(name, frozenset(others)) for name, others in table.items()]
    return lambda value: (
        not isinstance(value, dict) or all(others <= value.keys() for name, others in needs if name in value)
    )


_SIMPLE: Mapping[str, Callable[[Any], Acceptor]] = {
    "enum": _enum,
    "const": lambda wanted: _enum([wanted]),
    "minimum": lambda bound: _number(lambda value: value >= bound),
    "maximum": lambda bound: _number(lambda value: value <= bound),
    "exclusiveMinimum": lambda bound: _number(lambda value: value > bound),
    "exclusiveMaximum": lambda bound: _number(lambda value: value < bound),
    "minItems": lambda bound: _sized(list, lambda size: size >= bound),
    "maxItems": lambda bound: _sized(list, lambda size: size <= bound),
    "minLength": lambda bound: _sized(str, lambda size: size >= bound),
    "maxLength": lambda bound: _sized(str, lambda size: size <= bound),
    "minProperties": lambda bound: _sized(dict, lambda size: size >= bound),
    "maxProperties": lambda bound: _sized(dict, lambda size: size <= bound),
    "required": _required,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "uniqueItems": _unique,
}


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.definitions: Mapping[str, Any] = root.get("$defs", {})
        self.references: dict[str, Acceptor] = {}
        self.parts: Mapping[str, Callable[[Any, Mapping[str, Any]], Acceptor]] = {
            "type": self.of_type,
            "$ref": lambda target, _: self.reference(target),
            "items": self.items,
            "contains": self.contains,
            "propertyNames": self.property_names,
            "not": lambda inner, _: self.negation(inner),
            "allOf": lambda inner, _: self.conjunction(list(map(self.compile, inner))),
            "anyOf": lambda inner, _: self.disjunction(inner),
            "oneOf": lambda inner, _: self.exactly_one(inner),
            "if": self.condition,
        }

    def compile(self, schema: Any) -> Acceptor:
        if isinstance(schema, bool):
            return lambda _: schema
        checks = []
        for keyword, value in schema.items():
            if keyword in _SIMPLE:
                checks.append(_SIMPLE[keyword](value))
            elif keyword in self.parts:
                checks.append(self.parts[keyword](value, schema))
            elif keyword not in _SILENT | _COMPANIONS and not keyword.startswith("x-"):
                raise _UnknownKeywordError(keyword)
        if "minContains" in schema or "maxContains" in schema:
            raise _UnknownKeywordError("minContains")
        if "properties" in schema or "additionalProperties" in schema:
            checks.append(self.members(schema))
        return self.conjunction(checks)

    @staticmethod
    def conjunction(checks: list[Acceptor]) -> Acceptor:
        if len(checks) == 1:
            return checks[0]
        steps = tuple(checks)

        def check(value: Any) -> bool:
            for step in steps:  # noqa: SIM110 - twice as fast as all()
                if not step(value):
                    return False
            return True

        return check

    @staticmethod
    def of_type(names: str | list[str], _schema: Mapping[str, Any]) -> Acceptor:
        if isinstance(names, str):
            return _TYPES[names]
        kinds = tuple(_TYPES[name] for name in names)
        return lambda value: any(kind(value) for kind in kinds)

    def reference(self, target: str) -> Acceptor:
        prefix, _, name = target.rpartition("/")
        if prefix != "#/$defs" or name not in self.definitions:
            raise _UnknownKeywordError(target)
        if name not in self.references:
            # A definition may name itself: until it is compiled, it is looked up when it is called.
            self.references[name] = lambda value: self.references[name](value)  # noqa: PLW0108
            self.references[name] = self.compile(self.definitions[name])
        return self.references[name]

    def members(self, schema: Mapping[str, Any]) -> Acceptor:
        known = {name: self.compile(inner) for name, inner in schema.get("properties", {}).items()}
        other = self.compile(schema.get("additionalProperties", True))

        def check(value: Any) -> bool:
            if not isinstance(value, dict):
                return True
            for name, item in value.items():  # noqa: SIM110
                if not known.get(name, other)(item):
                    return False
            return True

        return check

    def items(self, inner: Any, _schema: Mapping[str, Any]) -> Acceptor:
        item = self.compile(inner)
        return lambda value: not isinstance(value, list) or all(map(item, value))

    def contains(self, inner: Any, _schema: Mapping[str, Any]) -> Acceptor:
        item = self.compile(inner)
        return lambda value: not isinstance(value, list) or any(map(item, value))

    def property_names(self, inner: Any, _schema: Mapping[str, Any]) -> Acceptor:
        name = self.compile(inner)
        return lambda value: not isinstance(value, dict) or all(map(name, value))

    def negation(self, inner: Any) -> Acceptor:
        check = self.compile(inner)
        return lambda value: not check(value)

    def disjunction(self, inner: list[Any]) -> Acceptor:
        branches = tuple(map(self.compile, inner))
        return lambda value: any(branch(value) for branch in branches)

    def exactly_one(self, inner: list[Any]) -> Acceptor:
        branches = tuple(map(self.compile, inner))
        return lambda value: sum(branch(value) for branch in branches) == 1

    def condition(self, inner: Any, schema: Mapping[str, Any]) -> Acceptor:
        test = self.compile(inner)
        then, otherwise = self.compile(schema.get("then", True)), self.compile(schema.get("else", True))
        return lambda value: then(value) if test(value) else otherwise(value)
