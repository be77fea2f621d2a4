"""Scores against the summaries that nnunetv2 2.8.1 wrote for the same files."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnrules_runtime.evaluate import Evaluation, evaluate_cases, find_pairs
from nnrules_runtime.values import Section

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "runtime" / "h_evaluation"
REASON = "the recorded evaluations are not beside the checkout (../shared/golden/runtime/h_evaluation)"
TOLERANCE = 1e-12
Difference = Callable[..., float]


def summaries() -> list[Any]:
    """Every recorded summary with its predictions beside it: raw, ensembled, postprocessed."""
    found = sorted(RECORDED.glob("*/**/summary.json")) if RECORDED.is_dir() else []
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=REASON))]
    return [pytest.param(path, id=str(path.parent.relative_to(RECORDED))) for path in found]


def evaluation_of(dataset_json: Path, labels: dict[str, Any] | None = None) -> Evaluation:
    """The conventions of the pack nnunet@2.8.0 for a recorded dataset."""
    document = json.loads(dataset_json.read_text())
    labels = labels or document["labels"]
    root = {
        "dataset": {
            "labels": labels,
            "label_order": list(labels),
            "ignore_label": labels.get("ignore"),
            "regions_class_order": document.get("regions_class_order"),
        },
        "evaluation": {
            "metrics": ["dice", "iou", "tp", "fp", "fn", "tn", "num_predicted", "num_reference"],
            "conventions": {
                "both_empty": "not_a_number",
                "one_empty": 0,
                "ignored_voxels": "left_out",
                "evaluated": "foreground_labels_or_regions",
                "mean_over_cases": "without_undefined",
                "mean_over_classes": "plain",
                "space": "original_image",
            },
        },
    }
    problems: list[Any] = []
    evaluation = Evaluation.from_plan(Section(root, "", problems))
    assert problems == []
    return evaluation


def compare(
    folder: Path, recorded: Path, evaluation: Evaluation, scenario: Path, largest_difference: Difference
) -> float:
    expected = json.loads(recorded.read_text())
    summary = evaluate_cases(
        evaluation,
        find_pairs(folder, scenario / "reference", ".nii.gz"),
        surface_tolerance_mm=None,
        num_workers=1,
    )
    keys = {
        entry.name: str(tuple(entry.labels) if "(" in next(iter(expected["mean"])) else entry.labels[0])
        for entry in evaluation.classes
    }
    assert set(keys.values()) == set(expected["mean"])
    means = summary.means()
    worst = largest_difference(summary.foreground_mean(), expected["foreground_mean"])
    for name, key in keys.items():
        worst = max(worst, largest_difference(means[name], expected["mean"][key]))
    by_file = {Path(case["prediction_file"]).name: case["metrics"] for case in expected["metric_per_case"]}
    assert len(summary.cases) == len(by_file) == 4
    for case in summary.cases:
        for name, key in keys.items():
            theirs = by_file[case.case.prediction.name][key]
            worst = max(worst, largest_difference(case.values[name], theirs))
    return worst


@pytest.mark.shared
@pytest.mark.parametrize("recorded", summaries())
def test_summary(
    recorded: Path, largest_difference: Difference, record_property: Callable[[str, object], None]
) -> None:
    scenario = RECORDED / recorded.relative_to(RECORDED).parts[0]
    evaluation = evaluation_of(scenario / "dataset.json")
    worst = compare(recorded.parent, recorded, evaluation, scenario, largest_difference)
    record_property("largest difference", worst)
    assert worst <= TOLERANCE


@pytest.mark.shared
@pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON)
def test_class_that_occurs_nowhere(largest_difference: Difference) -> None:
    """It is undefined, and with the release's plain mean the foreground mean is, too."""
    scenario = RECORDED / "absent_classes"
    labels = json.loads((scenario / "dataset.json").read_text())["labels"] | {"never": 4}
    evaluation = evaluation_of(scenario / "dataset.json", labels)
    folder = scenario / "nnUNetTrainer__nnUNetPlans__2d"
    recorded = scenario / "summary_2d_with_label_4_never_present.json"
    assert compare(folder, recorded, evaluation, scenario, largest_difference) <= TOLERANCE
    assert math.isnan(json.loads(recorded.read_text())["foreground_mean"]["Dice"])
