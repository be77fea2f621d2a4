"""Compiles one rule or fact to a Python function that returns the cases found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nnrules.engine.compile_expression import ExpressionCompiler
from nnrules.engine.compile_function import compile_template
from nnrules.engine.compile_names import NodeNames
from nnrules.engine.compiling import constant_value, pack_json
from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import Expression, parse_expression
from nnrules.engine.model import Case, Fact, Given, Outcome, Rule
from nnrules.engine.program import Node, placeholders
from nnrules.engine.source import Place
from nnrules.engine.types import (
    COLUMN,
    JSON,
    MATRIX,
    ListType,
    RecordType,
    Type,
    holds_record,
    type_of_json,
    unify,
)
from nnrules.errors import RuleError

if TYPE_CHECKING:
    from nnrules.engine.compile_pack import PackCompiler

__all__ = ["NodeCompiler"]


class NodeCompiler:
    """Compiles one node.

    Args:
        owner: resolves names and holds the generated code.
        node: the rule or fact, for one configuration.
    """

    def __init__(self, owner: PackCompiler, node: Node) -> None:
        self.owner = owner
        self.node = node
        self.names = NodeNames(owner, node)

    def compile(self) -> None:
        node = self.node
        if node.fact is not None:
            self._fact(node.fact)
            return
        assert node.rule is not None
        constant = self._constant(node.rule)
        if constant is not None:
            node.constant, node.types = constant
            node.case_types = {0: node.types}
            return
        self._rule(node.rule)
        for member, given in node.rule.given.items():
            node.branches[member] = self._given(node.rule, member, given)

    def function(self, suffix: str) -> Emitter:
        em = Emitter()
        number = len(self.owner.emitters)
        name = f"n{number}_{re.sub(r'[^A-Za-z0-9]', '_', self.node.id)}{suffix}"
        em.lines.append((f"def {name}(env, m, rounds):", self.node.place))
        self.owner.emitters.append(em)
        self.names.begin()
        return em

    @staticmethod
    def name_of(em: Emitter) -> str:
        return em.lines[0][0].split()[1].split("(")[0]

    def _fact(self, fact: Fact) -> None:
        em = self.function("")
        value = ExpressionCompiler(em, self.names).compile(fact.value)
        em.emit(f"return {em.packed(value)}")
        self.node.types, self.node.code_name = (value.type,), self.name_of(em)

    def _constant(self, rule: Rule) -> tuple[tuple[Any, ...], tuple[Type, ...]] | None:
        """A rule of one unconditional constant needs no code."""
        case = rule.cases[0]
        if len(rule.cases) > 1 or rule.let or case.when is not None or not case.outcome.has_constant:
            return None
        if case.warn or rule.hit == "collect" or rule.given or placeholders(case.because):
            return None
        members = self._constant_members(rule, case.outcome)
        return tuple(pack_json(value) for value in members), tuple(type_of_json(value) for value in members)

    def _constant_members(self, rule: Rule, outcome: Outcome) -> list[Any]:
        if not rule.is_group:
            return [outcome.constant]
        constant = outcome.constant if isinstance(outcome.constant, dict) else {}
        self._check_members(rule, constant, outcome.place)
        return [constant[path] for path in rule.decides]

    def _check_members(self, rule: Rule, given: Iterable[str], place: Place) -> None:
        if set(given) != set(rule.decides):
            raise RuleError(
                place.problem(
                    "a group must give each of its fields a value",
                    got=", ".join(given) or "no fields",
                    expected=", ".join(rule.decides),
                )
            )

    def _check_unused(self, em: Emitter, let: Mapping[str, Expression]) -> None:
        """Also what no case uses must be well formed; its code is thrown away."""
        with em.captured():
            for name in let:
                if name not in self.names._lets:
                    self.names.let(em, name)

    def _lets(self, let: Mapping[str, Expression]) -> None:
        for name, expression in let.items():
            if name in self.names.local or name in self.owner.pack.params or name in self.owner.pack.facts:
                raise RuleError(
                    expression.place.problem(f"'{name}' is already a name here", fix="Choose another name.")
                )
            self.names.pending[name] = expression

    def _rule(self, rule: Rule) -> None:
        em = self.function("")
        compiler = ExpressionCompiler(em, self.names)
        self._lets(rule.let)
        em.place = rule.place
        em.emit("w = []")
        if rule.hit != "first":
            em.emit("found = []")
        closed = False
        for index, case in enumerate(rule.cases):
            closed = self._case(compiler, rule, index, case) or closed
        if rule.hit != "first":
            em.emit("return w, found")
        elif not closed:
            em.emit("return w, []")
        self._check_unused(em, rule.let)
        self.node.code_name = self.name_of(em)
        self._unify(rule)

    def _case(self, compiler: ExpressionCompiler, rule: Rule, index: int, case: Case) -> bool:
        """Emit one case; returns whether nothing after it can be reached."""
        em = compiler.em
        if case.when is None:
            em.place = case.place
            if rule.hit == "first":
                self._outcome(compiler, rule, index, case)
                return True
            with em.block("if not found:"):
                self._outcome(compiler, rule, index, case)
            return False
        condition = compiler.condition(case.when, "when")
        test = em.bind(em.packed(condition))
        em.emit(f"w.append({test})")
        if condition.const is False:
            return False
        with em.block(f"if {test}:"):
            self._outcome(compiler, rule, index, case)
        return False

    def _outcome(self, compiler: ExpressionCompiler, rule: Rule, index: int, case: Case) -> None:
        em, outcome = compiler.em, case.outcome
        names = [
            name
            for text in (case.because, case.warn, outcome.refuse, outcome.drop_configuration)
            for name in placeholders(text or "")
        ]
        names = list(dict.fromkeys(names))
        values = [compiler.compile(parse_expression(name, case.place)) for name in names]
        shown = "(" + "".join(em.packed(value) + ", " for value in values) + ")"
        self.node.texts[index] = tuple(names)
        if outcome.refuse is not None or outcome.drop_configuration is not None:
            members = "None"
        elif outcome.has_constant:
            constants = self._constant_members(rule, outcome)
            self.node.case_types[index] = tuple(type_of_json(value) for value in constants)
            members = repr(tuple(pack_json(value) for value in constants))
        else:
            assert outcome.value is not None
            members = self._members(compiler, rule, index, outcome)
        em.place = outcome.place
        result = f"({index}, {members}, {shown})"
        em.emit(f"return w, [{result}]" if rule.hit == "first" else f"found.append({result})")

    def _members(self, compiler: ExpressionCompiler, rule: Rule, index: int, outcome: Outcome) -> str:
        value = outcome.value
        assert value is not None
        if rule.is_group:
            if not isinstance(value, Mapping):
                raise RuleError(
                    outcome.place.problem(
                        "a group needs a value for each field", expected=", ".join(rule.decides)
                    )
                )
            self._check_members(rule, value, outcome.place)
            values = [compile_template(compiler, value[path]) for path in rule.decides]
        else:
            values = [compile_template(compiler, value)]
        self.node.case_types[index] = tuple(item.type for item in values)
        return "(" + "".join(compiler.em.packed(item) + ", " for item in values) + ")"

    def _unify(self, rule: Rule) -> None:
        kinds: list[Type | None] = [None] * len(rule.decides)
        for index, case_types in self.node.case_types.items():
            for position, kind in enumerate(case_types):
                known = kinds[position]
                joined = kind if known is None else unify(known, kind)
                if joined is None:
                    raise RuleError(
                        rule.cases[index].place.problem(
                            f"cases give '{rule.decides[position]}' different types",
                            got=f"{known} and {kind}",
                        )
                    )
                kinds[position] = joined
        for path, joined in zip(rule.decides, kinds, strict=True):
            self._check_storable(rule, path, joined)
        types = [JSON if kind is None else kind for kind in kinds]
        self.node.types = tuple(ListType(kind) for kind in types) if rule.hit == "collect" else tuple(types)

    def _check_storable(self, rule: Rule, path: str, kind: Type | None) -> None:
        """A plan holds no cases; ``collect`` stores one list, whose entries must have the same fields."""
        if kind in (MATRIX, COLUMN):
            raise RuleError(
                rule.place.problem(
                    f"'{path}' cannot be a {kind}",
                    expected="a value for the whole dataset",
                    fix="Reduce it with median(...), percentile(...) or another reduction.",
                )
            )
        records = any(
            holds_record(types[rule.decides.index(path)]) for types in self.node.case_types.values()
        )
        if rule.hit == "collect" and kind == JSON and records:
            raise RuleError(
                rule.place.problem(
                    f"the cases collect records of different fields for '{path}'",
                    fix="Give all cases the same fields.",
                )
            )

    def _given(self, rule: Rule, member: str, given: Given) -> str:
        """The branch that follows from an override of one member of the group."""
        em = self.function(f"_given_{re.sub(r'[^A-Za-z0-9]', '_', member)}")
        compiler = ExpressionCompiler(em, self.names)
        kind = self.node.types[rule.decides.index(member)]
        local = member.rpartition(".")[2]
        self.names.local[local] = Value(kind, code=em.bind("m['override']", "o"), _scope=em.scope)
        self._lets(given.let)
        em.emit("broken = []")
        for index, requirement in enumerate(given.require):
            condition = compiler.condition(requirement.that, "that")
            with em.block(f"if not {em.packed(condition)}:"):
                names = placeholders(requirement.message)
                values = [compiler.compile(parse_expression(name, requirement.place)) for name in names]
                near = compiler.compile(requirement.nearest) if requirement.nearest else constant_value(None)
                shown = "(" + "".join(em.packed(value) + ", " for value in values) + ")"
                em.emit(f"broken.append(({index}, {shown}, {em.packed(near)}))")
                # What comes after may fail on a value that breaks this, so the first one is told alone.
                em.emit("return broken, None")
        others = [path for path in rule.decides if path != member]
        self._check_given(given, others)
        parts = []
        for path in rule.decides:
            if path == member:
                parts.append("m['override']")
                continue
            value = compile_template(compiler, given.value[path])
            expected = self.node.types[rule.decides.index(path)]
            if unify(value.type, expected) != expected and not isinstance(expected, RecordType):
                raise RuleError(
                    given.place.problem(
                        f"'{path}' has another type here", got=str(value.type), expected=str(expected)
                    )
                )
            parts.append(em.packed(value))
        em.emit(f"return broken, ({', '.join(parts)},)")
        return self.name_of(em)

    def _check_given(self, given: Given, others: list[str]) -> None:
        if set(given.value) != set(others):
            raise RuleError(
                given.place.problem(
                    f"'given: {given.member}' must give the other fields of the group",
                    got=", ".join(given.value) or "none",
                    expected=", ".join(others),
                )
            )
