"""Runs generated code on an environment, and turns what goes wrong into errors at places in rule files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.inputs import CHANNEL_INPUTS, FINGERPRINT_INPUTS
from nnrules.engine.model import Rule
from nnrules.engine.program import AtMostReachedError, Node, Program
from nnrules.engine.source import Json
from nnrules.engine.values import is_finite, render, unpack
from nnrules.errors import EvaluationError, NnrulesError

__all__ = ["Decision", "Evaluation", "Machine", "MissingValueError"]


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


class Environment(dict[str, Any]):
    """Values by key; facts are computed when they are first read."""

    def __init__(self, compute: Callable[[str], Any]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, key: str) -> Any:
        value = self._compute(key)
        self[key] = value
        return value


class Machine:
    """A program, the values it works on, and what came out so far.

    Args:
        program: the compiled pack.
        inputs: environment values that are known from the start.
    """

    def __init__(self, program: Program, inputs: Mapping[str, Any]) -> None:
        self.program = program
        self.result = Evaluation()
        self.env = Environment(self.compute)
        self.env.update(inputs)
        self.env["configurations"] = self.result.configurations
        self.memo: dict[Any, Any] = {"trace": self.result.trace}
        self.result.env = self.env

    def compute(self, key: str) -> Any:
        """Evaluate a fact when it is first read."""
        node = self.program.by_key.get(key)
        if node is None or node.fact is None:
            raise MissingValueError(key)
        value = self.guard(node, lambda: self.program.namespace[node.code_name](self.env, self.memo, []))
        plain = unpack(value, node.types[0])
        self.demand_finite(node, (plain,))
        self.result.facts[key] = (node, plain)
        return value

    def demand_finite(self, node: Node, values: Sequence[Json]) -> None:
        """Refuse infinite numbers, which scalar arithmetic gives on overflow and a plan cannot hold."""
        if all(is_finite(value) for value in values):
            return
        raise EvaluationError(
            node.place.problem(
                f"{self.describe(node)} gives a number that is not finite",
                got=self.reading(node),
                fix="Check these values in the fingerprint, or guard the rule with 'when'.",
            )
        )

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
            is_division = isinstance(exc, ZeroDivisionError) or "divide by zero" in str(exc)
            what = "division by zero" if is_division else str(exc) or type(exc).__name__
            raise EvaluationError(
                place.problem(
                    f"{self.describe(node)} failed: {what}",
                    got=self.reading(node),
                    fix="Check these values in the fingerprint, or guard the rule with 'when'.",
                )
            ) from None

    def describe(self, node: Node) -> str:
        """The rule or fact, with its configuration, for messages."""
        owner = (
            f"rule '{node.rule.id}'" if node.rule else f"fact '{node.fact.name}'" if node.fact else node.id
        )
        return f"{owner} for {node.configuration}" if node.configuration else owner

    def reading(self, node: Node) -> str | None:
        """The values that a node read, for messages."""
        shown = [
            f"{name} = {render(unpack(self.env[key], node.read_types[name]))}"
            for name, key in node.reads.items()
            if dict.__contains__(self.env, key)
        ]
        return "; ".join(shown) or None

    def missing(self, node: Node, error: MissingValueError) -> EvaluationError:
        """The error for a name without a value, with the command that adds it."""
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
            return EvaluationError(
                place.problem(f"the fingerprint lacks '{name}', which this pack reads", fix=adds)
            )
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
        """The error for a loop that did not stop, with its last states."""
        function, limit = error.args
        rows = ""
        if not self.result.trace:
            traced = compile_pack(self.program.pack, traced=True)
            again = Machine(traced, self.env)
            twin = traced.by_key[node.keys[0]]
            try:
                traced.namespace[twin.code_name](again.env, again.memo, [])
            except AtMostReachedError:
                last = [row for row in again.result.trace if row[0] == function][-3:]
                rows = "; ".join(
                    f"round {number + 1}: "
                    + ", ".join(f"{key} = {render(value)}" for key, value in state.items())
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
