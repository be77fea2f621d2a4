"""What a rule, fact or function computes, as a hash: texts for people, places and layout do not count.

Two rules with equal digests decide alike when they read equal values; ``diff`` builds on that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from nnrules.documents import content_hash
from nnrules.engine.expressions import Expression, names_and_calls
from nnrules.engine.model import Fact, Function, Pack, Rule

__all__ = ["digest_of", "functions_called", "functions_of"]

_LENGTH = 12


@lru_cache(maxsize=4096)
def _canonical(expression: Expression) -> str:
    return ast.unparse(expression.tree)


def _plain(value: Any) -> Any:
    if isinstance(value, Expression):
        return _canonical(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _expressions(value: Any) -> Iterator[Expression]:
    if isinstance(value, Expression):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _expressions(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _expressions(item)


def _parts(owner: Rule | Fact | Function) -> list[Any]:
    if isinstance(owner, Fact):
        return [owner.value]
    if isinstance(owner, Function):
        steps = [[step.let, step.stop_if, step.set, step.collect] for step in owner.steps]
        return [list(owner.args), owner.start, owner.at_most, steps, owner.result]
    cases = [
        [
            case.when,
            case.outcome.value,
            case.outcome.constant,
            bool(case.outcome.refuse or case.outcome.drop_configuration),
        ]
        for case in owner.cases
    ]
    return [list(owner.decides), owner.hit, owner.let, cases]


def _normal(value: Any) -> Any:
    if isinstance(value, list):
        return [_normal(item) for item in value]
    return _plain(value)


def _called(parts: Any) -> Iterable[str]:
    names: set[str] = set()
    for expression in _expressions(parts):
        names |= {name for name, _ in names_and_calls(expression.tree)[1]}
    return sorted(names)


def digest_of(owner: Rule | Fact | Function, pack: Pack) -> str:
    """Hash of what the entry computes, with the functions that it calls.

    Args:
        owner: a rule, fact or function.
        pack: where called functions are looked up.

    Returns:
        Twelve hex digits.
    """
    parts = _parts(owner)
    called = [digest_of(pack.functions[name], pack) for name in _called(parts) if name in pack.functions]
    inherited = digest_of(owner.inherited, pack) if isinstance(owner, Rule) and owner.inherited else None
    uses = inherited if any("inherited" in text.text for text in _expressions(parts)) else None
    return content_hash([_normal(parts), called, uses]).removeprefix("sha256:")[:_LENGTH]


def functions_called(pack: Pack, function: str) -> set[str]:
    """Functions of the pack that a function calls, directly or through others."""
    found: set[str] = set()
    stack = [function]
    while stack:
        for name in _called(_parts(pack.functions[stack.pop()])):
            if name in pack.functions and name not in found:
                found.add(name)
                stack.append(name)
    return found


def functions_of(owner: Rule | Fact | Function, pack: Pack) -> set[str]:
    """Functions of the pack that a rule, fact or function calls itself."""
    return {name for name in _called(_parts(owner)) if name in pack.functions}
