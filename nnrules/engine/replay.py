"""Evaluates parts of a pack again from what a plan recorded, without the fingerprint.

A plan holds every value that a decision read except the case matrices; what follows from those is recorded as facts.
That is enough to show the rounds of a loop, to ask what another memory budget would give, and to try one pack's rule
on another plan's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnrules.engine.evaluate import Runner
from nnrules.engine.machine import Evaluation
from nnrules.engine.overrides import resolve_overrides
from nnrules.engine.program import Node, Program
from nnrules.engine.types import COLUMN, MATRIX
from nnrules.engine.values import matches, repack
from nnrules.plan import Plan, value_at

__all__ = ["Replay"]

_BUDGET = "budget.gpu_memory_gb"
_LISTING = "plan/configurations"


class Replay:
    """A plan's recorded values under a compiled pack.

    Args:
        program: the pack, compiled; traced to see the rounds of loops.
        plan: the plan whose values are used.
    """

    def __init__(self, program: Program, plan: Plan) -> None:
        self.program = program
        self.plan = plan
        self.values = self._recorded()
        self._droppers = _droppers(program)
        self._moving: dict[str, bool] = {}

    def _recorded(self) -> dict[str, Any]:
        provenance = self.plan.provenance
        values: dict[str, Any] = {}
        for name, value in provenance["inputs"].items():
            if not (isinstance(value, dict) and "cases" in value):
                values[name] = tuple(value) if isinstance(value, list) else value
        for node in self.program.order:
            for key, kind in zip(node.keys, node.types, strict=True):
                found, value = self._value(key)
                # Under another pack than the plan's own a field may have another type; it counts as unknown then.
                if found and kind not in (MATRIX, COLUMN) and matches(value, kind):
                    values[key] = repack(value, kind)
        values[_BUDGET] = provenance["budget"]["gpu_memory_gb"]
        return values

    def _value(self, key: str) -> tuple[bool, Any]:
        scope, _, path = key.partition("/")
        facts = self.plan.provenance["facts"]
        if scope == "fact":
            return (path in facts, facts[path]["value"] if path in facts else None)
        if key == _LISTING:
            listed = {**self.plan.configurations, **self.plan.provenance["dropped"]}
            return True, [name for name in self.program.pack.configurations if name in listed]
        if scope == "config":
            path = "configurations." + path.replace("/", ".", 1)
        elif scope != "plan":
            return False, None
        try:
            return True, value_at(self.plan.document, path)
        except KeyError:
            return False, None

    def channel(self, index: int) -> None:
        """Make the values of one channel the current ones."""
        prefix = f"channels[{index}]."
        for name, value in self.plan.provenance["inputs"].items():
            if name.startswith(prefix):
                self.values[name.replace(prefix, "channel.", 1)] = value
        for node in self.program.order:
            for key, kind in zip(node.keys, node.types, strict=True):
                if key.startswith("channel/"):
                    try:
                        value = value_at(self.plan.document, prefix + key.removeprefix("channel/"))
                    except KeyError:
                        continue
                    if matches(value, kind):
                        self.values[key] = repack(value, kind)

    def run(self, node: Node) -> tuple[Any, Evaluation]:
        """Evaluate one decision or fact on the recorded values.

        Returns:
            What the generated code returned (for a rule: whens and cases found), and the evaluation with its trace.

        Raises:
            NnrulesError: a value that the node needs was not recorded, or it fails.
        """
        runner = self._runner(self.values, self.plan.configurations)
        # A fact is what is asked for, so its recorded value must not stand in for it.
        for key in node.keys:
            runner.env.pop(key, None)
        with np.errstate(all="ignore"):
            for entry in _replaced(node):
                runner.decide(entry, None)
            result = runner.guard(
                node, lambda: self.program.namespace[node.code_name](runner.env, runner.memo, [])
            )
        return result, runner.result

    def at_budget(self, node: Node, gpu_memory_gb: float) -> tuple[Any, ...] | None:
        """What a decision would be at another memory target; None when its configuration would not be planned.

        Raises:
            NnrulesError: a value that is needed was not recorded.
        """
        needed = self._needed(node)
        moving = {key for entry in needed.values() if self._moves(entry) for key in entry.keys}
        values = {key: value for key, value in self.values.items() if key not in moving}
        values[_BUDGET] = gpu_memory_gb
        runner = self._runner(values, {**self.plan.configurations, **self.plan.provenance["dropped"]})
        planned = runner.result.configurations
        for entry in self.program.order:
            if entry.rule is None or entry.keys[0] not in needed:
                continue
            if entry.configuration is not None and entry.configuration not in planned:
                continue
            if all(dict.__contains__(runner.env, key) for key in entry.keys):
                continue
            runner.decide(entry, None)
            if entry.keys == (_LISTING,):
                planned[:] = runner.listed(entry, runner.env[_LISTING])
        if node.configuration is not None and node.configuration not in planned:
            return None
        return tuple(runner.env[key] for key in node.keys)

    def depends_on_budget(self, node: Node) -> bool:
        """Whether the memory target decides what a node gives, or whether its configuration is planned."""
        return any(self._moves(entry) for entry in self._needed(node).values())

    def _moves(self, node: Node) -> bool:
        """Whether a node reads the memory target, directly or through others."""
        known = self._moving.get(node.keys[0])
        if known is None:
            known = _BUDGET in node.reads.values() or any(self._moves(entry) for entry in node.needs)
            self._moving[node.keys[0]] = known
        return known

    def _needed(self, node: Node) -> dict[str, Node]:
        """What a node follows from, and what may drop the configurations of all these, by first key."""
        found: dict[str, Node] = {}
        stack = [node]
        while stack:
            entry = stack.pop()
            if entry.keys[0] not in found:
                found[entry.keys[0]] = entry
                stack += entry.needs
                stack += self._droppers.get(entry.configuration or "", ())
        return found

    def _runner(self, values: Mapping[str, Any], configurations: Iterable[str]) -> Runner:
        overrides = resolve_overrides(self.program, self.plan.provenance["overrides"])
        runner = Runner(self.program, values, None, overrides)
        runner.result.configurations[:] = [
            name for name in self.program.pack.configurations if name in configurations
        ]
        return runner


def _droppers(program: Program) -> dict[str, list[Node]]:
    """By configuration, the decisions that may drop it or what it inherits from."""
    found: dict[str, list[Node]] = {}
    for node in program.order:
        cases = () if node.rule is None or node.keys[0].startswith("inherited:") else node.rule.cases
        if node.configuration and any(c.outcome.drop_configuration or c.outcome.refuse for c in cases):
            found.setdefault(node.configuration, []).append(node)
    for name, entry in program.pack.configurations.items():
        if entry.inherits_from in found:
            found.setdefault(name, []).extend(found[entry.inherits_from])
    return found


def _replaced(node: Node) -> list[Node]:
    """The rules that a rule replaced and reads as ``inherited``, the innermost first."""
    return [] if node.inherited is None else [*_replaced(node.inherited), node.inherited]
