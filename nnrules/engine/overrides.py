"""``--set PATH=VALUE``: which decision an override belongs to, and what its value is."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nnrules.engine.program import Program
from nnrules.engine.source import Json
from nnrules.errors import PlanError, Problem, UsageError

__all__ = ["Overrides", "parse_assignment", "resolve_overrides"]


@dataclass(slots=True)
class Overrides:
    """What the user set.

    Attributes:
        whole: plan path of a decided field → value.
        parts: plan path of a decided record → keys inside it and the value of that leaf.
        given: every path as the user wrote it (wildcards expanded) → value, for the plan's header.
        used: paths of decisions that an override reached.
        optional: paths that came from a wildcard, so that a configuration which is not planned is no mistake.
    """

    whole: dict[str, Json] = field(default_factory=dict)
    parts: dict[str, list[tuple[tuple[str, ...], Json]]] = field(default_factory=dict)
    given: dict[str, Json] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)


def parse_assignment(text: str) -> tuple[str, Json]:
    """Split ``PATH=VALUE``; the value is JSON, a comma-separated list, or a bare text.

    Raises:
        UsageError: no ``=``, an empty path, or a number that is not finite.
    """
    path, sign, written = text.partition("=")
    if not sign or not path.strip():
        raise UsageError(
            Problem(
                where=f"--set {text}",
                what="not an assignment",
                expected="PATH=VALUE",
                fix="For example --set configurations.3d_fullres.patch_size=[64,64,64].",
            )
        )
    return path.strip(), _value(written.strip(), text)


def _value(written: str, text: str) -> Json:
    def refuse(name: str) -> Json:
        raise UsageError(
            Problem(where=f"--set {text}", what="numbers must be finite", got=name, fix="Give another value.")
        )

    try:
        value: Json = json.loads(written, parse_constant=refuse)
    except (ValueError, RecursionError):
        if "," in written and not written.startswith(("[", "{")):
            return [_value(part.strip(), text) for part in written.split(",")]
        if written.startswith(("[", "{")):
            raise UsageError(
                Problem(
                    where=f"--set {text}",
                    what="the value is not valid JSON",
                    got=written,
                    fix="Check the brackets.",
                )
            ) from None
        return written
    _check_finite(value, text)
    return value


def _check_finite(value: Json, text: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(
            Problem(
                where=f"--set {text}",
                what="numbers must be finite",
                got=str(value),
                fix="Give another value.",
            )
        )
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_finite(item, text)


def decided_paths(program: Program) -> dict[str, str]:
    """Plan path of each decided field → its environment key (channels by ``[]``)."""
    paths = {}
    for node in program.order:
        if node.rule is None or node.keys[0].startswith("inherited:"):
            continue
        for key in node.keys:
            paths[_path(key)] = key
    return paths


def _path(key: str) -> str:
    scope, _, path = key.partition("/")
    if scope == "config":
        configuration, _, path = path.partition("/")
        return f"configurations.{configuration}.{path}"
    return f"channels[].{path}" if scope == "channel" else path


def _expand(path: str, program: Program) -> Iterable[str]:
    if not path.startswith("configurations.*."):
        return [path]
    rest = path.removeprefix("configurations.*.")
    known = decided_paths(program)
    expanded = [f"configurations.{name}.{rest}" for name in program.pack.configurations]
    return [entry for entry in expanded if _owner(entry, known) is not None] or [path]


def _owner(path: str, known: Iterable[str]) -> str | None:
    """The decided field that a path is or lies in; what lies below ``configurations`` has rules of its own."""
    generic = _generic(path)
    found = [e for e in known if generic == e or (e != "configurations" and generic.startswith(e + "."))]
    return max(found, key=len, default=None)


def _generic(path: str) -> str:
    head, sign, rest = path.partition("]")
    return f"channels[]{rest}" if sign and head.startswith("channels[") else path


def resolve_overrides(program: Program, assignments: Mapping[str, Json]) -> Overrides:
    """Find the decision of each assignment.

    Args:
        program: the compiled pack.
        assignments: plan path (``configurations.*.`` for all) → JSON value.

    Raises:
        PlanError: every path that no rule decides, with the nearest one that is.
    """
    result, problems = Overrides(), []
    known = decided_paths(program)
    # What is set by name wins over a wildcard, wherever it stands.
    for written, value in sorted(assignments.items(), key=lambda entry: "*" not in entry[0]):
        for path in _expand(written, program):
            owner = _owner(path, known)
            if owner is None:
                problems.append(_unknown(path, known, program))
                continue
            result.given[path] = value
            rest = _generic(path)[len(owner) :].lstrip(".")
            if "*" in written:
                result.optional.add(path)
            field_path = path[: len(path) - len(rest) - 1] if rest else path
            if rest:
                result.parts.setdefault(field_path, []).append((tuple(rest.split(".")), value))
                if "*" in written:
                    result.optional.add(field_path)
            else:
                result.whole[path] = value
    if problems:
        raise PlanError(problems)
    return result


def _unknown(path: str, known: Mapping[str, str], program: Program) -> Problem:
    parts = path.split(".", 2)
    if len(parts) == 3 and parts[0] == "configurations" and parts[1] in program.pack.configurations:
        parent = program.pack.configurations[parts[1]].inherits_from
        if parent and _owner(f"configurations.{parent}.{parts[2]}", known):
            return Problem(
                where=path,
                what=f"{parts[1]} takes this from {parent}",
                fix=f"Set configurations.{parent}.{parts[2]} instead.",
            )
    close = difflib.get_close_matches(path, list(known), n=1, cutoff=0.5)
    inside = [entry for entry in known if entry.startswith(path + ".")]
    expected = ", ".join(inside[:6]) if inside else None
    return Problem(
        where=path or "override without a path",
        what="no rule of this pack decides this field",
        expected=expected,
        fix=f"Did you mean '{close[0]}'?" if close else "`nnrules explain PLAN` lists the fields.",
    )
