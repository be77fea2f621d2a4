"""Compiles checked expressions to Python source, with types.

The compiler walks the syntax tree once and yields a :class:`~nnrules.engine.emit.Value`; statements that the value
needs (a function call, the right side of a guarded ``and``) go through the emitter first. Every type error is a
:class:`RuleError` at the place of the offending part.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterable
from typing import Protocol

from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import Expression, dotted_name
from nnrules.engine.inline import INLINE, elementwise
from nnrules.engine.source import Json
from nnrules.engine.types import (
    BOOL, COLUMN, JSON, MATRIX, NULL, NUM, STR, ListType, MaskedType, RecordType, Scalar, Type, VecType, type_of_json, unify,
)  # fmt: skip
from nnrules.errors import RuleError
from nnrules.functions import BUILTINS, TypingError
from nnrules.functions.catalog import broadcast, numbers

__all__ = ["ExpressionCompiler", "Names", "constant_value", "pack_json", "suggest"]


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


def suggest(name: str, known: Iterable[str]) -> str | None:
    """``Did you mean …?`` for the closest known name."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else None


def constant_value(value: Json) -> Value:
    """A value that is known when the rule is compiled."""
    kind = type_of_json(value)
    if isinstance(kind, VecType):
        assert isinstance(value, list)
        return Value(kind, elements=[repr(item) for item in value])
    return Value(kind, code=repr(pack_json(value)), const=value)


def pack_json(value: Json) -> object:
    """The packed form of a constant: lists and objects become tuples."""
    if isinstance(value, dict):
        return tuple(pack_json(item) for item in value.values())
    if isinstance(value, list):
        return tuple(pack_json(item) for item in value)
    return value


_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[float, float], float]]] = {
    ast.Add: ("+", operator.add), ast.Sub: ("-", operator.sub), ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv), ast.FloorDiv: ("//", operator.floordiv), ast.Mod: ("%", operator.mod),
}  # fmt: skip
_COMPARISON: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="
}  # fmt: skip
_ORDER = ("<", "<=", ">", ">=")


class ExpressionCompiler:
    """Compiles the expressions of one rule or function body.

    Args:
        em: where statements go.
        names: what names mean here.
    """

    def __init__(self, em: Emitter, names: Names) -> None:
        self.em = em
        self.names = names
        self.expression: Expression | None = None

    def compile(self, expression: Expression) -> Value:
        """Emit what the expression needs and return its value."""
        outer, self.expression = self.expression, expression
        self.em.place = expression.place
        try:
            return self.visit(expression.tree)
        finally:
            self.expression = outer

    def condition(self, expression: Expression, role: str) -> Value:
        """As ``compile``; the value must be one truth value."""
        value = self.compile(expression)
        if value.type != BOOL:
            hint = "Reduce it with any(...) or all(...)." if isinstance(value.type, VecType) else None
            raise RuleError(
                expression.place.problem(
                    f"'{role}' needs true or false", got=str(value.type), expected="one boolean", fix=hint
                )
            )
        return value

    def fail(self, node: ast.AST, what: str, **more: str | None) -> RuleError:
        """The error to raise at a part of the current expression."""
        assert self.expression is not None
        return RuleError(self.expression.at(node).problem(what, **more))

    # -- dispatch -------------------------------------------------------------------------------------------------

    def visit(self, node: ast.expr) -> Value:
        """Compile one node."""
        if isinstance(node, ast.Constant):
            assert node.value is None or isinstance(node.value, (bool, int, float, str))
            return constant_value(node.value)
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self.name(node)
        if isinstance(node, ast.BinOp):
            return self.power(node) if isinstance(node.op, ast.Pow) else self.arithmetic(node)
        if isinstance(node, ast.UnaryOp):
            return self.negate(node) if isinstance(node.op, ast.Not) else self.minus(node)
        if isinstance(node, ast.BoolOp):
            return self.junction(node)
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.IfExp):
            return self.choice(node)
        if isinstance(node, ast.Subscript):
            return self.subscript(node)
        if isinstance(node, ast.List):
            return self.listing(node)
        assert isinstance(node, ast.Call)
        return self.call(node)

    def name(self, node: ast.Name | ast.Attribute) -> Value:
        name = dotted_name(node)
        if name is None:
            assert isinstance(node, ast.Attribute)
            record = self.visit(node.value)
            return self.member(node, record, node.attr)
        value = self.names.lookup(self.em, name)
        if value is not None:
            return value
        if isinstance(node, ast.Attribute):
            head = self.name_or_none(node.value)
            if head is not None:
                return self.member(node, head, node.attr)
        if name in BUILTINS or self.names.function_arguments(name) is not None:
            raise self.fail(node, f"'{name}' is a function", fix=f"Call it: {name}(...).")
        raise self.fail(node, f"unknown name '{name}'", fix=suggest(name, self.names.known()))

    def name_or_none(self, node: ast.expr) -> Value | None:
        name = dotted_name(node)
        if name is None:
            return self.visit(node)
        value = self.names.lookup(self.em, name)
        if value is None and isinstance(node, ast.Attribute):
            head = self.name_or_none(node.value)
            return None if head is None else self.member(node, head, node.attr)
        return value

    def member(self, node: ast.Attribute, record: Value, name: str) -> Value:
        if not isinstance(record.type, RecordType):
            raise self.fail(node, f"'.{name}' needs a record", got=str(record.type))
        if record.is_const and isinstance(record.const, dict) and name in record.const:
            return constant_value(record.const[name])
        value = self.em.field(record, name)
        if value is None:
            fields = [field for field, _ in record.type.fields]
            raise self.fail(
                node, f"no field '{name}'", expected=", ".join(fields), fix=suggest(name, fields)
            )
        return value

    # -- operators ------------------------------------------------------------------------------------------------

    def typed(self, node: ast.AST, rule: Callable[[], Type]) -> Type:
        try:
            return rule()
        except TypingError as exc:
            raise self.fail(node, "wrong types", expected=str(exc)) from None

    def arithmetic(self, node: ast.BinOp) -> Value:
        left, right = self.visit(node.left), self.visit(node.right)
        sign, apply = _ARITHMETIC[type(node.op)]
        for side in (left, right):
            if side.type == BOOL:
                raise self.fail(node, f"'{sign}' needs numbers", got="a truth value")

        def rule() -> Type:
            numbers([left.type, right.type])
            return broadcast([left.type, right.type], NUM)

        kind = self.typed(node, rule)
        if isinstance(left.const, (int, float)) and isinstance(right.const, (int, float)):
            try:
                return constant_value(apply(left.const, right.const))
            except ZeroDivisionError:
                raise self.fail(node, "division by zero") from None
        if kind in (MATRIX, COLUMN):
            codes = [self.array(side) for side in (left, right)]
            return Value(kind, code=self.em.bind(f"({codes[0]} {sign} {codes[1]})"))
        return elementwise(self.em, [left, right], kind, f"({{0}} {sign} {{1}})")

    def array(self, value: Value) -> str:
        packed = self.em.packed(value)
        return f"as_row({packed})" if isinstance(value.type, VecType) else packed

    def power(self, node: ast.BinOp) -> Value:
        left, right = self.visit(node.left), self.visit(node.right)

        def rule() -> Type:
            numbers([left.type, right.type])
            kind = broadcast([left.type, right.type], NUM)
            if kind in (MATRIX, COLUMN):
                raise TypingError("numbers or axis vectors: powers of case matrices are not exact everywhere")
            return kind

        kind = self.typed(node, rule)
        if left.const == 2 and isinstance(left.const, int):
            # Loops compute divisors as 2 ** pools in every round: a shift where the exponent is a whole number.
            shift = "(1 << {1} if {1}.__class__ is int and 0 <= {1} < 256 else power({0}, {1}))"
            return elementwise(self.em, [left, right], kind, shift, bind=True)
        return elementwise(self.em, [left, right], kind, "power({0}, {1})")

    def minus(self, node: ast.UnaryOp) -> Value:
        value = self.visit(node.operand)
        if isinstance(value.const, (int, float)) and not isinstance(value.const, bool):
            return constant_value(-value.const)

        def rule() -> Type:
            numbers([value.type])
            return broadcast([value.type], NUM)

        return elementwise(self.em, [value], self.typed(node, rule), "(-{0})")

    def negate(self, node: ast.UnaryOp) -> Value:
        value = self.truth(node.operand)
        if isinstance(value.const, bool):
            return constant_value(not value.const)
        return elementwise(self.em, [value], value.type, "(not {0})")

    def truth(self, node: ast.expr) -> Value:
        value = self.visit(node)
        if value.type != BOOL and not (isinstance(value.type, VecType) and value.type.item == BOOL):
            raise self.fail(
                node, "nothing counts as true or false by itself", got=str(value.type), fix="Compare it."
            )
        return value

    def junction(self, node: ast.BoolOp) -> Value:
        word = "and" if isinstance(node.op, ast.And) else "or"
        result = self.truth(node.values[0])
        for operand in node.values[1:]:
            if isinstance(result.const, bool):
                if result.const == (word == "or"):
                    return result
                result = self.truth(operand)
                continue
            if isinstance(result.type, VecType):
                right = self.truth(operand)
                kind = self.typed(node, lambda a=result, b=right: broadcast([a.type, b.type], BOOL))  # type: ignore[misc]
                result = elementwise(self.em, [result, right], kind, f"({{0}} {word} {{1}})")
                continue
            result = self.guarded(word, result, operand)
        return result

    def guarded(self, word: str, left: Value, operand: ast.expr) -> Value:
        """Scalar ``and``/``or``: the right side is computed only where the left side leaves it open."""
        with self.em.captured() as lines:
            right = self.truth(operand)
            if isinstance(right.type, VecType):
                names = [self.em.bind(code) for code in self.em.elements(right)]
                right = Value(right.type, elements=names)
        if isinstance(right.type, VecType):
            self.em.lines += [(text[4:], place) for text, place in lines]
            return elementwise(self.em, [left, right], right.type, f"({{0}} {word} {{1}})")
        if not lines:
            return Value(BOOL, code=f"({left.code} {word} {right.code})")
        result = self.em.fresh()
        self.em.emit(f"{result} = {left.code}")
        self.em.emit(f"if {result if word == 'and' else 'not ' + result}:")
        self.em.lines += lines
        self.em.emit(f"    {result} = {right.code}")
        return Value(BOOL, code=result)

    def compare(self, node: ast.Compare) -> Value:
        left = self.visit(node.left)
        parts: list[Value] = []
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.visit(comparator)
            parts.append(self.compare_pair(node, op, left, right))
            left = right
        if len(parts) == 1:
            return parts[0]
        if any(part.type != BOOL for part in parts):
            raise self.fail(node, "axis vectors cannot be compared in a chain", fix="Join two with 'and'.")
        return Value(BOOL, code="(" + " and ".join(part.code or "" for part in parts) + ")")

    def compare_pair(self, node: ast.Compare, op: ast.cmpop, left: Value, right: Value) -> Value:
        if isinstance(op, (ast.In, ast.NotIn)):
            return self.membership(node, op, left, right)
        sign = _COMPARISON[type(op)]
        if STR in (left.type, right.type) or NULL in (left.type, right.type):
            if sign in _ORDER or not (left.type == right.type or NULL in (left.type, right.type)):
                what = "texts can only be tested for being equal or contained"
                raise self.fail(node, what, got=f"{left.type} {sign} {right.type}")
            if left.is_const and right.is_const:
                return constant_value((left.const == right.const) == (sign == "=="))
            return Value(BOOL, code=f"({self.em.packed(left)} {sign} {self.em.packed(right)})")

        def rule() -> Type:
            both = {getattr(side.type, "item", side.type) for side in (left, right)}
            if both != {BOOL}:
                numbers([left.type, right.type])
            if MATRIX in both or COLUMN in both or BOOL in (left.type, right.type) and both != {BOOL}:
                raise TypingError("two numbers or axis vectors")
            return broadcast([left.type, right.type], BOOL)

        kind = self.typed(node, rule)
        if left.is_const and right.is_const:
            test = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
            verdict: Callable[[object, object], bool] = test.get(
                sign, operator.eq if sign == "==" else operator.ne
            )
            return constant_value(verdict(left.const, right.const))
        return elementwise(self.em, [left, right], kind, f"({{0}} {sign} {{1}})")

    def membership(self, node: ast.Compare, op: ast.cmpop, left: Value, right: Value) -> Value:
        listed = isinstance(right.type, (ListType, VecType)) and right.type.item in (left.type, None)
        if not (left.type in (STR, NUM) and (listed or right.type == left.type == STR)):
            got = f"{left.type} in {right.type}"
            raise self.fail(node, "'in' needs a text and a text, or a value and a list", got=got)
        wanted = isinstance(op, ast.In)
        if left.is_const and right.is_const:
            return constant_value((left.const in right.const) == wanted)  # type: ignore[operator]
        word = "in" if wanted else "not in"
        return Value(BOOL, code=f"({self.em.packed(left)} {word} {self.em.packed(right)})")

    def choice(self, node: ast.IfExp) -> Value:
        condition = self.truth(node.test)
        if condition.type != BOOL:
            raise self.fail(node.test, "'if' needs one truth value", fix="Use where(condition, a, b).")
        if isinstance(condition.const, bool):
            return self.visit(node.body if condition.const else node.orelse)
        branches = []
        for branch in (node.body, node.orelse):
            with self.em.captured() as lines:
                value = self.visit(branch)
                packed = self.em.packed(value)
            branches.append((lines, packed, value))
        kind = unify(branches[0][2].type, branches[1][2].type)
        if kind is None or (kind == JSON and branches[0][2].type != branches[1][2].type):
            got = f"{branches[0][2].type} and {branches[1][2].type}"
            raise self.fail(node, "both branches must have one type", got=got)
        test = self.em.packed(condition)
        if not branches[0][0] and not branches[1][0]:
            return Value(kind, code=self.em.bind(f"({branches[0][1]} if {test} else {branches[1][1]})"))
        result = self.em.fresh()
        for header, (lines, packed, _) in zip((f"if {test}:", "else:"), branches, strict=True):
            self.em.emit(header)
            self.em.lines += lines
            self.em.emit(f"    {result} = {packed}")
        return Value(kind, code=result)

    def subscript(self, node: ast.Subscript) -> Value:
        value, index = self.visit(node.value), self.visit(node.slice)
        if isinstance(index.type, VecType) and index.type.item == BOOL:
            if not isinstance(value.type, VecType) or value.type.length != index.type.length:
                raise self.fail(node, "a selection needs an axis vector of equal length", got=str(value.type))
            kind = MaskedType(value.type.length, value.type.item)
            mask = self.em.atoms(index)
            return Value(kind, elements=self.em.elements(value), mask=mask)
        if index.type != NUM:
            raise self.fail(node, "an index is a number or one truth value an axis", got=str(index.type))
        if isinstance(value.type, VecType):
            if isinstance(index.const, int):
                if not -value.type.length <= index.const < value.type.length:
                    raise self.fail(node, "no such axis", got=str(index.const), expected=str(value.type))
                return Value(value.type.item, code=self.em.elements(value)[index.const])
            return Value(value.type.item, code=f"{self.em.packed(value)}[{self.em.packed(index)}]")
        if isinstance(value.type, ListType) and value.type.item is not None:
            code = self.em.bind(f"{self.em.packed(value)}[{self.em.packed(index)}]")
            return Value(value.type.item, code=code)
        raise self.fail(node, "only axis vectors and lists have entries", got=str(value.type))

    def listing(self, node: ast.List) -> Value:
        values = [self.visit(item) for item in node.elts]
        if values and all(value.is_const for value in values):
            return constant_value([value.const for value in values])  # type: ignore[misc]
        kinds = {value.type for value in values}
        if kinds in ({NUM}, {BOOL}):
            (item,) = kinds
            assert isinstance(item, Scalar)
            kind = VecType(len(values), item)
            return Value(kind, elements=[self.em.packed(value) for value in values])
        joined: Type | None = values[0].type if values else None
        for value in values[1:]:
            joined = None if joined is None else unify(joined, value.type)
        if values and joined is None:
            raise self.fail(node, "a list needs entries of one type", got=", ".join(map(str, kinds)))
        return Value(ListType(joined), code="(" + "".join(self.em.packed(v) + ", " for v in values) + ")")

    # -- calls ----------------------------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        if name == "has":
            return self.has(node)
        if name == "updated":
            return self.updated(node)
        arguments = self.names.function_arguments(name)
        if arguments is not None:
            args = self.order_arguments(node, name, arguments)
            self.em.place = self.expression.at(node) if self.expression else None
            result = self.names.call(self.em, name, args)
            assert result is not None
            return result
        if name not in BUILTINS:
            known = [*BUILTINS, "has", "updated", *self.names.known_functions()]
            raise self.fail(node, f"unknown function '{name}'", fix=suggest(name, known))
        return self.builtin(node, name)

    def builtin(self, node: ast.Call, name: str) -> Value:
        declared = BUILTINS[name]
        if node.keywords:
            raise self.fail(node, f"'{name}' takes no named arguments", expected=declared.signature)
        if not declared.min_args <= len(node.args) <= declared.max_args:
            got = f"{len(node.args)} arguments"
            raise self.fail(node, f"wrong number of arguments for '{name}'", got=got, expected=declared.signature)
        args = [self.visit(argument) for argument in node.args]
        try:
            kind = declared.typing([arg.type for arg in args], self.names.dim)
        except TypingError as exc:
            raise self.fail(node, f"wrong argument for '{declared.signature}'", expected=str(exc)) from None
        inline = INLINE.get(name)
        result = inline(self.em, args, kind) if inline else None
        if result is None:
            packed = [self.selected(arg) for arg in args]
            if declared.uses_dim:
                packed.insert(0, str(self.names.dim))
            result = Value(kind, code=self.em.bind(f"builtin_{name}({', '.join(packed)})"))
        return result

    def selected(self, arg: Value) -> str:
        if isinstance(arg.type, MaskedType):
            pairs = ", ".join(f"({c}, {m})" for c, m in zip(self.em.elements(arg), arg.mask or [], strict=True))
            return f"tuple(value for value, chosen in ({pairs},) if chosen)"
        return self.em.packed(arg)

    def order_arguments(self, node: ast.Call, name: str, arguments: tuple[str, ...]) -> list[Value]:
        given: dict[str, ast.expr] = dict(zip(arguments, node.args, strict=False))
        signature = f"{name}({', '.join(arguments)})"
        extra = [keyword.arg for keyword in node.keywords if keyword.arg not in arguments or keyword.arg in given]
        if len(node.args) > len(arguments) or extra:
            raise self.fail(node, f"wrong arguments for '{name}'", expected=signature)
        given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        missing = [argument for argument in arguments if argument not in given]
        if missing:
            raise self.fail(node, f"'{name}' lacks {', '.join(missing)}", expected=signature)
        return [self.visit(given[argument]) for argument in arguments]

    def has(self, node: ast.Call) -> Value:
        name = dotted_name(node.args[0]) if len(node.args) == 1 and not node.keywords else None
        if name is None:
            raise self.fail(node, "has(...) takes one name", expected="has(cases.size_ratio)")
        code = self.names.has(name)
        if code is None:
            raise self.fail(
                node, f"'{name}' is not a name that may be absent", fix=suggest(name, self.names.known())
            )
        return constant_value(code == "True") if code in ("True", "False") else Value(BOOL, code=code)

    def updated(self, node: ast.Call) -> Value:
        if len(node.args) != 1 or not node.keywords:
            raise self.fail(node, "wrong arguments", expected="updated(record, field=value, ...)")
        record = self.visit(node.args[0])
        if not isinstance(record.type, RecordType):
            raise self.fail(node, "updated(...) needs a record", got=str(record.type))
        changes = {keyword.arg: self.visit(keyword.value) for keyword in node.keywords if keyword.arg}
        fields: dict[str, Value] = {}
        for name, _ in record.type.fields:
            if name in changes:
                fields[name] = changes.pop(name)
            elif record.is_const and isinstance(record.const, dict):
                fields[name] = constant_value(record.const[name])
            else:
                fields[name] = self.em.field(record, name) or record
        if changes:
            known = [name for name, _ in record.type.fields]
            wrong = next(iter(changes))
            raise self.fail(node, f"no field '{wrong}'", expected=", ".join(known), fix=suggest(wrong, known))
        return Value(RecordType(tuple((name, value.type) for name, value in fields.items())), fields=fields)
