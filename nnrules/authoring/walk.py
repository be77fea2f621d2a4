"""Every expression of a rule, fact or function, with what it is there for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nnrules.engine.expressions import Expression, names_and_calls, parse_expression
from nnrules.engine.model import Fact, Function, Rule
from nnrules.engine.program import placeholders
from nnrules.errors import RuleError

__all__ = ["Use", "calls_in", "names_in", "uses_of"]

Role = Literal["when", "let", "value", "require", "start", "stop_if", "set", "collect", "return", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One expression.

    Attributes:
        expression: the expression.
        role: what it is there for; ``text`` for a placeholder in a text for people.
        name: the name that it defines or changes; None for conditions and texts.
    """

    expression: Expression
    role: Role
    name: str | None = None


def uses_of(owner: Rule | Fact | Function) -> Iterator[Use]:
    """All expressions of an entry, those in texts included."""
    if isinstance(owner, Fact):
        yield Use(expression=owner.value, role="value", name=owner.name)
    elif isinstance(owner, Function):
        yield from _function(owner)
    else:
        yield from _rule(owner)


def names_in(uses: Iterable[Use]) -> set[str]:
    """Every dotted name that the expressions read."""
    return {name for use in uses for name, _ in names_and_calls(use.expression.tree)[0]}


def calls_in(uses: Iterable[Use]) -> set[str]:
    """Every function and builtin that the expressions call."""
    return {name for use in uses for name, _ in names_and_calls(use.expression.tree)[1]}


def _template(value: Any, role: Role) -> Iterator[Use]:
    if isinstance(value, Expression):
        yield Use(expression=value, role=role)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _template(item, role)
    elif isinstance(value, tuple):
        for item in value:
            yield from _template(item, role)


def _text(text: str | None, place: Any) -> Iterator[Use]:
    for name in placeholders(text or ""):
        try:
            yield Use(expression=parse_expression(name, place), role="text")
        except RuleError:
            continue  # compiling the pack reports it


def _rule(rule: Rule) -> Iterator[Use]:
    for name, expression in rule.let.items():
        yield Use(expression=expression, role="let", name=name)
    for case in rule.cases:
        if case.when is not None:
            yield Use(expression=case.when, role="when")
        yield from _template(case.outcome.value, "value")
        for text in (case.because, case.warn, case.outcome.refuse, case.outcome.drop_configuration):
            yield from _text(text, case.place)
    for given in rule.given.values():
        for name, expression in given.let.items():
            yield Use(expression=expression, role="let", name=name)
        for requirement in given.require:
            yield Use(expression=requirement.that, role="require")
            if requirement.nearest is not None:
                yield Use(expression=requirement.nearest, role="require")
            yield from _text(requirement.message, requirement.place)
        yield from _template(dict(given.value), "value")


def _function(function: Function) -> Iterator[Use]:
    for name, expression in function.start.items():
        yield Use(expression=expression, role="start", name=name)
    for step in function.steps:
        if step.stop_if is not None:
            yield Use(expression=step.stop_if, role="stop_if")
        for role, entries in (("let", step.let), ("set", step.set), ("collect", step.collect)):
            for name, expression in (entries or {}).items():
                yield Use(expression=expression, role=role, name=name)  # type: ignore[arg-type]
    yield from _template(function.result, "return")
