"""Evaluates one rule or function alone, on values that a test gives by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnrules.engine.compile_function import FunctionLibrary
from nnrules.engine.evaluate import Runner
from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS, extra_type
from nnrules.engine.machine import Evaluation, MissingValueError
from nnrules.engine.overrides import Overrides
from nnrules.engine.program import AtMostReachedError, Node, Program, generated_namespace
from nnrules.engine.source import Json, Place
from nnrules.engine.types import COLUMN, MATRIX, Type, type_of_json
from nnrules.engine.values import matches, repack, unpack
from nnrules.errors import EvaluationError, Problem

__all__ = ["Given", "call_function", "evaluate_rule", "node_of_rule", "read_given"]

_ERRORS = (ArithmeticError, ValueError, TypeError, IndexError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Packed values by environment key, and the configurations that count as planned."""

    values: Mapping[str, Any]
    configurations: tuple[str, ...]


def node_of_rule(program: Program, rule: str, configuration: str | None, place: Place) -> Node:
    """The compiled rule for a configuration.

    Raises:
        EvaluationError: no such rule, or it does not run for this configuration, or for several and none
            is named.
    """
    nodes = [
        node
        for node in program.order
        if node.rule is not None and node.rule.id == rule and not node.keys[0].startswith("inherited:")
    ]
    if not nodes:
        known = ", ".join(sorted(program.pack.rules))
        raise EvaluationError(place.problem(f"no rule '{rule}' in {program.pack.id}", expected=known))
    named = [str(node.configuration) for node in nodes if node.configuration is not None]
    if configuration is not None:
        nodes = [node for node in nodes if node.configuration == configuration]
    if len(nodes) == 1:
        return nodes[0]
    expected = (
        "one of " + ", ".join(named) if named else "no configuration: the rule is not of scope configuration"
    )
    raise EvaluationError(
        place.problem(
            f"the test of rule '{rule}' must name a configuration that the rule runs for",
            got=configuration or "none",
            expected=expected,
        )
    )


def _key_and_type(program: Program, node: Node, name: str) -> tuple[str, Type] | None:
    """Environment key and type of a name as the rule would read it; None when nothing has that name."""
    for table in (FINGERPRINT_INPUTS, CHANNEL_INPUTS):
        if name in table:
            return name, table[name].type
    if name in BUDGET_INPUTS:
        return name, BUDGET_INPUTS[name][0]
    column = program.pack.extra.get(name.removeprefix("extra.")) if name.startswith("extra.") else None
    if column is not None:
        return name, extra_type(column.type)
    if name == "inherited" and node.inherited is not None:
        return str(node.inherited_key), node.inherited.types[0]
    own = f"{node.configuration}/" if node.configuration else ""
    head, _, path = name.partition(".")
    keys = [f"fact/{own}{name}", f"fact/{name}"]
    if head == "config":
        keys.append(f"config/{own}{path}")
    elif head.startswith("config_"):
        keys.append(f"config/{head.removeprefix('config_')}/{path}")
    elif head in ("plan", "channel"):
        keys.append(f"{head}/{path}")
    for key in keys:
        real = program.aliases.get(key, key)
        if real in program.types:
            return real, program.types[real]
    return None


def _name_of(key: str, node: Node) -> str:
    """How the rule calls an environment key."""
    for name, known in node.reads.items():
        if known == key:
            return name
    scope, _, path = key.partition("/")
    if scope == "fact":
        return path.rpartition("/")[2]
    if scope == "config":
        configuration, _, path = path.partition("/")
        return f"config.{path}" if configuration == node.configuration else f"config_{configuration}.{path}"
    return f"{scope}.{path}" if path else key


def read_given(
    program: Program,
    node: Node,
    given: Mapping[str, Json],
    places: Mapping[str, Place],
    configurations: tuple[str, ...] | None,
) -> Given:
    """Turn the values of a test into an environment.

    Args:
        program: the compiled pack.
        node: the rule.
        given: name as in the rule's expressions → JSON value; a case matrix is a list of rows, a case
            column a list.
        places: where each of them stands.
        configurations: the configurations that count as planned; None for all.

    Raises:
        EvaluationError: every unknown name and every value of the wrong type.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        found = _key_and_type(program, node, name)
        if found is None:
            read = ", ".join(_readable(node)) or "nothing"
            what = f"'{name}' is not a name that rule '{node.rule.id if node.rule else ''}' could read"
            problems.append(places[name].problem(what, expected=f"what it reads: {read}"))
            continue
        key, kind = found
        packed = _packed(value, kind)
        if packed is None:
            problems.append(
                places[name].problem(f"'{name}' has the wrong type", got=str(value), expected=str(kind))
            )
        else:
            values[key] = packed[0]
    known = tuple(program.pack.configurations)
    unknown = [name for name in configurations or () if name not in known]
    if unknown:
        what = f"unknown configuration {', '.join(unknown)}"
        problems.append(node.place.problem(what, expected=", ".join(known)))
    if problems:
        raise EvaluationError(problems)
    return Given(values=values, configurations=known if configurations is None else configurations)


def _readable(node: Node) -> Iterator[str]:
    """Names that a rule reads, and those that its facts read."""
    seen: set[str] = set()
    stack = [node]
    while stack:
        entry = stack.pop()
        stack += [needed for needed in entry.needs if needed.fact is not None]
        for key in entry.reads.values():
            if key not in seen:
                seen.add(key)
                yield _name_of(key, node)


def _packed(value: Json, kind: Type) -> tuple[Any] | None:
    """The packed value in a tuple of one; None when it is not of this type."""
    if kind in (MATRIX, COLUMN):
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            return None
        return (array,) if array.ndim == (2 if kind == MATRIX else 1) else None
    if not matches(value, kind):
        return None
    return (repack(value, kind),)


class _Alone(Runner):
    """Runs one rule; what it reads and nobody gave is an error that names it."""

    def __init__(self, program: Program, node: Node, given: Given) -> None:
        super().__init__(program, given.values, None, Overrides())
        self.node = node
        self.result.configurations[:] = given.configurations

    def compute(self, key: str) -> Any:
        inherited = self.node.inherited
        if inherited is not None and key in inherited.keys:
            self.decide(inherited, None)
            return self.env[key]
        return super().compute(key)

    def missing(self, node: Node, error: MissingValueError) -> EvaluationError:
        name = _name_of(str(error.args[0]), self.node)
        place = self.program.place_of(error) or node.place
        return EvaluationError(
            place.problem(
                f"{self.describe(node)} reads '{name}', which the test does not give",
                fix=f"Add '{name}' under 'given'.",
            )
        )


def evaluate_rule(program: Program, node: Node, given: Given) -> Evaluation:
    """Evaluate one rule.

    Returns:
        An evaluation with this decision alone, or with the configuration among the dropped ones.

    Raises:
        EvaluationError: a value that is needed was not given, or the rule failed on them.
        RefusedError: the rule refuses the dataset.
    """
    runner = _Alone(program, node, given)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        runner.decide(node, None)
    return runner.result


def call_function(
    program: Program, name: str, dim: int, args: Mapping[str, Json], place: Place
) -> tuple[Json, list[tuple[str, int, Any, str | None]]]:
    """Call a function of the pack.

    Args:
        program: the compiled pack.
        name: the function.
        dim: number of axes, 2 or 3.
        args: argument name → value; a list of numbers is an axis vector, a list of lists a list of axis
            vectors.
        place: where the test stands.

    Returns:
        The result as JSON, and the recorded rounds of its loops.

    Raises:
        RuleError: the function does not compile for arguments of these types.
        EvaluationError: no such function, arguments missing or unknown, or it failed.
    """
    function = program.pack.functions.get(name)
    if function is None:
        known = ", ".join(sorted(program.pack.functions))
        raise EvaluationError(place.problem(f"no function '{name}' in {program.pack.id}", expected=known))
    if set(args) != set(function.args):
        raise EvaluationError(
            place.problem(
                f"the arguments of '{name}' do not fit",
                got=", ".join(args) or "none",
                expected=", ".join(function.args) or "none",
            )
        )
    library = FunctionLibrary(program.pack, traced=True)
    compiled = library.compiled(name, tuple(type_of_json(args[arg]) for arg in function.args), dim, place)
    lines = [line for _, emitter in library.sources for line in emitter.lines]
    filename = f"<test of {name}>"
    namespace = generated_namespace()
    source = "\n".join(text for text, _ in lines) + "\n"
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)
    trace: list[tuple[str, int, Any, str | None]] = []
    packed = [repack(args[arg], type_of_json(args[arg])) for arg in function.args]
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            result, _ = namespace[compiled.name]({"trace": trace}, *packed)
    except AtMostReachedError as exc:
        reached, limit = exc.args
        raise EvaluationError(
            place.problem(f"the loop of '{reached}' did not stop within {limit} rounds")
        ) from None
    except _ERRORS as exc:
        raise EvaluationError(
            place.problem(f"function '{name}' failed: {exc or type(exc).__name__}")
        ) from None
    return unpack(result, compiled.result), trace
