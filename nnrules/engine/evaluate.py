"""Evaluates a compiled pack on a fingerprint and a budget, and records how each decision came about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnrules.engine.compile_expression import pack_json
from nnrules.engine.compile_pack import AtMostReachedError, Node, Program, compile_pack, placeholders
from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS
from nnrules.engine.model import Case, Pack, Rule
from nnrules.engine.overrides import Overrides
from nnrules.engine.source import Json
from nnrules.engine.types import BOOL, NUM, STR, ListType, RecordType, Type, VecType
from nnrules.errors import EvaluationError, NnrulesError, PlanError, Problem, RefusedError
from nnrules.fingerprint import Fingerprint

__all__ = [
    "Decision", "Evaluation", "MissingValueError", "Runner", "evaluate", "inputs_of", "matches", "render", "repack",
    "unpack",
]  # fmt: skip

_MISSING = object()


class MissingValueError(Exception):
    """A rule read a name that has no value here; carries the environment key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How one rule decided, for one configuration or channel.

    Attributes:
        node: the compiled rule.
        paths: the plan paths that it decided.
        values: the decided values as JSON, one a path.
        case: index of the case taken; None for an override, -1 for several (``collect``).
        whens: what each ``when`` gave, in case order, as far as they were evaluated.
        because: the reason of the case, with its values.
        rounds: rounds of each loop that the rule called directly.
        reads: environment keys that it read, by name.
        overridden: the path whose override led here, if any.
    """

    node: Node
    paths: tuple[str, ...]
    values: tuple[Json, ...]
    case: int | None
    whens: tuple[bool, ...]
    because: str
    rounds: tuple[tuple[str, int], ...]
    reads: Mapping[str, str]
    overridden: str | None = None


@dataclass(slots=True)
class Evaluation:
    """The outcome of one evaluation.

    Attributes:
        decisions: every decision, in evaluation order.
        facts: the facts that were needed: key → (node, JSON value).
        inputs: fingerprint and budget values that were read, case matrices as summaries.
        configurations: the configurations that are planned, in the pack's order.
        dropped: configurations that are not, with the rule and the reason.
        warnings: texts of the rules that warned.
        env: the raw values, for replays.
        trace: rounds of loops, when the program is traced.
    """

    decisions: list[Decision] = field(default_factory=list)
    facts: dict[str, tuple[Node, Json]] = field(default_factory=dict)
    inputs: dict[str, Json] = field(default_factory=dict)
    configurations: list[str] = field(default_factory=list)
    dropped: dict[str, tuple[Rule, str]] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)
    trace: list[tuple[str, int, dict[str, Any], str | None]] = field(default_factory=list)


def unpack(value: Any, kind: Type) -> Json:
    """The JSON form of a packed value; a case matrix or column becomes a summary."""
    if isinstance(kind, RecordType):
        return {name: unpack(item, inner) for (name, inner), item in zip(kind.fields, value, strict=True)}
    if isinstance(kind, ListType) and kind.item is not None:
        inner_kind = kind.item
        return [unpack(item, inner_kind) for item in value]
    if isinstance(value, np.ndarray):
        return {
            "cases": len(value),
            "min": value.min(axis=0).tolist(),
            "median": np.median(value, axis=0).tolist(),
            "max": value.max(axis=0).tolist(),
        }
    return _plain(value)


def _plain(value: Any) -> Json:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    result: Json = value
    return result


def matches(value: Json, kind: Type) -> bool:
    """Whether a JSON value can stand for a value of this type."""
    if kind in (NUM, BOOL, STR):
        wanted = (int, float) if kind == NUM else (bool,) if kind == BOOL else (str,)
        return isinstance(value, wanted) and not (kind == NUM and isinstance(value, bool))
    if isinstance(kind, VecType):
        return isinstance(value, list) and len(value) == kind.length and all(matches(v, kind.item) for v in value)
    if isinstance(kind, ListType):
        item = kind.item
        return isinstance(value, list) and (item is None or all(matches(v, item) for v in value))
    if isinstance(kind, RecordType):
        names = {name for name, _ in kind.fields}
        return isinstance(value, dict) and set(value) == names and all(matches(value[n], k) for n, k in kind.fields)
    return True


def repack(value: Json, kind: Type) -> Any:
    """The packed form of a JSON value of this type (record fields in the type's order)."""
    if isinstance(kind, RecordType) and isinstance(value, dict):
        return tuple(repack(value[name], inner) for name, inner in kind.fields)
    if isinstance(kind, ListType) and isinstance(value, list) and kind.item is not None:
        inner_kind = kind.item
        return tuple(repack(item, inner_kind) for item in value)
    return pack_json(value) if isinstance(value, list) else value


def render(value: Any) -> str:
    """A value as it stands in a text for people: at most five significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if value != int(value) or abs(value) >= 1e15 else str(int(value))
    if isinstance(value, (tuple, list)):
        return " × ".join(map(render, value)) if value and not isinstance(value[0], (tuple, list)) else str(list(value))
    return str(value)


def _fill(text: str, names: tuple[str, ...], values: tuple[Any, ...]) -> str:
    for name, value in zip(names, values, strict=True):
        text = text.replace("{" + name + "}", render(value)).replace("{ " + name + " }", render(value))
    return text


class _Environment(dict[str, Any]):
    """Values by key; facts are computed when they are first read."""

    def __init__(self, compute: Callable[[str], Any]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, key: str) -> Any:
        value = self._compute(key)
        self[key] = value
        return value


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
                declared.place.problem(f"extra.{name} has another type in the fingerprint", got=kind, expected=declared.type)
            )
        is_text = kind == "text"
        values[f"extra.{name}"] = tuple(map(str, column.values)) if is_text else np.asarray(column.values, float)
    if problems:
        raise EvaluationError(problems)
    return values


class Runner:
    """One pass over a program.

    Args:
        program: the compiled pack.
        inputs: environment values that are known from the start.
        fingerprint: the dataset; None for a replay from recorded values.
        overrides: what the user set.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], fingerprint: Fingerprint | None, overrides: Overrides
    ) -> None:
        self.program = program
        self.fingerprint = fingerprint
        self.overrides = overrides
        self.result = Evaluation()
        self.env = _Environment(self.compute)
        self.env.update(inputs)
        self.env["configurations"] = self.result.configurations
        self.memo: dict[Any, Any] = {"trace": self.result.trace}
        self.result.env = self.env

    # -- values ---------------------------------------------------------------------------------------------------

    def compute(self, key: str) -> Any:
        node = self.program.by_key.get(key)
        if node is None or node.fact is None:
            raise MissingValueError(key)
        value = self.guard(node, lambda: self.program.namespace[node.code_name](self.env, self.memo, []))
        self.result.facts[key] = (node, unpack(value, node.types[0]))
        return value

    def guard(self, node: Node, call: Callable[[], Any]) -> Any:
        """Run generated code; anything that goes wrong becomes an error at the place in the rule file."""
        try:
            return call()
        except NnrulesError:
            raise
        except MissingValueError as exc:
            raise self.missing(node, exc) from None
        except AtMostReachedError as exc:
            raise self.endless(node, exc) from None
        except (ArithmeticError, ValueError, TypeError, IndexError, RecursionError, MemoryError) as exc:
            place = self.program.place_of(exc) or node.place
            texts = {"ZeroDivisionError": "division by zero", "FloatingPointError": "division by zero"}
            what = texts.get(type(exc).__name__, str(exc) or type(exc).__name__)
            raise EvaluationError(
                place.problem(
                    f"{self.describe(node)} failed: {what}", got=self.reading(node),
                    fix="Check these values in the fingerprint, or guard the rule with 'when'.",
                )  # fmt: skip
            ) from None

    def describe(self, node: Node) -> str:
        owner = f"rule '{node.rule.id}'" if node.rule else f"fact '{node.fact.name}'" if node.fact else node.id
        return f"{owner} for {node.configuration}" if node.configuration else owner

    def reading(self, node: Node) -> str | None:
        shown = [
            f"{name} = {render(unpack(self.env[key], node.read_types[name]))}"
            for name, key in node.reads.items()
            if dict.__contains__(self.env, key)
        ]
        return "; ".join(shown) or None

    def missing(self, node: Node, error: MissingValueError) -> EvaluationError:
        key = str(error.args[0])
        place = self.program.place_of(error) or node.place
        if key.startswith("config/"):
            configuration = key.split("/")[1]
            dropped = self.result.dropped.get(configuration)
            reason = f" ({dropped[1]})" if dropped else ""
            return EvaluationError(
                place.problem(
                    f"{self.describe(node)} reads configuration {configuration}, which is not planned{reason}",
                    fix=f"Ask has(config_{configuration}) first.",
                )
            )
        name = next((name for name, known in node.reads.items() if known == key), key)
        column = self.program.pack.extra.get(key.removeprefix("extra."))
        if key.startswith("extra.") and column is not None:
            adds = (
                f"Install the extractor '{column.extractor}' and run `nnrules fingerprint` again."
                if column.extractor
                else f"Run `nnrules fingerprint DATASET --features FILE.csv` with a column '{column.name}'."
            )
            return EvaluationError(place.problem(f"the fingerprint lacks '{name}', which this pack reads", fix=adds))
        entry = FINGERPRINT_INPUTS.get(key) or CHANNEL_INPUTS.get(key)
        hint = f"extractor '{entry.extractor}'; " if entry else ""
        return EvaluationError(
            place.problem(
                f"the fingerprint lacks '{name}', which {self.describe(node)} reads",
                fix=f"Run `nnrules fingerprint` on the images ({hint}nnU-Net's own fingerprints hold less), "
                f"or ask has({name}) in the rule.",
            )
        )

    def endless(self, node: Node, error: AtMostReachedError) -> EvaluationError:
        function, limit = error.args
        rows = ""
        if not self.result.trace:
            traced = compile_pack(self.program.pack, traced=True)
            again = Runner(traced, {}, self.fingerprint, Overrides())
            again.env.update(self.env)
            twin = traced.by_key[node.keys[0]]
            try:
                traced.namespace[twin.code_name](again.env, again.memo, [])
            except AtMostReachedError:
                last = [row for row in again.result.trace if row[0] == function][-3:]
                rows = "; ".join(
                    f"round {number + 1}: " + ", ".join(f"{key} = {render(value)}" for key, value in state.items())
                    for _, number, state, _ in last
                )
        place = self.program.pack.functions[function].place
        return EvaluationError(
            place.problem(
                f"the loop of '{function}' did not stop within {limit} rounds ({self.describe(node)})",
                got=rows or None,
                fix="Raise 'at_most', or correct 'stop_if' or what 'set' changes.",
            )
        )

    # -- rules ----------------------------------------------------------------------------------------------------

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
                order = [name for name in self.program.pack.configurations if name in listed]
                self.result.configurations[:] = order
        self.drop_orphans()
        self.check_overrides()
        self.record_inputs()
        return self.result

    def check_overrides(self) -> None:
        """An override that reached no decision belongs to a configuration or channel that is not planned."""
        missed = [path for path in [*self.overrides.whole, *self.overrides.parts] if path not in self.overrides.used]
        problems = []
        for path in missed:
            if path in self.overrides.optional:
                continue
            configuration = path.split(".")[1] if path.startswith("configurations.") else ""
            _, reason = self.result.dropped.get(configuration, (None, "the dataset has no such entry"))
            problems.append(Problem(where=path, what=f"this is not part of the plan: {reason}", fix="Leave it out."))
        if problems:
            raise PlanError(problems)

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
        paths = tuple(_plan_path(key, channel) for key in node.keys)
        overridden = [path for path in paths if path in self.overrides.whole]
        if overridden and not node.keys[0].startswith("inherited:"):
            self.overrides.used.update(overridden)
            self.override(node, paths, overridden)
            return
        if node.constant is not None:
            self.store(node, paths, node.constant, node.types, 0, (), (), node.rule.cases[0].because)
            return
        rounds: list[tuple[str, int]] = []
        whens, found = self.guard(
            node, lambda: self.program.namespace[node.code_name](self.env, self.memo, rounds)
        )
        rule = node.rule
        chosen = self.choose(node, rule, tuple(whens), found)
        if chosen is None:
            return
        index, values, because = chosen
        kinds = node.types if index < 0 else node.case_types[index]
        self.store(node, paths, values, kinds, index, tuple(whens), tuple(rounds), because)

    def choose(
        self, node: Node, rule: Rule, whens: tuple[bool, ...], found: list[Any]
    ) -> tuple[int, tuple[Any, ...], str] | None:
        """Apply the hit policy; None when the configuration is dropped."""
        if not found and rule.hit != "collect":
            raise EvaluationError(
                node.place.problem(
                    f"no case of {self.describe(node)} applies", got=self.reading(node),
                    fix="Add a case, or an 'otherwise'.",
                )  # fmt: skip
            )
        if len(found) > 1 and rule.hit == "unique":
            places = " and ".join(str(rule.cases[index].place) for index, _, _ in found)
            raise EvaluationError(
                rule.cases[found[1][0]].place.problem(
                    f"several cases of {self.describe(node)} apply", got=places,
                    expected="exactly one (hit: unique)", fix="Make the conditions exclusive, or say 'hit: first'.",
                )  # fmt: skip
            )
        texts = []
        for index, _, shown in found:
            case = rule.cases[index]
            names = node.texts.get(index, ())
            if case.warn:
                self.result.warnings.append((rule.id, _fill(case.warn, names, shown)))
            if case.outcome.refuse or case.outcome.drop_configuration:
                self.leave(node, rule, case, _fill(case.outcome.refuse or case.outcome.drop_configuration or "", names, shown))
                return None
            texts.append(_fill(case.because, names, shown))
        if rule.hit == "collect":
            columns = [tuple(members[i] for _, members, _ in found) for i in range(len(rule.decides))]
            return -1, tuple(columns), "; ".join(texts)
        if rule.hit == "all_equal" and any(members != found[0][1] for _, members, _ in found):
            places = " and ".join(str(rule.cases[index].place) for index, _, _ in found)
            raise EvaluationError(
                node.place.problem(f"the cases of {self.describe(node)} disagree", got=places, expected="equal values")
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

    def drop_orphans(self) -> None:
        for name, configuration in self.program.pack.configurations.items():
            parent = configuration.inherits_from
            if parent and name in self.result.configurations and parent not in self.result.configurations:
                self.result.configurations.remove(name)
                if parent in self.result.dropped:
                    rule, reason = self.result.dropped[parent]
                    self.result.dropped[name] = (rule, f"it inherits from {parent}: {reason}")
        if self.program.pack.configurations and not self.result.configurations:
            raise RefusedError(
                [
                    Problem(where=f"{name} ({rule.id}, {rule.place})", what=f"not planned: {reason}")
                    for name, (rule, reason) in self.result.dropped.items()
                ]
                or [Problem(where=str(self.program.pack.id), what="no configuration is planned for this dataset")]
            )

    def store(
        self, node: Node, paths: tuple[str, ...], values: tuple[Any, ...], kinds: tuple[Type, ...], case: int | None,
        whens: tuple[bool, ...], rounds: tuple[tuple[str, int], ...], because: str, overridden: str | None = None,
    ) -> None:  # fmt: skip
        plain = tuple(unpack(value, kind) for value, kind in zip(values, kinds, strict=True))
        changed = [path for path in paths if path in self.overrides.parts]
        if changed:
            plain = tuple(
                self.override_parts(path, value, kind) for path, value, kind in zip(paths, plain, kinds, strict=True)
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
                node=node, paths=paths, values=plain, case=case, whens=whens, because=because, rounds=rounds,
                reads=node.reads, overridden=overridden,
            )  # fmt: skip
        )

    def override_parts(self, path: str, value: Json, kind: Type) -> Json:
        """Change leaves inside a decided record."""
        for keys, wanted in self.overrides.parts.get(path, []):
            self.overrides.used.add(path)
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

    def override(self, node: Node, paths: tuple[str, ...], overridden: list[str]) -> None:
        rule = node.rule
        assert rule is not None
        packed = {}
        for path, kind in zip(paths, node.types, strict=True):
            if path not in self.overrides.whole:
                continue
            value = self.overrides.whole[path]
            if not matches(value, kind):
                raise PlanError(Problem(where=path, what="wrong type for this field", got=str(value), expected=str(kind)))
            packed[path] = repack(value, kind)
        if len(overridden) == len(paths):
            values = tuple(packed[path] for path in paths)
            self.store(node, paths, values, node.types, None, (), (), "set by the user", paths[0])
            return
        members = [rule.decides[paths.index(path)] for path in overridden]
        if len(members) > 1 or members[0] not in node.branches:
            raise self.group_error(rule, paths, overridden)
        self.memo["override"] = packed[overridden[0]]
        given = rule.given[members[0]]
        broken, values = self.guard(
            node, lambda: self.program.namespace[node.branches[members[0]]](self.env, self.memo, [])
        )
        if broken:
            raise PlanError(
                [
                    Problem(
                        where=overridden[0],
                        what=_fill(given.require[index].message, tuple(placeholders(given.require[index].message)), shown),
                        got=render(self.overrides.whole[overridden[0]]),
                        fix=f"The nearest valid value is {render(near)}." if near is not None else None,
                    )
                    for index, shown, near in broken
                ]
            )
        self.store(node, paths, values, node.types, None, (), (), given.because, overridden[0])

    def group_error(self, rule: Rule, paths: tuple[str, ...], overridden: list[str]) -> PlanError:
        others = ", ".join(path for path in paths if path not in overridden)
        free = [paths[rule.decides.index(member)] for member in rule.given]
        fix = f"Set {' or '.join(free)} instead: the others follow. " if free else ""
        return PlanError(
            Problem(
                where=", ".join(overridden),
                what=f"rule '{rule.id}' decides this together with {others}, so it cannot be set alone",
                fix=f"{fix}Or set all of them.",
            )
        )

    def record_inputs(self) -> None:
        program = self.program
        names = {**FINGERPRINT_INPUTS, **BUDGET_INPUTS}
        used = {key for node in program.order for key in node.reads.values()}
        for key in sorted(used):
            if (key in names or key.startswith("extra.")) and dict.__contains__(self.env, key):
                kind = next(node.read_types[n] for node in program.order for n, k in node.reads.items() if k == key)
                self.result.inputs[key] = unpack(self.env[key], kind)


def _plan_path(key: str, channel: int | None) -> str:
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


