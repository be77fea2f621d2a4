"""Lint: names that nothing reads, and configurations that do not exist."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Iterator, Mapping

from nnrules.authoring.findings import Finding, Severity, finding
from nnrules.authoring.walk import Use, calls_in, names_in, uses_of
from nnrules.engine.expressions import Expression, dotted_name
from nnrules.engine.model import Fact, Function, Pack, Rule

__all__ = ["check_names"]

_Owner = Rule | Fact | Function


def check_names(pack: Pack) -> Iterator[Finding]:
    """Unused parameters, facts, functions and local names, and comparisons with unknown configurations."""
    owners: list[_Owner] = [*pack.rules.values(), *pack.facts.values(), *pack.functions.values()]
    uses = {id(owner): list(uses_of(owner)) for owner in owners}
    yield from _unused_params(pack, [use for entries in uses.values() for use in entries])
    yield from _unreached(pack, uses)
    for owner in owners:
        if owner.pack != pack.id:
            continue
        yield from _unknown_configurations(pack, uses[id(owner)])
        if isinstance(owner, Rule):
            yield from _unused_lets(owner)
        elif isinstance(owner, Function):
            yield from _unused_in_function(owner, uses[id(owner)])


def _unused_params(pack: Pack, uses: list[Use]) -> Iterator[Finding]:
    read = names_in(uses)
    preset = {name for entry in pack.presets.values() for name in entry.params}
    for name, param in pack.params.items():
        if param.pack == pack.id and name not in read and name not in preset:
            yield finding(
                "warning",
                "unused-param",
                param.place,
                f"no expression reads parameter '{name}'",
                fix="Read it where its number is used, or remove it.",
            )


def _unreached(pack: Pack, uses: Mapping[int, list[Use]]) -> Iterator[Finding]:
    """Facts and functions that no rule needs, directly or through others."""
    reached: set[int] = set()
    stack: list[_Owner] = list(pack.rules.values())
    while stack:
        owner = stack.pop()
        if id(owner) in reached:
            continue
        reached.add(id(owner))
        entries = uses.get(id(owner)) or list(uses_of(owner))
        heads = {name.partition(".")[0] for name in names_in(entries)}  # a fact may be a record
        stack += [pack.facts[name] for name in heads if name in pack.facts]
        stack += [pack.functions[name] for name in calls_in(entries) if name in pack.functions]
        inherited = owner.inherited if isinstance(owner, Rule) else None
        if inherited is not None:
            stack.append(inherited)
    for kind, items in (("fact", pack.facts), ("function", pack.functions)):
        for name, item in items.items():
            if item.pack == pack.id and id(item) not in reached:
                yield finding(
                    "warning",
                    f"unused-{kind}",
                    item.place,
                    f"no rule needs {kind} '{name}'",
                    fix=f"Remove it, or use it. A {kind} that nothing needs is never evaluated.",
                )


def _unused_lets(rule: Rule) -> Iterator[Finding]:
    def unused(let: Mapping[str, Expression], others: list[Use]) -> Iterator[Finding]:
        read = names_in(others)
        for name, expression in let.items():
            inner = names_in(Use(expression=e, role="let") for n, e in let.items() if n != name)
            if not _is_read(name, read | inner):
                yield finding(
                    "warning",
                    "unused-let",
                    expression.place,
                    f"'{name}' of rule '{rule.id}' is not used",
                    fix="Remove it, or use it.",
                )

    everything = list(uses_of(rule))
    branches = [use for given in rule.given.values() for use in _given_uses(rule, given.member)]
    in_branches = {id(use.expression) for use in branches}
    yield from unused(
        rule.let, [use for use in everything if use.role != "let" and id(use.expression) not in in_branches]
    )
    for given in rule.given.values():
        entries = [use for use in _given_uses(rule, given.member) if use.role != "let"]
        yield from unused(given.let, entries)


def _given_uses(rule: Rule, member: str) -> list[Use]:
    """Uses of one branch for an override: those of the rule with this branch alone and no case."""
    alone = dataclasses.replace(rule, let={}, cases=(), given={member: rule.given[member]})
    return list(uses_of(alone))


def _is_read(name: str, read: set[str]) -> bool:
    return name in read or any(entry.startswith(f"{name}.") for entry in read)


def _unused_in_function(function: Function, uses: list[Use]) -> Iterator[Finding]:
    defined: dict[str, tuple[str, Expression | None]] = dict.fromkeys(function.args, ("argument", None))
    for use in uses:
        if use.name is not None and use.role in ("start", "let", "collect") and use.name not in defined:
            defined[use.name] = ("name", use.expression)
    for name, (what, expression) in defined.items():
        # What only updates itself is not used.
        read = names_in(use for use in uses if not (use.role == "set" and use.name == name))
        if not _is_read(name, read):
            place = function.place if expression is None else expression.place
            # Callers may need the argument to stay, as where an overlay replaces a function.
            severity: Severity = "note" if expression is None else "warning"
            yield finding(
                severity,
                "unused-name",
                place,
                f"{what} '{name}' of function '{function.name}' is not used",
                fix="Remove it, or use it.",
            )


def _unknown_configurations(pack: Pack, uses: list[Use]) -> Iterator[Finding]:
    """``config.name == "3d_lowers"``: to the compiler any text is as good as another."""
    for use in uses:
        for node in ast.walk(use.expression.tree):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            if not any(dotted_name(side) == "config.name" for side in sides):
                continue
            for text in _texts(sides):
                if text not in pack.configurations:
                    close = difflib.get_close_matches(text, list(pack.configurations), n=1, cutoff=0.5)
                    yield finding(
                        "error",
                        "unknown-configuration",
                        use.expression.at(node),
                        f"the pack has no configuration '{text}'",
                        expected=", ".join(pack.configurations),
                        fix=f"Did you mean '{close[0]}'?" if close else None,
                    )


def _texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        items = node.elts if isinstance(node, ast.List) else [node]
        for item in items:
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                yield item.value
