"""Which steps of postprocessing are kept, for every condition that a plan can state."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnrules.plan import Plan

from nnrules_runtime.evaluate import EvaluatedClass
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.postprocess import Components, Postprocessing
from nnrules_runtime.select.scoring import Scores
from nnrules_runtime.select.suppression import Determined, Suppression, Trial
from nnrules_runtime.values import reading

NAN = math.nan
A, B = EvaluatedClass("a", (1,)), EvaluatedClass("b", (2,))
WHOLE, CORE = EvaluatedClass("whole", (1, 2)), EvaluatedClass("core", (2,))
ALL = "all foreground"

dice = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))


def suppression(**changes: Any) -> Suppression:
    """As of nnU-Net v2."""
    values: dict[str, Any] = {
        "for_every_candidate": False,
        "components": Components(connectivity="full"),
        "foreground": (1, 2),
        "accept_if": "mean_rises",
        "no_class_falls": True,
        "undefined": "never_accept",
        "tried": (A, B),
        "min_num_classes": 2,
        "is_cumulative": True,
        "threshold": 0.0,
    }
    return Suppression(**(values | changes))


def scores(values: Mapping[str, float]) -> Scores:
    """With the plain mean of all classes."""
    mean = math.fsum(values.values()) / len(values)
    return Scores(dice=dict(values), mean=mean, score=mean)


class Table:
    """Scores by the names of the steps that were applied; counts what was asked for."""

    def __init__(self, table: Mapping[tuple[str, ...], Mapping[str, float]]) -> None:
        self.table = table
        self.asked: list[list[tuple[str, ...]]] = []

    def __call__(self, variants: Sequence[Postprocessing]) -> list[Scores]:
        names = [tuple(step.name for step in variant.steps) for variant in variants]
        self.asked.append(names)
        return [scores(self.table[steps]) for steps in names]


def determined(
    rules: Suppression, raw: Mapping[str, float], table: Mapping[tuple[str, ...], Mapping[str, float]]
) -> Determined:
    return rules.determine(scores(raw), Table(table), evaluated=tuple(raw), tried=rules.tried)


def first_trial(rules: Suppression, before: Mapping[str, float], after: Mapping[str, float]) -> Trial:
    """The step on all foreground alone."""
    return determined(
        Suppression(**{name: getattr(rules, name) for name in rules.__slots__} | {"min_num_classes": 99}),
        before,
        {(ALL,): after},
    ).trials[0]


def kept(result: Determined) -> list[str]:
    return [step.name for step in result.postprocessing.steps]


@pytest.mark.parametrize(
    ("before", "after", "mean_rises", "any_rises"),
    [
        ((0.5, 0.5), (0.5, 0.5), False, False),
        ((0.5, 0.5), (0.75, 0.5), True, True),
        ((0.5, 0.5), (0.75, 0.25), False, False),  # one falls
        ((0.5, 0.5), (1.0, 0.25), False, False),  # the mean rises, and one falls
        ((0.5, NAN), (0.75, NAN), False, True),
        ((0.5, NAN), (0.25, NAN), False, False),
        ((0.5, 0.0), (0.75, NAN), False, True),
        ((0.5, NAN), (0.5, NAN), False, False),
    ],
)
def test_all_foreground_in_the_releases(
    before: tuple[float, float], after: tuple[float, float], mean_rises: bool, any_rises: bool
) -> None:
    """Conditions of nnunetv2 2.8.1, and of nnunet 1.0 and 1.7.1, which differ with undefined classes."""
    old, new = dict(zip("ab", before, strict=True)), dict(zip("ab", after, strict=True))
    v2 = suppression()
    v1 = suppression(accept_if="any_class_rises", undefined="compare_false")
    assert first_trial(v2, old, new).accepted is mean_rises
    assert first_trial(v1, old, new).accepted is any_rises


def test_undefined_classes_left_out() -> None:
    """Of mean and comparison, on both sides, as the text may be read."""
    rules = suppression(undefined="left_out")
    trial = first_trial(rules, {"a": 0.5, "b": 0.9}, {"a": 0.75, "b": NAN})
    assert trial.accepted
    assert (trial.mean_before, trial.mean_after) == (0.5, 0.75)
    assert not first_trial(rules, {"a": NAN, "b": NAN}, {"a": NAN, "b": NAN}).accepted


def test_compare_false_keeps_the_plans_mean() -> None:
    rules = suppression(undefined="compare_false")
    assert not first_trial(rules, {"a": 0.5, "b": NAN}, {"a": 0.75, "b": NAN}).accepted


def test_never_accepted_with_an_undefined_class_whatever_rises() -> None:
    before, after = {"a": 0.5, "b": NAN}, {"a": 0.75, "b": NAN}
    rules = suppression(accept_if="any_class_rises")
    assert not first_trial(rules, before, after).accepted
    assert first_trial(rules, {"a": 0.5, "b": 0.5}, {"a": 0.75, "b": 0.5}).accepted


def test_a_class_may_fall_where_the_plan_allows_it() -> None:
    before, after = {"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.25}
    assert first_trial(suppression(no_class_falls=False), before, after).accepted
    falls = {"a": 0.75, "b": 0.0}
    assert not first_trial(suppression(no_class_falls=False), before, falls).accepted
    v1 = suppression(no_class_falls=False, accept_if="any_class_rises")
    assert first_trial(v1, before, falls).accepted


def test_classes_build_on_the_first_step() -> None:
    table = Table(
        {
            (ALL,): {"a": 0.6, "b": 0.5},
            (ALL, "a", "b"): {"a": 0.7, "b": 0.5},
            (ALL, "a"): {"a": 0.7, "b": 0.5},
        }
    )
    rules = suppression()
    result = rules.determine(scores({"a": 0.5, "b": 0.5}), table, evaluated="ab", tried=rules.tried)
    assert [(trial.step.name, trial.accepted) for trial in result.trials] == [
        (ALL, True),
        ("a", True),
        ("b", False),
    ]
    assert kept(result) == [ALL, "a"]
    assert result.scores.dice == {"a": 0.7, "b": 0.5}
    # Labels that share no voxel are tried together: two passes, and one for the outcome.
    assert table.asked == [[(ALL,)], [(ALL, "a", "b")], [(ALL, "a")]]


def test_classes_start_from_the_raw_predictions_where_the_first_step_is_rejected() -> None:
    result = determined(
        suppression(),
        {"a": 0.5, "b": 0.5},
        {(ALL,): {"a": 0.9, "b": 0.4}, ("a", "b"): {"a": 0.6, "b": 0.7}},
    )
    assert kept(result) == ["a", "b"]
    assert result.trials[1].before == {"a": 0.5}
    assert result.scores.dice == {"a": 0.6, "b": 0.7}


def test_overlapping_regions_one_after_the_other() -> None:
    table = Table(
        {
            (ALL,): {"whole": 0.5, "core": 0.5},
            ("whole",): {"whole": 0.6, "core": 0.7},
            ("whole", "core"): {"whole": 0.6, "core": 0.65},
        }
    )
    rules = suppression(tried=(WHOLE, CORE))
    raw = scores({"whole": 0.5, "core": 0.5})
    result = rules.determine(raw, table, evaluated=("whole", "core"), tried=rules.tried)
    assert kept(result) == ["whole"]
    assert result.trials[-1].before == {"core": 0.7}  # on the outcome of the one accepted before
    assert table.asked == [[(ALL,)], [("whole",)], [("whole", "core")]]
    assert result.scores.dice == {"whole": 0.6, "core": 0.7}


def test_overlapping_regions_side_by_side() -> None:
    table = Table(
        {
            (ALL,): {"whole": 0.5, "core": 0.5},
            ("whole",): {"whole": 0.6, "core": 0.7},
            ("core",): {"whole": 0.5, "core": 0.65},
            ("whole", "core"): {"whole": 0.6, "core": 0.66},
        }
    )
    rules = suppression(tried=(WHOLE, CORE), is_cumulative=False)
    raw = scores({"whole": 0.5, "core": 0.5})
    result = rules.determine(raw, table, evaluated=("whole", "core"), tried=rules.tried)
    assert kept(result) == ["whole", "core"]
    assert table.asked == [[(ALL,)], [("whole",), ("core",)], [("whole", "core")]]
    assert result.scores.dice == {"whole": 0.6, "core": 0.66}


def test_threshold_is_exceeded_strictly() -> None:
    table = {(ALL,): {"a": 0.5, "b": 0.5}, ("a", "b"): {"a": 0.75, "b": 1.0}, ("b",): {"a": 0.5, "b": 1.0}}
    assert kept(determined(suppression(threshold=0.25), {"a": 0.5, "b": 0.5}, table)) == ["b"]


def test_undefined_classes_are_not_kept_by_themselves() -> None:
    table = {(ALL,): {"a": NAN, "b": NAN}, ("a", "b"): {"a": NAN, "b": 0.5}}
    assert kept(determined(suppression(), {"a": 0.5, "b": NAN}, table)) == []


def test_few_classes() -> None:
    one = suppression(tried=(A,), foreground=(1,))
    result = determined(one, {"a": 0.5}, {(ALL,): {"a": 0.6}})
    assert kept(result) == [ALL]
    assert len(result.trials) == 1
    one = suppression(tried=(A,), foreground=(1,), min_num_classes=1)
    result = determined(one, {"a": 0.5}, {(ALL,): {"a": 0.5}, ("a",): {"a": 0.5}})
    assert [trial.step.name for trial in result.trials] == [ALL, "a"]
    assert kept(result) == []
    assert result.scores.dice == {"a": 0.5}


@given(
    raw=st.tuples(dice, dice),
    after_all=st.tuples(dice, dice),
    after_each=st.tuples(dice, dice),
    cumulative=st.booleans(),
    undefined=st.sampled_from(["never_accept", "compare_false", "left_out"]),
    accept_if=st.sampled_from(["mean_rises", "any_class_rises"]),
)
def test_no_class_ever_falls(
    raw: tuple[float, float],
    after_all: tuple[float, float],
    after_each: tuple[float, float],
    cumulative: bool,
    undefined: Any,
    accept_if: Any,
) -> None:
    """With disjoint labels, whatever the conditions; and what is kept is what was accepted."""
    before, full, each = (dict(zip("ab", values, strict=True)) for values in (raw, after_all, after_each))
    table = {}
    for first, base in (((), before), ((ALL,), full)):
        table[first] = base
        table[(*first, "a", "b")] = each
        table[(*first, "a")] = {"a": each["a"], "b": base["b"]}
        table[(*first, "b")] = {"a": base["a"], "b": each["b"]}
    rules = suppression(is_cumulative=cumulative, undefined=undefined, accept_if=accept_if)
    result = determined(rules, before, table)
    assert kept(result) == [trial.step.name for trial in result.trials if trial.accepted]
    for name, value in result.scores.dice.items():
        assert not value < before[name]
    assert result.scores.dice == pytest.approx(dict(table[tuple(kept(result))]), nan_ok=True)


def test_of_the_packs(make_choice_plan: Callable[..., Plan]) -> None:
    """`golden/blueprints.md`, 9.2."""

    def read(pack: str, labels: Any = None) -> Suppression:
        with reading(make_choice_plan(pack, labels)) as root:
            return Suppression.from_plan(root, LabelSet.from_plan(root))

    organ, tumour = EvaluatedClass("organ", (1,)), EvaluatedClass("tumour", (2,))
    v2 = suppression(tried=(organ, tumour))
    assert read("nnunet@2.8.0") == v2
    for pack in ("nnunet@1.0.0", "nnunet@1.7.0"):
        assert read(pack) == suppression(
            for_every_candidate=True,
            components=Components(connectivity="face", size="volume"),
            accept_if="any_class_rises",
            undefined="compare_false",
            tried=(organ, tumour),
            is_cumulative=False,
        )
    text = read("preprint@2.0.0")
    assert not text.for_every_candidate
    assert text.components.connectivity == "face"
    assert (text.accept_if, text.undefined) == ("mean_rises", "left_out")
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    assert read("nnunet@2.8.0", regions).tried == (WHOLE, CORE)
