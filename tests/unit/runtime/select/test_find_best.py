"""The whole choice, on made-up predictions."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import ModelError, PlanError, RunError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.select import Empirical

Maps = dict[str, np.ndarray]
IDS = [f"c{number}" for number in range(6)]
ISLAND = (1, 0)


@pytest.fixture
def references(phantom: Callable[..., np.ndarray]) -> Maps:
    return {case_id: phantom() for case_id in IDS}


@pytest.fixture
def good(phantom: Callable[..., np.ndarray]) -> Maps:
    """Right but for a voxel of tumour, and for an island in half of the cases."""
    return {
        case_id: phantom(*([ISLAND] if number % 2 else []), tumour=3) for number, case_id in enumerate(IDS)
    }


@pytest.fixture
def poor(phantom: Callable[..., np.ndarray]) -> Maps:
    return {case_id: phantom(shift=-1) for case_id in IDS}


@pytest.fixture
def study(make_study: Callable[..., Any], references: Maps, good: Maps, poor: Maps) -> Any:
    """Both configurations validated on five folds, without probabilities."""
    return make_study(references, {"2d": poor, "3d_fullres": good})


def dice(predictions: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], label: int) -> float:
    """Mean over cases."""
    values = []
    for case_id, reference in references.items():
        prediction = predictions[case_id] == label
        overlap = 2 * np.sum(prediction & (reference == label))
        values.append(overlap / (prediction.sum() + (reference == label).sum()))
    return float(np.mean(values))


def test_the_highest_mean_dice_wins(study: Any, references: Maps, good: Maps, poor: Maps) -> None:
    found = study.find()
    assert found.members == ("3d_fullres",)
    assert found.folds == {"3d_fullres": (0, 1, 2, 3, 4)}
    assert found.chosen_by == "score"
    assert found.tied == ()
    assert [entry.members for entry in found.candidates] == [("2d",), ("3d_fullres",)]
    for entry, predictions in zip(found.candidates, (poor, good), strict=True):
        expected = {"organ": dice(predictions, references, 1), "tumour": dice(predictions, references, 2)}
        assert entry.scores.dice == pytest.approx(expected, abs=1e-15)
        assert entry.scores.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-15)
    assert found.case_ids == tuple(IDS)
    assert found.num_cases == len(IDS)
    assert found.scored_folds == dict.fromkeys(("2d", "3d_fullres"), (0, 1, 2, 3, 4))
    assert found.plan_hash == study.plan.hash


def test_postprocessing_of_the_chosen_one_only(study: Any) -> None:
    """The islands go; the tumour is one piece."""
    found = study.find()
    assert found.candidates[0].trials is None
    trials = found.chosen.trials
    assert [(trial.step.name, trial.accepted) for trial in trials] == [
        ("all foreground", True),
        ("organ", False),
        ("tumour", False),
    ]
    assert found.postprocessing.steps == (trials[0].step,)
    assert found.chosen.postprocessed.mean > found.chosen.scores.mean
    assert trials[0].mean_before == found.chosen.scores.mean
    assert trials[0].mean_after == found.chosen.postprocessed.mean


def test_postprocessing_of_every_candidate_in_older_releases(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    references: Maps,
    good: Maps,
    poor: Maps,
) -> None:
    study = make_study(references, {"2d": poor, "3d_fullres": good}, plan=make_choice_plan("nnunet@1.0.0"))
    found = study.find()
    assert all(entry.trials is not None for entry in found.candidates)
    assert found.candidates[0].postprocessing.steps == ()
    assert [step.name for step in found.postprocessing.steps] == ["all foreground"]
    assert found.postprocessing.steps[0].components.connectivity == "face"


def test_compared_after_postprocessing_where_the_plan_says_so(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    references: Maps,
    phantom: Callable[..., np.ndarray],
) -> None:
    islands = [(2, place) for place in range(0, 11, 2)]
    with_islands = {case_id: phantom(*islands) for case_id in IDS}  # perfect without them
    nearly = {case_id: phantom(tumour=3) for case_id in IDS}
    plan = make_choice_plan("nnunet@1.0.0")
    study = make_study(references, {"2d": with_islands, "3d_fullres": nearly}, plan=plan)
    raw = study.find()
    assert raw.members == ("3d_fullres",)
    assert raw.candidates[0].postprocessed.score == 1
    changed = make_choice_plan("nnunet@1.0.0", empirical__score__postprocessed=True)
    assert study.with_plan(changed).find().members == ("2d",)
    with pytest.raises(PlanError, match=r"score\.postprocessed"):
        study.with_plan(make_choice_plan(empirical__score__postprocessed=True)).find()


def test_pairs_average_probabilities(
    make_study: Callable[..., Any],
    references: Maps,
    good: Maps,
    poor: Maps,
    probabilities_of: Callable[..., np.ndarray],
) -> None:
    """Each member is surer where it is right, so that the pair is right everywhere."""
    probabilities: dict[str, Maps] = {"2d": {}, "3d_fullres": {}}
    for case_id, reference in references.items():
        for name, maps in (("2d", poor), ("3d_fullres", good)):
            right = maps[case_id] == reference
            sure, unsure = (probabilities_of(maps[case_id], share) for share in (0.9, 0.5))
            probabilities[name][case_id] = np.where(right, sure, unsure)
    study = make_study(references, {"2d": poor, "3d_fullres": good}, probabilities=probabilities)
    found = study.find()
    # Where both are wrong in the same way the pair is, too; here they never are.
    assert not any(((poor[c] != references[c]) & (good[c] != references[c])).any() for c in IDS)
    assert found.members == ("2d", "3d_fullres")
    assert found.chosen.scores.mean == 1
    assert found.folds == {"2d": (0, 1, 2, 3, 4), "3d_fullres": (0, 1, 2, 3, 4)}
    assert [entry.name for entry in found.candidates] == ["2d", "3d_fullres", "2d + 3d_fullres"]
    assert found.postprocessing.steps == ()


def test_pairs_without_probabilities_are_skipped_aloud(study: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = study.find()
    (pair,) = [entry for entry in found.skipped if entry.members == ("2d", "3d_fullres")]
    assert (
        "no probabilities of 6 of 6 cases by 2d; no probabilities of 6 of 6 cases by 3d_fullres"
        in pair.reason
    )
    assert "-c 2d --fold 0" in (pair.fix or "")
    assert "--probabilities" in (pair.fix or "")
    assert "(likewise --fold 1, 2, 3, 4)" in (pair.fix or "")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [str(pair)]


def test_configurations_that_are_not_planned_are_listed(study: Any) -> None:
    found = study.find()
    reasons = {entry.members: entry.reason for entry in found.skipped}
    assert reasons[("3d_lowres",)] == reasons[("3d_cascade_fullres",)] == "the plan does not have it"


def test_missing_folds_are_refused_with_the_command(
    make_study: Callable[..., Any], references: Maps, good: Maps, poor: Maps
) -> None:
    some = {case_id: poor[case_id] for case_id in IDS if case_id != "c3"}
    study = make_study(references, {"2d": some, "3d_fullres": good})
    with pytest.raises(RunError) as caught:
        study.find()
    (problem,) = caught.value.problems
    assert problem.where == "configuration 2d"
    assert problem.got == "nothing of fold 3"
    assert f"-c 2d --fold 3 --work {study.workspace.root}" in (problem.fix or "")
    # On what there is, or among those that are complete.
    assert study.find(folds=[0, 1, 2, 4]).num_cases == 5
    alone = study.find(configurations=["3d_fullres"])
    assert alone.members == ("3d_fullres",)
    assert alone.chosen_by == "only_candidate"


def test_missing_folds_are_skipped_where_the_plan_says_so(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    references: Maps,
    good: Maps,
) -> None:
    study = make_study(references, {"2d": good}, plan=make_choice_plan("nnunet@1.0.0"))
    found = study.find()
    assert found.members == ("2d",)
    (entry,) = [entry for entry in found.skipped if entry.members == ("3d_fullres",)]
    assert entry.reason == "not all folds have been trained and validated"
    assert entry.detail == "nothing of folds 0, 1, 2, 3, 4"
    # Whoever names a configuration wants it.
    with pytest.raises(RunError, match="3d_fullres"):
        study.find(configurations=["2d", "3d_fullres"])


def test_nothing_to_choose_from(
    make_study: Callable[..., Any], make_choice_plan: Callable[..., Plan], references: Maps
) -> None:
    study = make_study(references, {}, plan=make_choice_plan("nnunet@1.0.0"))
    with pytest.raises(RunError) as caught:
        study.find()
    assert [problem.where for problem in caught.value.problems] == [
        "configuration 2d",
        "configuration 3d_fullres",
    ]


def test_one_split(study: Any, references: Maps, good: Maps) -> None:
    """Supplement G: `folds=[0]` chooses on the cases of one fold, and its models predict."""
    found = study.find(folds=[0])
    held_out = ("c0", "c5")
    assert found.case_ids == held_out
    assert found.folds == {"3d_fullres": (0,)}
    expected = dice(good, {case_id: references[case_id] for case_id in held_out}, 1)
    assert found.chosen.scores.dice["organ"] == pytest.approx(expected, abs=1e-15)


def test_folds_beyond_the_split_are_left_alone(study: Any) -> None:
    for name in ("2d", "3d_fullres"):
        shutil.copytree(study.workspace.validation(name, 0), study.workspace.validation(name, 7))
    assert study.find().folds == {"3d_fullres": (0, 1, 2, 3, 4)}
    with pytest.raises(RunError, match="hold out the same cases"):
        study.find(folds=[0, 7])


def test_no_case_counts_twice(
    make_study: Callable[..., Any], references: Maps, good: Maps, poor: Maps
) -> None:
    """A fold beyond the split does not stand in for one that is missing where it holds out others again."""
    numbers = {"c0": 0, "c1": 1, "c2": 2, "c3": 3, "c4": 7, "c5": 7}
    study = make_study(references, {"2d": poor, "3d_fullres": good}, folds=numbers)
    assert study.find().folds == {"3d_fullres": (0, 1, 2, 3, 7)}
    for name in ("2d", "3d_fullres"):
        extra = study.workspace.validation(name, 7)
        summary = json.loads((extra / "summary.json").read_text())
        other = json.loads((study.workspace.validation(name, 0) / "summary.json").read_text())
        summary["cases"] += other["cases"]
        (extra / "summary.json").write_text(json.dumps(summary))
        shutil.copy(study.workspace.validation(name, 0) / "c0.nii.gz", extra)
    with pytest.raises(RunError, match="nothing of fold 4"):
        study.find()


def test_a_split_of_ones_own(make_study: Callable[..., Any], references: Maps, good: Maps) -> None:
    """Two folds cover all cases, whatever the plan's number of folds."""
    numbers = {case_id: index % 2 for index, case_id in enumerate(IDS)}
    study = make_study(references, {"2d": good, "3d_fullres": good}, folds=numbers)
    found = study.find()
    assert found.folds == {"2d": (0, 1)}
    assert found.num_cases == 6


@pytest.mark.parametrize(("tie", "winner"), [("first", "2d"), ("last", "3d_fullres")])
def test_ties(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    references: Maps,
    good: Maps,
    tie: str,
    winner: str,
) -> None:
    plan = make_choice_plan(empirical__choice__tie=tie)
    found = make_study(references, {"2d": good, "3d_fullres": dict(good)}, plan=plan).find()
    assert found.members == (winner,)
    assert found.tied == (("2d",), ("3d_fullres",))


def test_other_cases_cannot_be_compared(
    make_study: Callable[..., Any], references: Maps, good: Maps, poor: Maps
) -> None:
    study = make_study(references, {"2d": {"c0": poor["c0"]}, "3d_fullres": good})
    with pytest.raises(RunError, match="hold out other cases than those of 2d"):
        study.find(folds=[0])


def test_wrong_requests(study: Any) -> None:
    for options in ({"configurations": ["2d", "4d"]}, {"configurations": []}):
        with pytest.raises(UsageError, match="--configurations"):
            study.find(**options)
    for folds in ([], [0, 0], [-1], ["all"], [0, "all"]):
        with pytest.raises(UsageError, match="--folds"):
            study.find(folds=folds)


def test_a_configuration_outside_the_plans_order(study: Any, make_choice_plan: Callable[..., Plan]) -> None:
    plan = make_choice_plan(empirical__candidates__order=["3d_fullres"])
    found = study.with_plan(plan).find(configurations=["2d", "3d_fullres"])
    assert found.members == ("3d_fullres",)
    assert found.skipped[0].reason == "the plan does not let it compete"
    with pytest.raises(RunError, match="does not let it compete"):
        study.with_plan(plan).find(configurations=["2d"])


def test_damaged_results(study: Any) -> None:
    folder = study.workspace.validation("2d", 0)
    (folder / "c0.nii.gz").unlink()
    with pytest.raises(RunError, match="is gone"):
        study.find()
    (folder / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="a field is missing"):
        study.find()


def test_cases_of_another_dataset(study: Any) -> None:
    fewer = dataclasses.replace(study.dataset, cases=study.dataset.cases[1:])
    other = type(study)(study.plan, fewer, study.workspace)
    with pytest.raises(RunError, match="cases that the dataset does not have"):
        other.find()


def test_cases_that_came_later(
    make_study: Callable[..., Any], references: Maps, good: Maps, phantom: Callable[..., np.ndarray]
) -> None:
    study = make_study(references | {"new": phantom()}, {"2d": good, "3d_fullres": good}, folds={
        case_id: index % 5 for index, case_id in enumerate(IDS)
    })  # fmt: skip
    with pytest.raises(RunError, match="held out by no fold"):
        study.find()
    assert study.find(folds=[0, 1, 2, 3, 4]).num_cases == 6


def test_models_of_another_plan(study: Any, change_plan: Callable[..., Plan]) -> None:
    other = change_plan(study.plan, dataset__orientation_policy="canonical")
    other.save(study.workspace.models("2d") / "plan.json")
    with pytest.raises(ModelError, match="orientation_policy"):
        study.find()
    trained_longer = change_plan(study.plan, training__epochs=7)
    trained_longer.save(study.workspace.models("2d") / "plan.json")
    assert study.find().members == ("3d_fullres",)


def test_a_class_that_is_nowhere(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    phantom: Callable[..., np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The plain mean is undefined then. Who has no rival needs none."""
    empty = {case_id: np.where(phantom() == 1, 1, 0).astype(np.uint8) for case_id in IDS}
    study = make_study(empty, {"2d": empty, "3d_fullres": empty})
    assert study.find(configurations=["2d"]).members == ("2d",)
    with pytest.raises(RunError, match="undefined"):
        study.find()
    plan = make_choice_plan(evaluation__conventions__mean_over_classes="without_undefined")
    assert study.with_plan(plan).find().members == ("2d",)


def test_an_undefined_score_cannot_win(
    make_study: Callable[..., Any],
    phantom: Callable[..., np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    empty = {case_id: np.where(phantom() == 1, 1, 0).astype(np.uint8) for case_id in IDS}
    study = make_study(empty, {"2d": empty, "3d_fullres": {case_id: phantom() for case_id in IDS}})
    found = study.find()
    assert found.members == ("3d_fullres",)
    assert "2d cannot win: its mean Dice is undefined" in caplog.text


# -- few cases -----------------------------------------------------------------------------------------------------


FEW = ["c0", "c1", "c2"]


def trained(study: Any, configuration: str, folds: list[int]) -> None:
    for fold in folds:
        folder = study.workspace.fold(configuration, fold)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text("{}")


def test_the_plan_states_the_choice_where_nothing_is_held_out(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    references: Maps,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Supplement F, D19: three cases, five models on all of them, no selection."""
    few = {case_id: references[case_id] for case_id in FEW}
    study = make_study(few, {}, plan=make_choice_plan("preprint@2.0.0"))
    with pytest.raises(RunError, match="nothing of folds 0, 1, 2, 3, 4"):
        study.find()
    trained(study, "3d_fullres", [0, 1, 2, 3, 4])
    found = study.find()
    assert found.members == ("3d_fullres",)
    assert found.folds == {"3d_fullres": (0, 1, 2, 3, 4)}
    assert found.chosen_by == "plan"
    assert found.postprocessing.steps == ()
    assert found.chosen.scores is None
    assert (found.num_cases, found.case_ids, found.scored_folds) == (0, (), {})
    assert "no case is held out" in caplog.text
    assert study.find(folds=[0, 2]).folds == {"3d_fullres": (0, 2)}
    with pytest.raises(UsageError, match="nothing tells which"):
        study.find(configurations=["2d"])


def test_several_configurations_and_nothing_to_choose_by(
    make_study: Callable[..., Any], make_choice_plan: Callable[..., Plan], references: Maps
) -> None:
    few = {case_id: references[case_id] for case_id in FEW}
    plan = make_choice_plan("preprint@2.0.0", folds__too_few__configurations=None)
    study = make_study(few, {}, plan=plan)
    trained(study, "2d", [0, 1, 2, 3, 4])
    with pytest.raises(UsageError, match="one of 2d, 3d_fullres"):
        study.find()
    found = study.find(configurations=["2d"])
    assert found.members == ("2d",)
    assert [entry.members for entry in found.skipped] == [("3d_fullres",)]


def test_chosen_by_known_cases_where_the_plan_says_so(
    make_study: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    references: Maps,
    good: Maps,
    poor: Maps,
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = {case_id: references[case_id] for case_id in FEW}
    plan = make_choice_plan(
        "preprint@2.0.0", folds__too_few__configurations=None, folds__too_few__selection=True
    )
    maps = {"2d": {c: poor[c] for c in FEW}, "3d_fullres": {c: good[c] for c in FEW}}
    study = make_study(few, maps, plan=plan, folds=dict.fromkeys(FEW, 0))
    trained(study, "3d_fullres", [0, 1, 2, 3, 4])
    found = study.find()
    assert found.members == ("3d_fullres",)
    assert found.folds == {"3d_fullres": (0, 1, 2, 3, 4)}
    assert found.scored_folds["3d_fullres"] == (0,)
    assert "trained on all of them" in caplog.text


def test_too_few_cases_for_any_fold(make_study: Callable[..., Any], references: Maps) -> None:
    study = make_study({case_id: references[case_id] for case_id in FEW}, {})
    with pytest.raises(RunError, match="there is no cross-validation to choose by"):
        study.find()


def test_groups_count_as_one(
    make_study: Callable[..., Any], make_choice_plan: Callable[..., Plan], references: Maps
) -> None:
    """Six cases of two patients, where the plan keeps patients together."""
    plan = make_choice_plan("preprint@2.0.0", folds__unit="group")
    groups = {case_id: f"patient{index % 2}" for index, case_id in enumerate(IDS)}
    study = make_study(references, {}, plan=plan, groups=groups)
    trained(study, "3d_fullres", [0, 1, 2, 3, 4])
    assert study.find().chosen_by == "plan"


# -- laws ----------------------------------------------------------------------------------------------------------


def decisions(found: Empirical) -> Any:
    document = found.to_json()
    document["validation"] = None
    document["skipped"] = None
    return document


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(6)), offset=st.integers(0, 4), seed=st.integers(0, 1000))
def test_names_and_folds_of_cases_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    make_study_in: Callable[..., Any],
    make_choice_plan: Callable[..., Plan],
    order: list[int],
    offset: int,
    seed: int,
) -> None:
    """Cases under other names, in other folds: the same choice, the same steps, the same scores."""
    random = np.random.default_rng(seed)
    maps = [random.integers(0, 3, (2, 5, 5)).astype(np.uint8) for _ in range(18)]
    found = []
    for names, shift in ((list(range(6)), 0), (order, offset)):
        ids = [f"c{name}" for name in names]
        study = make_study_in(
            tmp_path_factory.mktemp("study"),
            make_choice_plan(),
            dict(zip(ids, maps[:6], strict=True)),
            {
                "2d": dict(zip(ids, maps[6:12], strict=True)),
                "3d_fullres": dict(zip(ids, maps[12:], strict=True)),
            },
            folds={case_id: (index + shift) % 5 for index, case_id in enumerate(sorted(ids))},
        )
        found.append(decisions(study.find()))
    assert found[0] == found[1]
