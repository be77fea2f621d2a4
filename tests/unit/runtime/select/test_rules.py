"""Who wins, and what the plan says about it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnrules.errors import PlanError, RunError
from nnrules.plan import Plan

from nnrules_runtime.select.rules import ChoiceRules
from nnrules_runtime.values import reading

NAN = math.nan
scores = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


def rules(**changes: Any) -> ChoiceRules:
    values: dict[str, Any] = {
        "order": ("2d", "3d_fullres", "3d_lowres"),
        "skips_not_planned": True,
        "skips_not_trained": True,
        "with_pairs": True,
        "dtype": np.dtype(np.float32),
        "score": "class_means_first",
        "is_postprocessed": False,
        "last_wins": False,
        "singles_first": True,
    }
    return ChoiceRules(**(values | changes))


def read(plan: Plan) -> ChoiceRules:
    with reading(plan) as root:
        return ChoiceRules.from_plan(root)


def test_of_the_releases(make_choice_plan: Callable[..., Plan]) -> None:
    """`golden/blueprints.md`, 9.1: order, type of the mean, ties, missing models."""
    new, middle, old = (
        read(make_choice_plan(pack)) for pack in ("nnunet@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0")
    )
    assert new.order == ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
    assert middle.order == old.order == ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
    assert [entry.dtype for entry in (new, middle, old)] == [np.float32, np.float16, np.float16]
    assert [entry.last_wins for entry in (new, middle, old)] == [False, True, True]
    assert [entry.skips_not_trained for entry in (new, middle, old)] == [False, False, True]
    text = read(make_choice_plan("preprint@2.0.0"))
    assert (text.last_wins, text.score) == (False, "class_means_first")


def test_unknown_values_are_refused_together(
    make_choice_plan: Callable[..., Plan], change_plan: Callable[..., Plan]
) -> None:
    document = dict(make_choice_plan().document)
    empirical = {
        **document["empirical"],
        "choice": {"best": "cheapest", "tie": "both", "singles_before_ensembles": True},
    }
    with pytest.raises(PlanError) as caught:
        read(Plan({**document, "empirical": empirical}))
    assert [problem.where for problem in caught.value.problems] == [
        "plan: empirical.choice.best",
        "plan: empirical.choice.tie",
    ]


def test_all_pairs_in_candidate_order() -> None:
    names = ("2d", "3d_fullres", "3d_lowres")
    assert rules().pairs(names) == [("2d", "3d_fullres"), ("2d", "3d_lowres"), ("3d_fullres", "3d_lowres")]
    assert rules(with_pairs=False).pairs(names) == []


def test_ties() -> None:
    found = {("a",): 0.5, ("b",): 0.75, ("a", "b"): 0.75, ("c",): NAN}
    assert rules().best(found) == (("b",), (("b",), ("a", "b")))
    assert rules(last_wins=True).best(found) == (("a", "b"), (("b",), ("a", "b")))


def test_order_of_candidates() -> None:
    assert rules().in_order(["s"], ["p", "q"]) == ["s", "p", "q"]
    assert rules(singles_first=False).in_order(["s"], ["p", "q"]) == ["p", "q", "s"]


def test_undefined_scores() -> None:
    assert rules().best({("a",): NAN}) == (("a",), (("a",),))  # nobody to compare with
    assert rules().best({("a",): NAN, ("b",): 0.0})[0] == ("b",)
    with pytest.raises(RunError, match="mean_over_classes=without_undefined"):
        rules().best({("a",): NAN, ("b",): NAN})


@given(values=st.lists(scores, min_size=1, max_size=6), last=st.booleans())
def test_the_winner_has_the_highest_score(values: list[float], last: bool) -> None:
    found = {(str(number),): value for number, value in enumerate(values)}
    defined = [value for value in values if not math.isnan(value)]
    if not defined and len(values) > 1:
        return
    winner, tied = rules(last_wins=last).best(found)
    if defined:
        assert found[winner] == max(defined)
        assert tied == tuple(members for members in found if found[members] == max(defined))
    assert winner == tied[-1 if last else 0]
