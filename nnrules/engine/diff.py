"""What differs between two plans, why, and what must run again.

A changed field is a *cause* when its own decision changed: another rule or parameter, another outcome of a condition
on the same values, a user's override, or another input. It is a *consequence* when its rule would have decided the
same on the other plan's values, so that only what it reads has moved. Where both packs are at hand this is tried: the
new rule is evaluated on the old plan's values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from nnrules.engine.explain import pack_of
from nnrules.engine.model import Pack
from nnrules.engine.origins import DecisionIndex, find_decision, index_decisions, key_of, node_at
from nnrules.engine.planning import compiled
from nnrules.engine.program import Program
from nnrules.engine.replay import Replay
from nnrules.engine.source import Json
from nnrules.engine.values import unpack
from nnrules.errors import NnrulesError
from nnrules.plan import Plan, value_at
from nnrules.schema import load_schema

__all__ = ["Change", "PlanDiff", "diff_plans"]

Rerun = Literal["preprocess", "train", "predict", "select", "none"]
_ORDER: tuple[Rerun, ...] = ("none", "select", "predict", "train", "preprocess")
_ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs.

    Attributes:
        path: the field.
        old, new: its values; ``"absent"`` where a plan lacks it.
        role: ``cause`` or ``consequence``.
        why: what changed in the decision, or through what the change came.
        rules: the deciding rules, old and new, as ``id (file:line)``.
        kind: kind of the deciding rule: blueprint, inferred or empirical.
        rerun: the earliest stage that must run again for it.
    """

    path: str
    old: Json
    new: Json
    role: Literal["cause", "consequence"]
    why: str
    rules: tuple[str | None, str | None]
    kind: str | None
    rerun: Rerun

    def to_json(self) -> dict[str, Any]:
        """The change as a JSON object."""
        return {
            "path": self.path,
            "old": self.old,
            "new": self.new,
            "role": self.role,
            "why": self.why,
            "rules": list(self.rules),
            "kind": self.kind,
            "rerun": self.rerun,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """All differences between two plans.

    Attributes:
        changes: causes first, in the order of the plan.
        context: what differs around the plans: packs, budgets, fingerprints, presets.
        rerun: for each configuration the earliest stage that must run again.
    """

    changes: tuple[Change, ...]
    context: dict[str, tuple[Json, Json]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether both plans ask for the same work."""
        return not self.changes

    @property
    def causes(self) -> tuple[Change, ...]:
        """Fields whose own decision changed."""
        return tuple(change for change in self.changes if change.role == "cause")

    @property
    def consequences(self) -> tuple[Change, ...]:
        """Fields that only follow."""
        return tuple(change for change in self.changes if change.role == "consequence")

    @property
    def rerun(self) -> Rerun:
        """The earliest stage that must run again."""
        return max((change.rerun for change in self.changes), key=_ORDER.index, default="none")

    def to_json(self) -> dict[str, Any]:
        """The diff as a JSON object."""
        return {
            "same": self.is_empty,
            "context": {name: list(pair) for name, pair in self.context.items()},
            "causes": [change.to_json() for change in self.causes],
            "consequences": [change.to_json() for change in self.consequences],
            "rerun": self.rerun,
        }


@dataclass(slots=True)
class _Side:
    plan: Plan
    index: DecisionIndex
    values: dict[str, Any]
    pack: Pack | None
    replay: Replay | None = None


def _side(plan: Plan, pack: Pack | None) -> _Side:
    try:
        resolved: Pack | None = pack_of(plan, pack)
    except NnrulesError:
        resolved = None
    replay = None if resolved is None else Replay(compiled(resolved), plan)
    return _Side(plan, index_decisions(plan), dict(plan.leaves()), resolved, replay)


def diff_plans(a: Plan, b: Plan, *, packs: tuple[Pack | None, Pack | None] = (None, None)) -> PlanDiff:
    """Compare two plans field by field.

    Args:
        a: the old plan.
        b: the new plan.
        packs: the packs that made them, where they cannot be found by name (overlay files).

    Returns:
        Every field that differs, causes apart from consequences. Provenance itself is not compared.
    """
    old, new = _side(a, packs[0]), _side(b, packs[1])
    context = _context(a, b)
    paths = [*new.values, *(p for p in old.values if p not in new.values)]
    changed = [p for p in paths if not _equal(old.values.get(p, _ABSENT), new.values.get(p, _ABSENT))]
    changed = [p for p in changed if not _inherited_copy(p, old, new, set(changed))]
    changes = [_change(path, old, new, set(changed)) for path in changed]
    changes += _dropped(a, b)
    # Stable: causes first, within each role what was inferred from the data before what is fixed for all data.
    changes.sort(key=lambda change: (change.role != "cause", change.kind == "blueprint"))
    return PlanDiff(changes=tuple(changes), context=context)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _inherited_copy(path: str, old: _Side, new: _Side, changed: set[str]) -> bool:
    """Whether a configuration only repeats a change of the one that it inherits from."""
    for side in (new, old):
        found = find_decision(side.plan, side.index, path)
        if found is not None and found.inherited_from:
            name = path.split(".")[1]
            parent = path.replace(f"configurations.{name}.", f"configurations.{found.inherited_from}.", 1)
            if parent in changed:
                return True
    return False


def _context(a: Plan, b: Plan) -> dict[str, tuple[Json, Json]]:
    def facts(plan: Plan) -> dict[str, Json]:
        provenance = plan.provenance
        pack = provenance["pack"]
        return {
            "pack": f"{pack['name']}@{pack['version']}",
            "preset": pack["preset"],
            "pack hash": pack["hash"],
            "GPU memory (GB)": provenance["budget"]["gpu_memory_gb"],
            "fingerprint": provenance["fingerprint"]["hash"],
            "engine": provenance["engine"],
            "overrides": provenance["overrides"] or None,
        }

    left, right = facts(a), facts(b)
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}


def _dropped(a: Plan, b: Plan) -> list[Change]:
    """Configurations that only one plan has, as one change each rather than a change a field."""
    changes = []
    for name in dict.fromkeys([*a.configurations, *b.configurations]):
        if (name in a.configurations) == (name in b.configurations):
            continue
        gone = name in a.configurations
        missing = (b if gone else a).provenance["dropped"].get(name)
        reason = missing["because"] if missing else "the pack does not plan it"
        place = f"{missing['rule']} ({missing['file']}:{missing['line']})" if missing else None
        changes.append(
            Change(
                path=f"configurations.{name}",
                old="planned" if gone else _ABSENT,
                new=_ABSENT if gone else "planned",
                role="cause",
                why=f"{'now' if gone else 'before'}: {reason}",
                rules=(None, place) if gone else (place, None),
                kind="inferred",
                rerun="train",
            )
        )
    return changes


def _change(path: str, old: _Side, new: _Side, changed: set[str]) -> Change:
    role, why = _judge(path, old, new, changed)
    return Change(
        path=path,
        old=old.values.get(path, _ABSENT),
        new=new.values.get(path, _ABSENT),
        role=role,
        why=why,
        rules=(_rule_text(old, path), _rule_text(new, path)),
        kind=_kind(new, path) or _kind(old, path),
        rerun=_rerun(path),
    )


def _rule_text(side: _Side, path: str) -> str | None:
    found = find_decision(side.plan, side.index, path)
    return None if found is None else f"{found.entry['rule']} ({found.entry['file']}:{found.entry['line']})"


def _kind(side: _Side, path: str) -> str | None:
    found = find_decision(side.plan, side.index, path)
    return None if found is None else str(found.entry["kind"])


def _judge(
    path: str, old: _Side, new: _Side, changed: set[str]
) -> tuple[Literal["cause", "consequence"], str]:
    before, after = find_decision(old.plan, old.index, path), find_decision(new.plan, new.index, path)
    if before is None or after is None:
        if path in old.values and path in new.values:
            return "cause", "a fact of the dataset"
        owner = "old" if path in old.values else "new"
        return "cause", f"only the {owner} plan decides this"
    left, right = before.entry.get("override"), after.entry.get("override")
    if left != right or (left is not None and path in _overridden(old, new)):
        return "cause", "set by the user"
    own = _own_change(before.entry, after.entry, old, new)
    verdict = _counterfactual(path, old, new) if own else None
    if own and verdict is not False:
        return "cause", own
    through = list(_through(after.entry, old, new, changed))
    inputs = [text for text in through if text.startswith(("the ", "case "))]
    if through:
        role: Literal["cause", "consequence"] = (
            "cause" if inputs and len(inputs) == len(through) else "consequence"
        )
        return role, ("" if role == "cause" else "follows from ") + ", ".join(dict.fromkeys(through))
    return "cause", own or "the rule's inputs changed"


def _overridden(old: _Side, new: _Side) -> set[str]:
    return set(old.plan.provenance["overrides"]) | set(new.plan.provenance["overrides"])


def _params(entry: dict[str, Any], side: _Side) -> dict[str, Any]:
    table = side.plan.provenance["params"]
    names = [
        ref.removeprefix("params:") for ref in entry.get("reads", {}).values() if ref.startswith("params:")
    ]
    return {name: table[name]["value"] for name in names}


def _own_change(before: dict[str, Any], after: dict[str, Any], old: _Side, new: _Side) -> str | None:
    """What differs in the decision itself."""
    if before.get("digest") != after.get("digest"):  # what a release file declares has none
        if before["rule"] != after["rule"]:
            return f"rule {after['rule']} decides instead of {before['rule']}"
        return f"rule {after['rule']} changed"
    left, right = _params(before, old), _params(after, new)
    moved = [
        f"{name} {left[name]} → {right[name]}" for name in right if name in left and left[name] != right[name]
    ]
    return "parameter " + ", ".join(moved) if moved else None


def _counterfactual(path: str, old: _Side, new: _Side) -> bool | None:
    """Whether the new rule, on the old plan's values, would have changed the field; None when it cannot be tried."""
    if old.replay is None or new.replay is None:
        return None
    found = find_decision(new.plan, new.index, path)
    program: Program = new.replay.program
    node = None if found is None else node_at(program, found.path)
    if found is None or node is None or "override" in found.entry:
        return None
    trial = Replay(program, old.plan)
    try:
        if found.path.startswith("channels["):
            trial.channel(int(found.path.removeprefix("channels[").partition("]")[0]))
        if node.constant is not None:
            result: Any = ([], [(0, node.constant, ())])
        else:
            result, _ = trial.run(node)
    except NnrulesError:
        return None
    chosen = result[1]
    if len(chosen) != 1 or chosen[0][1] is None:
        return None
    index, members, _ = chosen[0]
    kinds = node.types if node.constant is not None else node.case_types[index]
    position = node.keys.index(key_of(found.path))
    value: Any = unpack(members[position], kinds[position])
    try:
        value = value_at(value, path[len(found.path) :])
    except KeyError:
        value = None
    return not _equal(value, old.values.get(path, _ABSENT))


def _through(after: dict[str, Any], old: _Side, new: _Side, changed: set[str]) -> Iterator[str]:
    """Through which of its inputs the change came."""
    for name, reference in sorted(after.get("reads", {}).items()):
        kind, _, rest = reference.partition(":")
        if kind == "params":
            continue
        if kind == "inputs":
            left, right = (side.plan.provenance["inputs"].get(rest) for side in (old, new))
            if left != right:
                yield "the memory target" if rest.startswith("budget.") else f"the fingerprint ({name})"
        elif kind == "facts":
            left_fact, right_fact = (side.plan.provenance["facts"].get(rest) for side in (old, new))
            if left_fact is None or right_fact is None or left_fact["value"] != right_fact["value"]:
                yield _fact_text(name, left_fact, right_fact)
        elif any(entry == reference or entry.startswith(reference + ".") for entry in changed):
            yield reference


def _fact_text(name: str, left: dict[str, Any] | None, right: dict[str, Any] | None) -> str:
    if left is None or right is None or left["digest"] == right["digest"]:
        return f"fact {name}"
    return f"fact {name}, which is computed otherwise ({right['file']}:{right['line']})"


@lru_cache(maxsize=2048)
def _rerun(path: str) -> Rerun:
    """The stage that reads a field, as the plan schema says (``x-rerun``); the innermost statement counts."""
    schema = load_schema("plan")
    node: Any = schema
    stage: Rerun = "train"
    for part in path.replace("[", ".[").split("."):
        node = _resolve(node, schema)
        if part.startswith("["):
            node = node.get("items", {})
        else:
            properties = node.get("properties", {})
            node = properties.get(part, node.get("additionalProperties", {}))
        if not isinstance(node, dict):
            break
        stage = node.get("x-rerun", _resolve(node, schema).get("x-rerun", stage))
    return stage


def _resolve(node: Any, schema: dict[str, Any]) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        target: Any = schema
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node
