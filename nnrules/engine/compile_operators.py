"""Operators of the rule language: arithmetic, comparison, ``and``/``or``/``not``, choice, membership."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from nnrules.engine.compiling import Compiling, constant_value
from nnrules.engine.emit import Value
from nnrules.engine.inline import bounded, elementwise
from nnrules.engine.types import (
    BOOL,
    COLUMN,
    JSON,
    MATRIX,
    NULL,
    NUM,
    STR,
    ListType,
    Type,
    VecType,
    unify,
)
from nnrules.functions import TypingError
from nnrules.functions.catalog import broadcast, numbers
from nnrules.functions.numbers import power

__all__ = ["Operators"]

_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[float, float], float]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}
_COMPARISON: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_ORDER = ("<", "<=", ">", ">=")
_REDUCTIONS = ("min", "max", "sum", "prod", "mean", "any", "all", "count")


class Operators(Compiling):
    """Compiles operators."""

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
            return self.fold(node, apply, left.const, right.const)
        if kind in (MATRIX, COLUMN):
            codes = [self.array(side) for side in (left, right)]
            return Value(kind, code=self.em.bind(f"({codes[0]} {sign} {codes[1]})"))
        if sign == "*" and not left.is_const and not right.is_const:
            # Whole numbers have no limit of their own: what multiplies itself in a loop would fill the memory.
            return elementwise(self.em, [left, right], kind, bounded("{0} * {1}", self.em.fresh()))
        return elementwise(self.em, [left, right], kind, f"({{0}} {sign} {{1}})")

    def fold(
        self, node: ast.BinOp, apply: Callable[[float, float], float], left: float, right: float
    ) -> Value:
        """Compute a constant part once, while the rule is compiled."""
        try:
            result = apply(left, right)
        except ZeroDivisionError:
            raise self.fail(node, "division by zero") from None
        except (OverflowError, ValueError) as exc:
            raise self.fail(node, "this cannot be computed", got=str(exc)) from None
        if isinstance(result, float) and not math.isfinite(result):
            raise self.fail(node, "the number is too large", got=str(result))
        return constant_value(result)

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
        if kind == NUM and isinstance(left.const, (int, float)) and isinstance(right.const, (int, float)):
            return self.fold(node, power, left.const, right.const)
        if left.const == 2 and isinstance(left.const, int):
            # Loops compute divisors as 2 ** pools in every round: a shift where the exponent is a whole number.
            shift = "(1 << {1} if ({1}).__class__ is int and 0 <= {1} < 256 else power({0}, {1}))"
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
            if MATRIX in both or COLUMN in both or (BOOL in (left.type, right.type) and both != {BOOL}):
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
                value = self.whole(branch)
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
