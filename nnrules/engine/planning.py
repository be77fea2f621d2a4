"""From a fingerprint, a pack and a budget to a plan with its provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnrules.dataset_facts import DatasetFacts
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.machine import Decision, Evaluation
from nnrules.engine.model import Pack
from nnrules.engine.overrides import Overrides, resolve_overrides
from nnrules.engine.packs import DEFAULT_PACK, load_pack
from nnrules.engine.program import Node, Program
from nnrules.engine.source import Json
from nnrules.errors import PlanError, Problem, UsageError
from nnrules.fingerprint import Fingerprint, dataset_document
from nnrules.plan import PLAN_SCHEMA_VERSION, Plan

__all__ = ["ENGINE_VERSION", "compiled", "make_plan"]

ENGINE_VERSION = "0.1.0"
"""Version of the engine, written into each plan; a changed meaning of a rule changes it."""

_MAX_GB = 4096


_MAX_PROGRAMS = 16
_programs: dict[tuple[Any, ...], Program] = {}


def compiled(pack: Pack, *, traced: bool = False) -> Program:
    """The compiled form of a pack, kept for the process; the last sixteen packs stay."""
    values = tuple(param.value for param in pack.params.values())
    key = (pack.id, pack.hash, pack.preset, values, traced)
    program = _programs.pop(key, None) or compile_pack(pack, traced=traced)
    _programs[key] = program
    if len(_programs) > _MAX_PROGRAMS:
        del _programs[next(iter(_programs))]
    return program


def make_plan(
    fingerprint: Fingerprint,
    pack: Pack | str | Path = DEFAULT_PACK,
    *,
    preset: str | None = None,
    gpu_memory_gb: float | None = None,
    overrides: Mapping[str, Json] | None = None,
    check: bool = True,
) -> Plan:
    """Plan a dataset.

    Args:
        fingerprint: the dataset's fingerprint.
        pack: a loaded pack, ``name@version``, or the path of an overlay file.
        preset: preset of the pack; only with a pack by name.
        gpu_memory_gb: GPU memory to plan for, GB; default: that of the pack or preset.
        overrides: plan path → value; what depends on it is derived again.
        check: validate the plan against its schema and for contradictions.

    Returns:
        The plan; the same arguments give the same bytes.

    Raises:
        PackError: no such pack, or mistakes in it.
        EvaluationError: a rule failed on this fingerprint.
        RefusedError: a rule refuses the dataset.
        PlanError: an override that cannot be.
        UsageError: memory that is not a positive number.
    """
    if isinstance(pack, Pack) and preset is not None:
        fix = "Choose the preset when the pack is loaded: load_pack(..., preset=...)."
        raise UsageError(
            Problem(where="preset", what="a loaded pack has its preset already", got=preset, fix=fix)
        )
    resolved = pack if isinstance(pack, Pack) else load_pack(pack, preset=preset)
    memory = resolved.gpu_memory_gb if gpu_memory_gb is None else gpu_memory_gb
    if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not 0 < memory <= _MAX_GB:
        raise UsageError(
            Problem(
                where="gpu_memory_gb",
                what="not an amount of GPU memory",
                got=str(memory),
                expected=f"GB, above 0 and at most {_MAX_GB}",
            )
        )
    program = compiled(resolved)
    chosen = resolve_overrides(program, overrides or {})
    evaluation = evaluate(program, fingerprint, float(memory), chosen)
    document = _document(program, fingerprint, evaluation)
    document["provenance"] = _provenance(program, fingerprint, float(memory), chosen, evaluation)
    if not check:
        return Plan(document)
    try:
        return Plan.from_document(document)
    except PlanError as exc:
        if chosen.given:
            raise
        fix = f"This is a mistake of the rule pack {resolved.id}: correct the rule that decides the field."
        problems = [_at_rule(problem, document["provenance"]["decisions"]) for problem in exc.problems]
        raise PlanError(
            [*problems, Problem(where=str(resolved.id), what="the rules gave an invalid plan", fix=fix)]
        ) from None


def _at_rule(problem: Problem, decisions: list[dict[str, Any]]) -> Problem:
    """A problem of the plan with the place of the rule that decided the field, or the unknown field in it."""
    field = problem.where.removeprefix("plan: ")
    found: tuple[str, dict[str, Any]] | None = None
    for entry in decisions:
        for path in entry["decides"]:
            around = f"{field}.".startswith((f"{path}.", f"{path}["))
            name = path.removeprefix("" if field == "$" else f"{field}.").partition(".")[0]
            inside = problem.what == "an unknown field" and f'"{name}"' in (problem.got or "")
            if (around or inside) and (found is None or len(path) > len(found[0])):
                found = path, entry
    if found is None:
        return problem
    entry = found[1]
    place = f"{entry['file']}:{entry['line']}: rule '{entry['rule']}' decided {field}"
    return dataclasses.replace(problem, where=place)


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    holder = document
    for name in parents:
        holder = holder.setdefault(name, {})
    holder[last] = value


def _document(program: Program, fingerprint: Fingerprint, evaluation: Evaluation) -> dict[str, Any]:
    facts: DatasetFacts = fingerprint.dataset
    section = dataset_document(facts)
    document: dict[str, Any] = {
        "schema_version": PLAN_SCHEMA_VERSION,
        "dataset": section,
        "channels": [{"name": name} for name in facts.channel_names],
        "configurations": {},
    }
    for name in evaluation.configurations:
        declared = program.pack.configurations[name]
        entry: dict[str, Any] = {"dim": declared.dim}
        if declared.inherits_from:
            entry["inherits_from"] = declared.inherits_from
        document["configurations"][name] = entry
    for decision in evaluation.decisions:
        for path, value in zip(decision.paths, decision.values, strict=True):
            if path == "configurations":
                continue
            if path.startswith("channels["):
                index, _, rest = path.removeprefix("channels[").partition("].")
                _put(document["channels"][int(index)], rest, value)
            elif path.startswith("configurations."):
                _, name, rest = path.split(".", 2)
                if name in document["configurations"]:
                    _put(document["configurations"][name], rest, value)
            else:
                _put(document, path, value)
    for name, entry in document["configurations"].items():
        parent = entry.get("inherits_from")
        if parent is not None:
            document["configurations"][name] = _overlaid(document["configurations"][parent], entry)
    return document


def _overlaid(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """The parent's fields with the child's own on top; links to other stages are not inherited."""
    merged = {
        key: value
        for key, value in parent.items()
        if key not in ("next_stage", "previous_stage", "inherits_from")
    }
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlaid(merged[key], value) if both else value
    return merged


# -- provenance -------------------------------------------------------------------------------------------------------


def _provenance(
    program: Program, fingerprint: Fingerprint, memory: float, overrides: Overrides, evaluation: Evaluation
) -> dict[str, Any]:
    pack = program.pack
    planned = set(evaluation.configurations)
    used = [
        d for d in evaluation.decisions if d.node.configuration is None or d.node.configuration in planned
    ]
    params = sorted(
        {name for decision in used for name in _params_of(decision.node)} | _fact_params(evaluation)
    )
    return {
        "engine": ENGINE_VERSION,
        "pack": {
            "name": pack.id.name,
            "version": pack.id.version,
            "title": pack.title,
            "hash": pack.hash,
            "reproduces": pack.reproduces,
            "preset": pack.preset,
            "extends": None
            if pack.extends is None
            else {"pack": str(pack.extends), "hash": pack.extends_hash},
        },
        "fingerprint": {
            "name": fingerprint.dataset.name,
            "hash": fingerprint.hash,
            "num_cases": fingerprint.num_cases,
        },
        "budget": {"gpu_memory_gb": memory},
        "overrides": overrides.given,
        "inputs": evaluation.inputs,
        "params": {
            name: {
                "value": param.value,
                "unit": param.unit,
                "file": param.place.file.name,
                "line": param.place.line,
            }
            for name in params
            for param in [pack.params[name]]
        },
        "facts": {
            key.removeprefix("fact/"): {
                "value": value,
                "unit": node.fact.unit,
                "file": node.fact.place.file.name,
                "line": node.fact.place.line,
                "reads": _references(node),
                "digest": program.digest(node),
            }
            for key, (node, value) in evaluation.facts.items()
            if node.fact is not None
        },
        "decisions": _merged([_entry(decision, program) for decision in used]) + _declarations(pack, planned),
        "dropped": {
            name: {
                "rule": rule.id,
                "file": rule.place.file.name,
                "line": rule.place.line,
                "because": reason,
            }
            for name, (rule, reason) in evaluation.dropped.items()
        },
        "warnings": [{"rule": rule, "text": text} for rule, text in evaluation.warnings],
    }


def _params_of(node: Node) -> set[str]:
    return node.params if node.inherited is None else node.params | _params_of(node.inherited)


def _fact_params(evaluation: Evaluation) -> set[str]:
    return {name for node, _ in evaluation.facts.values() for name in node.params}


def _references(node: Node) -> dict[str, str]:
    """Name read → where its value stands: ``inputs:…``, ``facts:…``, ``params:…`` or a plan path."""
    references = {
        name: _reference(key) for name, key in node.reads.items() if not key.startswith("inherited:")
    }
    references |= {name: f"params:{name}" for name in sorted(node.params)}
    # What a replaced rule reads on behalf of its replacement counts as read by that.
    return references if node.inherited is None else {**_references(node.inherited), **references}


def _reference(key: str) -> str:
    scope, _, path = key.partition("/")
    if scope == "fact":
        return f"facts:{path}"
    if scope == "config":
        configuration, _, rest = path.partition("/")
        return f"configurations.{configuration}.{rest}"
    if scope == "plan":
        return path
    if scope == "channel":
        return f"channels[].{path}"
    return f"inputs:{key}"


def _entry(decision: Decision, program: Program) -> dict[str, Any]:
    rule, pack = decision.node.rule, program.pack
    assert rule is not None
    place = (
        rule.cases[decision.case].place if decision.case is not None and decision.case >= 0 else rule.place
    )
    entry: dict[str, Any] = {
        "decides": list(decision.paths),
        "rule": rule.id,
        "kind": rule.kind,
        "file": place.file.name,
        "line": place.line,
        "case": decision.case,
        "because": decision.because,
        "digest": program.digest(decision.node),
    }
    if rule.pack != pack.id:
        entry["pack"] = str(rule.pack)
    if decision.whens:
        entry["whens"] = list(decision.whens)
    references = _references(decision.node)
    if references:
        channel = decision.paths[0].partition(".")[0]  # "channels[0]" for a rule of scope channel
        entry["reads"] = {
            name: reference.replace("channels[]", channel).replace("inputs:channel.", f"inputs:{channel}.")
            for name, reference in references.items()
        }
    if decision.rounds:
        entry["rounds"] = dict(decision.rounds)
    if decision.overridden:
        entry["override"] = decision.overridden
    return entry


def _merged(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for a rule that decided the same way in several configurations without reading anything."""
    merged: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        plain = "reads" not in entry and "override" not in entry
        key = (entry["rule"], entry["line"], entry["because"], entry["case"]) if plain else number
        if key in merged:
            merged[key]["decides"] += entry["decides"]
        else:
            merged[key] = entry
    return list(merged.values())


def _declarations(pack: Pack, planned: set[str]) -> list[dict[str, Any]]:
    """What the release file itself says about each configuration."""
    return [
        {
            "decides": [f"configurations.{name}.dim"]
            + ([f"configurations.{name}.inherits_from"] if configuration.inherits_from else []),
            "rule": f"configuration {name}",
            "kind": "blueprint",
            "file": configuration.place.file.name,
            "line": configuration.place.line,
            "case": None,
            "because": configuration.doc,
        }
        for name, configuration in pack.configurations.items()
        if name in planned
    ]
