"""Predictions of all validation cases by what was chosen, on disk."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nnrules.errors import ModelError
from nnrules.image_io import read_geometry, read_label
from nnrules.plan import Plan

from nnrules_runtime.select import write_cross_validation
from nnrules_runtime.select.empirical import Candidate, Empirical

Maps = dict[str, np.ndarray]
IDS = ["c0", "c1", "c2", "c3", "c4"]


@pytest.fixture
def references(phantom: Callable[..., np.ndarray]) -> Maps:
    return {case_id: phantom() for case_id in IDS}


def written(study: Any, found: Empirical, **options: Any) -> Any:
    summary = write_cross_validation(
        study.plan, study.dataset, study.workspace, found, **{"num_workers": 1, **options}
    )
    folder = study.workspace.cross_validation
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{case_id}.nii.gz" for case_id in IDS),
        "summary.json",
    ]
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary.to_json()))
    return summary


def test_postprocessed(
    make_study: Callable[..., Any], references: Maps, phantom: Callable[..., np.ndarray]
) -> None:
    """The files are what the accepted steps make, in the geometry of the label, with the scores that were told."""
    islands = {case_id: phantom((1, 0)) for case_id in IDS}
    study = make_study(references, {"2d": islands})
    found = study.find(configurations=["2d"])
    assert [step.name for step in found.postprocessing.steps] == ["all foreground"]
    summary = written(study, found)
    for case in study.dataset.cases:
        path = study.workspace.cross_validation / f"{case.id}.nii.gz"
        np.testing.assert_array_equal(read_label(path)[0], references[case.id])
        assert read_geometry(path) == read_geometry(case.label_path)
    assert found.chosen.postprocessed is not None
    assert summary.foreground_mean()["dice"] == found.chosen.postprocessed.mean == 1


def test_links_where_nothing_changes(make_study: Callable[..., Any], references: Maps) -> None:
    study = make_study(references, {"2d": references})
    found = study.find(configurations=["2d"])
    written(study, found)
    first = study.workspace.cross_validation / "c0.nii.gz"
    assert first.samefile(study.workspace.validation("2d", 0) / "c0.nii.gz")
    written(study, found)  # what was there is replaced


def test_of_a_pair(
    make_study: Callable[..., Any],
    references: Maps,
    phantom: Callable[..., np.ndarray],
    probabilities_of: Callable[..., np.ndarray],
) -> None:
    """Two wrong predictions, the surer ones right."""
    left = {case_id: phantom(shift=-1) for case_id in IDS}
    right = {case_id: phantom(shift=1) for case_id in IDS}
    probabilities: dict[str, Maps] = {"2d": {}, "3d_fullres": {}}
    expected = {}
    for case_id in IDS:
        first = probabilities_of(left[case_id], 0.6)
        second = probabilities_of(right[case_id], 0.8)
        probabilities["2d"][case_id], probabilities["3d_fullres"][case_id] = first, second
        expected[case_id] = ((first + second) / 2).argmax(axis=0)
    study = make_study(references, {"2d": left, "3d_fullres": right}, probabilities=probabilities)
    found = study.find()
    pair = next(entry for entry in found.candidates if len(entry.members) == 2)
    chosen = Empirical(
        members=pair.members,
        folds=found.scored_folds,
        postprocessing=pair.postprocessing,
        plan_hash=found.plan_hash,
        chosen_by="score",
        candidates=found.candidates,
        scored_folds=found.scored_folds,
    )
    summary = written(study, chosen)
    for case_id in IDS:
        labels, _ = read_label(study.workspace.cross_validation / f"{case_id}.nii.gz")
        np.testing.assert_array_equal(labels, expected[case_id])
    assert pair.scores is not None
    assert summary.foreground_mean()["dice"] == pair.scores.mean


def test_nothing_is_written_where_something_is_missing(
    make_study: Callable[..., Any], references: Maps, make_choice_plan: Callable[..., Plan]
) -> None:
    study = make_study(references, {"2d": references})
    found = study.find(configurations=["2d"])
    (study.workspace.validation("2d", 1) / "summary.json").unlink()
    with pytest.raises(ModelError, match="nothing of fold 1"):
        write_cross_validation(study.plan, study.dataset, study.workspace, found)
    assert not study.workspace.cross_validation.exists()
    stated = Empirical(
        members=("2d",),
        folds={"2d": (0,)},
        postprocessing=found.postprocessing,
        plan_hash=found.plan_hash,
        chosen_by="plan",
        candidates=(Candidate(members=("2d",), scores=None),),
    )
    with pytest.raises(ModelError, match="no case was held out"):
        write_cross_validation(study.plan, study.dataset, study.workspace, stated)
