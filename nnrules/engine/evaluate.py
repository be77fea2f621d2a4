"""Evaluates a compiled pack on a fingerprint and a budget, and records how each decision came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnrules.engine.apply_overrides import confirmed_values, missed_overrides, overridden_values, set_parts
from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS
from nnrules.engine.machine import Decision, Evaluation, Machine
from nnrules.engine.model import Case, Pack, Rule
from nnrules.engine.overrides import Overrides
from nnrules.engine.program import Node, Program
from nnrules.engine.types import STR, ListType, RecordType, Type
from nnrules.engine.values import fill_text, matches, repack, unpack
from nnrules.errors import EvaluationError, PlanError, Problem, RefusedError
from nnrules.fingerprint import Fingerprint

__all__ = ["Runner", "evaluate", "inputs_of", "plan_path"]


def inputs_of(pack: Pack, fingerprint: Fingerprint, gpu_memory_gb: float) -> dict[str, Any]:
    """Packed values of every input that the fingerprint has; absent ones are left out.

    Raises:
        EvaluationError: a declared ``extra.*`` column that the fingerprint lacks, with the command that adds it, or
            one of another type.
    """
    values: dict[str, Any] = {"budget.gpu_memory_gb": gpu_memory_gb}
    for name, entry in FINGERPRINT_INPUTS.items():
        value = entry.read(fingerprint)
        if value is not None:
            values[name] = value
    problems = []
    for name, declared in pack.extra.items():
        column = fingerprint.extra_columns.get(name)
        if column is None:
            continue
        kind = {"string": "text"}.get(column.type, column.type)
        if kind != declared.type:
            problems.append(
                declared.place.problem(
                    f"extra.{name} has another type in the fingerprint", got=kind, expected=declared.type
                )
            )
        is_text = kind == "text"
        values[f"extra.{name}"] = (
            tuple(map(str, column.values)) if is_text else np.asarray(column.values, float)
        )
    if problems:
        raise EvaluationError(problems)
    return values


class Runner(Machine):
    """One pass over a program.

    Args:
        program: the compiled pack.
        inputs: environment values that are known from the start.
        fingerprint: the dataset; None for a replay from recorded values.
        overrides: what the user set.
    """

    def __init__(
        self,
        program: Program,
        inputs: Mapping[str, Any],
        fingerprint: Fingerprint | None,
        overrides: Overrides,
    ) -> None:
        super().__init__(program, inputs)
        self.fingerprint = fingerprint
        self.overrides = overrides

    def run(self) -> Evaluation:
        if self.fingerprint is None:
            self.result.configurations += list(self.program.pack.configurations)
        for node in self.program.order:
            if node.fact is not None:
                continue
            if node.configuration is not None and node.configuration not in self.result.configurations:
                continue
            if node.rule is not None and node.rule.scope == "channel":
                self.channels(node)
            else:
                self.decide(node, None)
            if node.keys == ("plan/configurations",):
                listed = self.env["plan/configurations"]
                self.result.configurations[:] = self.listed(node, listed)
        self.demand_one()
        missed_overrides(self, self.overrides)
        self.record_inputs()
        return self.result

    def listed(self, node: Node, names: Sequence[str]) -> list[str]:
        """The configurations to plan, in the pack's order; what inherits needs what it inherits from."""
        known = self.program.pack.configurations
        if not matches(unpack(names, node.types[0]), ListType(STR)):
            got, expected = str(names), "a list of names, e.g. constant: [2d, 3d_fullres]"
            raise EvaluationError(
                node.place.problem(
                    f"{self.describe(node)} gives no list of configurations", got=got, expected=expected
                )
            )
        unknown = [name for name in names if name not in known]
        if unknown:
            got, expected = ", ".join(unknown), ", ".join(known)
            if "configurations" in self.overrides.whole:
                where = "configurations"
                raise PlanError(
                    Problem(
                        where=where, what="the pack has no such configuration", got=got, expected=expected
                    )
                )
            raise EvaluationError(
                node.place.problem(
                    f"{self.describe(node)} lists unknown configurations", got=got, expected=expected
                )
            )
        return [
            name for name, entry in known.items() if name in names and entry.inherits_from in (None, *names)
        ]

    def channels(self, node: Node) -> None:
        assert self.fingerprint is not None
        columns: dict[str, list[Any]] = {key: [] for key in node.keys}
        for index in range(len(self.fingerprint.dataset.channel_names)):
            self.enter_channel(index)
            for key in node.reads.values():
                if key in CHANNEL_INPUTS and dict.__contains__(self.env, key):
                    self.result.inputs[key.replace("channel.", f"channels[{index}].", 1)] = self.env[key]
            self.decide(node, index)
            for key in node.keys:
                columns[key].append(self.env[key])
        for key, values in columns.items():
            self.env[f"{key}[]"] = values

    def enter_channel(self, index: int) -> None:
        assert self.fingerprint is not None
        for name, entry in CHANNEL_INPUTS.items():
            value = entry.read(self.fingerprint, index)
            if value is None:
                self.env.pop(name, None)
            else:
                self.env[name] = value
        for key in [key for key in self.env if key.endswith("[]")]:
            self.env[key[:-2]] = self.env[key][index]

    def decide(self, node: Node, channel: int | None) -> None:
        assert node.rule is not None
        paths = tuple(plan_path(key, channel) for key in node.keys)
        overridden = [path for path in paths if path in self.overrides.whole]
        if overridden and not node.keys[0].startswith("inherited:"):
            self.overrides.used.update(overridden)
            values, kinds, because = confirmed_values(self, self.overrides, node, paths) or overridden_values(
                self, self.overrides, node, paths, overridden
            )
            self.store(node, paths, values, kinds, None, (), (), because, overridden[0])
            return
        if node.constant is not None:
            self.store(node, paths, node.constant, node.types, 0, (), (), node.rule.cases[0].because)
            return
        rounds: list[tuple[str, int]] = []
        whens, found = self.guard(
            node, lambda: self.program.namespace[node.code_name](self.env, self.memo, rounds)
        )
        rule = node.rule
        chosen = self.choose(node, rule, found)
        if chosen is None:
            return
        index, values, because = chosen
        kinds = node.types if index < 0 else node.case_types[index]
        self.store(node, paths, values, kinds, index, tuple(whens), tuple(rounds), because)

    def choose(self, node: Node, rule: Rule, found: list[Any]) -> tuple[int, tuple[Any, ...], str] | None:
        """Apply the hit policy; None when the configuration is dropped."""
        if not found and rule.hit != "collect":
            raise EvaluationError(
                node.place.problem(
                    f"no case of {self.describe(node)} applies",
                    got=self.reading(node),
                    fix="Add a case, or an 'otherwise'.",
                )
            )
        if len(found) > 1 and rule.hit == "unique":
            places = " and ".join(str(rule.cases[index].place) for index, _, _ in found)
            raise EvaluationError(
                rule.cases[found[1][0]].place.problem(
                    f"several cases of {self.describe(node)} apply",
                    got=places,
                    expected="exactly one (hit: unique)",
                    fix="Make the conditions exclusive, or say 'hit: first'.",
                )
            )
        texts = []
        for index, _, shown in found:
            case = rule.cases[index]
            names = node.texts.get(index, ())
            if case.warn:
                self.result.warnings.append((rule.id, fill_text(case.warn, names, shown)))
            if case.outcome.refuse or case.outcome.drop_configuration:
                self.leave(
                    node,
                    rule,
                    case,
                    fill_text(case.outcome.refuse or case.outcome.drop_configuration or "", names, shown),
                )
                return None
            texts.append(fill_text(case.because, names, shown))
        if rule.hit == "collect":
            columns = [tuple(members[i] for _, members, _ in found) for i in range(len(rule.decides))]
            return -1, tuple(columns), "; ".join(texts)
        if rule.hit == "all_equal" and any(members != found[0][1] for _, members, _ in found):
            places = " and ".join(str(rule.cases[index].place) for index, _, _ in found)
            raise EvaluationError(
                node.place.problem(
                    f"the cases of {self.describe(node)} disagree", got=places, expected="equal values"
                )
            )
        return found[0][0], found[0][1], texts[0]

    def leave(self, node: Node, rule: Rule, case: Case, reason: str) -> None:
        if node.configuration is None:
            raise RefusedError(
                Problem(where=f"{rule.id} ({case.place})", what=f"this dataset is refused: {reason}")
            )
        self.result.configurations.remove(node.configuration)
        self.result.dropped[node.configuration] = (rule, reason)
        if case.outcome.refuse:
            self.result.warnings.append((rule.id, f"{node.configuration} is not planned: {reason}"))
        self.drop_orphans()

    def drop_orphans(self) -> None:
        for name, configuration in self.program.pack.configurations.items():
            parent = configuration.inherits_from
            if parent and name in self.result.configurations and parent not in self.result.configurations:
                self.result.configurations.remove(name)
                if parent in self.result.dropped:
                    rule, reason = self.result.dropped[parent]
                    self.result.dropped[name] = (rule, f"it inherits from {parent}: {reason}")

    def demand_one(self) -> None:
        """Refuse a dataset for which nothing is planned, with the reason for each configuration."""
        if self.program.pack.configurations and not self.result.configurations:
            raise RefusedError(
                [
                    Problem(where=f"{name} ({rule.id}, {rule.place})", what=f"not planned: {reason}")
                    for name, (rule, reason) in self.result.dropped.items()
                ]
                or [
                    Problem(
                        where=str(self.program.pack.id),
                        what="no configuration is planned for this dataset",
                        expected=", ".join(self.program.pack.configurations),
                        fix="Correct the rule that decides 'configurations'.",
                    )
                ]
            )

    def store(  # noqa: PLR0917 - the fields of one Decision
        self,
        node: Node,
        paths: tuple[str, ...],
        values: tuple[Any, ...],
        kinds: tuple[Type, ...],
        case: int | None,
        whens: tuple[bool, ...],
        rounds: tuple[tuple[str, int], ...],
        because: str,
        overridden: str | None = None,
    ) -> None:
        plain = tuple(unpack(value, kind) for value, kind in zip(values, kinds, strict=True))
        self.demand_finite(node, plain)
        changed = [path for path in paths if path in self.overrides.parts]
        if changed:
            plain = tuple(
                set_parts(self.overrides, path, value, kind)
                for path, value, kind in zip(paths, plain, kinds, strict=True)
            )
            values = tuple(repack(value, kind) for value, kind in zip(plain, kinds, strict=True))
            overridden = overridden or changed[0]
        for key, value, json_value, kind, declared in zip(
            node.keys, values, plain, kinds, node.types, strict=True
        ):
            # Cases of different types are kept as plain JSON: no rule computes with them.
            self.env[key] = value if kind == declared or not isinstance(kind, RecordType) else json_value
        if node.keys[0].startswith("inherited:"):
            return
        self.result.decisions.append(
            Decision(
                node=node,
                paths=paths,
                values=plain,
                case=case,
                whens=whens,
                because=because,
                rounds=rounds,
                reads=node.reads,
                overridden=overridden,
            )
        )

    def record_inputs(self) -> None:
        program = self.program
        names = {**FINGERPRINT_INPUTS, **BUDGET_INPUTS}
        used = {key for node in program.order for key in node.reads.values()}
        for key in sorted(used):
            if (key in names or key.startswith("extra.")) and dict.__contains__(self.env, key):
                kind = next(
                    node.read_types[n] for node in program.order for n, k in node.reads.items() if k == key
                )
                self.result.inputs[key] = unpack(self.env[key], kind)


def plan_path(key: str, channel: int | None) -> str:
    """The plan path of an environment key."""
    scope, _, path = key.partition("/")
    if scope == "config":
        configuration, _, path = path.partition("/")
        return f"configurations.{configuration}.{path}"
    return f"channels[{channel}].{path}" if scope == "channel" else path


def evaluate(
    program: Program, fingerprint: Fingerprint, gpu_memory_gb: float, overrides: Overrides | None = None
) -> Evaluation:
    """Evaluate every decision.

    Args:
        program: a compiled pack.
        fingerprint: the dataset.
        gpu_memory_gb: the memory target.
        overrides: what the user set.

    Raises:
        EvaluationError: a rule failed on these values, with its place and the values it read.
        RefusedError: a rule refuses the dataset.
        PlanError: an override that cannot be.
    """
    inputs = inputs_of(program.pack, fingerprint, gpu_memory_gb)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        return Runner(program, inputs, fingerprint, overrides or Overrides()).run()
