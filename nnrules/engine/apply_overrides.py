"""Applies what the user set to single decisions: leaves of records, whole fields, members of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnrules.engine.machine import Machine
from nnrules.engine.model import Rule
from nnrules.engine.overrides import Overrides
from nnrules.engine.program import Node, placeholders
from nnrules.engine.source import Json
from nnrules.engine.types import ListType, RecordType, Type, VecType, type_of_json
from nnrules.engine.values import fill_text, matches, render, repack, unpack
from nnrules.errors import NnrulesError, PlanError, Problem

__all__ = ["confirmed_values", "missed_overrides", "overridden_values", "set_parts"]


_MAX_PROPOSALS = 20


def set_parts(overrides: Overrides, path: str, value: Json, kind: Type) -> Json:
    """Change leaves inside a decided record."""
    for keys, wanted in overrides.parts.get(path, []):
        overrides.used.add(path)
        where = ".".join([path, *keys])
        holder, inner = value, kind
        for position, key in enumerate(keys):
            found = inner.field(key) if isinstance(inner, RecordType) else None
            if found is None or not isinstance(holder, dict):
                fields = ", ".join(holder) if isinstance(holder, dict) else "no fields"
                raise PlanError(Problem(where=where, what=f"no field '{key}' here", expected=fields))
            inner = found[1]
            if position + 1 < len(keys):
                holder = holder[key]
        if not matches(wanted, inner):
            raise PlanError(
                Problem(where=where, what="wrong type for this field", got=str(wanted), expected=str(inner))
            )
        assert isinstance(holder, dict)
        holder[keys[-1]] = wanted
    return value


def confirmed_values(
    machine: Machine, overrides: Overrides, node: Node, paths: tuple[str, ...]
) -> tuple[tuple[Any, ...], tuple[Type, ...], str] | None:
    """What a group's rule gives by itself, when members of it were set to just that; else None.

    The other members are then the rule's own, too: setting a field to its planned value changes nothing.
    """
    if all(path in overrides.whole for path in paths):
        return None
    found: list[Any] = [(0, node.constant, ())]
    if node.constant is None:
        code = machine.program.namespace[node.code_name]
        try:
            _, found = machine.guard(node, lambda: code(machine.env, machine.memo, []))
        except NnrulesError:  # what was set stands for a decision that cannot be made
            return None
    if len(found) != 1 or found[0][1] is None:
        return None
    index, members, _ = found[0]
    kinds = node.case_types[index]
    for path, value, kind in zip(paths, members, kinds, strict=True):
        if path in overrides.whole and unpack(value, kind) != overrides.whole[path]:
            return None
    return members, kinds, "set by the user, to what the rule gives"


def overridden_values(
    machine: Machine, overrides: Overrides, node: Node, paths: tuple[str, ...], chosen: list[str]
) -> tuple[tuple[Any, ...], tuple[Type, ...], str]:
    """The packed values of a decision of which fields were set, their types, and the reason to record.

    Args:
        machine: where a group's ``given`` branch runs.
        overrides: what the user set.
        node: the decision.
        paths: the plan paths that it decides.
        chosen: those of them that were set.

    Raises:
        PlanError: a wrong type; one member of a group that has no branch for it; a value that the group refuses, with
            the nearest valid one.
    """
    rule = node.rule
    assert rule is not None
    packed, kinds = {}, list(node.types)
    for position, (path, kind) in enumerate(zip(paths, node.types, strict=True)):
        if path not in overrides.whole:
            continue
        value = overrides.whole[path]
        if (
            len(chosen) == len(paths)
            and _other_length(value, kind)
            and not _is_read(machine, node.keys[position])
        ):
            # Only generated code relies on a length; whether the plan allows it is for its schema to say.
            kinds[position] = type_of_json(value)
        elif not matches(value, kind):
            raise PlanError(
                Problem(where=path, what="wrong type for this field", got=str(value), expected=str(kind))
            )
        packed[path] = repack(value, kinds[position])
    if len(chosen) == len(paths):
        return tuple(packed[path] for path in paths), tuple(kinds), "set by the user"
    members = [rule.decides[paths.index(path)] for path in chosen]
    if len(members) > 1 or members[0] not in node.branches:
        raise _group_error(rule, paths, chosen)
    machine.memo["override"] = packed[chosen[0]]
    given = rule.given[members[0]]
    code = machine.program.namespace[node.branches[members[0]]]
    broken, values = machine.guard(node, lambda: code(machine.env, machine.memo, []))
    if broken:
        problems = []
        for index, shown, tried in broken:
            near = _settled(machine, code, tried)
            message = given.require[index].message
            problems.append(
                Problem(
                    where=chosen[0],
                    what=fill_text(message, tuple(placeholders(message)), shown),
                    got=render(overrides.whole[chosen[0]]),
                    fix=f"The nearest valid value is {render(near)}." if near is not None else None,
                )
            )
        raise PlanError(problems)
    return values, node.types, given.because


def _other_length(value: Json, kind: Type) -> bool:
    """Whether a value is a list of what an axis vector holds, longer or shorter: the axes to mirror, say."""
    return isinstance(kind, VecType) and isinstance(value, list) and matches(value, ListType(kind.item))


def _is_read(machine: Machine, key: str) -> bool:
    return any(key in node.reads.values() for node in machine.program.order)


def _settled(machine: Machine, code: Callable[..., Any], near: Any) -> Any:
    """A proposed value that the branch accepts: what it proposes may lead to another proposal.

    A patch rounded up to what its network needs may be long enough to be halved once more.
    """
    for _ in range(_MAX_PROPOSALS):
        if near is None:
            return None
        machine.memo["override"] = near
        try:
            broken, _ = code(machine.env, machine.memo, [])
        except (ArithmeticError, ValueError, TypeError, IndexError):
            return None
        if not broken:
            return near
        near = broken[0][2]
    return None


def _group_error(rule: Rule, paths: tuple[str, ...], chosen: list[str]) -> PlanError:
    others = ", ".join(path for path in paths if path not in chosen)
    free = [paths[rule.decides.index(member)] for member in rule.given]
    fix = f"Set {' or '.join(free)} instead: the others follow. " if free else ""
    return PlanError(
        Problem(
            where=", ".join(chosen),
            what=f"rule '{rule.id}' decides this together with {others}, so it cannot be set alone",
            fix=f"{fix}Or set all of them.",
        )
    )


def missed_overrides(machine: Machine, overrides: Overrides) -> None:
    """Refuse overrides of what is not planned, or is no longer planned because of them.

    Raises:
        PlanError: each such path, with the reason.
    """
    problems = []
    for path in [*overrides.whole, *overrides.parts]:
        configuration = path.split(".")[1] if path.startswith("configurations.") else ""
        is_planned = path in overrides.used and configuration not in machine.result.dropped
        if is_planned or path in overrides.optional:
            continue
        _, reason = machine.result.dropped.get(configuration, (None, "the dataset has no such entry"))
        problems.append(
            Problem(where=path, what=f"this is not part of the plan: {reason}", fix="Leave it out.")
        )
    if problems:
        raise PlanError(problems)
