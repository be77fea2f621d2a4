"""What names mean inside a rule or fact: parameters, facts, decisions, inputs, and its own ``let`` values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnrules.engine.compile_expression import ExpressionCompiler
from nnrules.engine.compiling import constant_value
from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import Expression
from nnrules.engine.program import Node
from nnrules.engine.types import Type

if TYPE_CHECKING:
    from nnrules.engine.compile_pack import PackCompiler

__all__ = ["NodeNames"]


def _inherited_names(hidden: Node) -> list[str]:
    """How a replacing rule reads the fields of the rule that it replaces, in their order."""
    assert hidden.rule is not None
    return [f"inherited.{path}" for path in hidden.rule.decides] if hidden.rule.is_group else ["inherited"]


class NodeNames:
    """Names inside a rule or fact."""

    def __init__(self, compiler: PackCompiler, node: Node) -> None:
        self.compiler = compiler
        self.node = node
        self.pack = compiler.pack
        self.dim: int = 3 if node.configuration is None else self.pack.configurations[node.configuration].dim
        self.local: dict[str, Value] = {}
        self.pending: dict[str, Expression] = {}
        self._cache: dict[str, Value] = {}
        self._lets: dict[str, tuple[Value, int]] = {}

    def begin(self) -> None:
        """Forget what was bound in another generated function."""
        self._cache.clear()
        self._lets.clear()
        self.local.clear()
        self.pending.clear()

    def lookup(self, em: Emitter, name: str) -> Value | None:
        if name in self.local:
            return self.local[name]
        if name in self.pending:
            return self.let(em, name)
        if name == "dim":
            return constant_value(self.dim)
        if name == "config.name" and self.node.configuration:
            return constant_value(self.node.configuration)
        if name == "config.dim" and self.node.configuration:
            return constant_value(self.dim)
        param = self.pack.params.get(name)
        if param is not None:
            self.node.params.add(name)
            return constant_value(param.value)
        if name.partition(".")[0] == "inherited" and self.node.inherited is not None:
            return self.inherited(em, name, self.node.inherited)
        found = self.compiler.resolve(name, self.node)
        return None if found is None else self.read(em, name, *found)

    def inherited(self, em: Emitter, name: str, hidden: Node) -> Value | None:
        """What the replaced rule gives: ``inherited``, or ``inherited.patch_size`` for a field of a group."""
        names = _inherited_names(hidden)
        if name not in names:
            return None
        position = names.index(name)
        return self.read(em, name, hidden.keys[position], hidden.types[position])

    def read(self, em: Emitter, name: str, key: str, kind: Type) -> Value:
        cached = self._cache.get(key)
        if cached is not None and em.visible(cached._scope):
            return cached
        self.node.reads[name] = key
        self.node.read_types[name] = kind
        value = Value(kind, code=em.bind(f"env[{key!r}]", "v"), _scope=em.scope)
        self._cache[key] = value
        return value

    def let(self, em: Emitter, name: str) -> Value:
        """A ``let`` is computed where it is first used, so that a case can guard what later cases read."""
        bound = self._lets.get(name)
        if bound is not None and em.visible(bound[1]):
            return bound[0]
        expression = self.pending.pop(name)  # a let may not use itself
        place = em.place
        value = em.name_value(ExpressionCompiler(em, self).compile(expression), em.fresh(f"l_{name}_"))
        em.place = place
        self.pending[name] = expression
        self._lets[name] = (value, em.scope)
        return value

    def has(self, name: str) -> str | None:
        prefix, _, configuration = name.partition("config_")
        if not prefix and configuration in self.pack.configurations:
            self.compiler.require_presence(configuration, self.node)
            return f"({configuration!r} in env['configurations'])"
        # A fact is computed when it is read, so asking for it would tell what happened to be read before.
        found = None if name in self.pack.facts else self.compiler.resolve(name, self.node)
        if found is None:
            return None
        self.node.reads[name], self.node.read_types[name] = found
        return f"({found[0]!r} in env)"

    def call(self, em: Emitter, name: str, args: list[Value]) -> Value:
        result, rounds, params = self.compiler.library.call(em, name, args, self.dim)
        self.node.params |= params
        em.emit(f"rounds.append(({name!r}, {rounds}))")
        return result

    def known(self) -> Iterable[str]:
        inherited = [] if self.node.inherited is None else _inherited_names(self.node.inherited)
        if not inherited and self.node.rule is not None and self.node.rule.inherited is not None:
            inherited = ["inherited"]  # not compiled yet, because the rule does not read it under this name
        mine = [*self.local, *self.pending, *inherited]
        return [*mine, *self.pack.params, *self.compiler.known_names(self.node), "dim"]

    def known_functions(self) -> Iterable[str]:
        return self.pack.functions

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        function = self.pack.functions.get(name)
        return None if function is None else function.args
