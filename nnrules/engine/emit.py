"""Python source under construction: statements with places, and values that may live in several variables.

An axis vector of three numbers becomes three Python variables, so that ``size >= 8`` turns into three float
comparisons instead of a NumPy call on three elements (a hundred nanoseconds instead of microseconds; planning runs
some ten thousand of these). NumPy is used for case matrices only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from nnrules.engine.source import Place
from nnrules.engine.types import ListType, MaskedType, RecordType, Type, VecType

__all__ = ["Emitter", "Value"]

_ATOM = re.compile(r"[A-Za-z_]\w*\Z|-?\d+(\.\d+)?(e[-+]?\d+)?\Z")


@dataclass(slots=True, eq=False)
class Value:
    """A typed value in generated code.

    Attributes:
        type: its type in the rule language.
        code: a Python expression for the packed form (a vector is a tuple, a record a tuple of its fields).
        elements: one expression an axis, for vectors and selections; None while only the packed form exists.
        mask: for selections, the boolean expression of each axis.
        fields: for records, the values of fields built or unpacked so far.
        const: the value itself where it is known when the rule is compiled.
    """

    type: Type
    code: str | None = None
    elements: list[str] | None = None
    mask: list[str] | None = None
    fields: dict[str, Value] = field(default_factory=dict)
    const: object = ...
    _scope: int = 0

    @property
    def is_const(self) -> bool:
        """Whether the value is known when the rule is compiled."""
        return self.const is not ...


class Emitter:
    """Collects the statements of one Python function; each line remembers the place it came from."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Place | None]] = []
        self.place: Place | None = None
        self._indent = 1
        self._counter = 0
        self._scopes = [0]
        self._scope_counter = 0

    def emit(self, text: str) -> None:
        """Add one statement at the current indentation."""
        self.lines.append(("    " * self._indent + text, self.place))

    def fresh(self, prefix: str = "t") -> str:
        """A variable name that was not used before."""
        self._counter += 1
        return f"{prefix}{self._counter}"

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """An indented block; what is bound inside is not visible after it."""
        self.emit(header)
        self._indent += 1
        self._scope_counter += 1
        self._scopes.append(self._scope_counter)
        before = len(self.lines)
        try:
            yield
        finally:
            if len(self.lines) == before:
                self.emit("pass")
            self._scopes.pop()
            self._indent -= 1

    @contextmanager
    def captured(self) -> Iterator[list[tuple[str, Place | None]]]:
        """Divert the statements of a sub-expression, to see whether it needs any."""
        outer, self.lines = self.lines, []
        self._scope_counter += 1
        self._scopes.append(self._scope_counter)
        self._indent += 1
        try:
            yield self.lines
        finally:
            self._indent -= 1
            self._scopes.pop()
            self.lines = outer

    def visible(self, scope: int) -> bool:
        """Whether what was bound in ``scope`` can still be read here."""
        return scope in self._scopes

    @property
    def scope(self) -> int:
        """The innermost scope."""
        return self._scopes[-1]

    # -- values ---------------------------------------------------------------------------------------------------

    def bind(self, code: str, prefix: str = "t") -> str:
        """A name (or literal) for ``code``, assigned unless it is one already."""
        if _ATOM.match(code):
            return code
        name = self.fresh(prefix)
        self.emit(f"{name} = {code}")
        return name

    def packed(self, value: Value) -> str:
        """One Python expression for the value: tuples for vectors and records."""
        if value.code is not None:
            return value.code
        if value.elements is not None:
            return "(" + ", ".join(value.elements) + ",)"
        assert isinstance(value.type, RecordType)
        return "(" + "".join(self.packed(value.fields[name]) + ", " for name, _ in value.type.fields) + ")"

    def elements(self, value: Value) -> list[str]:
        """One atom an axis of a vector."""
        assert isinstance(value.type, (VecType, MaskedType))
        if value.elements is None or not (value.code is None or self.visible(value._scope)):
            names = [self.fresh("e") for _ in range(value.type.length)]
            assert value.code is not None
            self.emit(f"{', '.join(names)}, = {value.code}")
            value.elements, value._scope = names, self.scope
        return value.elements

    def atoms(self, value: Value) -> list[str]:
        """As ``elements``, each bound to a name, for code that uses an element more than once."""
        return [self.bind(code) for code in self.elements(value)]

    def field(self, value: Value, name: str) -> Value | None:
        """A field of a record value."""
        assert isinstance(value.type, RecordType)
        found = value.type.field(name)
        if found is None:
            return None
        position, kind = found
        if value.code is None:
            return value.fields[name]
        cached = value.fields.get(name)
        if cached is not None and self.visible(cached._scope):
            return cached
        result = Value(kind, code=f"{value.code}[{position}]", _scope=self.scope)
        if isinstance(kind, (VecType, RecordType, ListType)):
            result.code = self.bind(result.code or "")
        value.fields[name] = result
        return result

    def name_value(self, value: Value, name: str) -> Value:
        """Assign the value to variables called ``name`` (``nameV0`` … for vectors) and return it in that form."""
        if isinstance(value.type, VecType):
            names = self.variable(value.type, name).elements or []
            unpacked = value.code if value.elements is None else f"{', '.join(self.elements(value))},"
            self.emit(f"{', '.join(names)}, = {unpacked}")
            return Value(value.type, elements=names, const=value.const)
        if value.is_const:
            return value
        self.emit(f"{name} = {self.packed(value)}")
        return Value(value.type, code=name, _scope=self.scope)

    @staticmethod
    def variable(kind: Type, name: str) -> Value:
        """The value form of variables called ``name`` that hold a value of this type."""
        if isinstance(kind, VecType):
            # Names of the language are in small letters, so V keeps `size` on axis 0 apart from a variable `size_0`.
            return Value(kind, elements=[f"{name}V{axis}" for axis in range(kind.length)])
        return Value(kind, code=name)

    def assign_together(self, targets: Sequence[Value], values: Sequence[Value]) -> None:
        """Simultaneous assignment: every right side is computed before any left side changes."""
        left: list[str] = []
        right: list[str] = []
        for target, value in zip(targets, values, strict=True):
            if target.elements is not None and target.code is None:
                left += target.elements
                right += self.elements(value)
            else:
                left.append(target.code or "")
                right.append(self.packed(value))
        self.emit(f"{', '.join(left)}, = {', '.join(right)},")
