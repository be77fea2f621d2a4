"""The runner of rule tests: what passes, what fails, and what it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.authoring.rule_tests import run_rule_tests
from nnrules.errors import RuleError

Write = Callable[..., Path]


def run(write_pack: Write, *tests: str, rules: str | None = None) -> list[tuple[str, str]]:
    """Status and problems of each test, given as flow mappings without their name."""
    text = "tests:\n" + "".join(f"  - {{name: t{index}, {test}}}\n" for index, test in enumerate(tests))
    path = write_pack(**({} if rules is None else {"rules": rules}), tests=text)
    report = run_rule_tests(path)
    assert len(report.results) == len(tests)
    return [(result.status, " | ".join(map(str, result.problems))) for result in report.results]


def test_a_rule_is_run_alone_on_given_values(write_pack: Write) -> None:
    results = run(
        write_pack,
        "rule: spacing.coarse, given: {middle: [11, 1, 1]}, expect: {grade: coarse}",
        "rule: spacing.coarse, given: {middle: [10, 1, 1]}, expect: {grade: fine}",
        "rule: spacing.coarse, given: {middle: [10, 1, 1]}, expect: {grade: coarse}",
    )
    assert [status for status, _ in results] == ["passed", "passed", "failed"]
    assert "'grade' differs; got fine; expected coarse" in results[2][1]


def test_facts_are_computed_from_given_inputs(write_pack: Write) -> None:
    ((status, _),) = run(
        write_pack,
        "rule: spacing.coarse, given: {cases.spacing: [[9, 1, 1], [20, 1, 1], [13, 1, 1]]}, "
        "expect: {grade: coarse}",
    )
    assert status == "passed"


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (
            "rule: spacing.coarse, expect: {grade: fine}",
            "reads 'cases.spacing', which the test does not give",
        ),
        ("rule: spacing.coarse, given: {midle: [1, 1, 1]}, expect: {grade: fine}", "'midle' is not a name"),
        (
            "rule: spacing.coarse, given: {middle: 5}, expect: {grade: fine}",
            "'middle' has the wrong type; got 5",
        ),
        ("rule: spacing.coarse, given: {cases.spacing: [1, 2]}, expect: {grade: fine}", "wrong type"),
        (
            "rule: spacing.course, given: {middle: [1, 1, 1]}, expect: {grade: fine}",
            "no rule 'spacing.course'",
        ),
        ("rule: size.halved, expect: {times: 2}", "must name a configuration"),
        ("rule: size.halved, configuration: 4d, expect: {times: 2}", "got 4d; expected one of 2d, 3d"),
        (
            "rule: size.halved, configuration: 3d, expect: {time: 2}",
            "there is no 'time'; expected times, rest",
        ),
        (
            "rule: size.halved, configuration: 3d, params: {limt: 8}, expect: {times: 2}",
            "'limt' is no parameter",
        ),
        ("rule: size.halved, configuration: 3d, params: {limit: x}, expect: {times: 2}", "another type"),
        (
            "rule: flat.refused, configuration: 3d, configurations: [1d], expect: {depth: 1}",
            "unknown configuration",
        ),
        ("function: half, args: {size: 8}, expect: {times: 2}", "no function 'half'"),
        (
            "function: halve, args: {siz: 8}, expect: {times: 2}",
            "the arguments of 'halve' do not fit; got siz",
        ),
        ("function: halve, args: {size: '8'}, expect: {times: 2}", "texts can only be tested"),
        ("function: halve, args: {size: 1.0e+9}, expect: {times: 2}", "did not stop within 20 rounds"),
        ("fingerprint: {spacing: [[1, 1, 1]]}, expect: {grade: fine}", "a fixture needs 'shape'"),
        (
            "fingerprint: {spacing: [[1, 1]], shape: [[1, 1, 1]]}, expect: {grade: fine}",
            "three finite numbers",
        ),
        (
            "fingerprint: {spacing: [[1, 1, 1]], shape: [[1, 1, 1]], spacings: 3}, expect: {grade: x}",
            "unknown field",
        ),
        (
            "fingerprint: {spacing: [[1, 1, 1]], shape: [[9, 9, 9]]}, expect: {grad: fine}",
            "there is no 'grad'",
        ),
        (
            "rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {refuse: true, grade: fine}",
            "or one outcome",
        ),
        ("rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {refuse: 3}", "or one outcome"),
        ("rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {refuse: true}", "'refuse' was expected"),
        (
            "rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {warns: true}",
            "the warnings differ; got none",
        ),
    ],
)
def test_what_is_wrong_is_said(write_pack: Write, test: str, says: str) -> None:
    ((status, problem),) = run(write_pack, test)
    assert status == "failed"
    assert says in problem


def test_outcomes_other_than_values(write_pack: Write) -> None:
    rule = "rule: flat.refused, configuration: 3d, given:"
    results = run(
        write_pack,
        f"{rule} {{dataset.num_training: 1}}, expect: {{drop_configuration: true}}",
        f"{rule} {{dataset.num_training: 1}}, expect: {{drop_configuration: only 1 case}}",
        f"{rule} {{dataset.num_training: 100}}, expect: {{refuse: too many}}",
        f"{rule} {{dataset.num_training: 60}}, expect: {{depth: 2, warns: a lot}}",
        f"{rule} {{dataset.num_training: 60}}, expect: {{depth: 2, warns: true}}",
        f"{rule} {{dataset.num_training: 9}}, expect: {{depth: 1, warns: false}}",
        # and the same the wrong way round
        f"{rule} {{dataset.num_training: 1}}, expect: {{drop_configuration: two cases}}",
        f"{rule} {{dataset.num_training: 1}}, expect: {{refuse: true}}",
        f"{rule} {{dataset.num_training: 100}}, expect: {{drop_configuration: true}}",
        f"{rule} {{dataset.num_training: 1}}, expect: {{depth: 1}}",
        f"{rule} {{dataset.num_training: 60}}, expect: {{warns: false}}",
        f"{rule} {{dataset.num_training: 60}}, expect: {{warns: a little}}",
    )
    assert [status for status, _ in results] == ["passed"] * 6 + ["failed"] * 6
    assert "another outcome; got drop_configuration: only 1 case; expected refuse" in results[7][1]


def test_params_and_presets_change_what_a_rule_gives(write_pack: Write) -> None:
    rules = write_pack().read_text(encoding="utf-8") + (
        "presets:\n  large: {doc: Large., params: {limit: 100}}\n  small: {doc: Small., params: {limit: 5}}\n"
    )
    results = run(
        write_pack,
        "rule: size.halved, configuration: 2d, expect: {times: 2, rest: 2.5}",
        "rule: size.halved, configuration: 2d, params: {limit: 16}, expect: {times: 3, rest: 2}",
        "rule: size.halved, configuration: 2d, preset: large, expect: {times: 5, rest: 3.125}",
        "rule: size.halved, configuration: 2d, preset: large, params: {limit: 3}, expect: {times: 0}",
        "rule: size.halved, configuration: 2d, preset: huge, expect: {times: 0}",
        rules=rules,
    )
    assert [status for status, _ in results] == ["passed"] * 4 + ["failed"]
    assert "no such preset" in results[4][1]


def test_functions_are_called_directly(write_pack: Write) -> None:
    results = run(
        write_pack,
        "function: halve, args: {size: 8}, expect: {times: 2, rest: 2}",
        "function: halve, args: {size: 8}, expect: {return: {rest: 2, times: 2}}",
        "function: halve, dim: 2, args: {size: 8}, expect: {times: 3}",
    )
    assert [status for status, _ in results] == ["passed", "passed", "failed"]


def test_whole_plans(write_pack: Write) -> None:
    fixture = "fingerprint: {spacing: [[20, 1, 1]], shape: [[9, 9, 9]], cases: 60}"
    results = run(
        write_pack,
        f"{fixture}, expect: {{grade: coarse, configurations: [2d, 3d], configurations.2d.times: 2}}",
        f"{fixture}, expect: {{warns: that is a lot}}",
        f"{fixture}, set: {{grade: other}}, expect: {{grade: other}}",
        f"{fixture}, set: {{grades: other}}, expect: {{refuse: no rule of this pack decides this field}}",
        "fingerprint: {spacing: [[1, 1, 1]], shape: [[9, 9, 9]]}, expect: {configurations: [2d]}",
        "fingerprint: {spacing: [[1, 1, 1]], shape: [[9, 9, 9]], cases: 100}, expect: {refuse: too many}",
        f"{fixture}, expect: {{refuse: true}}",
        f"{fixture}, set: {{grades: other}}, expect: {{grade: coarse}}",
        "fingerprint: {spacing: [[1, 1, 1]], shape: [[9, 9, 9]]}, expect: {configurations.3d.times: 2}",
    )
    assert [status for status, _ in results] == ["passed"] * 6 + ["failed"] * 3
    assert "there is no 'configurations.3d.times'" in results[8][1]


def test_a_todo_test_is_expected_to_fail(write_pack: Write) -> None:
    path = write_pack(
        tests="""
tests:
  - {name: known, todo: it is wrong, rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {grade: x}}
  - {name: done, todo: no more, rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {grade: fine}}
"""
    )
    report = run_rule_tests(path)
    assert [result.status for result in report.results] == ["todo", "passes unexpectedly"]
    assert report.num_failed == 1
    assert not report.ok
    assert "Remove 'todo'" in str(report.results[1].problems[0])


def test_an_inherited_value_is_computed_or_given(write_pack: Write) -> None:
    overlay = """
title: Twice as much
extends: nnunet@2.8.0
rules:
  - id: training.epochs
    title: Number of epochs
    kind: blueprint
    decides: training.epochs
    value: inherited * 2
    because: more
    source: me
"""
    results = run(
        write_pack,
        "rule: training.epochs, expect: {training.epochs: 2000}",
        "rule: training.epochs, given: {inherited: 3}, expect: {training.epochs: 6}",
        rules=overlay,
    )
    assert [status for status, _ in results] == ["passed", "passed"]


def test_presence_of_a_configuration(write_pack: Write) -> None:
    overlay = """
title: Presence
extends: nnunet@2.8.0
rules:
  - id: cascade.batch_dice
    title: Dice over the batch
    kind: inferred
    scope: configuration
    decides: loss.batch_dice
    value: has(config_3d_lowres)
    because: so
    source: me
"""
    results = run(
        write_pack,
        "rule: cascade.batch_dice, configuration: 2d, expect: {loss.batch_dice: true}",
        "rule: cascade.batch_dice, configuration: 2d, configurations: [2d], expect: {loss.batch_dice: false}",
        rules=overlay,
    )
    assert [status for status, _ in results] == ["passed", "passed"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tests: {}", "'tests' must be a list"),
        ("test: []", "unknown field 'test' in a test file"),
        ("tests: [{name: a, expect: {x: 1}}]", "a test runs one thing; got nothing"),
        (
            "tests: [{name: a, rule: r, function: f, expect: {x: 1}}]",
            "a test runs one thing; got rule, function",
        ),
        ("tests: [{rule: r, expect: {x: 1}}]", "a test of a rule lacks name"),
        ("tests: [{name: a, rule: r, expect: {}}]", "a test must expect something"),
        ("tests: [{name: a, rule: r, args: {}, expect: {x: 1}}]", "unknown field 'args' in a test of a rule"),
        ("tests: [{name: a, function: f, expect: {x: 1}}]", "a test of a function lacks args"),
        ("tests: [{name: a, function: f, args: {}, dim: 4, expect: {x: 1}}]", "'dim' must be 2 or 3"),
        (
            "tests: [{name: a, rule: r, expect: {x: 1}}, {name: a, rule: s, expect: {x: 1}}]",
            "two tests are called 'a'",
        ),
        (
            "tests: [{name: a, rule: r, configurations: 2d, expect: {x: 1}}]",
            "'configurations' must be a list",
        ),
    ],
)
def test_a_test_file_of_the_wrong_form_is_refused(write_pack: Write, text: str, says: str) -> None:
    path = write_pack(tests=text)
    with pytest.raises(RuleError) as error:
        run_rule_tests(path)
    assert says in str(error.value)


def test_all_mistakes_of_a_test_file_are_named_at_once(write_pack: Write) -> None:
    path = write_pack(
        tests="tests: [{name: a, expect: {x: 1}}, {rule: r, expect: {x: 1}}, {name: b, rule: r}]"
    )
    with pytest.raises(RuleError) as error:
        run_rule_tests(path)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ("2.5", "passed"),
        ("2.500000000001", "passed"),
        ("2.50000001", "failed"),
        ("2", "failed"),
        ("true", "failed"),
        ("'2.5'", "failed"),
        ("[2.5]", "failed"),
        ("null", "failed"),
    ],
)
def test_tolerance_of_fractions(write_pack: Write, expected: str, status: str) -> None:
    ((got, _),) = run(write_pack, f"function: halve, args: {{size: 10}}, expect: {{rest: {expected}}}")
    assert got == status


def test_the_report_is_json(write_pack: Write) -> None:
    path = write_pack(
        tests="tests: [{name: a, rule: spacing.coarse, given: {middle: [1, 1, 1]}, expect: {grade: fine}}]"
    )
    document = run_rule_tests(path, coverage=True).to_json()
    assert document["pack"] == "tiny@local"
    assert document["num_tests"] == 1
    assert document["ok"] is False  # the tests leave much out
    assert document["results"][0]["subject"] == "rule spacing.coarse"
    assert document["coverage"]["num_covered"] > 0


def test_a_pack_without_tests_has_an_empty_report(write_pack: Write) -> None:
    report = run_rule_tests(write_pack())
    assert report.results == ()
    assert report.ok
