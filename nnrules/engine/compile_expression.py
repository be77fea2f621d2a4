"""Compiles checked expressions to Python source, with types.

The compiler walks the syntax tree once and yields a :class:`~nnrules.engine.emit.Value`; statements that the value
needs (a function call, the right side of a guarded ``and``) go through the emitter first. Every type error is a
:class:`RuleError` at the place of the offending part.
"""

from __future__ import annotations

import ast

from nnrules.engine.compile_calls import Calls
from nnrules.engine.compile_operators import Operators
from nnrules.engine.compiling import constant_value
from nnrules.engine.emit import Value
from nnrules.engine.expressions import Expression, dotted_name
from nnrules.engine.suggest import suggest
from nnrules.engine.types import (
    BOOL,
    JSON,
    NUM,
    ListType,
    MaskedType,
    RecordType,
    Scalar,
    Type,
    VecType,
    holds_record,
    unify,
)
from nnrules.errors import RuleError
from nnrules.functions import BUILTINS

__all__ = ["ExpressionCompiler"]


class ExpressionCompiler(Operators, Calls):
    """Compiles the expressions of one rule or function body.

    Args:
        em: where statements go.
        names: what names mean here.
    """

    def compile(self, expression: Expression) -> Value:
        """Emit what the expression needs and return its value."""
        outer, self.expression = self.expression, expression
        self.em.place = expression.place
        try:
            return self.whole(expression.tree)
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
            raise self.fail(node, f"no field '{name}'", expected=", ".join(fields), fix=suggest(name, fields))
        return value

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
        values = [self.whole(item) for item in node.elts]
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
        if values and (joined is None or (joined == JSON and any(holds_record(kind) for kind in kinds))):
            raise self.fail(node, "a list needs entries of one type", got="; ".join(sorted(map(str, kinds))))
        return Value(ListType(joined), code="(" + "".join(self.em.packed(v) + ", " for v in values) + ")")
