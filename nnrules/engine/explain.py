"""Why a value of a plan is what it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nnrules.engine.digest import functions_called, functions_of
from nnrules.engine.model import Pack
from nnrules.engine.origins import ENGINE_FIELDS, Origin, find_decision, index_decisions, key_of, node_at
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import compiled
from nnrules.engine.program import Node, Program
from nnrules.engine.replay import Replay
from nnrules.engine.source import Json
from nnrules.engine.values import unpack
from nnrules.errors import NnrulesError, PackError, PlanError, Problem
from nnrules.plan import Plan

__all__ = ["BudgetFlip", "Explanation", "InputValue", "Rounds", "UntakenCase", "explain", "pack_of"]

_FACTORS = (1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_STEPS_PER_GB = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class InputValue:
    """A value that the rule read: its name in the rule, the value, and where the value itself comes from."""

    name: str
    value: Json
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UntakenCase:
    """A case that was looked at and not taken."""

    place: str
    when: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The rounds of one loop: a row a round, the last with the reason why the loop stopped."""

    function: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Json, ...], ...]
    stopped: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFlip:
    """The nearest memory target at which the value would change, and what it would be."""

    gpu_memory_gb: float
    value: Json


@dataclass(slots=True, kw_only=True)
class Explanation:
    """Where one value of a plan comes from.

    Attributes:
        path: the field; for a part of a decided record the part.
        value: its value.
        source: ``rule``, ``override``, ``fingerprint``, ``pack`` or ``format``.
        rule, title, kind, pack, file, line: the deciding rule.
        because: the reason of the case taken.
        decides: the fields that the rule decided together.
        inputs: what it read.
        untaken: cases that were not taken.
        names: what the names in their conditions stand for.
        rounds: rounds of the loops behind the value.
        flips: nearest changes of the memory target that change the value, downwards and upwards.
        note: what could not be shown, and why.
    """

    path: str
    value: Json
    source: str
    rule: str | None = None
    title: str | None = None
    kind: str | None = None
    pack: str | None = None
    file: str | None = None
    line: int | None = None
    because: str = ""
    decides: tuple[str, ...] = ()
    inherited_from: str | None = None
    inputs: tuple[InputValue, ...] = ()
    untaken: tuple[UntakenCase, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    rounds: tuple[Rounds, ...] = ()
    flips: tuple[BudgetFlip, ...] = ()
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The explanation as a JSON object."""

        def plain(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return [plain(item) for item in value]
            if hasattr(value, "__dataclass_fields__"):
                return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
            return value

        result = {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {name: value for name, value in result.items() if value not in (None, [])}


def pack_of(plan: Plan, override: Pack | None = None) -> Pack:
    """The pack that made a plan.

    Args:
        plan: the plan.
        override: the pack to use where the plan names a file that only the user can find.

    Raises:
        PackError: the pack is not installed, or has changed since.
    """
    recorded = plan.provenance["pack"]
    spec = f"{recorded['name']}@{recorded['version']}"
    if override is None and recorded["version"] == "local":
        raise PackError(
            Problem(
                where=spec,
                what="the plan was made with a rule file of the user",
                fix="Name it with --rules FILE.",
            )
        )
    pack = override or load_pack(spec, preset=recorded["preset"])
    if pack.hash != recorded["hash"]:
        raise PackError(
            Problem(
                where=spec,
                what="the pack has changed since the plan was made",
                got=pack.hash[:19],
                expected=recorded["hash"][:19],
                fix="Plan again, or use the nnrules version that made the plan.",
            )
        )
    return pack


def explain(plan: Plan, path: str, *, pack: Pack | None = None, flips: bool = True) -> Explanation:
    """Explain one field of a plan.

    Args:
        plan: the plan.
        path: the field, e.g. ``configurations.3d_fullres.patch_size``.
        pack: the pack that made the plan; found by name when left out.
        flips: also search the nearest memory targets that change the value (some dozen evaluations).

    Raises:
        PlanError: there is no such field.
    """
    value = plan.get(path)
    index = index_decisions(plan)
    found = find_decision(plan, index, path)
    if found is None:
        return _not_a_decision(path, value)
    entry = found.entry
    explanation = Explanation(
        path=path,
        value=value,
        source="override"
        if "override" in entry
        else "pack"
        if entry["rule"].startswith("configuration ")
        else "rule",
        rule=entry["rule"],
        kind=entry["kind"],
        pack=entry.get("pack") or f"{plan.provenance['pack']['name']}@{plan.provenance['pack']['version']}",
        file=entry["file"],
        line=entry["line"],
        because=entry["because"],
        decides=tuple(entry["decides"]),
        inherited_from=found.inherited_from,
        inputs=tuple(_inputs(plan, entry)),
    )
    try:
        resolved = pack_of(plan, pack)
    except PackError as exc:
        explanation.note = f"Loop rounds and cases are not shown: {exc.problems[0]}"
        return explanation
    _from_pack(explanation, plan, resolved, found, flips=flips)
    return explanation


def _not_a_decision(path: str, value: Json) -> Explanation:
    if path.startswith(("dataset.", "channels[")):
        return Explanation(
            path=path,
            value=value,
            source="fingerprint",
            because="a fact of the dataset, from its fingerprint",
            file="fingerprint.json",
            line=None,
        )
    if path in ENGINE_FIELDS:
        return Explanation(path=path, value=value, source="format", because=ENGINE_FIELDS[path])
    raise PlanError(
        Problem(where=path, what="this is not a single field", fix="Name one of the fields below it.")
    )


def _inputs(plan: Plan, entry: dict[str, Any]) -> Iterator[InputValue]:
    provenance = plan.provenance
    for name, reference in sorted(entry.get("reads", {}).items()):
        kind, _, rest = reference.partition(":")
        if kind == "params":
            param = provenance["params"][rest]
            yield InputValue(
                name=name, value=param["value"], origin=f"parameter, {param['file']}:{param['line']}"
            )
        elif kind == "facts":
            fact = provenance["facts"].get(rest)
            if fact is not None:
                yield InputValue(
                    name=name, value=fact["value"], origin=f"fact, {fact['file']}:{fact['line']}"
                )
        elif kind == "inputs":
            if rest in provenance["inputs"]:
                source = "budget" if rest.startswith("budget.") else "fingerprint"
                yield InputValue(name=name, value=provenance["inputs"][rest], origin=source)
        else:
            try:
                yield InputValue(name=name, value=plan.get(reference), origin=f"decided: {reference}")
            except PlanError:
                continue  # read under a condition that did not hold


def _from_pack(explanation: Explanation, plan: Plan, pack: Pack, found: Origin, *, flips: bool) -> None:
    """Add what only the pack knows: title, cases not taken, rounds, flips."""
    entry = found.entry
    rule = pack.rules.get(entry["rule"])
    if rule is None:
        return
    explanation.title = rule.title
    if entry["case"] is not None and entry["case"] >= 0:
        if entry["case"] >= len(rule.cases):
            where, expected = f"provenance.decisions: rule '{rule.id}'", f"at most {len(rule.cases) - 1}"
            fix = "The plan was changed by hand: plan again."
            raise PlanError(
                Problem(where=where, what="no such case", got=str(entry["case"]), expected=expected, fix=fix)
            )
        case = rule.cases[entry["case"]]
        below = explanation.path[len(found.path) :].lstrip(".")
        member = (
            found.path.partition(".")[2].partition(".")[2]
            if found.path.startswith("configurations.")
            else found.path
        )
        places = case.outcome.leaf_places
        keys = [member, f"{member}.{below}"] if rule.is_group else [below]
        place = next((places[key] for key in reversed(keys) if key in places and key), case.outcome.place)
        explanation.file, explanation.line = place.file.name, place.line
        explanation.untaken = tuple(
            UntakenCase(
                place=f"{other.place.file.name}:{other.place.line}",
                when=str(other.when),
                outcome="did not hold" if position < len(entry.get("whens", [])) else "not looked at",
            )
            for position, other in enumerate(rule.cases)
            if position != entry["case"] and other.when is not None
        )
        words = {word for other in explanation.untaken for word in re.findall(r"\w+", other.when)}
        explanation.names = tuple((name, str(text)) for name, text in rule.let.items() if name in words)
    program = compiled(pack, traced=True)
    node = node_at(program, found.path)
    if node is None or "override" in entry:
        return
    replay = Replay(program, plan)
    if found.path.startswith("channels["):
        replay.channel(int(found.path.removeprefix("channels[").partition("]")[0]))
    try:
        explanation.rounds = tuple(_rounds(replay, program, node, set(plan.provenance["facts"])))
        if flips and replay.depends_on_budget(node):
            position = node.keys.index(key_of(found.path))
            explanation.flips = tuple(_flips(replay, node, position, plan))
    except NnrulesError as exc:
        explanation.note = (
            f"Some of the loops could not be run again from the plan alone: {exc.problems[0].what}."
        )


def _rounds(replay: Replay, program: Program, node: Node, recorded: set[str]) -> Iterator[Rounds]:
    """Rounds of the loops that the decision called, and of those behind the facts that it read."""
    for entry in [node, *(need for need in node.needs if need.fact is not None)]:
        owner = entry.rule or entry.fact
        if owner is None or not functions_of(owner, program.pack):
            continue  # no loop, so nothing to run again
        if entry.constant is not None or (entry.fact and entry.keys[0].removeprefix("fact/") not in recorded):
            continue
        try:
            _, result = replay.run(entry)
        except NnrulesError:
            if entry is node:
                raise
            continue  # a fact over all cases: it has no loop, and its cases are not in the plan
        yield from _outermost(result.trace, program.pack)


def _outermost(trace: list[tuple[str, int, dict[str, Any], str | None]], pack: Pack) -> Iterator[Rounds]:
    """The rows of the loops that no other loop called: inner loops would bury them."""
    inner = {name for function in {row[0] for row in trace} for name in functions_called(pack, function)}
    for name in dict.fromkeys(row[0] for row in trace):
        if name in inner:
            continue
        rows = [row for row in trace if row[0] == name]
        columns = tuple(dict.fromkeys(key for row in rows for key in row[2]))
        yield Rounds(
            function=name,
            columns=columns,
            rows=tuple(tuple(unpack_plain(row[2].get(column)) for column in columns) for row in rows),
            stopped=rows[-1][3],
        )


def unpack_plain(value: Any) -> Json:
    """A traced value as JSON."""
    if isinstance(value, (tuple, list)):
        return [unpack_plain(item) for item in value]
    result: Json = value
    return result


def _flips(replay: Replay, node: Node, position: int, plan: Plan) -> Iterator[BudgetFlip]:
    """The nearest memory targets below and above that give another value; bracketed, then halved."""
    budget = float(plan.provenance["budget"]["gpu_memory_gb"])
    kind = node.types[position]

    def value_at(gb: float) -> Json:
        values = replay.at_budget(node, gb)
        return "not planned" if values is None else unpack(values[position], kind)

    current = value_at(budget)
    for sign, first in ((-1, math.ceil(budget * _STEPS_PER_GB)), (1, math.floor(budget * _STEPS_PER_GB))):
        # In whole steps, so that what is reported is a target that was tried.
        near = first
        for factor in _FACTORS:
            far = round(budget * factor**sign * _STEPS_PER_GB)
            if far < 1 or (far - near) * sign <= 0:
                continue
            other = value_at(far / _STEPS_PER_GB)
            if other == current:
                near = far
                continue
            while abs(far - near) > 1:
                middle = (near + far) // 2
                tried = value_at(middle / _STEPS_PER_GB)
                if tried == current:
                    near = middle
                else:
                    far, other = middle, tried
            yield BudgetFlip(gpu_memory_gb=far / _STEPS_PER_GB, value=other)
            break
