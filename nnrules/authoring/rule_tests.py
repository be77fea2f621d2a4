"""Runs the tests beside rules: one rule, one function, or a whole plan, against what the test expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnrules.authoring.compare import NOTHING, differences, find
from nnrules.authoring.coverage import Recorder
from nnrules.authoring.fixtures import fixture_fingerprint
from nnrules.authoring.one_rule import call_function, evaluate_rule, node_of_rule, read_given
from nnrules.authoring.rule_test_file import RuleTest, read_rule_tests, rule_test_files
from nnrules.authoring.rule_test_report import RuleTestReport, RuleTestResult, Status
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.machine import Evaluation
from nnrules.engine.model import Pack
from nnrules.engine.overrides import resolve_overrides
from nnrules.engine.packs import load_pack
from nnrules.engine.program import Program
from nnrules.engine.source import Json
from nnrules.errors import EvaluationError, NnrulesError, PlanError, Problem, RefusedError

__all__ = ["run_rule_tests"]

_OUTCOMES = ("refuse", "drop_configuration", "error")
_MARKS = (*_OUTCOMES, "warns")


def run_rule_tests(
    spec: str | Path, *, coverage: bool = False, files: Iterable[Path] | None = None
) -> RuleTestReport:
    """Run the tests of a pack.

    Args:
        spec: ``name@version``, ``name``, or the path of an overlay file.
        coverage: also report which cases and conditions the tests exercised.
        files: test files; default: those beside the rules.

    Returns:
        The report; a pack without tests has an empty one.

    Raises:
        PackError: no such pack, or mistakes in its files or in a test file.
    """
    paths = list(rule_test_files(spec) if files is None else files)
    labels = [_label(spec, path) for path in paths]
    tests = [test for path, label in zip(paths, labels, strict=True) for test in read_rule_tests(path, label)]
    session = _Session(spec)
    results = tuple(session.run(test) for test in tests)
    return RuleTestReport(
        pack=str(session.pack.id),
        files=tuple(labels),
        results=results,
        coverage=session.recorder.report(session.pack) if coverage else None,
    )


def _label(spec: str | Path, path: Path) -> str:
    """How a test file is called: relative to the pack, as rule files are."""
    inside = path.parent.name == "tests" and not isinstance(spec, Path) and "/" not in spec
    return "/".join(path.parts[-4:]) if inside else str(path)


@dataclass(slots=True)
class _Expected:
    """What a test expects beside values: an outcome with a part of its text, and warnings."""

    outcome: str | None = None
    text: Json = None
    warns: Json = None
    values: Mapping[str, Json] = field(default_factory=dict)


class _Session:
    """Compiles the pack once for each set of parameters that tests ask for."""

    def __init__(self, spec: str | Path) -> None:
        self.spec = spec
        self.pack = load_pack(spec)
        self.recorder = Recorder()
        self._programs: dict[Any, Program] = {}
        self.program(None, {})  # a pack that does not compile fails before its tests

    def program(self, preset: str | None, params: Mapping[str, Json]) -> Program:
        key = (preset, tuple(sorted(params.items())))
        if key not in self._programs:
            pack = self.pack if preset is None else load_pack(self.spec, preset=preset)
            program = compile_pack(_with_params(pack, params), traced=True)
            self.recorder.attach(program)
            self._programs[key] = program
        return self._programs[key]

    def run(self, test: RuleTest) -> RuleTestResult:
        try:
            problems = self.problems(test)
        except NnrulesError as exc:
            problems = list(exc.problems)
        passed = not problems
        status: Status = "passed" if passed else "failed"
        if test.todo is not None:
            status = "passes unexpectedly" if passed else "todo"
        if status == "passes unexpectedly":
            problems = [
                test.place.problem("a 'todo' test passes", got=test.todo, fix="Remove 'todo' from the test.")
            ]
        return RuleTestResult(
            name=test.name,
            where=str(test.place),
            subject=f"{test.kind} {test.subject}".strip(),
            status=status,
            problems=tuple(problems),
            todo=test.todo,
        )

    def problems(self, test: RuleTest) -> list[Problem]:
        program = self.program(test.preset, _checked_params(self.pack, test))
        expected = _expected(test)
        run = {"rule": self.rule, "function": self.function, "plan": self.plan}[test.kind]
        try:
            return run(program, test, expected)
        except (RefusedError, PlanError) as exc:
            return _outcome(test, expected, "refuse", str(exc), exc)
        except EvaluationError as exc:
            return _outcome(test, expected, "error", str(exc), exc)

    def rule(self, program: Program, test: RuleTest, expected: _Expected) -> list[Problem]:
        try:
            node = node_of_rule(program, test.subject, test.configuration, test.place)
            given = read_given(program, node, test.values, test.places, test.configurations)
        except EvaluationError as exc:
            return list(exc.problems)  # a mistake of the test, which it cannot expect
        assert node.rule is not None
        if node.constant is not None:
            self.recorder.constant(node.rule)
        result = evaluate_rule(program, node, given)
        self.recorder.checked.add(node.rule.id)
        if not result.decisions:
            case = node.rule.cases[self.recorder.last_cases[0]]
            _, reason = result.dropped[str(node.configuration)]
            return _outcome(test, expected, "refuse" if case.outcome.refuse else "drop_configuration", reason)
        decision = next(entry for entry in result.decisions if entry.node is node)
        values = dict(zip(node.rule.decides, decision.values, strict=True))
        return self.compare(test, expected, values, result)

    def function(self, program: Program, test: RuleTest, expected: _Expected) -> list[Problem]:
        result, trace = call_function(program, test.subject, test.dim, test.values, test.place)
        self.recorder.rounds(trace)
        values: dict[str, Json] = {"return": result}
        if isinstance(result, dict):
            values |= result
        return self.compare(test, expected, values, None)

    def plan(self, program: Program, test: RuleTest, expected: _Expected) -> list[Problem]:
        fingerprint = fixture_fingerprint(test.values, where=f"{test.place}: fingerprint")
        memory = program.pack.gpu_memory_gb if test.gpu_memory_gb is None else test.gpu_memory_gb
        overrides = resolve_overrides(program, test.overrides)
        result = evaluate(program, fingerprint, float(memory), overrides)
        values: dict[str, Json] = {}
        for decision in result.decisions:
            assert decision.node.rule is not None
            if decision.node.constant is not None:
                self.recorder.constant(decision.node.rule)
            values |= zip(decision.paths, decision.values, strict=True)
        planned = _planned(values, program, result)
        checked = {_owner(planned, path) for path in expected.values}
        self.recorder.checked |= {
            decision.node.rule.id
            for decision in result.decisions
            if decision.node.rule is not None and not checked.isdisjoint(decision.paths)
        }
        return self.compare(test, expected, planned, result)

    def compare(
        self, test: RuleTest, expected: _Expected, values: dict[str, Json], result: Evaluation | None
    ) -> list[Problem]:
        if expected.outcome is not None:
            place = test.expect_places[expected.outcome]
            return [
                place.problem(f"'{expected.outcome}' was expected, but a value was decided", got=str(values))
            ]
        problems = []
        for path, wanted in expected.values.items():
            place, got = test.expect_places[path], find(values, path)
            if got is NOTHING:
                problems.append(place.problem(f"there is no '{path}'", expected=", ".join(values)))
                continue
            problems += [
                place.problem(f"'{where or path}' differs", got=str(left), expected=str(right))
                for where, left, right in differences(got, wanted, path)  # type: ignore[arg-type]
            ]
        if expected.warns is not None and result is not None:
            problems += _warnings(test, expected.warns, [text for _, text in result.warnings])
        return problems


def _owner(values: Mapping[str, Json], path: str) -> str | None:
    """The decided field that a path is or lies in."""
    owners = [name for name in values if path == name or path.startswith((f"{name}.", f"{name}["))]
    return max(owners, key=len) if owners else None


def _planned(values: dict[str, Json], program: Program, result: Evaluation) -> dict[str, Json]:
    """The decided fields of the configurations that are planned, with those that they inherit."""
    planned = {
        path: value
        for path, value in values.items()
        if not path.startswith("configurations.") or path.split(".")[1] in result.configurations
    }
    for name in result.configurations:
        parent = program.pack.configurations[name].inherits_from
        start = f"configurations.{parent}."
        for path, value in list(planned.items()):
            if parent is not None and path.startswith(start):
                planned.setdefault(f"configurations.{name}.{path.removeprefix(start)}", value)
    planned["configurations"] = list(result.configurations)
    return planned


def _expected(test: RuleTest) -> _Expected:
    marks = {key: test.expect[key] for key in _MARKS if key in test.expect}
    values = {path: value for path, value in test.expect.items() if path not in marks}
    outcomes = [key for key in _OUTCOMES if marks.get(key, False) is not False]
    wrong = [key for key, value in marks.items() if not isinstance(value, (bool, str))]
    if wrong or len(outcomes) > 1 or (outcomes and values):
        raise EvaluationError(
            test.place.problem(
                "a test expects values, or one outcome (true, or a part of its text)",
                got=", ".join(test.expect),
                expected="values, or one of " + ", ".join(_OUTCOMES),
            )
        )
    outcome = outcomes[0] if outcomes else None
    return _Expected(outcome, marks.get(outcome or ""), marks.get("warns"), values)


def _outcome(
    test: RuleTest, expected: _Expected, kind: str, reason: str, error: NnrulesError | None = None
) -> list[Problem]:
    """Compare an outcome that is not a value."""
    if expected.outcome == kind and (expected.text is True or str(expected.text) in reason):
        return []
    if expected.outcome is None and error is not None:
        return list(error.problems)
    wanted = "values" if expected.outcome is None else f"{expected.outcome}: {expected.text}"
    return [test.place.problem("another outcome", got=f"{kind}: {reason}", expected=wanted)]


def _warnings(test: RuleTest, wanted: Json, texts: list[str]) -> list[Problem]:
    place = test.expect_places["warns"]
    if bool(texts) is wanted or (isinstance(wanted, str) and any(wanted in text for text in texts)):
        return []
    return [place.problem("the warnings differ", got="; ".join(texts) or "none", expected=str(wanted))]


def _checked_params(pack: Pack, test: RuleTest) -> Mapping[str, Json]:
    problems = []
    for name, value in test.params.items():
        param = pack.params.get(name)
        if param is None:
            problems.append(test.place.problem(f"'{name}' is no parameter of {pack.id}"))
        elif (
            isinstance(value, (list, dict))
            or value is None
            or isinstance(value, str) != isinstance(param.value, str)
        ):
            problems.append(
                test.place.problem(f"'{name}' has another type", got=str(value), expected=str(param.value))
            )
    if problems:
        raise EvaluationError(problems)
    return test.params


def _with_params(pack: Pack, params: Mapping[str, Json]) -> Pack:
    changed = {
        name: dataclasses.replace(pack.params[name], value=value)  # type: ignore[arg-type]
        for name, value in params.items()
    }
    return dataclasses.replace(pack, params={**pack.params, **changed}) if changed else pack
