"""The first stage's prediction on the second stage's grid."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export_cascade import CascadeUpsampler
from nnrules_runtime.resampling import LabelRule, zoom, zoom_labels
from nnrules_runtime.values import Section

LABELS = LabelSet(
    heads=((0,), (1,), (2,)),
    head_names=("background", "a", "b"),
    has_regions=False,
    regions_class_order=None,
    ignore_label=None,
    foreground_labels=(1, 2),
)
ISOTROPIC, FLAT = (1.0, 1.0, 1.0), (4.0, 1.0, 1.0)
SHAPE = (11, 20, 18)


def read(average: str = "logits", **changes: Any) -> tuple[CascadeUpsampler, list[Any]]:
    """nnunet@2.8.0's upsampling, with changes."""
    upsampling = {
        "values": "logits",
        "order": 1,
        "separate_axis": {"spacings": ["previous_stage"], "order": 0},
        "label_rule": "argmax",
        **changes,
    }
    second = {
        "previous_stage": "3d_lowres",
        "cascade": {"upsampling": upsampling},
        "resampling": {"anisotropy": {"ratio_above": 3, "equal_coarsest_axes": "together"}},
    }
    export = {"activation": "softmax", "label_rule": "argmax", "region_threshold": None}
    first = {"inference": {"folds": {"average": average}, "export": export}}
    problems: list[Any] = []
    root = Section({"configurations": {"3d_lowres": first}}, "", problems)
    return CascadeUpsampler.from_plan(root, Section(second, "c", problems), LABELS), problems


def prediction() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(3, 7, 9, 8)).astype(np.float32)


def upsampled(
    upsampler: CascadeUpsampler, values: NDArray[Any], previous: tuple[float, ...] = ISOTROPIC
) -> Any:
    return upsampler.segmentation(
        values, SHAPE, original_spacing=FLAT, network_spacing=FLAT, previous_stage_spacing=previous
    )


def test_logits_are_interpolated_and_chosen() -> None:
    upsampler, problems = read()
    assert not problems
    found = upsampled(upsampler, prediction())
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, zoom(prediction(), SHAPE, 1).argmax(axis=0))


def test_the_first_stages_spacing_decides() -> None:
    upsampler, _ = read()
    slices = np.stack([zoom(prediction()[:, z], SHAPE[1:], 1) for z in range(7)], axis=1)
    index = np.floor((np.arange(11) + 0.5) * 7 / 11).astype(int)
    np.testing.assert_array_equal(upsampled(upsampler, prediction(), FLAT), slices[:, index].argmax(axis=0))


def test_versions_1_never_take_an_axis_apart() -> None:
    upsampler, problems = read("softmax", values="softmax", separate_axis=None)
    assert not problems
    exponential = np.exp(prediction())
    values = exponential / exponential.sum(axis=0)
    np.testing.assert_array_equal(upsampled(upsampler, values, FLAT), zoom(values, SHAPE, 1).argmax(axis=0))


def test_logits_become_probabilities_before() -> None:
    upsampler, problems = read(values="softmax")
    assert not problems
    exponential = np.exp(prediction())
    expected = zoom(exponential / exponential.sum(axis=0), SHAPE, 1).argmax(axis=0)
    np.testing.assert_array_equal(upsampled(upsampler, prediction()), expected)


def test_a_segmentation_can_be_interpolated() -> None:
    upsampler, problems = read(values="segmentation", label_rule="argmax_nearest")
    assert not problems
    labels = prediction().argmax(axis=0).astype(np.int16)
    expected = zoom_labels(labels, SHAPE, (1, 1, 1), LabelRule("argmax_nearest"))
    np.testing.assert_array_equal(upsampled(upsampler, prediction()), expected)


@pytest.mark.parametrize(
    ("average", "changes", "where"),
    [
        ("softmax", {}, "values"),
        ("logits", {"label_rule": "threshold"}, "label_rule"),
        ("logits", {"values": "odds"}, "values"),
    ],
)
def test_what_cannot_be_executed_is_refused(average: str, changes: dict[str, Any], where: str) -> None:
    _, problems = read(average, **changes)
    assert [problem.where for problem in problems] == [f"plan: c.cascade.upsampling.{where}"]
