"""Reading a plan's resampling, the choice of the separate axis, and what is done slice by slice."""

import pickle
from typing import Any

import numpy as np
import pytest
from nnrules.errors import Problem, RunError

from nnrules_runtime.resampling import LabelRule, Resampler, SeparateAxis, new_shape, zoom, zoom_labels
from nnrules_runtime.values import Section

DATA = {
    "order": 3,
    "separate_axis": {"spacings": ["original", "network"], "order": 0},
    "clip": "input_range",
    "border": "edge",
    "intermediate_dtype": "float64",
}
SEGMENTATION = {**DATA, "order": 1, "label_rule": "argmax_nearest", "label_threshold": None}
ANISOTROPY = {"ratio_above": 3, "equal_coarsest_axes": "together"}
# cascade.upsampling of nnunet@2.8.0 has neither border nor clip nor type.
UPSAMPLING = {
    "values": "logits",
    "order": 1,
    "separate_axis": {"spacings": ["previous_stage"], "order": 0},
    "label_rule": "argmax",
}
ISOTROPIC, FLAT = (1.0, 1.0, 1.0), (5.0, 1.0, 1.0)


def read(
    values: dict[str, Any], anisotropy: dict[str, Any] | None = None, *, labels: bool = False
) -> tuple[Resampler, list[Problem]]:
    problems: list[Problem] = []
    section = Section(values, "resampling.data", problems)
    other = Section(anisotropy or ANISOTROPY, "resampling.anisotropy", problems)
    return Resampler.from_plan(section, other, labels=labels), problems


def image(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_plan_is_read() -> None:
    resampler, problems = read(DATA)
    assert not problems
    separate = SeparateAxis(spacings=("original", "network"), order=0, ratio_above=3, shared="together")
    assert resampler == Resampler(order=3, separate=separate, clip=True, cast_between=False, rule=None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label_rule": "argmax"}, LabelRule("argmax")),
        ({"label_rule": "threshold", "label_threshold": 0.4}, LabelRule("threshold", 0.4)),
        ({}, LabelRule("argmax_nearest")),
    ],
)
def test_label_rules_are_read(changes: dict[str, Any], expected: LabelRule) -> None:
    resampler, problems = read({**SEGMENTATION, **changes}, labels=True)
    assert not problems
    assert resampler.rule == expected


def test_upsampling_of_a_cascade_is_read() -> None:
    resampler, problems = read(UPSAMPLING)
    assert not problems
    assert resampler.separate_axis(ISOTROPIC, ISOTROPIC, FLAT) == 0
    assert resampler.separate_axis(FLAT, FLAT, ISOTROPIC) is None


def test_other_choices_are_read() -> None:
    resampler, problems = read({**DATA, "separate_axis": None, "clip": "none", "intermediate_dtype": "input"})
    assert not problems
    assert resampler == Resampler(order=3, separate=None, clip=False, cast_between=True)
    assert resampler.separate_axis(FLAT, FLAT) is None


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"order": 2}, "order"),
        ({"clip": "percentiles"}, "clip"),
        ({"border": "mirror"}, "border"),
        ({"intermediate_dtype": "float128"}, "intermediate_dtype"),
        ({"separate_axis": {"spacings": ["target"], "order": 0}}, "separate_axis.spacings"),
        ({"separate_axis": {"spacings": ["network"], "order": 5}}, "separate_axis.order"),
    ],
)
def test_an_unknown_choice_is_refused(changes: dict[str, Any], where: str) -> None:
    _, problems = read({**DATA, **changes})
    assert [problem.where for problem in problems] == [f"plan: resampling.data.{where}"]


def test_unknown_choices_are_refused_together() -> None:
    _, problems = read(
        {**SEGMENTATION, "order": 2, "label_rule": "median"},
        {**ANISOTROPY, "equal_coarsest_axes": 1},
        labels=True,
    )
    assert len(problems) == 3


def test_a_resampler_crosses_processes() -> None:
    resampler, _ = read(SEGMENTATION, labels=True)
    assert pickle.loads(pickle.dumps(resampler)) == resampler


@pytest.mark.parametrize(
    ("original", "network", "axis"),
    [
        (ISOTROPIC, ISOTROPIC, None),
        (FLAT, ISOTROPIC, 0),
        (ISOTROPIC, (1, 1, 3.5), 2),
        ((3.0, 1.0, 1.0), ISOTROPIC, None),  # exactly 3 is not above 3
        ((1.0, 4.0, 1.0), (5.0, 1.0, 1.0), 1),  # the first anisotropic one decides
        ((1.0, 4.0, 4.0), (5.0, 1.0, 1.0), None),  # and stays with it where it has no single coarsest axis
        ((4.0, 4.0, 1.0), ISOTROPIC, None),
    ],
)
def test_the_separate_axis(original: Any, network: Any, axis: int | None) -> None:
    resampler, _ = read(DATA)
    assert resampler.separate_axis(original, network) == axis


def test_the_order_of_spacings_is_the_plans() -> None:
    resampler, _ = read({**DATA, "separate_axis": {"spacings": ["network", "original"], "order": 0}})
    assert resampler.separate_axis((1, 4, 1), (5, 1, 1)) == 0


def test_a_shared_coarsest_axis_can_be_refused() -> None:
    resampler, _ = read(DATA, {**ANISOTROPY, "equal_coarsest_axes": "refuse"})
    with pytest.raises(RunError, match="case_7: the original spacing is anisotropic and several axes share"):
        resampler.resample(
            image(1, 4, 4, 4),
            (5, 5, 5),
            original_spacing=(4, 4, 1),
            network_spacing=ISOTROPIC,
            where="case_7",
        )


def test_new_shape_rounds_halves_to_even() -> None:
    assert new_shape((5, 7, 9), (1, 1, 1), (2, 2, 2)) == (2, 4, 4)
    assert new_shape((10, 10, 10), (1.0, 0.3, 3.0), (0.7, 0.1, 1.0)) == (14, 30, 30)


def test_together_is_one_zoom() -> None:
    resampler, _ = read(DATA)
    values = image(2, 6, 8, 7)
    result = resampler.resample(values, (9, 5, 9), original_spacing=ISOTROPIC, network_spacing=ISOTROPIC)
    np.testing.assert_array_equal(result, zoom(values, (9, 5, 9), 3))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_slice_by_slice(axis: int, order: int) -> None:
    separate = {"spacings": ["original"], "order": order}
    resampler, _ = read({**DATA, "separate_axis": separate})
    values, target = image(1, 6, 6, 6), (10, 10, 10)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4
    result = resampler.resample(values, target, original_spacing=spacing, network_spacing=ISOTROPIC)
    # Each slice on its own, clipped to its own range; then lines along the axis, unclipped.
    slices = np.stack([zoom(part[None], (10, 10), 3)[0] for part in np.moveaxis(values[0], axis, 0)])
    lines = zoom(slices.transpose(1, 2, 0), (10,), order, clip=False)
    np.testing.assert_allclose(np.moveaxis(result[0], axis, 0), lines.transpose(2, 0, 1), atol=2e-6)


def test_casting_between_the_steps_is_to_the_type_of_the_input() -> None:
    separate = {"spacings": ["original"], "order": 1}
    values = image(1, 3, 6, 6).astype(np.float16)
    results = []
    for kind in ("input", "float64"):
        resampler, _ = read({**DATA, "separate_axis": separate, "intermediate_dtype": kind})
        result = resampler.resample(values, (5, 9, 9), original_spacing=FLAT, network_spacing=ISOTROPIC)
        assert result.dtype == np.float16
        results.append(result)
    slices = zoom(values[0], (9, 9), 3)
    slices = np.stack(
        [np.clip(slice_, part.min(), part.max()) for slice_, part in zip(slices, values[0], strict=True)]
    )
    expected = zoom(slices.astype(np.float16), (5, 9, 9), 1, clip=False).astype(np.float16)
    np.testing.assert_array_equal(results[0][0], expected)
    assert (results[0] != results[1]).any()


def test_an_unchanged_shape_is_not_interpolated() -> None:
    resampler, _ = read(DATA)
    values = image(1, 3, 4, 5)
    assert resampler.resample(values, (3, 4, 5), original_spacing=FLAT, network_spacing=ISOTROPIC) is values


def test_a_single_slice_stays_single() -> None:
    resampler, _ = read(DATA)
    values = image(1, 1, 12, 9)
    for spacing in (ISOTROPIC, (999.0, 1.0, 1.0)):
        result = resampler.resample(values, (1, 7, 15), original_spacing=spacing, network_spacing=spacing)
        np.testing.assert_allclose(result[0, 0], zoom(values[0, 0], (7, 15), 3), atol=2e-6)


def test_labels_slice_by_slice() -> None:
    resampler, _ = read(SEGMENTATION, labels=True)
    labels = np.random.default_rng(1).integers(-1, 4, (5, 8, 8)).astype(np.int8)
    result = resampler.resample_labels(labels, (8, 11, 6), original_spacing=FLAT, network_spacing=ISOTROPIC)
    assert result.dtype == np.int16
    np.testing.assert_array_equal(
        result, zoom_labels(labels.astype(np.int16), (8, 11, 6), (0, 1, 1), LabelRule("argmax_nearest"))
    )


def test_labels_of_a_separate_axis_of_order_one_are_chosen_twice() -> None:
    resampler, _ = read(
        {**SEGMENTATION, "separate_axis": {"spacings": ["original"], "order": 1}}, labels=True
    )
    rule = LabelRule("argmax_nearest")
    labels = np.random.default_rng(2).integers(0, 4, (5, 8, 8)).astype(np.int16)
    result = resampler.resample_labels(labels, (8, 11, 6), original_spacing=FLAT, network_spacing=ISOTROPIC)
    slices = zoom_labels(labels, (5, 11, 6), (1, 1, 1), rule)
    np.testing.assert_array_equal(result, zoom_labels(slices, (8, 11, 6), (1, 1, 1), rule))


def test_a_resampler_of_images_does_not_choose_labels() -> None:
    resampler, _ = read(DATA)
    with pytest.raises(ValueError, match="images"):
        resampler.resample_labels(
            np.zeros((2, 2, 2), np.int16), (3, 3, 3), original_spacing=FLAT, network_spacing=FLAT
        )
