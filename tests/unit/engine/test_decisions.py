# ruff: noqa: E501 - rules in one line read like a table
"""Hit policies, outcomes, scopes, facts, presence: how a rule comes to its value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nnrules.engine.machine import Evaluation
from nnrules.engine.model import Pack
from nnrules.errors import EvaluationError, PlanError, RefusedError, RuleError
from nnrules.fingerprint import Fingerprint

Decide = Callable[..., dict[str, Any]]
Make = Callable[..., Pack]
Run = Callable[..., Evaluation]
Fingerprints = Callable[..., Fingerprint]


def one(cases: str, *, hit: str = "unique", decides: str = "x") -> str:
    return f"""
- id: mine
  title: t
  kind: inferred
  decides: {decides}
  hit: {hit}
  cases:
{cases}
"""


LOW = "    - {when: cases.count > 1, value: 1, because: more than one}\n"
HIGH = "    - {when: cases.count > 2, value: 2, because: more than two}\n"
ELSE = "    - {otherwise: 0, because: few}\n"


def decision(evaluation: Evaluation, path: str = "x") -> Any:
    return next(d for d in evaluation.decisions if path in d.paths)


# -- hit policies -------------------------------------------------------------------------------------------------


def test_unique_refuses_two_and_names_both_places(decide: Decide) -> None:
    with pytest.raises(EvaluationError) as caught:
        decide(one(LOW + HIGH))
    (problem,) = caught.value.problems
    assert "several cases of rule 'mine' apply" in problem.what
    first, second = str(problem.got).split(" and ")
    assert int(second.split(":")[1]) == int(first.split(":")[1]) + 1
    assert problem.where == second


def test_no_match_without_otherwise_is_an_error(decide: Decide, make_fingerprint: Fingerprints) -> None:
    single = make_fingerprint([[9, 9, 9]], [[1, 1, 1]])
    with pytest.raises(EvaluationError, match=r"no case of rule 'mine' applies; got cases\.count = 1"):
        decide(one(LOW), single)
    with pytest.raises(EvaluationError, match="no case of rule 'mine' applies"):
        decide(one(LOW, hit="first"), single)
    assert decide(one(LOW + ELSE), single) == {"x": 0}


def test_first_takes_the_first(make_pack: Make, run_pack: Run, make_fingerprint: Fingerprints) -> None:
    taken = decision(run_pack(make_pack(one(HIGH + LOW + ELSE, hit="first"))))
    assert (taken.values, taken.case, taken.whens, taken.because) == ((2,), 0, (True,), "more than two")
    two = make_fingerprint([[9, 9, 9]] * 2, [[1, 1, 1]] * 2)
    taken = decision(run_pack(make_pack(one(HIGH + LOW + ELSE, hit="first")), two))
    assert (taken.values, taken.case, taken.whens) == ((1,), 1, (False, True))


def test_all_equal(decide: Decide) -> None:
    same = LOW.replace("value: 1", "value: 5") + HIGH.replace("value: 2", "value: 5")
    assert decide(one(same, hit="all_equal")) == {"x": 5}
    with pytest.raises(EvaluationError, match="the cases of rule 'mine' disagree"):
        decide(one(LOW + HIGH, hit="all_equal"))


def test_collect_lists_what_holds(make_pack: Make, run_pack: Run, make_fingerprint: Fingerprints) -> None:
    pack = make_pack(one(LOW + HIGH, hit="collect"))
    taken = decision(run_pack(pack))
    assert (taken.values, taken.case, taken.because) == (([1, 2],), -1, "more than one; more than two")
    none = decision(run_pack(pack, make_fingerprint([[9, 9, 9]], [[1, 1, 1]])))
    assert none.values == ([],)


def test_collect_keeps_the_names_of_records(decide: Decide) -> None:
    cases = LOW.replace("value: 1", "value: {a: 1, b: '[1, 2]'}") + HIGH.replace(
        "value: 2", "value: {a: 2, b: '[3, 4]'}"
    )
    assert decide(one(cases, hit="collect")) == {"x": [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}]}
    with pytest.raises(RuleError, match="collect records of different fields"):
        decide(one(cases.replace("{a: 2, b", "{a: 2, c"), hit="collect"))


# -- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constant",
    [
        [{"a": 1}, {"b": 2}], [{"a": None}, {"a": 1}], {"a": [{"b": "c"}], "d": None}, [[1, 2], [3]], [], {}, None, [1, "x"],
        [True, False], "text", 0, 2.5, [[[1]]], {"a": {"b": {"c": [1, 2, 3]}}},
    ],
)  # fmt: skip
def test_constants_reach_the_plan_as_written(decide: Decide, constant: Any) -> None:
    import json

    text = f"- {{id: x, title: t, kind: inferred, decides: x, constant: {json.dumps(constant)}, because: b}}"
    assert decide(text) == {"x": constant}
    cases = f"    - {{when: cases.count > 1, constant: {json.dumps(constant)}, because: b}}\n"
    assert decide(one(cases)) == {"x": constant}


def test_cases_may_give_records_of_different_fields(decide: Decide) -> None:
    cases = "    - {when: cases.count > 5, value: {a: cases.count}, because: b}\n    - {otherwise: {value: {b: 1, c: 2}}, because: b}\n"
    assert decide(one(cases)) == {"x": {"b": 1, "c": 2}}


def test_texts_are_filled_with_values(make_pack: Make, run_pack: Run) -> None:
    text = """
    - {id: a, title: t, kind: inferred, decides: a, constant: 3, because: "{cases.count} cases, { cases.count }, {2 * cases.count}"}
    - {id: b, title: t, kind: inferred, decides: b, value: 3, because: "{median(cases.spacing)} mm and {1 / 3}",
       warn: "only {cases.count}"}
    """
    evaluation = run_pack(make_pack(text))
    assert decision(evaluation, "a").because == "3 cases, 3, 6"
    assert decision(evaluation, "b").because == "3 × 0.8 × 0.8 mm and 0.33333"
    assert evaluation.warnings == [("b", "only 3")]


def test_a_number_that_is_not_finite_is_refused_with_its_rule(decide: Decide) -> None:
    huge = "cases.count * 1e18 " + "* 1e18 " * 17
    with pytest.raises(
        EvaluationError, match=r"rule 'x' gives a number that is not finite; got cases\.count = 3"
    ):
        decide(f"- {{id: x, title: t, kind: inferred, decides: x, value: {huge}, because: b}}")
    with pytest.raises(EvaluationError, match="fact 'f' gives a number that is not finite"):
        decide(
            "- {id: x, title: t, kind: inferred, decides: x, value: f, because: b}",
            more=f"facts: {{f: {{value: {huge}, unit: '1', doc: d}}}}",
        )


def test_reductions_of_columns_decide(decide: Decide, make_fingerprint: Fingerprints) -> None:
    """NumPy's truth values are no JSON."""
    fingerprint = make_fingerprint(cases={"size_ratio": [0.2, 0.5, 1.0]})
    got = decide(
        one("    - {when: max(cases.size_ratio) > 0.9, value: min(cases.size_ratio), because: b}\n"),
        fingerprint,
    )
    assert got == {"x": 0.2}
    assert type(got["x"]) is float


# -- groups and scopes --------------------------------------------------------------------------------------------


def test_a_group_decides_its_fields_together(decide: Decide) -> None:
    text = """
    - {id: g, title: t, kind: inferred, scope: configuration, decides: [b.c, a], value: {a: dim, b.c: 2 * dim}, because: b}
    """
    assert decide(text) == {
        "configurations.flat.b.c": 4, "configurations.flat.a": 2, "configurations.deep.b.c": 6, "configurations.deep.a": 3
    }  # fmt: skip


def test_channels_are_decided_one_by_one(decide: Decide, make_fingerprint: Fingerprints) -> None:
    names = ("mean", "std", "min", "median", "max", "percentile_00_5", "percentile_99_5")
    statistics = [dict.fromkeys(names, 1.5), None, dict.fromkeys(names, 3.0)]
    fingerprint = make_fingerprint(channels=["CT", "PET", "CT"], intensity=statistics)
    text = """
    - id: scheme
      title: t
      kind: inferred
      scope: channel
      decides: scheme
      cases:
        - {when: channel.name == "CT", value: "'ct'", because: b}
        - {otherwise: {value: "'other'"}, because: b}
    - {id: next, title: t, kind: inferred, scope: channel, decides: later,
       value: "channel.index if channel.scheme == 'ct' else -1", because: b}
    - {id: mean, title: t, kind: inferred, scope: channel, decides: mean,
       value: "channel.intensity.mean if has(channel.intensity.mean) else 0", because: b}
    """
    assert decide(text, fingerprint) == {
        "channels[0].scheme": "ct", "channels[1].scheme": "other", "channels[2].scheme": "ct",
        "channels[0].later": 0, "channels[1].later": -1, "channels[2].later": 2,
        "channels[0].mean": 1.5, "channels[1].mean": 0, "channels[2].mean": 3.0,
    }  # fmt: skip


def test_configurations_read_each_other(decide: Decide) -> None:
    text = """
    - {id: a, title: t, kind: inferred, scope: configuration, configurations: [deep], decides: a, constant: 5, because: b}
    - {id: b, title: t, kind: inferred, scope: configuration, configurations: [flat], decides: a, value: config_deep.a + dim, because: b}
    - {id: c, title: t, kind: inferred, decides: c, value: config_flat.a + config_deep.a, because: b}
    """
    assert decide(text) == {"configurations.deep.a": 5, "configurations.flat.a": 7, "c": 12}


HEAD_CHILD = """
title: Test pack
gpu_memory_gb: 8
configurations:
  parent: {dim: 3, doc: d}
  child: {dim: 3, doc: d, inherits_from: parent}
  other: {dim: 2, doc: d}
"""
ALL_THREE = """
  - {id: listing, title: t, kind: inferred, decides: configurations, constant: [parent, child, other], because: b}
"""
DROPS = """
- id: drops
  title: t
  kind: inferred
  scope: configuration
  configurations: [parent]
  decides: kept
  cases:
    - {when: cases.count > 2, drop_configuration: "there are {cases.count} cases", because: b}
    - {otherwise: {constant: "yes"}, because: b}
- {id: present, title: t, kind: inferred, decides: present, value: "[has(config_parent), has(config_child), has(config_other)]", because: b}
- {id: size, title: t, kind: inferred, scope: configuration, decides: size, value: dim, because: b}
"""


def test_an_inheriting_configuration_runs_only_rules_that_name_it(make_pack: Make, run_pack: Run) -> None:
    text = """
    - {id: size, title: t, kind: inferred, scope: configuration, decides: size, value: dim, because: b}
    - {id: mine, title: t, kind: inferred, scope: configuration, configurations: [child], decides: mine, value: config.size + 1, because: b}
    """
    evaluation = run_pack(make_pack(text, head=HEAD_CHILD, listing=ALL_THREE))
    values = {
        path: value for d in evaluation.decisions for path, value in zip(d.paths, d.values, strict=True)
    }
    assert "configurations.child.size" not in values
    assert values["configurations.child.mine"] == 4


def test_a_dropped_configuration_takes_along_what_inherits_from_it(
    make_pack: Make, run_pack: Run, make_fingerprint: Fingerprints
) -> None:
    pack = make_pack(DROPS, head=HEAD_CHILD, listing=ALL_THREE)
    evaluation = run_pack(pack)
    assert evaluation.configurations == ["other"]
    assert decision(evaluation, "present").values == ([False, False, True],)
    assert {name: reason for name, (_, reason) in evaluation.dropped.items()} == {
        "parent": "there are 3 cases", "child": "it inherits from parent: there are 3 cases"
    }  # fmt: skip
    assert not evaluation.warnings
    assert not any(d.paths == ("configurations.parent.size",) for d in evaluation.decisions)
    few = run_pack(pack, make_fingerprint([[9, 9, 9]], [[1, 1, 1]]))
    assert few.configurations == ["parent", "child", "other"]
    assert decision(few, "present").values == ([True, True, True],)


def test_refusing_a_configuration_leaves_the_others_alone_and_warns(make_pack: Make, run_pack: Run) -> None:
    pack = make_pack(DROPS.replace("drop_configuration", "refuse"), head=HEAD_CHILD, listing=ALL_THREE)
    evaluation = run_pack(pack)
    assert evaluation.configurations == ["other"]
    assert evaluation.warnings == [("drops", "parent is not planned: there are 3 cases")]


def test_refusing_the_dataset(decide: Decide) -> None:
    text = one(
        "    - {when: cases.count > 1, refuse: '{cases.count} cases are too many', because: b}\n" + ELSE
    )
    with pytest.raises(RefusedError, match="this dataset is refused: 3 cases are too many"):
        decide(text)


def test_nothing_left_to_plan(make_pack: Make, run_pack: Run) -> None:
    pack = make_pack(
        DROPS.replace("configurations: [parent]", "configurations: [parent, other]"),
        head=HEAD_CHILD,
        listing=ALL_THREE,
    )
    with pytest.raises(RefusedError) as caught:
        run_pack(pack)
    assert [problem.what for problem in caught.value.problems] == [
        "not planned: there are 3 cases", "not planned: it inherits from parent: there are 3 cases",
        "not planned: there are 3 cases",
    ]  # fmt: skip


def test_reading_a_configuration_that_is_not_planned(make_pack: Make, run_pack: Run) -> None:
    text = (
        DROPS + "- {id: reads, title: t, kind: inferred, decides: y, value: config_parent.size, because: b}\n"
    )
    with pytest.raises(
        EvaluationError, match=r"reads configuration parent, which is not planned \(there are 3 cases\)"
    ) as caught:
        run_pack(make_pack(text, head=HEAD_CHILD, listing=ALL_THREE))
    assert caught.value.problems[0].fix == "Ask has(config_parent) first."


def test_the_listing_of_configurations(decide: Decide, make_pack: Make, run_pack: Run) -> None:
    unknown = "\n  - {id: listing, title: t, kind: inferred, decides: configurations, constant: [flat, depe], because: b}\n"
    with pytest.raises(
        EvaluationError, match="rule 'listing' lists unknown configurations; got depe; expected flat, deep"
    ):
        decide("", listing=unknown)
    with pytest.raises(PlanError, match="the pack has no such configuration; got depe"):
        decide("", overrides={"configurations": ["depe"]})
    orphan = "\n  - {id: listing, title: t, kind: inferred, decides: configurations, constant: [child, other], because: b}\n"
    assert run_pack(make_pack("", head=HEAD_CHILD, listing=orphan)).configurations == ["other"]
    assert run_pack(make_pack(""), overrides={"configurations": ["deep"]}).configurations == ["deep"]
    with pytest.raises(RefusedError, match="no configuration is planned"):
        decide("- {id: x, title: t, kind: inferred, decides: x, constant: 1, because: b}", listing="\n")


# -- facts, inputs, presence --------------------------------------------------------------------------------------


def test_facts_are_computed_when_they_are_read(make_pack: Make, run_pack: Run) -> None:
    facts = """
    facts:
      used: {value: 2 * cases.count, unit: "1", doc: d}
      failing: {value: 1 / (cases.count - cases.count), unit: "1", doc: d}
      guarded: {value: mean(cases.size_ratio), unit: "1", doc: d}
    """
    text = """
    - {id: a, title: t, kind: inferred, decides: a, value: used, because: b}
    - {id: b, title: t, kind: inferred, decides: b, value: failing if cases.count > 99 else 1, because: b}
    - {id: c, title: t, kind: inferred, decides: c, value: guarded if has(cases.size_ratio) else -1, because: b}
    """
    evaluation = run_pack(make_pack(text, more=facts))
    assert set(evaluation.facts) == {"fact/used"}
    assert decision(evaluation, "c").values == (-1,)


def test_a_fact_is_never_absent(decide: Decide) -> None:
    with pytest.raises(RuleError, match="'used' is not a name that may be absent"):
        decide(
            "- {id: a, title: t, kind: inferred, decides: a, value: has(used), because: b}",
            more="facts: {used: {value: cases.count, unit: '1', doc: d}}",
        )


def test_facts_of_configurations(decide: Decide) -> None:
    got = decide(
        "- {id: a, title: t, kind: inferred, scope: configuration, decides: a, value: mine, because: b}",
        more="facts: {mine: {value: 10 * dim + length(config.name_list), scope: configuration, unit: '1', doc: d}}\n"
        "params: {}\n".replace("length(config.name_list)", '(1 if config.name == "flat" else 2)'),
    )
    assert got == {"configurations.flat.a": 21, "configurations.deep.a": 32}


def test_what_the_fingerprint_lacks(decide: Decide) -> None:
    with pytest.raises(
        EvaluationError, match=r"the fingerprint lacks 'cases.size_ratio', which rule 'x' reads"
    ) as caught:
        decide("- {id: x, title: t, kind: inferred, decides: x, value: mean(cases.size_ratio), because: b}")
    assert "has(cases.size_ratio)" in str(caught.value.problems[0].fix)
    assert "value: mean(cases.size_ratio)" in str(caught.value.problems[0].excerpt)


def test_lets_are_computed_where_they_are_first_used(decide: Decide) -> None:
    text = """
    - id: x
      title: t
      kind: inferred
      decides: x
      hit: first
      let: {rare: 1 / (cases.count - 3), often: 2 * base, base: cases.count}
      cases:
        - {when: cases.count == 3, value: often, because: b}
        - {otherwise: rare, because: b}
    """
    assert decide(text) == {"x": 6}


def test_extra_columns(decide: Decide, make_fingerprint: Fingerprints) -> None:
    more = """
    extra:
      volume: {type: number, unit: ml, doc: d}
      site: {type: text, doc: d}
      contrast: {type: boolean, doc: d}
      deep: {type: number, unit: "1", doc: d, extractor: my.extractor}
    """
    text = """
    - {id: a, title: t, kind: inferred, decides: a, value: median(extra.volume), because: b}
    - {id: b, title: t, kind: inferred, decides: b, value: "'Bonn' in extra.site", because: b}
    - {id: c, title: t, kind: inferred, decides: c, value: mean(extra.contrast), because: b}
    - {id: d, title: t, kind: inferred, decides: d, value: has(extra.deep), because: b}
    """
    columns = {
        "volume": {"type": "number", "unit": "ml", "values": [1.0, 2.0, 4.0]},
        "site": {"type": "string", "unit": None, "values": ["Ulm", "Bonn", "Ulm"]},
        "contrast": {"type": "boolean", "unit": None, "values": [True, False, True]},
    }
    got = decide(text, make_fingerprint(extra=columns), more=more)
    assert got == {"a": 2.0, "b": True, "c": pytest.approx(2 / 3), "d": False}
    with pytest.raises(EvaluationError, match="with a column 'volume'"):
        decide(text, make_fingerprint(), more=more)
    reads = "- {id: d, title: t, kind: inferred, decides: d, value: max(extra.deep), because: b}"
    with pytest.raises(EvaluationError, match=r"Install the extractor 'my\.extractor'"):
        decide(reads, make_fingerprint(extra=columns), more=more)
    columns["volume"]["type"] = "boolean"
    columns["volume"]["values"] = [True, True, True]
    with pytest.raises(
        EvaluationError,
        match=r"extra.volume has another type in the fingerprint; got boolean; expected number",
    ):
        decide(text, make_fingerprint(extra=columns), more=more)


def test_inputs_are_recorded_without_cases(make_pack: Make, run_pack: Run) -> None:
    evaluation = run_pack(
        make_pack("- {id: x, title: t, kind: inferred, decides: x, value: median(cases.spacing), because: b}")
    )
    assert evaluation.inputs == {
        "cases.spacing": {
            "cases": 3,
            "min": [2.5, 0.7, 0.7],
            "median": [3.0, 0.8, 0.8],
            "max": [5.0, 0.9, 0.9],
        }
    }


def test_every_declared_input_can_be_read(
    make_pack: Make, run_pack: Run, make_fingerprint: Fingerprints
) -> None:
    """Each name gives a value of its declared type."""
    from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS
    from nnrules.engine.types import BOOL, COLUMN, MATRIX, NUM, STR

    statistics = {key.rpartition(".")[2]: 1.0 for key in CHANNEL_INPUTS if ".intensity." in key}
    fingerprint = make_fingerprint(
        channels=["CT"], intensity=[statistics],
        cases={
            "size_ratio": [0.2, 0.5, 1.0], "shape_before_crop": [[99, 300, 300]] * 3, "group": ["a", None, "a"],
            "subject": [None, None, None],
        },
    )  # fmt: skip
    python = {NUM: (int, float), BOOL: (bool,), STR: (str,)}
    for name, entry in {**FINGERPRINT_INPUTS, **CHANNEL_INPUTS}.items():
        value = entry.read(fingerprint, 0) if name in CHANNEL_INPUTS else entry.read(fingerprint)
        assert entry.doc
        if entry.type in (MATRIX, COLUMN):
            assert isinstance(value, np.ndarray), name
            assert value.ndim == (2 if entry.type == MATRIX else 1)
        elif name != "classes.rarest_share":
            assert isinstance(value, python.get(entry.type, (tuple,))), name
    assert FINGERPRINT_INPUTS["cases.num_groups"].read(fingerprint) == 2
    assert FINGERPRINT_INPUTS["cases.num_groups"].read(make_fingerprint()) == 3
    assert FINGERPRINT_INPUTS["cases.has_groups"].read(fingerprint) is True
    assert FINGERPRINT_INPUTS["cases.has_subjects"].read(fingerprint) is False
    assert list(BUDGET_INPUTS) == ["budget.gpu_memory_gb"]
