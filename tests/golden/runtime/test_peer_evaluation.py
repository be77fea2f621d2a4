"""Scores of drawn label maps, against the installed nnunetv2 2.8.1."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.plan import Plan
from scipy import ndimage

from nnrules_runtime.evaluate import Evaluation, evaluate_cases, find_pairs
from nnrules_runtime.values import reading

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_CASES = 8
LIMIT = 1e-12
LABELS: dict[str, dict[str, Any]] = {
    "labels": {"background": 0, "a": 1, "b": 2, "c": 3, "never": 4},
    "ignore": {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4},
    "regions": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": [3]},
    "regions and ignore": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": [3], "ignore": 4},
}


def drawn_maps(rng: np.random.Generator, *, ignore: bool) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and its reference, alike, each without some label now and then."""
    shape = rng.integers(5, 24, 3)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    edges = np.quantile(field, [0.4, 0.6, 0.8])
    reference = np.digitize(field, edges)
    prediction = np.digitize(field + rng.uniform(0, 0.3) * rng.standard_normal(shape) * field.std(), edges)
    for labels in (prediction, reference):
        labels[labels == rng.integers(1, 8)] = 0
    if rng.random() < 0.2:  # both lack it
        absent = rng.integers(1, 4)
        for labels in (prediction, reference):
            labels[labels == absent] = 0
    if ignore:
        reference[rng.random(shape) < rng.uniform(0, 0.5)] = 4
    return prediction.astype(np.uint8), reference.astype(np.uint8)


@pytest.mark.parametrize("kind", LABELS)
def test_drawn_label_maps(
    kind: str,
    largest_difference: Callable[..., float],
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    folders = {name: tmp_path / name for name in ("predictions", "references")}
    for folder in folders.values():
        folder.mkdir()
    for number in range(NUM_CASES):
        spacing = rng.uniform(0.5, 3, 3).tolist()
        maps = drawn_maps(rng, ignore="ignore" in LABELS[kind])
        for folder, labels in zip(folders.values(), maps, strict=True):
            image = sitk.GetImageFromArray(labels)
            image.SetSpacing(spacing)
            sitk.WriteImage(image, str(folder / f"case_{number}.nii.gz"))
    statistics = dict.fromkeys(
        ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
    )
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": statistics},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[40, 40, 40]] * 8,
        "spacings": [[1.0, 1.0, 1.0]] * 8,
    }
    dataset: dict[str, Any] = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS[kind],
        "numTraining": 8,
        "file_ending": ".nii.gz",
    }
    if "regions" in kind:
        dataset["regions_class_order"] = [1, 2, 3]
    plan = plan_request("ExperimentPlanner", fingerprint, dataset)
    question = {
        **{name: str(folder) for name, folder in folders.items()},
        "plans": exported(plan, "Dataset001_Ours"),
        "dataset": dataset,
    }
    expected, _ = ask_peer("evaluation", question)
    with reading(plan) as root:
        evaluation = Evaluation.from_plan(root)
    pairs = find_pairs(folders["predictions"], folders["references"], ".nii.gz")
    summary = evaluate_cases(evaluation, pairs, surface_tolerance_mm=None, num_workers=1)
    keys = {
        entry.name: str(entry.labels if "regions" in kind else entry.labels[0])
        for entry in evaluation.classes
    }
    assert sorted(keys.values()) == sorted(expected["mean"])
    means = summary.means()
    worst = [largest_difference(summary.foreground_mean(), expected["foreground_mean"])]
    worst += [largest_difference(means[name], expected["mean"][key]) for name, key in keys.items()]
    by_file = {Path(case["prediction_file"]).name: case["metrics"] for case in expected["metric_per_case"]}
    assert len(summary.cases) == len(by_file) == NUM_CASES
    undefined = 0
    for case in summary.cases:
        for name, key in keys.items():
            theirs = by_file[case.case.prediction.name][key]
            worst.append(largest_difference(case.values[name], theirs))
            undefined += math.isnan(theirs["Dice"])
    scores = len(worst) * len(expected["foreground_mean"])
    compare(
        f"{scores} scores of {NUM_CASES} cases with {kind}, {undefined} of them undefined", max(worst), LIMIT
    )
