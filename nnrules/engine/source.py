"""Strict YAML with a position for every node.

The reader follows YAML 1.2's core schema where PyYAML follows 1.1: ``1e-5`` is a number, ``on`` is a string,
``010`` is ten. Duplicate keys, anchors, aliases, tags and several documents in one file are errors. Values are
built from parser events, so that nothing is ever constructed from a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nnrules.errors import PackError, Problem, RuleError

__all__ = [
    "Json",
    "Place",
    "SourceFile",
    "YamlList",
    "YamlMap",
    "YamlNode",
    "YamlScalar",
    "read_yaml",
    "to_json",
]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_CONSTANTS: dict[str, bool | None] = {
    "null": None,
    "Null": None,
    "NULL": None,
    "~": None,
    "": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_MAX_DEPTH = 60
_MAX_SHOWN = 40
_MAX_DIGITS = 40


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A YAML file: its name relative to the pack, and its lines for excerpts."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a source file; line and column count from 1."""

    file: SourceFile
    line: int
    column: int

    def __str__(self) -> str:
        """``file:line:column``."""
        return f"{self.file.name}:{self.line}:{self.column}"

    def shifted(self, columns: int) -> Place:
        """The place ``columns`` further right on the same line."""
        return Place(self.file, self.line, self.column + columns)

    def excerpt(self) -> str | None:
        """The source line with a caret below the column."""
        if not 1 <= self.line <= len(self.file.lines):
            return None
        number = f"{self.line:5d} | "
        return (
            f"{number}{self.file.lines[self.line - 1]}\n{' ' * (len(number) - 2)}| {' ' * (self.column - 1)}^"
        )

    def problem(
        self, what: str, *, got: str | None = None, expected: str | None = None, fix: str | None = None
    ) -> Problem:
        """A problem at this place, with the excerpt."""
        return Problem(
            where=str(self), what=what, got=got, expected=expected, fix=fix, excerpt=self.excerpt()
        )


@dataclass(frozen=True, slots=True)
class YamlScalar:
    """A scalar: its value under the core schema, and whether it was written plainly (without quotes or block)."""

    place: Place
    value: bool | int | float | str | None
    plain: bool


@dataclass(frozen=True, slots=True)
class YamlList:
    """A sequence."""

    place: Place
    items: tuple[YamlNode, ...]


@dataclass(frozen=True, slots=True)
class YamlMap:
    """A mapping with text keys, in file order; ``keys`` holds the place of each key."""

    place: Place
    items: dict[str, YamlNode]
    keys: dict[str, Place]


YamlNode = YamlScalar | YamlList | YamlMap


def to_json(node: YamlNode) -> Json:
    """The plain value of a node."""
    if isinstance(node, YamlMap):
        return {key: to_json(value) for key, value in node.items.items()}
    if isinstance(node, YamlList):
        return [to_json(item) for item in node.items]
    return node.value


class _Builder:
    def __init__(self, file: SourceFile, events: Iterator[yaml.Event]) -> None:
        self.file = file
        self.events = events
        self.problems: list[Problem] = []

    def place(self, event: yaml.Event) -> Place:
        mark: Any = event.start_mark  # always set by the parser; the stubs allow None
        return Place(self.file, mark.line + 1, mark.column + 1)

    def complain(self, event: yaml.Event, what: str, **more: str) -> None:
        self.problems.append(self.place(event).problem(what, **more))

    def document(self) -> YamlNode:
        next(self.events)  # stream start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return YamlMap(Place(self.file, 1, 1), {}, {})
        node = self.node(next(self.events), 0)
        next(self.events)  # document end
        extra = next(self.events)
        if not isinstance(extra, yaml.StreamEndEvent):
            self.complain(extra, "a second document in one file", fix="Move it to a file of its own.")
        return node

    def node(self, event: yaml.Event, depth: int) -> YamlNode:
        place = self.place(event)
        if depth > _MAX_DEPTH:
            raise RuleError(place.problem("nested too deeply", expected=f"at most {_MAX_DEPTH} levels"))
        if isinstance(event, yaml.AliasEvent):
            self.complain(
                event, "aliases are not allowed", fix="Write the value out, or make it a parameter."
            )
            return YamlScalar(place, None, False)
        if getattr(event, "anchor", None):
            self.complain(
                event, "anchors are not allowed", fix="Write the value out, or make it a parameter."
            )
        if tag := getattr(event, "tag", None):
            self.complain(event, "tags are not allowed", got=str(tag), fix="Remove the tag.")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, place)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[YamlNode] = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(event, depth + 1))
            return YamlList(place, tuple(items))
        return self.mapping(place, depth)

    def mapping(self, place: Place, depth: int) -> YamlMap:
        items: dict[str, YamlNode] = {}
        keys: dict[str, Place] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if not isinstance(key, YamlScalar):
                self.complain(event, "a key must be text")
                continue
            # Keys such as 2d or 10 are names here, whatever they would be as values.
            name = event.value if isinstance(event, yaml.ScalarEvent) else str(key.value)
            if name == "<<":
                self.complain(event, "merge keys are not allowed", fix="Write the fields out.")
            elif name in items:
                self.complain(
                    event,
                    f"the key '{name}' stands twice",
                    expected=f"it once (first at line {keys[name].line})",
                    fix="Remove or rename one of them.",
                )
            else:
                items[name] = value
                keys[name] = key.place
        return YamlMap(place, items, keys)

    def scalar(self, event: yaml.ScalarEvent, place: Place) -> YamlScalar:
        text = event.value
        if event.style and event.style in "\"'|>":
            return YamlScalar(place, text, False)
        if text in _CONSTANTS:
            return YamlScalar(place, _CONSTANTS[text], True)
        if _INT.match(text) and len(text) <= _MAX_DIGITS:
            return YamlScalar(place, int(text), True)
        if _FLOAT.match(text):
            number = float(text)
            if number in (float("inf"), float("-inf")) or _INT.match(text):
                self.complain(event, "the number is too large", got=text[:_MAX_SHOWN])
            return YamlScalar(place, number, True)
        if _NOT_FINITE.match(text):
            self.complain(event, "numbers must be finite", got=text)
            return YamlScalar(place, None, True)
        return YamlScalar(place, text, True)


def read_yaml(path: Path, name: str | None = None) -> YamlNode:
    """Read one YAML file strictly.

    Args:
        path: the file.
        name: how the file is called in places and plans (pack-relative); defaults to the path.

    Returns:
        The root node.

    Raises:
        PackError: the file is missing or not text.
        RuleError: every syntax error, duplicate key, anchor, alias, tag or second document, with its place.
    """
    label = name or str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PackError(Problem(where=str(path), what="no such file", fix="Check the path.")) from None
    except (OSError, UnicodeDecodeError) as exc:
        got = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        fix = "Name a YAML file in UTF-8."
        raise PackError(
            Problem(where=str(path), what="the file cannot be read as text", got=got, fix=fix)
        ) from None
    file = SourceFile(label, tuple(text.splitlines()))
    builder = _Builder(file, yaml.parse(text, Loader=_Loader))
    try:
        root = builder.document()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        what = " ".join(str(part) for part in (exc.problem, exc.context) if part)
        fix = "Check the indentation, quotes and colons on this line and the line above."
        raise RuleError([*builder.problems, place.problem(f"not valid YAML: {what}", fix=fix)]) from None
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position]
        place = Place(file, before.count("\n") + 1, exc.position - before.rfind("\n"))
        what = f"not valid YAML: the character #x{ord(text[exc.position]):04x} is not allowed"
        raise RuleError(place.problem(what, fix="Remove it.")) from None
    except yaml.YAMLError as exc:
        raise RuleError(Place(file, 1, 1).problem(f"not valid YAML: {exc}")) from None
    if builder.problems:
        raise RuleError(builder.problems)
    return root
