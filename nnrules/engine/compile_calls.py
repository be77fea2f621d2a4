"""Calls: builtins, functions of the pack, and the two forms ``has(name)`` and ``updated(record, field=value)``."""

from __future__ import annotations

import ast

from nnrules.engine.compiling import REDUCTIONS, Compiling, constant_value
from nnrules.engine.emit import Value
from nnrules.engine.expressions import dotted_name
from nnrules.engine.inline import INLINE
from nnrules.engine.suggest import suggest
from nnrules.engine.types import BOOL, MaskedType, RecordType
from nnrules.functions import BUILTINS, TypingError

__all__ = ["Calls"]


class Calls(Compiling):
    """Compiles calls."""

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
            raise self.fail(
                node, f"wrong number of arguments for '{name}'", got=got, expected=declared.signature
            )
        take = self.visit if name in REDUCTIONS else self.whole
        args = [take(argument) for argument in node.args]
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
            pairs = ", ".join(f"({c}, {m})" for c, m in zip(self.em.atoms(arg), arg.mask or [], strict=True))
            return f"tuple(value for value, chosen in ({pairs},) if chosen)"
        return self.em.packed(arg)

    def order_arguments(self, node: ast.Call, name: str, arguments: tuple[str, ...]) -> list[Value]:
        given: dict[str, ast.expr] = dict(zip(arguments, node.args, strict=False))
        signature = f"{name}({', '.join(arguments)})"
        extra = [
            keyword.arg for keyword in node.keywords if keyword.arg not in arguments or keyword.arg in given
        ]
        if len(node.args) > len(arguments) or extra:
            raise self.fail(node, f"wrong arguments for '{name}'", expected=signature)
        given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        missing = [argument for argument in arguments if argument not in given]
        if missing:
            raise self.fail(node, f"'{name}' lacks {', '.join(missing)}", expected=signature)
        return [self.whole(given[argument]) for argument in arguments]

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
        changes = {keyword.arg: self.whole(keyword.value) for keyword in node.keywords if keyword.arg}
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
