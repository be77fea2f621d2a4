"""Which provenance entry stands behind a field of a plan."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from nnrules.engine.program import Node, Program
from nnrules.engine.source import Json
from nnrules.errors import PlanError, Problem
from nnrules.plan import Plan

__all__ = [
    "ENGINE_FIELDS",
    "DecisionIndex",
    "Origin",
    "field_origins",
    "find_decision",
    "index_decisions",
    "key_of",
    "node_at",
    "origin_of",
]

ENGINE_FIELDS = {
    "schema_version": "version of the plan format",
}
"""Fields that the document format itself gives, with their meaning."""


@dataclass(slots=True)
class Origin:
    """A decision entry of the plan, and the path under which it stands there."""

    entry: dict[str, Any]
    path: str
    inherited_from: str | None = None


@dataclass(slots=True)
class DecisionIndex:
    """The provenance entries of a plan by the paths that they decide."""

    by_path: dict[str, dict[str, Any]] = field(default_factory=dict)


def index_decisions(plan: Plan) -> DecisionIndex:
    """Index the decisions of a plan."""
    index = DecisionIndex()
    for entry in plan.provenance["decisions"]:
        for path in entry["decides"]:
            index.by_path[path] = entry
    return index


def find_decision(plan: Plan, index: DecisionIndex, path: str) -> Origin | None:
    """The decision behind a path: its own, that of a record around it, or that of the configuration it inherits."""
    parts = path
    while parts:
        if parts in index.by_path and parts != "configurations":
            return Origin(index.by_path[parts], parts)
        # An entry of a list lies in the list: terms[0].name in terms[0] in terms.
        parts = parts[: parts.rindex("[")] if parts.endswith("]") else parts.rpartition(".")[0]
    head = path.split(".", 2)
    if len(head) == 3 and head[0] == "configurations" and head[1] in plan.configurations:
        parent = plan.configurations[head[1]].get("inherits_from")
        if parent:
            found = find_decision(plan, index, f"configurations.{parent}.{head[2]}")
            if found is not None:
                return Origin(found.entry, found.path, parent)
    return None


def origin_of(plan: Plan, path: str) -> dict[str, Any] | None:
    """The provenance entry that decided a path (``None`` for facts of the fingerprint and of the format)."""
    found = find_decision(plan, index_decisions(plan), path)
    return None if found is None else found.entry


def field_origins(plan: Plan, path: str | None = None) -> list[tuple[str, Json, str]]:
    """Fields with their values and what decided them.

    Args:
        plan: the plan.
        path: only this field, or the fields below it.

    Returns:
        ``(path, value, "rule (file:line)")`` in the order of the plan.

    Raises:
        PlanError: there is no such field, with the nearest one.
    """
    index = index_decisions(plan)
    fields = list(plan.leaves())
    chosen = [entry for entry in fields if path is None or _lies_in(entry[0], path)]
    if not chosen:
        names = [name for name, _ in fields]
        close = difflib.get_close_matches(path or "", names, n=1, cutoff=0.4)
        raise PlanError(
            Problem(
                where=str(path),
                what="the plan has no such field",
                fix=f"Did you mean '{close[0]}'?" if close else "`nnrules explain PLAN` lists the fields.",
            )
        )
    return [(name, value, _origin_text(plan, index, name)) for name, value in chosen]


def _lies_in(field_path: str, path: str) -> bool:
    return field_path == path or field_path.startswith((path + ".", path + "["))


def _origin_text(plan: Plan, index: DecisionIndex, path: str) -> str:
    found = find_decision(plan, index, path)
    if found is None:
        return "plan format" if path in ENGINE_FIELDS else "fingerprint"
    return f"{found.entry['rule']} ({found.entry['file']}:{found.entry['line']})"


def node_at(program: Program, path: str) -> Node | None:
    """The compiled rule that decides a plan path."""
    return program.by_key.get(key_of(path))


def key_of(path: str) -> str:
    """The environment key of a decided plan path."""
    head, _, rest = path.partition(".")
    if head == "configurations":
        name, _, inner = rest.partition(".")
        return f"config/{name}/{inner}"
    return f"channel/{rest}" if head.startswith("channels[") else f"plan/{path}"
