"""Compiles a resolved pack into a program: one Python function a decision and fact, in dependency order.

Compilation is driven by demand: a rule that reads ``config.patch_size`` has the deciding rule compiled first, which
yields its type, the order of evaluation and the detection of circles in one walk. Conditions on parameters or on the
configuration's name are decided here, so that what cannot apply creates no dependency.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

from nnrules.engine.compile_function import FunctionLibrary
from nnrules.engine.compile_rule import NodeCompiler
from nnrules.engine.emit import Emitter
from nnrules.engine.expressions import Expression
from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS, extra_type
from nnrules.engine.model import Fact, Pack, Rule
from nnrules.engine.program import Node, Program, generated_namespace, placeholders
from nnrules.engine.source import Place
from nnrules.engine.types import Type
from nnrules.errors import Problem, RuleError

__all__ = ["PackCompiler", "compile_pack"]

# First names of fields that no rule may decide, by scope.
_ENGINE_FIELDS = {
    "plan": ("schema_version", "dataset", "channels", "provenance"),
    "config": ("dim", "inherits_from"),
    "channel": ("name",),
}


class PackCompiler:
    """Compiles a pack by demand; see the module.

    Args:
        pack: a resolved pack.
        traced: whether loops record their rounds.
    """

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
        self._check_nesting(deciders)
        for name, configuration in self.pack.configurations.items():
            parent = configuration.inherits_from
            if parent is not None:
                for key in [k for k in deciders if k.startswith(f"config/{parent}/")]:
                    own = key.replace(f"config/{parent}/", f"config/{name}/", 1)
                    if own not in deciders:
                        self.aliases[own] = key
        return deciders

    def _check_nesting(self, deciders: Mapping[str, Rule]) -> None:
        """No field lies inside one that another rule decides, or that the engine itself fills in."""
        for key, rule in deciders.items():
            scope, _, path = key.rpartition("/")
            names = path.split(".")
            around = [".".join(names[:count]) for count in range(1, len(names))]
            for outer in [name for name in around if f"{scope}/{name}" in deciders]:
                other = deciders[f"{scope}/{outer}"]
                what = f"'{path}' lies inside '{outer}', which rule '{other.id}' ({other.place}) decides as a whole"
                fix = "Decide all parts in rules of their own, or the whole in one."
                self.problems.append(rule.place.problem(what, fix=fix))
            if names[0] in _ENGINE_FIELDS[scope.partition("/")[0]]:
                what = f"'{path}' is not for rules to decide: the engine fills in '{names[0]}'"
                self.problems.append(rule.place.problem(what, fix="Choose another name."))

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
        if reader.rule is not None and reader.rule.scope == "channel":
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
            for name in (configuration, self.pack.configurations[configuration].inherits_from):
                if name is not None and rule.scope == "configuration" and drops and self.applies(rule, name):
                    self._link(reader, self.rule_node(rule, name))
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
        keys = self._own_keys(rule, configuration)
        return self._node(Node(f"rule {rule.id}", rule, None, configuration, keys))

    @staticmethod
    def _own_keys(rule: Rule, configuration: str | None) -> tuple[str, ...]:
        if rule.scope == "configuration":
            assert configuration is not None
            return tuple(f"config/{configuration}/{path}" for path in rule.decides)
        prefix = "plan" if rule.scope == "dataset" else "channel"
        return tuple(f"{prefix}/{path}" for path in rule.decides)

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
            NodeCompiler(self, node).compile()
        except BaseException:
            self.failed.add(identity)
            raise
        finally:
            self.active.pop()
        self.order.append(node)
        return node

    def _inherit(self, node: Node, replaced: Rule) -> None:
        """Compile the replaced rule beside its replacement, for ``inherited``."""
        assert node.rule is not None
        if not any("inherited" in text for text in _texts(node.rule)):
            return
        if replaced.scope != node.rule.scope:
            raise RuleError(
                node.rule.place.problem(
                    f"'inherited' has no meaning in rule '{node.rule.id}'",
                    got=f"scope: {node.rule.scope}",
                    expected=f"scope: {replaced.scope}, as in the replaced rule ({replaced.place})",
                )
            )
        # One prefix a level: a replaced rule may itself read what it replaced.
        prefix = "inherited:" * (node.keys[0].count("inherited:") + 1)
        keys = tuple(prefix + key for key in self._own_keys(replaced, node.configuration))
        hidden = Node(f"rule {replaced.id} (inherited)", replaced, None, node.configuration, keys)
        if replaced.inherited is not None:
            self._inherit(hidden, replaced.inherited)
        NodeCompiler(self, hidden).compile()
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
            drops = [
                r for r in rules if any(c.outcome.drop_configuration or c.outcome.refuse for c in r.cases)
            ]
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
        namespace = generated_namespace()
        code: CodeType = compile(source, filename, "exec", dont_inherit=True, optimize=1)
        exec(code, namespace)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        by_key = {key: node for node in self.order for key in node.keys}
        types = {key: kind for node in self.order for key, kind in zip(node.keys, node.types, strict=True)}
        places = [place for _, place in lines]
        return Program(self.pack, self.order, by_key, types, namespace, places, dict(self.aliases), filename)


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
        shown = (case.because, case.warn, case.outcome.refuse, case.outcome.drop_configuration)
        yield from (name for text in shown for name in placeholders(text or ""))
    for given in rule.given.values():
        yield from (expression.text for expression in given.let.values())
        yield from template(given.value)


def compile_pack(pack: Pack, *, traced: bool = False) -> Program:
    """Check and compile every rule, fact and function that a decision needs.

    Args:
        pack: a resolved pack.
        traced: record each round of each loop, for ``explain``; slower.

    Raises:
        RuleError: every unknown name, wrong type, double decision and circle, each with its place.
    """
    return PackCompiler(pack, traced=traced).compile()
