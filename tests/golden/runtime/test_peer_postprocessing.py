"""Postprocessing of drawn predictions, against the installed nnunetv2 2.8.1: its decisions and each voxel."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.image_io import read_label
from nnrules.plan import Plan
from scipy import ndimage

from nnrules_runtime.evaluate import Evaluation, EvaluationCase
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.select.scoring import CasePrediction, Scorer
from nnrules_runtime.select.suppression import Suppression
from nnrules_runtime.values import reading

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_CASES = 5
NUM_DRAWS = 6
LIMIT = 1e-12
LABELS: dict[str, dict[str, Any]] = {
    "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
    "absent": {"background": 0, "a": 1, "b": 2, "c": 3, "never": 4},
    "one": {"background": 0, "a": 1},
    "regions": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": [3]},
    "ignore": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": [3], "ignore": 4},
}
STATISTICS = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
FINGERPRINT = {
    "foreground_intensity_properties_per_channel": {"0": STATISTICS},
    "median_relative_size_after_cropping": 1.0,
    "shapes_after_crop": [[40, 40, 40]] * 8,
    "spacings": [[1.0, 1.0, 1.0]] * 8,
}


def drawn_maps(rng: np.random.Generator, islands: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A nested phantom and a prediction of it with islands, of the labels that this draw has them of."""
    shape = rng.integers(10, 20, 3)
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in shape), indexing="ij"), -1)
    distance = np.linalg.norm(grid - shape / 2 + rng.uniform(-1, 1, 3), axis=-1)
    distance = distance + ndimage.gaussian_filter(rng.standard_normal(shape), 1) * 2
    edges = (6, 4, 2)
    noise = rng.standard_normal(shape) * 0.4
    reference = sum(distance < edge for edge in edges)
    prediction = sum(distance + noise < edge for edge in edges)
    for label in islands:
        for _ in range(rng.integers(1, 6)):
            place = tuple(rng.integers(0, edge) for edge in shape)
            prediction[place] = label
    if kind == "one":
        reference, prediction = (np.minimum(labels, 1) for labels in (reference, prediction))
    if kind == "ignore":
        reference[rng.random(shape) < 0.2] = 4
    return prediction.astype(np.uint8), reference.astype(np.uint8)


def labels_of(entry: Any) -> tuple[int, ...]:
    return tuple(entry) if isinstance(entry, list) else (entry,)


@pytest.mark.parametrize("kind", LABELS)
def test_drawn_predictions(
    kind: str,
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    dataset: dict[str, Any] = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS[kind],
        "numTraining": 8,
        "file_ending": ".nii.gz",
    }
    if kind in ("regions", "ignore"):
        dataset["regions_class_order"] = [1, 2, 3]
    plan = plan_request("ExperimentPlanner", FINGERPRINT, dataset)
    with reading(plan) as root:
        rules = Suppression.from_plan(root, LabelSet.from_plan(root))
        scorer = Scorer(Evaluation.from_plan(root), rules.tried, num_workers=1)
    worst, voxels, accepted = [0.0], 0, 0
    for _ in range(NUM_DRAWS):
        folders = {name: tmp_path / name for name in ("predictions", "references")}
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        predictions = []
        islands = rng.choice([1, 2, 3], rng.integers(0, 4), replace=False)
        for number in range(NUM_CASES):
            spacing = rng.uniform(0.5, 3, 3).tolist()
            maps = drawn_maps(rng, islands, kind)
            paths = [folder / f"case_{number}.nii.gz" for folder in folders.values()]
            for path, labels in zip(paths, maps, strict=True):
                image = sitk.GetImageFromArray(labels)
                image.SetSpacing(spacing)
                sitk.WriteImage(image, str(path))
            case = EvaluationCase(id=f"case_{number}", prediction=paths[0], reference=paths[1])
            predictions.append(CasePrediction(case=case))
        question = {
            **{name: str(folder) for name, folder in folders.items()},
            "plans": exported(plan, "Dataset001_Ours"),
            "dataset": dataset,
        }
        expected, _ = ask_peer("postprocessing", question)

        def score(variants: Any, predictions: Any = predictions) -> Any:
            return scorer.scores(predictions, variants, title="scoring")

        (raw,) = score([Postprocessing.none()])
        found = rules.determine(raw, score, evaluated=scorer.evaluated, tried=scorer.tried)
        steps = [step.labels for step in found.postprocessing.steps]
        assert steps == [labels_of(entry) for entry in expected["steps"]]
        accepted += len(steps)
        for ours, theirs in ((raw.mean, expected["before"]), (found.scores.mean, expected["after"])):
            # A class that is nowhere makes the plain mean undefined, on both sides.
            assert math.isnan(ours) == (theirs is None or math.isnan(theirs))
            worst.append(0.0 if math.isnan(ours) else abs(ours - theirs))
        for prediction in predictions:
            labels, geometry = read_label(prediction.case.prediction)
            processed = found.postprocessing.apply(labels, geometry.spacing)
            theirs, _ = read_label(Path(expected["folder"]) / prediction.case.prediction.name)
            voxels += int(np.count_nonzero(processed != theirs))
    compare(f"means of {NUM_DRAWS} draws with {kind}, {accepted} steps accepted", max(worst), LIMIT)
    compare(f"voxels after postprocessing with {kind}", voxels, 0)
