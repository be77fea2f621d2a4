"""The choice and its postprocessing against what nnunetv2 2.8.1 recorded for the same predictions: exactly."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.dataset import Dataset, load_dataset
from nnrules.image_io import read_label
from nnrules.plan import Plan

from nnrules_runtime.evaluate import EvaluationCase, evaluate_cases
from nnrules_runtime.select import Empirical, find_best, write_cross_validation
from nnrules_runtime.select.held_out import HeldOut, Validated
from nnrules_runtime.select.predictions import predictions_of
from nnrules_runtime.select.scoring import read_prediction
from nnrules_runtime.workspace import Workspace

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "runtime" / "h_evaluation"
REASON = "the recorded evaluations are not beside the checkout (../shared/golden/runtime/h_evaluation)"
PREFIX = "nnUNetTrainer__nnUNetPlans__"
FOLDERS = {("2d",): f"{PREFIX}2d", ("3d_fullres",): f"{PREFIX}3d_fullres", ("2d", "3d_fullres"): "ensemble"}
IDS = ("case_00", "case_01", "case_02", "case_03")
TOLERANCE = 1e-12  # the order in which means are summed up

pytestmark = pytest.mark.shared


def scenarios() -> list[Any]:
    found = sorted(path.parent for path in RECORDED.glob("*/find_best.json")) if RECORDED.is_dir() else []
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=REASON))]
    return [pytest.param(path, id=path.name) for path in found]


@dataclasses.dataclass(frozen=True)
class Study:
    plan: Plan
    dataset: Dataset
    workspace: Workspace
    scenario: Path
    recorded: dict[str, Any]

    def find(self, plan: Plan | None = None) -> Empirical:
        return find_best(plan or self.plan, self.dataset, self.workspace, num_workers=1)


@cache
def fingerprint() -> dict[str, Any]:
    """Of images for which 2d and 3d_fullres are planned."""
    statistics = dict.fromkeys(
        ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
    )
    return {
        "foreground_intensity_properties_per_channel": {"0": statistics},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[40, 40, 40]] * 4,
        "spacings": [[1.0, 1.0, 1.0]] * 4,
    }


@pytest.fixture
def study(request: pytest.FixtureRequest, plan_request: Callable[..., Plan], tmp_path: Path) -> Study:
    """The recorded predictions as a work folder with two folds, which hold cases out in turn."""
    scenario: Path = request.param
    folder = tmp_path / "dataset"
    shutil.copytree(scenario / "reference", folder / "labelsTr")
    (folder / "imagesTr").mkdir()
    for case_id in IDS:
        (folder / "imagesTr" / f"{case_id}_0000.nii.gz").touch()
    shutil.copy(scenario / "dataset.json", folder)
    dataset = load_dataset(folder)
    plan = plan_request(
        "ExperimentPlanner", fingerprint(), json.loads((scenario / "dataset.json").read_text())
    )
    workspace = Workspace(tmp_path / "work")
    for name in ("2d", "3d_fullres"):
        for fold in (0, 1):
            target = workspace.validation(name, fold)
            target.mkdir(parents=True)
            pairs = []
            for case_id in IDS[fold::2]:
                for ending in (".nii.gz", ".npz"):
                    shutil.copy(scenario / f"{PREFIX}{name}" / f"{case_id}{ending}", target)
                reference = folder / "labelsTr" / f"{case_id}.nii.gz"
                prediction = target / reference.name
                pairs.append(EvaluationCase(id=case_id, prediction=prediction, reference=reference))
            summary = evaluate_cases(plan, pairs, surface_tolerance_mm=None, num_workers=1)
            summary.save(target / "summary.json")
    recorded = json.loads((scenario / "find_best.json").read_text())
    return Study(plan, dataset, workspace, scenario, recorded)


def with_every_candidate(plan: Plan) -> Plan:
    """Postprocessing of all three folders was recorded."""
    document = copy.deepcopy(dict(plan.document))
    document["postprocessing"]["determined_for"] = "every_candidate"
    return Plan.from_document(document)


def labels_of(entry: Any) -> tuple[int, ...]:
    return tuple(entry) if isinstance(entry, list) else (entry,)


def members_of(study: Study, members: tuple[str, ...]) -> list[Validated]:
    held_out = HeldOut(plan=study.plan, dataset=study.dataset, workspace=study.workspace, num_folds=2)
    found = [held_out.pooled(name, [0, 1]) for name in members]
    return [entry for entry in found if isinstance(entry, Validated)]


@pytest.mark.parametrize("study", scenarios(), indirect=True)
def test_the_choice(study: Study, record_property: Callable[[str, object], None]) -> None:
    found = study.find()
    recorded = study.recorded
    theirs = recorded["all_results"]
    names = [f"{PREFIX}2d", f"{PREFIX}3d_fullres", f"ensemble___{PREFIX}2d___{PREFIX}3d_fullres___0_1"]
    assert list(theirs) == names
    assert [entry.members for entry in found.candidates] == list(FOLDERS)
    worst = 0.0
    for name, entry in zip(names, found.candidates, strict=True):
        assert entry.scores is not None
        worst = max(worst, abs(entry.scores.score - theirs[name]))
    best = {"2d": ("2d",), "3d_fullres": ("3d_fullres",), "ensemble": ("2d", "3d_fullres")}
    assert found.members == best[recorded["best"]]
    assert found.chosen.scores is not None
    assert found.chosen.postprocessed is not None
    worst = max(worst, abs(found.chosen.scores.mean - recorded["result_on_crossval_pre_pp"]))
    worst = max(worst, abs(found.chosen.postprocessed.mean - recorded["result_on_crossval_post_pp"]))
    record_property("largest difference", worst)
    assert worst <= TOLERANCE
    assert found.folds == dict.fromkeys(found.members, (0, 1))
    summary = write_cross_validation(study.plan, study.dataset, study.workspace, found, num_workers=1)
    assert abs(summary.foreground_mean()["dice"] - recorded["result_on_crossval_post_pp"]) <= TOLERANCE
    for case_id in IDS:
        ours, _ = read_label(study.workspace.cross_validation / f"{case_id}.nii.gz")
        expected, _ = read_label(
            study.scenario / FOLDERS[found.members] / "postprocessed" / f"{case_id}.nii.gz"
        )
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("study", scenarios(), indirect=True)
def test_postprocessing_of_every_candidate(
    study: Study, record_property: Callable[[str, object], None]
) -> None:
    """The accepted steps in their order, the scores after them, and each voxel of the files."""
    found = study.find(with_every_candidate(study.plan))
    worst, num_files = 0.0, 0
    for entry in found.candidates:
        folder = FOLDERS[entry.members]
        recorded = study.recorded["per_folder"][folder]
        steps = [step.labels for step in entry.postprocessing.steps]
        theirs = [labels_of(kwargs["labels_or_regions"]) for kwargs in recorded["postprocessing_kwargs"]]
        assert steps == theirs, folder
        assert entry.scores is not None
        assert entry.postprocessed is not None
        worst = max(worst, abs(entry.scores.mean - recorded["foreground_mean_dice"]))
        worst = max(worst, abs(entry.postprocessed.mean - recorded["after_postprocessing"]))
        means = json.loads((study.scenario / folder / "postprocessing.json").read_text())
        for kind, scores in (("input_folder", entry.scores), ("postprocessed", entry.postprocessed)):
            dice = [values["Dice"] for _, values in sorted(means[kind]["mean"].items())]
            ours = [value for _, value in sorted(scores.dice.items(), key=lambda item: _key(study, item[0]))]
            worst = max(worst, *(abs(a - b) for a, b in zip(ours, dice, strict=True)))
        predictions = predictions_of(
            study.plan, study.dataset, members_of(study, entry.members), dtype=np.dtype(np.float32)
        )
        for prediction in predictions:
            labels, _, geometry = read_prediction(prediction)
            raw, _ = read_label(study.scenario / folder / f"{prediction.case.id}.nii.gz")
            np.testing.assert_array_equal(labels, raw)
            processed = entry.postprocessing.apply(labels, geometry.spacing)
            expected, _ = read_label(
                study.scenario / folder / "postprocessed" / f"{prediction.case.id}.nii.gz"
            )
            np.testing.assert_array_equal(processed, expected)
            num_files += 2
    assert num_files == 2 * 3 * len(IDS)
    record_property("largest difference", worst)
    assert worst <= TOLERANCE


def _key(study: Study, name: str) -> str:
    """How nnU-Net names a class: its label, or the tuple of a region."""
    entry = json.loads((study.scenario / "dataset.json").read_text())["labels"][name]
    return str(tuple(entry)) if isinstance(entry, list) else str(entry)
