"""Coverage counts cases, both outcomes of conditions, and branches for overrides."""

from collections.abc import Callable
from pathlib import Path

from nnrules.authoring.coverage import CoverageReport
from nnrules.authoring.rule_tests import run_rule_tests

Write = Callable[..., Path]


def coverage(write_pack: Write, tests: str, **more: str) -> CoverageReport:
    report = run_rule_tests(write_pack(tests=tests, **more), coverage=True)
    assert [result.problems for result in report.results if result.status == "failed"] == []
    assert report.coverage is not None
    assert report.ok is report.coverage.complete
    return report.coverage


def missing(report: CoverageReport, owner: str) -> set[tuple[int, str]]:
    """Line in the pack and what is missing, of one rule or function."""
    return {
        (int(target.where.split(":")[1]), target.what) for target in report.missing if target.owner == owner
    }


def line_of(write_pack: Write, text: str) -> int:
    return next(
        number
        for number, line in enumerate(write_pack().read_text(encoding="utf-8").splitlines(), 1)
        if text in line
    )


def test_nothing_is_covered_without_tests(write_pack: Write) -> None:
    report = coverage(write_pack, "tests: []")
    # plans 1, coarse 2 cases + 1 false, halved 1, refused 4 cases + 3 false, one stop_if both ways
    assert (report.num_covered, report.num_targets) == (0, 1 + 3 + 1 + 7 + 2)
    assert report.percent == 0
    assert report.counted == "all"


def test_a_case_counts_when_it_is_taken_and_a_condition_when_it_is_false(write_pack: Write) -> None:
    coarse = line_of(write_pack, "when: max(middle)")
    one = "tests: [{name: a, rule: spacing.coarse, given: {middle: [99, 1, 1]}, expect: {grade: coarse}}"
    report = coverage(write_pack, one + "]")
    assert missing(report, "rule spacing.coarse") == {
        (coarse, "when is false"),
        (line_of(write_pack, "otherwise: '\"fine\"'"), "the case is taken"),
    }
    report = coverage(
        write_pack,
        one + ", {name: b, rule: spacing.coarse, given: {middle: [9, 1, 1]}, expect: {grade: fine}}]",
    )
    assert missing(report, "rule spacing.coarse") == set()


def test_a_condition_on_the_configuration_counts_over_all_configurations(write_pack: Write) -> None:
    """``config.name == "3d" and …`` is false in 2D whatever the values: that is its false outcome."""
    line = line_of(write_pack, 'when: config.name == "3d"')
    one_case = "rule: flat.refused, given: {dataset.num_training: 1}"
    taken = f"{{name: a, {one_case}, configuration: 3d, expect: {{drop_configuration: true}}}}"
    other = f"{{name: b, {one_case}, configuration: 2d, expect: {{depth: 1}}}}"
    assert (line, "when is false") in missing(coverage(write_pack, f"tests: [{taken}]"), "rule flat.refused")
    assert (line, "when is false") not in missing(
        coverage(write_pack, f"tests: [{taken}, {other}]"), "rule flat.refused"
    )


def test_a_refused_case_counts(write_pack: Write) -> None:
    many = "rule: flat.refused, configuration: 2d, given: {dataset.num_training: 100}"
    test = f"{{name: a, {many}, expect: {{refuse: true}}}}"
    report = coverage(write_pack, f"tests: [{test}]")
    line = line_of(write_pack, "when: dataset.num_training > 99")
    assert {entry for entry in missing(report, "rule flat.refused") if entry[0] == line} == {
        (line, "when is false")
    }


def test_a_loop_must_stop_and_go_on(write_pack: Write) -> None:
    line = line_of(write_pack, "stop_if: rest < 4")
    none = "tests: [{name: a, function: halve, args: {size: 3}, expect: {times: 0}}]"
    assert missing(coverage(write_pack, none), "function halve") == {(line, "stop_if is false")}
    some = "tests: [{name: a, function: halve, args: {size: 8}, expect: {times: 2}}]"
    assert missing(coverage(write_pack, some), "function halve") == set()


def test_loops_count_when_rules_or_facts_call_them(write_pack: Write) -> None:
    test = "tests: [{name: a, rule: size.halved, configuration: 2d, expect: {times: 2}}]"
    assert missing(coverage(write_pack, test), "function halve") == set()
    rules = (
        write_pack()
        .read_text(encoding="utf-8")
        .replace(
            'middle: {value: "percentile(cases.spacing, 50)"', 'middle: {value: "halve(limit).rest * ones(3)"'
        )
    )
    test = "tests: [{name: a, rule: spacing.coarse, expect: {grade: fine}}]"
    assert missing(coverage(write_pack, test, rules=rules), "function halve") == set()


TWO_STOPS = """
title: Two conditions
gpu_memory_gb: 8
functions:
  walk:
    doc: Walk.
    args: [far, high]
    start: {at: 0}
    repeat:
      at_most: 9
      steps:
        - stop_if: at >= far
          because: far enough
        - stop_if: at >= high
          because: high enough
        - set: {at: at + 1}
    return: at
rules:
  - {id: a, title: A, kind: blueprint, decides: a, value: "walk(2, 3)", because: so, source: me}
"""


def test_each_condition_of_a_loop_counts_by_itself(write_pack: Write) -> None:
    first = "{name: a, function: walk, args: {far: 1, high: 9}, expect: {return: 1}}"
    report = coverage(write_pack, f"tests: [{first}]", rules=TWO_STOPS)
    assert {what for _, what in missing(report, "function walk")} == {"stop_if is true"}
    only_second = "{name: b, function: walk, args: {far: 9, high: 0}, expect: {return: 0}}"
    report = coverage(write_pack, f"tests: [{only_second}]", rules=TWO_STOPS)
    # the first was false in the round in which the second stopped; the second was never false
    assert len(missing(report, "function walk")) == 2
    assert coverage(write_pack, f"tests: [{first}, {only_second}, {{name: c, rule: a, expect: {{a: 2}}}}]",
                    rules=TWO_STOPS).complete  # fmt: skip


GROUP = """
title: A group
gpu_memory_gb: 8
rules:
  - id: pair
    title: A pair
    kind: inferred
    decides: [left, right]
    value: {left: 1, right: 2}
    because: so
    source: me
    given:
      left:
        require: [{that: left > 0, message: left must be above 0}]
        value: {right: left + 1}
        because: the next
"""


def test_branches_for_overrides_count(write_pack: Write) -> None:
    fixture = "fingerprint: {spacing: [[1, 1, 1]], shape: [[9, 9, 9]]}"
    plain = f"{{name: a, {fixture}, expect: {{right: 2}}}}"
    good = f"{{name: b, {fixture}, set: {{left: 5}}, expect: {{right: 6}}}}"
    bad = f"{{name: c, {fixture}, set: {{left: 0}}, expect: {{refuse: left must be above 0}}}}"
    report = coverage(write_pack, f"tests: [{plain}]", rules=GROUP)
    assert sorted(target.what for target in report.missing) == [
        "left is overridden", "the requirement holds", "the requirement is broken",
    ]  # fmt: skip
    report = coverage(write_pack, f"tests: [{plain}, {good}]", rules=GROUP)
    assert [target.what for target in report.missing] == ["the requirement is broken"]
    assert coverage(write_pack, f"tests: [{plain}, {good}, {bad}]", rules=GROUP).complete


OVERLAY = """
title: Longer
extends: nnunet@2.8.0
rules:
  - id: training.epochs
    title: Number of epochs
    kind: blueprint
    decides: training.epochs
    cases:
      - when: dataset.num_training > 100
        value: inherited * 2
        because: more data
      - otherwise: inherited
        because: enough
    source: me
"""


def test_of_an_overlay_only_its_own_rules_count(write_pack: Write) -> None:
    test = (
        "{name: a, rule: training.epochs, given: {dataset.num_training: 9}, expect: {training.epochs: 1000}}"
    )
    report = coverage(write_pack, f"tests: [{test}]", rules=OVERLAY)
    assert report.counted == "own"
    assert report.num_targets == 3
    assert [target.what for target in report.missing] == ["the case is taken"]
    assert report.missing[0].where.startswith("tiny.yaml:10:")


def test_rules_of_which_no_field_is_checked_are_named(write_pack: Write) -> None:
    """They are covered, but a wrong value would pass."""
    fixture = "fingerprint: {spacing: [[1, 1, 1]], shape: [[9, 9, 9]], cases: 9}"
    report = coverage(write_pack, f"tests: [{{name: a, {fixture}, expect: {{configurations.2d.rest: 2.5}}}}]")
    assert report.unchecked == ("plans", "spacing.coarse", "flat.refused")


def test_a_failing_test_covers_what_it_ran(write_pack: Write) -> None:
    """Coverage says what ran; that the test is wrong is reported beside it."""
    path = write_pack(tests="tests: [{name: a, function: halve, args: {size: 8}, expect: {times: 7}}]")
    report = run_rule_tests(path, coverage=True)
    assert report.num_failed == 1
    assert report.coverage is not None
    assert missing(report.coverage, "function halve") == set()


def test_missing_targets_read_as_places(write_pack: Write) -> None:
    report = coverage(write_pack, "tests: []")
    line = line_of(write_pack, "stop_if: rest < 4")
    assert f"tiny.yaml:{line}:11: function halve: stop_if is true (rest < 4)" in map(str, report.missing)
