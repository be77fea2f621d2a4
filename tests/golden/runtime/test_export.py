"""Export against results recorded from nnunetv2 2.8.1: logits on the network's grid to labels and probabilities."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export import Exporter
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.values import Section

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "runtime"
REASON = "the recorded exports are not beside the checkout (../shared/golden/runtime)"
# Half-precision values are rounded once by the peer and once here, so that some differ by one step of that type.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
MEMORY_BYTES = 1 << 26

Record = Callable[[str, object], None]

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / name).read_text())
    return found


CASES: dict[str, Any] = document("e_inference/export.json")["cases"] if RECORDED.is_dir() else {}
LABELS: dict[str, Any] = document("j_labels/labels.json")["cases"] if RECORDED.is_dir() else {}


def label_set(labels: Mapping[str, Any], order: list[int] | None) -> LabelSet:
    dataset = {
        "labels": labels,
        "label_order": list(labels),
        "ignore_label": labels.get("ignore"),
        "regions_class_order": order,
    }
    problems: list[Any] = []
    found = LabelSet.from_plan(Section({"dataset": dataset}, "", problems))
    assert not problems
    return found


def export_fields(labels: LabelSet) -> dict[str, Any]:
    """inference.export of nnunet@2.8.0."""
    return {
        "activation": "sigmoid" if labels.has_regions else "softmax",
        "label_rule": "regions_in_order" if labels.has_regions else "argmax",
        "outside_label": 0,
        "region_threshold": 0.5 if labels.has_regions else None,
        "steps": ["resample", "label", "uncrop", "transpose"],
    }


def configuration(labels: LabelSet) -> dict[str, Any]:
    """What nnunet@2.8.0 plans and the exporter reads."""
    return {
        "resampling": {
            "anisotropy": {"equal_coarsest_axes": "together", "ratio_above": 3},
            "probabilities": {
                "border": "edge",
                "clip": "input_range",
                "intermediate_dtype": "float64",
                "order": 1,
                "separate_axis": {"order": 0, "spacings": ["network", "original"]},
                "values": "logits",
            },
        },
        "inference": {
            "folds": {"average": "logits", "dtype": "float16"},
            "export": export_fields(labels),
            "files": {
                "label_dtype": "uint8",
                "wide_label_dtype": "uint16",
                "wide_from_num_foreground_labels": 255,
                "probability_dtype": "float32",
                "probability_extent": "image",
            },
        },
    }


def geometry_of(case: dict[str, Any], network_shape: tuple[int, ...]) -> CaseGeometry:
    plans = document(case["plans"])
    planned = plans["configurations"][case["configuration"]]
    while "spacing" not in planned:
        planned = plans["configurations"][planned["inherits_from"]]
    properties = case["properties"]
    forward = tuple(case["transpose_forward"])
    spacing = [properties["spacing"][axis] for axis in forward]
    spacing = [spacing[0], *planned["spacing"]][-3:] if len(planned["spacing"]) == 2 else planned["spacing"]
    # Shapes and boxes are recorded in transposed axes.
    original = [0, 0, 0]
    for axis, size in zip(forward, properties["shape_before_cropping"], strict=True):
        original[axis] = size
    box = properties["bbox_used_for_cropping"]
    return CaseGeometry(
        original_shape=(original[0], original[1], original[2]),
        original_spacing=tuple(properties["spacing"]),
        transpose_forward=forward,
        crop_start=tuple(edge[0] for edge in box),
        crop_stop=tuple(edge[1] for edge in box),
        network_shape=network_shape,  # type: ignore[arg-type]
        network_spacing=tuple(spacing),
    )


@pytest.mark.parametrize("name", list(CASES) or ["absent"])
def test_segmentations_and_probabilities_equal(name: str, record_property: Record) -> None:
    case = CASES[name]
    dataset = document(case["dataset_json"])
    labels = label_set(dataset["labels"], dataset.get("regions_class_order"))
    problems: list[Any] = []
    plan = configuration(labels)
    root = Section({}, "", problems)
    exporter = Exporter.from_plan(root, Section(plan, "configurations.one", problems), labels)
    assert not problems
    with np.load(RECORDED / "e_inference" / "export.npz") as arrays:
        logits = arrays[f"{name}__logits"]
        expected = arrays[f"{name}__segmentation"]
        without = arrays[f"{name}__segmentation_without_probabilities"]
        probabilities = arrays[f"{name}__probabilities"]
    geometry = geometry_of(case, logits.shape[1:])
    segmentation = exporter.segmentation(logits, geometry, memory_bytes=MEMORY_BYTES)
    assert segmentation.dtype == expected.dtype
    assert segmentation.shape == expected.shape
    different = int((segmentation != without).sum())
    record_property("voxels that differ", different)
    record_property(
        "voxels that differ from the labels of probabilities", int((segmentation != expected).sum())
    )
    assert different == 0, f"{name}: {different} of {expected.size} voxels differ"
    found = exporter.probabilities(logits, geometry, memory_bytes=MEMORY_BYTES)
    assert found.dtype == probabilities.dtype
    assert found.shape == probabilities.shape
    worst = float(np.abs(found - probabilities).max())
    record_property("largest difference of a probability", worst)
    assert worst <= TOLERANCE[case["logits_dtype"]], f"{name}: {worst:.2e}"
    assert (exporter.labels(probabilities) == expected).all()


@pytest.mark.parametrize("name", list(LABELS) or ["absent"])
def test_labels_of_logits_and_probabilities_equal(name: str, record_property: Record) -> None:
    case = LABELS[name]
    labels = label_set(case["labels"], case["regions_class_order"])
    problems: list[Any] = []
    rule = OutputRule.from_plan(Section(export_fields(labels), "", problems), labels)
    assert not problems
    with np.load(RECORDED / "j_labels" / "labels.npz") as arrays:
        recorded = {
            key.removeprefix(f"{name}__"): arrays[key] for key in arrays if key.startswith(f"{name}__")
        }
    found = rule.probabilities(recorded["logits"])
    worst = float(np.abs(found - recorded["probabilities"]).max())
    record_property("largest difference of a probability", worst)
    assert worst <= 1e-6, f"{name}: {worst:.2e}"
    of_logits = rule.labels(recorded["logits"], activated=False)
    of_probabilities = rule.labels(recorded["probabilities"], activated=True)
    np.testing.assert_array_equal(of_logits, recorded["segmentation_from_numpy_logits"])
    np.testing.assert_array_equal(of_probabilities, recorded["segmentation_from_probabilities"])


@pytest.mark.parametrize("name", list(LABELS) or ["absent"])
def test_uncropped_probabilities_equal(name: str) -> None:
    case = LABELS[name]
    labels = label_set(case["labels"], case["regions_class_order"])
    problems: list[Any] = []
    plan = configuration(labels)
    exporter = Exporter.from_plan(Section({}, "", problems), Section(plan, "", problems), labels)
    with np.load(RECORDED / "j_labels" / "labels.npz") as arrays:
        logits, expected = arrays[f"{name}__logits"], arrays[f"{name}__probabilities_reverted_crop"]
    geometry = CaseGeometry(
        original_shape=expected.shape[1:],
        original_spacing=(1.0, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        crop_start=tuple(edge[0] for edge in case["crop_bbox"]),
        crop_stop=tuple(edge[1] for edge in case["crop_bbox"]),
        network_shape=logits.shape[1:],
        network_spacing=(1.0, 1.0, 1.0),
    )
    found = exporter.probabilities(logits, geometry)
    np.testing.assert_allclose(found, expected, atol=1e-6)
