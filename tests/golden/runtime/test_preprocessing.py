"""Preprocessed cases against those recorded from nnunetv2 2.8.1, with our plans for the same fingerprints."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.plan import Plan

from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.normalization import ChannelNormalization, Epsilon
from nnrules_runtime.preprocess.prepared import ANNOTATED, PreparedCase
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[3]
SHARED = CHECKOUT.parent / "shared"
GOLDEN = SHARED / "golden" / "runtime"
RECORDED = GOLDEN / "a_preprocessing"
REASON = "the recorded cases are not beside the checkout (../shared/golden/runtime/a_preprocessing)"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]

CASES = sorted(path.relative_to(RECORDED) for path in RECORDED.glob("*/*__*.json"))


def load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def plan_of(
    plan_request: Callable[..., Plan], plan_differences: Callable[..., list[str]]
) -> Callable[[str, float], Plan]:
    """Our plan for a recorded fingerprint; equal to nnU-Net's in all that decides preprocessing."""
    made: dict[str, Plan] = {}

    def plan(name: str, gpu_memory_gb: float) -> Plan:
        if name not in made:
            folder = RECORDED / name
            made[name] = plan_request(
                "ExperimentPlanner",
                load(folder / "dataset_fingerprint.json"),
                load(folder / "dataset.json"),
                gpu_memory_gb=gpu_memory_gb,
            )
            # The memory estimate was not recorded with these plans, and has no effect here.
            assert plan_differences(made[name], load(folder / "plans.json")) == []
        return made[name]

    return plan


def located(path: str) -> Path:
    return SHARED.parent / path if path.startswith("shared/") else GOLDEN / path


def prepared_as_recorded(plan: Plan, recorded: dict[str, Any]) -> PreparedCase:
    inputs = recorded["inputs"]
    images = [located(path) for path in inputs["images"]]
    with reading(plan) as root:
        recipe = Preprocessing.from_plan(root, inputs["configuration"])
        reader = CaseReader.from_plan(root)
    if inputs["segmentation"] is None:
        image, spacing, _ = reader.image(images)
        return recipe.run(image, None, spacing, keep_mask=True)
    return recipe.run(*reader.pair(images, located(inputs["segmentation"])))


@pytest.mark.parametrize("name", CASES, ids=str)
def test_case(
    name: Path, plan_of: Callable[[str, float], Plan], record_property: Callable[[str, object], None]
) -> None:
    recorded = load(RECORDED / name)
    plan = plan_of(name.parent.name, recorded["gpu_memory_target_in_gb_of_plan"])
    got = prepared_as_recorded(plan, recorded)
    with np.load(RECORDED / name.with_suffix(".npz")) as arrays:
        data, segmentation = arrays["data"], arrays["seg"][0]
    assert got.image.shape == data.shape
    assert got.label is not None
    largest = float(np.abs(got.image.astype(np.float64) - data).max())
    num_labels = int((got.label != segmentation).sum())
    record_property("largest_difference", largest)
    record_property("labels_that_differ", num_labels)
    assert largest <= 1e-4, f"intensities differ by up to {largest:.2e}"
    assert num_labels == 0, f"{num_labels} of {segmentation.size} labels differ"
    assert_properties(got, recorded["properties"])


def assert_properties(got: PreparedCase, properties: dict[str, Any]) -> None:
    """Geometry, and the number of stored locations; spacing is in the order of the file."""
    geometry = got.geometry
    assert list(geometry.original_spacing) == properties["spacing"]
    assert list(geometry.transposed_shape) == properties["shape_before_cropping"]
    box = [list(pair) for pair in zip(geometry.crop_start, geometry.crop_stop, strict=True)]
    assert box == properties["bbox_used_for_cropping"]
    assert list(geometry.crop_shape) == properties["shape_after_cropping_and_before_resampling"]
    assert geometry.network_shape == got.image.shape[1:]
    expected = {}
    for text, count in properties.get("class_location_counts", {}).items():
        key = ast.literal_eval(text)
        key = key if isinstance(key, tuple) else (key,)
        if count:
            expected[ANNOTATED if key[0] == -1 else key] = count
    assert {key: len(voxels) for key, voxels in got.locations.items()} == expected
    for key, voxels in got.locations.items():
        values = got.label[tuple(voxels.T)]  # type: ignore[index]
        assert np.isin(values, key).all() or key == ANNOTATED


CALLS = load(RECORDED / "normalisation.json") if RECORDED.is_dir() else {"calls": {}}
FLOOR = Epsilon(1e-8, is_added=False)


@pytest.mark.parametrize("name", CALLS["calls"])
def test_normalisation(name: str, record_property: Callable[[str, object], None]) -> None:
    call, statistics = CALLS["calls"][name], CALLS["intensityproperties"]
    schemes = {
        "ZScoreNormalization": ChannelNormalization(
            scheme="zscore", epsilon=FLOOR, use_mask=call["use_mask_for_norm"]
        ),
        "CTNormalization": ChannelNormalization(
            scheme="ct",
            epsilon=FLOOR,
            lower=statistics["percentile_00_5"],
            upper=statistics["percentile_99_5"],
            mean=statistics["mean"],
            std=statistics["std"],
        ),
        "NoNormalization": ChannelNormalization(scheme="none"),
        "RescaleTo01Normalization": ChannelNormalization(scheme="rescale_to_0_1", epsilon=FLOOR),
        "RGBTo01Normalization": ChannelNormalization(scheme="rgb_to_0_1", lower=0, upper=255),
    }
    with np.load(RECORDED / "normalisation.npz") as arrays:
        image, inside, expected = arrays[call["input"]], arrays[call["seg"]] >= 0, arrays[call["output"]]
    schemes[call["class"]].apply(image, inside)
    largest = float(np.abs(image.astype(np.float64) - expected).max())
    record_property("largest_difference", largest)
    assert largest <= 1e-5, f"differs by up to {largest:.2e}"
