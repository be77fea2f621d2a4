"""Compiles a resolved pack into a program: one Python function a decision and fact, in dependency order.

Compilation is driven by demand: a rule that reads ``config.patch_size`` has the deciding rule compiled first, which
yields its type, the order of evaluation and the detection of circles in one walk. Conditions on parameters or on the
configuration's name are decided here, so that what cannot apply creates no dependency.
"""

from __future__ import annotations

import builtins
import linecache
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import numpy as np

from nnrules.engine.compile_expression import ExpressionCompiler, constant_value, pack_json
from nnrules.engine.compile_function import FunctionLibrary, compile_template
from nnrules.engine.digest import digest_of
from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import Expression, parse_expression
from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS, extra_type
from nnrules.engine.model import Case, Fact, Given, Outcome, Pack, Rule
from nnrules.engine.source import Place
from nnrules.engine.types import JSON, ListType, RecordType, Type, type_of_json, unify
from nnrules.errors import Problem, RuleError
from nnrules.functions import BUILTINS
from nnrules.functions.numbers import power

__all__ = ["AtMostReachedError", "Node", "Program", "compile_pack", "placeholders"]

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class AtMostReachedError(Exception):
    """A loop that did not stop; carries the function and its limit."""


def _at_most_reached(function: str, limit: int) -> None:
    raise AtMostReachedError(function, limit)


def _nothing_selected() -> None:
    raise ValueError("the selection v[mask] holds no axis")


def _namespace() -> dict[str, Any]:
    return {
        "__builtins__": {
            name: getattr(builtins, name)
            for name in ("abs", "int", "len", "max", "min", "range", "round", "sorted", "tuple")
        },
        "ceil": math.ceil, "floor": math.floor, "trunc": math.trunc, "log": math.log, "inf": math.inf,
        "power": power, "as_row": np.asarray, "nothing_selected": _nothing_selected, "at_most_reached": _at_most_reached,
        **{f"builtin_{name}": entry.call for name, entry in BUILTINS.items()},
    }  # fmt: skip


@dataclass(slots=True, eq=False)
class Node:
    """One decision or fact, compiled for one configuration.

    Attributes:
        id: ``rule id`` or ``fact name``, with the configuration where there is one.
        rule, fact: what it came from; exactly one is set.
        configuration: the configuration, or None.
        keys: environment keys of its values, one a decided field.
        types: their types.
        case_types: the types of each case's values, by case index.
        reads: names read → environment key, in the order of first use.
        params: parameters read, directly or in functions.
        needs: the nodes that must be evaluated before.
        code_name: the Python function.
        needs_presence: configurations whose presence it asks for.
    """

    id: str
    rule: Rule | None
    fact: Fact | None
    configuration: str | None
    keys: tuple[str, ...]
    types: tuple[Type, ...] = ()
    case_types: dict[int, tuple[Type, ...]] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    read_types: dict[str, Type] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    needs: list[Node] = field(default_factory=list)
    code_name: str = ""
    texts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    inherited: Node | None = None
    inherited_key: str | None = None
    constant: tuple[Any, ...] | None = None

    @property
    def place(self) -> Place:
        """Where the rule or fact stands."""
        owner = self.rule or self.fact
        assert owner is not None
        return owner.place


@dataclass(slots=True)
class Program:
    """A compiled pack.

    Attributes:
        pack: the pack.
        order: decisions in an order in which each comes after what it needs.
        by_key: the node that gives each environment key.
        namespace: the compiled functions.
        places: the rule-file place of each line of generated code.
        aliases: for a configuration that inherits, its own keys → the parent's keys.
    """

    pack: Pack
    order: list[Node]
    by_key: dict[str, Node]
    types: dict[str, Type]
    namespace: dict[str, Any]
    places: list[Place | None]
    aliases: dict[str, str]
    filename: str
    _digests: dict[str, str] = field(default_factory=dict)

    def digest(self, node: Node) -> str:
        """Hash of what a node's rule or fact computes; see :mod:`nnrules.engine.digest`."""
        owner = node.rule or node.fact
        assert owner is not None
        if node.id not in self._digests:
            self._digests[node.id] = digest_of(owner, self.pack)
        return self._digests[node.id]

    def place_of(self, error: BaseException) -> Place | None:
        """The rule-file place of the innermost generated line in a traceback."""
        place, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.filename:
                place = self.places[trace.tb_lineno - 1] or place
            trace = trace.tb_next
        return place


def placeholders(text: str) -> list[str]:
    """The names in ``{braces}`` of a text for people."""
    return [name.strip() for name in _PLACEHOLDER.findall(text)]


class _NodeNames:
    """Names inside a rule or fact."""

    def __init__(self, compiler: _PackCompiler, node: Node) -> None:
        self.compiler = compiler
        self.node = node
        self.pack = compiler.pack
        self.dim: int = (
            3 if node.configuration is None else self.pack.configurations[node.configuration].dim
        )
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
        if name == "inherited" and self.node.inherited is not None:
            return self.read(em, name, self.node.inherited_key or "", self.node.inherited.types[0])
        found = self.compiler.resolve(name, self.node)
        return None if found is None else self.read(em, name, *found)

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
        found = self.compiler.resolve(name, self.node)
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
        return [*self.local, *self.pending, *self.pack.params, *self.compiler.known_names(self.node), "dim"]

    def known_functions(self) -> Iterable[str]:
        return self.pack.functions

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        function = self.pack.functions.get(name)
        return None if function is None else function.args


class _PackCompiler:
    def __init__(self, pack: Pack, *, traced: bool) -> None:
        self.pack = pack
        self.library = FunctionLibrary(pack, traced=traced)
        self.nodes: dict[str, Node] = {}
        self.order: list[Node] = []
        self.active: list[Node] = []
        self.emitters: list[Emitter] = []
        self.problems: list[Problem] = []
        self.failed: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.deciders = self._index_deciders()

    # -- which rule decides what ----------------------------------------------------------------------------------

    def applies(self, rule: Rule, configuration: str) -> bool:
        """Whether a rule runs for a configuration; one that inherits runs only rules that name it."""
        if rule.configurations is not None:
            return configuration in rule.configurations
        return self.pack.configurations[configuration].inherits_from is None

    def _index_deciders(self) -> dict[str, Rule]:
        deciders: dict[str, Rule] = {}
        for rule in self.pack.rules.values():
            for path in rule.decides:
                for key in self._keys_of(rule, path):
                    other = deciders.get(key)
                    if other is not None:
                        self.problems.append(
                            rule.place.problem(
                                f"'{path}' is decided twice",
                                got=f"rules '{other.id}' ({other.place}) and '{rule.id}' ({rule.place})",
                                expected="one deciding rule for each field",
                                fix="Remove one, or limit both by 'configurations:'.",
                            )
                        )
                    deciders[key] = rule
        for name, configuration in self.pack.configurations.items():
            parent = configuration.inherits_from
            if parent is not None:
                for key in [k for k in deciders if k.startswith(f"config/{parent}/")]:
                    own = key.replace(f"config/{parent}/", f"config/{name}/", 1)
                    if own not in deciders:
                        self.aliases[own] = key
        return deciders

    def _keys_of(self, rule: Rule, path: str) -> list[str]:
        if rule.scope == "dataset":
            return [f"plan/{path}"]
        if rule.scope == "channel":
            return [f"channel/{path}"]
        return [f"config/{name}/{path}" for name in self.pack.configurations if self.applies(rule, name)]

    # -- names ----------------------------------------------------------------------------------------------------

    def resolve(self, name: str, reader: Node) -> tuple[str, Type] | None:
        """The environment key and type of a name, compiling what gives it; None when it is not declared."""
        found = self._input(name, reader)
        if found is not None:
            return found
        if name in self.pack.facts:
            fact = self.pack.facts[name]
            if fact.scope == "configuration" and reader.configuration is None:
                return None
            node = self.fact_node(fact, reader.configuration if fact.scope == "configuration" else None)
            self._link(reader, node)
            return node.keys[0], node.types[0]
        key = self._decision_key(name, reader)
        if key is None:
            return None
        key = self.aliases.get(key, key)
        rule = self.deciders[key]
        configuration = key.split("/")[1] if key.startswith("config/") else None
        node = self.rule_node(rule, configuration)
        self._link(reader, node)
        return key, node.types[node.keys.index(key)]

    def _input(self, name: str, reader: Node) -> tuple[str, Type] | None:
        if name in FINGERPRINT_INPUTS:
            return name, FINGERPRINT_INPUTS[name].type
        if name in BUDGET_INPUTS:
            return name, BUDGET_INPUTS[name][0]
        if name in CHANNEL_INPUTS and reader.rule is not None and reader.rule.scope == "channel":
            return name, CHANNEL_INPUTS[name].type
        if name.startswith("extra."):
            column = self.pack.extra.get(name.removeprefix("extra."))
            return None if column is None else (name, extra_type(column.type))
        return None

    def _decision_key(self, name: str, reader: Node) -> str | None:
        head, _, path = name.partition(".")
        if not path:
            return None
        if head == "plan":
            key = f"plan/{path}"
        elif head == "channel" and reader.rule is not None and reader.rule.scope == "channel":
            key = f"channel/{path}"
        elif head == "config" and reader.configuration:
            key = f"config/{reader.configuration}/{path}"
        elif head.startswith("config_"):
            key = f"config/{head.removeprefix('config_')}/{path}"
        else:
            return None
        return key if key in self.deciders or key in self.aliases else None

    def known_names(self, reader: Node) -> Iterator[str]:
        """Every name that could be read in place of a misspelt one."""
        yield from FINGERPRINT_INPUTS
        yield from BUDGET_INPUTS
        yield from CHANNEL_INPUTS
        yield from self.pack.facts
        yield from (f"extra.{column}" for column in self.pack.extra)
        for key in [*self.deciders, *self.aliases]:
            scope, _, path = key.partition("/")
            if scope != "config":
                yield f"{scope}.{path}"
                continue
            configuration, _, path = path.partition("/")
            yield f"config_{configuration}.{path}"
            if configuration == reader.configuration:
                yield f"config.{path}"

    def require_presence(self, configuration: str, reader: Node) -> None:
        """``has(config_x)`` needs every decision that may drop the configuration."""
        for rule in self.pack.rules.values():
            drops = any(case.outcome.drop_configuration or case.outcome.refuse for case in rule.cases)
            if rule.scope == "configuration" and drops and self.applies(rule, configuration):
                self._link(reader, self.rule_node(rule, configuration))
        listing = self.deciders.get("plan/configurations")
        if listing is not None:
            self._link(reader, self.rule_node(listing, None))

    def _link(self, reader: Node, node: Node) -> None:
        if node not in reader.needs:
            reader.needs.append(node)

    # -- nodes ----------------------------------------------------------------------------------------------------

    def fact_node(self, fact: Fact, configuration: str | None) -> Node:
        suffix = f"{configuration}/" if configuration else ""
        key = f"fact/{suffix}{fact.name}"
        return self._node(Node(f"fact {fact.name}", None, fact, configuration, (key,)))

    def rule_node(self, rule: Rule, configuration: str | None) -> Node:
        if rule.scope == "configuration":
            assert configuration is not None
            keys = tuple(f"config/{configuration}/{path}" for path in rule.decides)
        else:
            prefix = "plan" if rule.scope == "dataset" else "channel"
            keys = tuple(f"{prefix}/{path}" for path in rule.decides)
        return self._node(Node(f"rule {rule.id}", rule, None, configuration, keys))

    def _node(self, node: Node) -> Node:
        identity = node.keys[0]
        known = self.nodes.get(identity)
        if known is not None:
            if known in self.active:
                circle = [*self.active[self.active.index(known) :], known]
                raise RuleError(
                    node.place.problem(
                        "rules depend on each other in a circle",
                        got=" → ".join(f"{entry.id.split(' ', 1)[1]} ({entry.place})" for entry in circle),
                        fix="Let one of them read something that is decided earlier.",
                    )
                )
            if identity in self.failed:
                raise _AlreadyReportedError
            return known
        self.nodes[identity] = node
        self.active.append(node)
        try:
            if node.rule is not None and node.rule.inherited is not None:
                self._inherit(node, node.rule.inherited)
            _NodeCompiler(self, node).compile()
        except BaseException:
            self.failed.add(identity)
            raise
        finally:
            self.active.pop()
        self.order.append(node)
        return node

    def _inherit(self, node: Node, replaced: Rule) -> None:
        """Compile the replaced rule beside its replacement, for ``inherited``."""
        uses = any("inherited" in text for text in _texts(node.rule))
        if not uses:
            return
        hidden = Node(
            f"rule {replaced.id} (inherited)",
            replaced,
            None,
            node.configuration,
            tuple(f"inherited:{key}" for key in node.keys),
        )
        _NodeCompiler(self, hidden).compile()
        self.nodes[hidden.keys[0]] = hidden
        self.order.append(hidden)
        node.inherited, node.inherited_key = hidden, hidden.keys[0]
        self._link(node, hidden)

    def compile(self) -> Program:
        wanted: list[tuple[Rule, str | None]] = []
        rules = list(self.pack.rules.values())
        listing = self.deciders.get("plan/configurations")
        if listing is not None:
            wanted.append((listing, None))
        for configuration in self.pack.configurations:
            # What may drop a configuration comes first, so that nothing else of it is computed in vain.
            drops = [r for r in rules if any(c.outcome.drop_configuration or c.outcome.refuse for c in r.cases)]
            wanted += [
                (rule, configuration)
                for rule in [*drops, *(r for r in rules if r not in drops)]
                if rule.scope == "configuration" and self.applies(rule, configuration)
            ]
        wanted += [(rule, None) for rule in rules if rule.scope != "configuration"]
        for rule, target in wanted:
            self._attempt(rule, target)
        used = {node.fact.name for node in self.nodes.values() if node.fact is not None}
        for fact in self.pack.facts.values():
            if fact.name not in used:
                self._check_unused_fact(fact)
        if self.problems:
            raise RuleError(list(dict.fromkeys(self.problems)))
        return self._link_code()

    def _check_unused_fact(self, fact: Fact) -> None:
        """A fact that no rule reads must be well formed all the same, in one configuration at least."""
        targets: list[str | None] = [None] if fact.scope == "dataset" else [*self.pack.configurations]
        found: list[Problem] = []
        for target in targets:
            try:
                self.fact_node(fact, target)
            except _AlreadyReportedError:
                return
            except RuleError as exc:
                found = found or list(exc.problems)
            else:
                return
        self.problems += found

    def _attempt(self, rule: Rule, configuration: str | None) -> None:
        try:
            self.rule_node(rule, configuration)
        except _AlreadyReportedError:
            pass
        except RuleError as exc:
            self.problems += exc.problems

    def _link_code(self) -> Program:
        lines: list[tuple[str, Place | None]] = []
        for _, emitter in self.library.sources:
            lines += emitter.lines
        for emitter in self.emitters:
            lines += emitter.lines
        source = "\n".join(text for text, _ in lines) + "\n"
        filename = f"<{self.pack.id}{' traced' if self.library.traced else ''}>"
        namespace = _namespace()
        code: CodeType = compile(source, filename, "exec", dont_inherit=True, optimize=1)
        exec(code, namespace)  # noqa: S102 - generated from checked expressions; builtins are a fixed table
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        by_key = {key: node for node in self.order for key in node.keys}
        types = {key: kind for node in self.order for key, kind in zip(node.keys, node.types, strict=True)}
        places = [place for _, place in lines]
        return Program(
            self.pack, self.order, by_key, types, namespace, places, dict(self.aliases), filename
        )


class _AlreadyReportedError(Exception):
    """A node that failed before and whose problem is on the list."""


def _texts(rule: Rule | None) -> Iterator[str]:
    """The source of every expression of a rule."""
    if rule is None:
        return
    yield from (expression.text for expression in rule.let.values())

    def template(value: Any) -> Iterator[str]:
        if isinstance(value, Expression):
            yield value.text
        elif isinstance(value, Mapping):
            for item in value.values():
                yield from template(item)
        elif isinstance(value, tuple):
            for item in value:
                yield from template(item)

    for case in rule.cases:
        if case.when is not None:
            yield case.when.text
        yield from template(case.outcome.value)


class _NodeCompiler:
    def __init__(self, owner: _PackCompiler, node: Node) -> None:
        self.owner = owner
        self.node = node
        self.names = _NodeNames(owner, node)

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
        if case.warn or rule.hit == "collect" or rule.given:
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
        names = [name for text in (case.because, case.warn, outcome.refuse, outcome.drop_configuration)
                 for name in placeholders(text or "")]  # fmt: skip
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
        em.place = case.place
        result = f"({index}, {members}, {shown})"
        em.emit(f"return w, [{result}]" if rule.hit == "first" else f"found.append({result})")

    def _members(self, compiler: ExpressionCompiler, rule: Rule, index: int, outcome: Outcome) -> str:
        value = outcome.value
        assert value is not None
        if rule.is_group:
            if not isinstance(value, Mapping):
                raise RuleError(
                    outcome.place.problem("a group needs a value for each field", expected=", ".join(rule.decides))
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
                            f"cases give '{rule.decides[position]}' different types", got=f"{known} and {kind}"
                        )
                    )
                kinds[position] = joined
        types = [JSON if kind is None else kind for kind in kinds]
        self.node.types = tuple(ListType(kind) for kind in types) if rule.hit == "collect" else tuple(types)

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
            names = placeholders(requirement.message)
            values = [compiler.compile(parse_expression(name, requirement.place)) for name in names]
            near = compiler.compile(requirement.nearest) if requirement.nearest else constant_value(None)
            shown = "(" + "".join(em.packed(value) + ", " for value in values) + ")"
            with em.block(f"if not {em.packed(condition)}:"):
                em.emit(f"broken.append(({index}, {shown}, {em.packed(near)}))")
        others = [path for path in rule.decides if path != member]
        self._check_given(rule, given, others)
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

    def _check_given(self, rule: Rule, given: Given, others: list[str]) -> None:
        if set(given.value) != set(others):
            raise RuleError(
                given.place.problem(
                    f"'given: {given.member}' must give the other fields of the group",
                    got=", ".join(given.value) or "none",
                    expected=", ".join(others),
                )
            )


def compile_pack(pack: Pack, *, traced: bool = False) -> Program:
    """Check and compile every rule, fact and function that a decision needs.

    Args:
        pack: a resolved pack.
        traced: record each round of each loop, for ``explain``; slower.

    Raises:
        RuleError: every unknown name, wrong type, double decision and circle, each with its place.
    """
    return _PackCompiler(pack, traced=traced).compile()
