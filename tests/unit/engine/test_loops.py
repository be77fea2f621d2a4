"""Functions of a pack: start, repeat, return; memoisation and traces."""

from collections.abc import Callable
from typing import Any

import pytest
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.machine import Evaluation
from nnrules.engine.model import Pack
from nnrules.errors import EvaluationError
from nnrules.fingerprint import Fingerprint

Decide = Callable[..., dict[str, Any]]

COUNTDOWN = """
functions:
  countdown:
    doc: Counts down in steps.
    args: [top, step]
    start: {left: top, last: -1}
    repeat:
      at_most: 9
      steps:
        - stop_if: left < step
          because: too little is left
        - let: {half: left / 2}
        - collect: {lefts: left, halves: half}
        - set: {left: left - step, last: left}
        - collect: {after: left}
    return: {left: left, last: last, lefts: lefts, halves: halves, after: after}
"""


def rules(*values: str) -> str:
    return "\n".join(
        f"- {{id: r{number}, title: t, kind: inferred, decides: r{number}, value: '{value}', because: b}}"
        for number, value in enumerate(values)
    )


def test_set_is_simultaneous_and_collect_runs_in_the_order_of_steps(decide: Decide) -> None:
    got = decide(rules("countdown(7, 2)"), more=COUNTDOWN)["r0"]
    assert got == {
        "left": 1, "last": 3, "lefts": [7, 5, 3], "halves": [3.5, 2.5, 1.5], "after": [5, 3, 1]
    }  # fmt: skip


def test_values_swap(decide: Decide) -> None:
    more = """
    functions:
      swap:
        doc: d
        args: [n]
        start: {a: "[1, 2]", b: "[3, 4]", k: 0}
        repeat:
          at_most: 9
          steps:
            - stop_if: k == n
              because: enough
            - set: {a: b, b: a, k: k + 1}
        return: {a: a, b: b}
    """
    got = decide(rules("swap(3)", "swap(4)"), more=more)
    assert got["r0"] == {"a": [3, 4], "b": [1, 2]}
    assert got["r1"] == {"a": [1, 2], "b": [3, 4]}


def test_a_loop_that_stops_at_once_collects_nothing(decide: Decide) -> None:
    got = decide(rules("countdown(1, 2)"), more=COUNTDOWN)["r0"]
    assert got["lefts"] == []
    assert got["left"] == 1


def test_names_of_variables_never_collide(decide: Decide) -> None:
    """``size`` on axis 0 is not ``size_0``."""
    more = """
    functions:
      f:
        doc: d
        args: [v]
        start: {size: v, size_0: 100, size__1: 7, k: 0}
        repeat:
          at_most: 5
          steps:
            - stop_if: k == 1
              because: b
            - let: {t: size, t_0: 5}
            - set: {k: k + 1, size: t * 2, size_0: t_0, size__1: 1}
        return: {a: size, b: size_0, c: size__1}
    """
    assert decide(rules("f([1, 2, 3])"), more=more)["r0"] == {"a": [2, 4, 6], "b": 5, "c": 1}


def test_records_are_passed_changed_and_returned(decide: Decide) -> None:
    more = """
    functions:
      make: {doc: d, args: [v], return: {size: v, inner: {twice: 2 * v}}}
      grow:
        doc: d
        args: [v]
        start: {net: make(v), k: 0}
        repeat:
          at_most: 5
          steps:
            - stop_if: max(net.inner.twice) > 20
              because: b
            - set: {net: make(net.size + net.inner.twice)}
        return: net
    """
    got = decide(
        rules("grow([1, 2])", "updated(grow([1, 2]), size=5)", "grow([1, 2]).inner.twice"), more=more
    )
    assert got["r0"] == {"size": [9, 18], "inner": {"twice": [18, 36]}}
    assert got["r1"] == {"size": 5, "inner": {"twice": [18, 36]}}
    assert got["r2"] == [18, 36]


def test_a_loop_that_does_not_stop_shows_its_last_rounds(decide: Decide) -> None:
    with pytest.raises(EvaluationError) as caught:
        decide(rules("countdown(100, 2)"), more=COUNTDOWN)
    text = str(caught.value)
    assert "the loop of 'countdown' did not stop within 9 rounds (rule 'r0')" in text
    # 100 less two in each of eight rounds is what the ninth begins with.
    assert "round 9: left = 84, last = 86, half = 42" in text
    assert text.count("round ") == 3


def test_memoisation_keeps_types_dimensions_and_functions_apart(decide: Decide) -> None:
    more = """
    functions:
      twice: {doc: d, args: [x], return: x * 2}
      thrice: {doc: d, args: [x], return: x * 3}
      fill: {doc: d, args: [x], return: x * ones(dim)}
      sign: {doc: d, args: [x], return: -x}
    """
    both = """
    - {id: a, title: t, kind: inferred, scope: configuration, decides: a, value: fill(2), because: b}
    """
    got = decide(
        rules("twice(2)", "twice(2.0)", "thrice(2)", "[sign(0.0), sign(0 * -1.0)]")
        + both.replace("\n    ", "\n"),
        more=more,
    )
    assert repr([got[f"r{n}"] for n in range(4)]) == repr([4, 4.0, 6, [-0.0, 0.0]])
    assert got["configurations.flat.a"] == [2, 2]
    assert got["configurations.deep.a"] == [2, 2, 2]


def test_functions_are_computed_once_for_equal_arguments(
    make_pack: Callable[..., Pack], make_fingerprint: Callable[..., Fingerprint]
) -> None:
    pack = make_pack(rules("countdown(7, 2).left", "countdown(7, 2).last"), more=COUNTDOWN)
    traced = evaluate(compile_pack(pack, traced=True), make_fingerprint(), 8.0)
    assert (
        len([row for row in traced.trace if row[0] == "countdown"]) == 4
    )  # three rounds and the one that stops


def test_case_matrices_are_arguments_too(decide: Decide) -> None:
    more = "functions: {middle: {doc: d, args: [m, q], return: 'percentile(m, q)'}}"
    got = decide(rules("middle(cases.spacing, 50)", "middle(cases.spacing, 0)"), more=more)
    assert got == {"r0": [3.0, 0.8, 0.8], "r1": [2.5, 0.7, 0.7]}


def test_rounds_and_reasons_are_recorded(
    make_pack: Callable[..., Pack], run_pack: Callable[..., Evaluation]
) -> None:
    pack = make_pack(rules("countdown(7, 2).left"), more=COUNTDOWN)
    evaluation = run_pack(pack, traced=True)
    decision = next(d for d in evaluation.decisions if d.paths == ("r0",))
    assert decision.rounds == (("countdown", 3),)
    rows = [row for row in evaluation.trace if row[0] == "countdown"]
    assert [row[1] for row in rows] == [0, 1, 2, 3]
    assert [row[3] for row in rows] == [None, None, None, "too little is left"]
    assert rows[-1][2]["left"] == 1


def test_a_failure_inside_a_function_points_at_its_line(decide: Decide) -> None:
    more = """
    functions:
      f:
        doc: d
        args: [x]
        start: {y: 1 / (x - x)}
        return: y
    """
    with pytest.raises(EvaluationError, match="division by zero") as caught:
        decide(rules("f(cases.count)"), more=more)
    (problem,) = caught.value.problems
    assert "y: 1 / (x - x)" in str(problem.excerpt)
    assert problem.got == "cases.count = 3"
