"""Preprocessed cases of the shared sets, and of drawn arrays, against the installed nnunetv2 2.8.1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.plan import Plan
from scipy import ndimage

from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.prepared import ANNOTATED, PreparedCase
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.values import reading

SHARED = Path(__file__).resolve().parents[4] / "shared"
RECORDED = SHARED / "golden" / "runtime" / "a_preprocessing"
DATA = SHARED / "data"
REASON = "the data or the fingerprints are not beside the checkout (../shared/data, ../shared/golden/runtime)"
# Cases that are drawn of each set; each is preprocessed for all configurations, the last one without its label.
NUM_CASES = {"hippocampus": 4, "acdc": 3, "head_neck_ct": 2, "nuclei_2d": 4, "em_3d": 2}
# With 1 GB the CT set has a low resolution, too.
BUDGET = {"head_neck_ct": 1.0}
# Always among them: few bright voxels on a dark ground, whose deviation a sum in float32 gets wrong.
HARD = {"nuclei_2d": ["nuc_091", "nuc_286"]}
DATA_LIMIT = 1e-4
CHANNELS = ("MRI", "CT", "nonorm", "rescale_to_0_1")

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600)]

Case = dict[str, Any]
Compare = Callable[[str, float, float], None]


def own_stage(plan: Plan) -> list[str]:
    """The configurations that have data of their own: not the cascade's second stage."""
    return [name for name, entry in plan.configurations.items() if not entry.get("previous_stage")]


def assert_same(
    ours: PreparedCase, data: np.ndarray, segmentation: np.ndarray, properties: dict[str, Any]
) -> tuple[float, int]:
    """Geometry and locations; returns the largest difference of images, and the labels that differ."""
    geometry = ours.geometry
    assert list(geometry.original_spacing) == properties["spacing"]
    assert list(geometry.transposed_shape) == properties["before"]
    box = zip(geometry.crop_start, geometry.crop_stop, strict=True)
    assert [list(pair) for pair in box] == properties["box"]
    assert list(geometry.crop_shape) == properties["after"]
    assert ours.image.shape == data.shape
    assert ours.label is not None
    expected = {
        ANNOTATED if key[0] == -1 else tuple(key): count for key, count in properties["locations"] if count
    }
    assert {key: len(voxels) for key, voxels in ours.locations.items()} == expected
    largest = np.abs(ours.image.astype(np.float64) - data).max(initial=0)
    return float(largest), int((ours.label != segmentation[0]).sum())


@pytest.mark.shared
@pytest.mark.skipif(not (RECORDED.is_dir() and DATA.is_dir()), reason=REASON)
@pytest.mark.parametrize("name", NUM_CASES)
def test_shared_set(
    name: str,
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Compare,
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
) -> None:
    fingerprint = json.loads((RECORDED / name / "dataset_fingerprint.json").read_text())
    dataset = json.loads((DATA / name / "dataset.json").read_text())
    plan = plan_request("ExperimentPlanner", fingerprint, dataset, gpu_memory_gb=BUDGET.get(name))
    ending = dataset["file_ending"]
    ids = sorted(path.name.removesuffix(ending) for path in (DATA / name / "labelsTr").glob(f"*{ending}"))
    drawn = sorted({*rng.choice(ids, NUM_CASES[name], replace=False).tolist(), *HARD.get(name, ())})
    cases = []
    for identifier in drawn:
        label = None if identifier == drawn[-1] else str(DATA / name / "labelsTr" / f"{identifier}{ending}")
        images = [str(DATA / name / "imagesTr" / f"{identifier}_0000{ending}")]
        cases += [
            {"configuration": configuration, "images": images, "label": label}
            for configuration in own_stage(plan)
        ]
    question = {"plans": exported(plan, "Dataset001_Ours"), "dataset": dataset, "cases": cases}
    found, arrays = ask_peer("preprocessing", question)
    largest, num_labels = 0.0, 0
    for number, (case, properties) in enumerate(zip(cases, found, strict=True)):
        ours = from_files(plan, case)
        image, labels = assert_same(ours, arrays[f"{number}/data"], arrays[f"{number}/seg"], properties)
        largest, num_labels = max(largest, image), num_labels + labels
    what = f"{name}: {', '.join(drawn)} for {', '.join(own_stage(plan))}"
    compare(f"intensities of {what}", largest, DATA_LIMIT)
    compare(f"number of labels of {what}", num_labels, 0)


def from_files(plan: Plan, case: Case) -> PreparedCase:
    images = [Path(path) for path in case["images"]]
    with reading(plan) as root:
        recipe = Preprocessing.from_plan(root, case["configuration"])
        reader = CaseReader.from_plan(root)
    if case["label"] is None:
        image, spacing, _ = reader.image(images)
        return recipe.run(image, None, spacing, keep_mask=True)
    return recipe.run(*reader.pair(images, Path(case["label"])))


def drawn_case(rng: np.random.Generator, labels: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """An image of all channels that is 0 around an odd shape, labels (also outside it), and an anisotropic spacing."""
    shape = rng.integers([8, 24, 20], [16, 44, 40])[order := rng.permutation(3)]
    spacing = (np.array([4.0, 1.0, 0.8]) * rng.uniform(0.7, 1.4, 3))[order]
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    inside = smooth > np.quantile(smooth, 0.35)
    image = rng.normal(3, 40, (len(CHANNELS), *shape)) + 20 * ndimage.gaussian_filter(
        rng.standard_normal(shape), 1
    )
    image = np.where(inside, image, 0).astype(np.float32)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    label = np.digitize(field, np.quantile(field, np.linspace(0.5, 1, labels + 1)[:-1])).astype(np.int16)
    return image, label, [float(edge) for edge in spacing]


LABELS: dict[str, dict[str, Any]] = {
    "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
    "ignored": {"background": 0, "a": 1, "b": 2, "ignore": 3},
    "regions": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": 3},
}


@pytest.mark.parametrize("kind", LABELS)
def test_masked_and_turned_arrays(
    kind: str,
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Compare,
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
) -> None:
    drawn = [drawn_case(rng, 3) for _ in range(3)]
    statistics = {
        "max": 90.0, "mean": 3.0, "median": 2.5, "min": -80.0, "percentile_00_5": -60.0, "percentile_99_5": 70.0,
        "std": 33.3,
    }  # fmt: skip
    fingerprint = {
        "foreground_intensity_properties_per_channel": {str(i): statistics for i in range(len(CHANNELS))},
        "median_relative_size_after_cropping": 0.6,  # below 3/4, so that norms are taken inside the mask
        "shapes_after_crop": [list(image.shape[1:]) for image, _, _ in drawn],
        "spacings": [spacing for _, _, spacing in drawn],
    }
    dataset = {
        "channel_names": dict(enumerate(CHANNELS)),
        "labels": LABELS[kind],
        "numTraining": len(drawn),
        "file_ending": ".nii.gz",
    }
    dataset["channel_names"] = {str(index): name for index, name in enumerate(CHANNELS)}
    if kind == "regions":
        dataset["regions_class_order"] = [1, 2, 3]
    plan = plan_request("ExperimentPlanner", fingerprint, dataset)
    given: dict[str, np.ndarray] = {}
    cases: list[Case] = []
    for number, (image, label, spacing) in enumerate(drawn):
        given[f"{number}/image"] = image
        if number < 2:
            given[f"{number}/label"] = label
        cases += [
            {"configuration": name, "name": str(number), "spacing": spacing} for name in own_stage(plan)
        ]
    question = {"plans": exported(plan, "Dataset001_Ours"), "dataset": dataset, "cases": cases}
    found, arrays = ask_peer("preprocessing", question, given)
    largest, num_labels = 0.0, 0
    for number, (case, properties) in enumerate(zip(cases, found, strict=True)):
        with reading(plan) as root:
            recipe = Preprocessing.from_plan(root, case["configuration"])
        label = given.get(f"{case['name']}/label")
        ours = recipe.run(given[f"{case['name']}/image"], label, case["spacing"], keep_mask=label is None)
        image, labels = assert_same(ours, arrays[f"{number}/data"], arrays[f"{number}/seg"], properties)
        largest, num_labels = max(largest, image), num_labels + labels
    shapes = ", ".join(str(image.shape) for image, _, _ in drawn)
    compare(f"intensities of drawn arrays {shapes} with {kind}", largest, DATA_LIMIT)
    compare(f"number of labels of drawn arrays with {kind}", num_labels, 0)
