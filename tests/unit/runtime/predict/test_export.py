"""Export in tiles against the same done at once, and every choice of a plan."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import RunError
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export import Exporter, export_memory_bytes
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.resampling import zoom
from nnrules_runtime.values import Section

NUM_LABELS = 4
LABELS = LabelSet(
    heads=tuple((value,) for value in range(NUM_LABELS)),
    head_names=("background", "a", "b", "c"),
    has_regions=False,
    regions_class_order=None,
    ignore_label=None,
    foreground_labels=(1, 2, 3),
)
REGIONS = LabelSet(
    heads=((1, 2, 3), (2, 3), (3,)),
    head_names=("whole", "core", "enhancing"),
    has_regions=True,
    regions_class_order=(1, 2, 3),
    ignore_label=None,
    foreground_labels=(1, 2, 3),
)
GEOMETRY = CaseGeometry(
    original_shape=(23, 20, 27),
    original_spacing=(1.0, 1.2, 0.9),
    transpose_forward=(2, 0, 1),
    crop_start=(3, 0, 2),
    crop_stop=(25, 21, 18),
    network_shape=(13, 17, 11),
    network_spacing=(1.5, 1.3, 1.75),
)


def fields(labels: LabelSet = LABELS, **changes: Any) -> dict[str, Any]:
    """A configuration as nnunet@2.8.0 plans it, with some fields changed by their last name."""
    probabilities = {
        "border": "edge",
        "clip": "input_range",
        "intermediate_dtype": "float64",
        "order": 1,
        "separate_axis": {"order": 0, "spacings": ["network", "original"]},
        "values": "logits",
    }
    export = {
        "activation": "sigmoid" if labels.has_regions else "softmax",
        "label_rule": "regions_in_order" if labels.has_regions else "argmax",
        "outside_label": 0,
        "region_threshold": 0.5 if labels.has_regions else None,
        "steps": ["resample", "label", "uncrop", "transpose"],
    }
    files = {
        "label_dtype": "uint8",
        "wide_label_dtype": "uint16",
        "wide_from_num_foreground_labels": 255,
        "probability_dtype": "float32",
        "probability_extent": "image",
    }
    folds = {"average": "logits", "dtype": "float16"}
    for part in (probabilities, export, files, folds):
        part.update({name: value for name, value in changes.items() if name in part})
    return {
        "resampling": {
            "anisotropy": {"equal_coarsest_axes": "together", "ratio_above": 3},
            "probabilities": probabilities,
        },
        "inference": {"folds": folds, "export": export, "files": files},
        **({"cascade": changes["cascade"]} if "cascade" in changes else {}),
    }


def exporter(labels: LabelSet = LABELS, *, validation: bool = False, **changes: Any) -> Exporter:
    problems: list[Any] = []
    root, section = Section({}, "", problems), Section(fields(labels, **changes), "c", problems)
    found = Exporter.from_plan(root, section, labels, validation=validation)
    assert problems == []
    return found


def refusals(labels: LabelSet = LABELS, **changes: Any) -> list[str]:
    problems: list[Any] = []
    Exporter.from_plan(Section({}, "", problems), Section(fields(labels, **changes), "c", problems), labels)
    return [problem.where for problem in problems]


def prediction(
    num_outputs: int = NUM_LABELS, shape: tuple[int, ...] = (13, 17, 11), seed: int = 0
) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(num_outputs, 4, 4, 4)).astype(np.float32)
    return 6 * zoom(coarse, shape, 1) + rng.normal(size=(num_outputs, *shape)).astype(np.float32) * 0.3


def softmax(values: NDArray[Any]) -> NDArray[Any]:
    exponential = np.exp(values - values.max(axis=0))
    return np.asarray(exponential / exponential.sum(axis=0))


def whole(cropped: NDArray[Any], geometry: CaseGeometry, outside: NDArray[Any] | float) -> NDArray[Any]:
    """Into the image, then back to the order of axes of the file."""
    lead = cropped.ndim - 3
    result = np.zeros((*cropped.shape[:lead], *geometry.transposed_shape), cropped.dtype)
    result[...] = np.reshape(outside, np.shape(outside) + (1,) * (result.ndim - np.ndim(outside)))
    box = tuple(slice(*edge) for edge in zip(geometry.crop_start, geometry.crop_stop, strict=True))
    result[(..., *box)] = cropped
    return result.transpose(*range(lead), *(axis + lead for axis in geometry.transpose_backward))


def same_but_for_near_ties(found: NDArray[Any], expected: NDArray[Any], margin: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    assert (margin[found != expected] < 1e-4).all()


def margins(values: NDArray[Any]) -> NDArray[Any]:
    first, second = np.sort(values, axis=0)[::-1][:2]
    return np.asarray(first - second)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_segmentation_equals_all_at_once(order: int, threads: int) -> None:
    values = prediction()
    dense = zoom(values, GEOMETRY.crop_shape, order)
    found = exporter(order=order).segmentation(values, GEOMETRY, num_threads=threads)
    assert found.dtype == np.uint8
    expected = whole(dense.argmax(axis=0), GEOMETRY, 0)
    same_but_for_near_ties(found, expected, whole(margins(dense), GEOMETRY, 1))
    assert len(np.unique(found)) == NUM_LABELS


@pytest.mark.parametrize("order", [1, 3])
def test_probabilities_equal_all_at_once(order: int) -> None:
    values = prediction()
    found = exporter(order=order).probabilities(values, GEOMETRY)
    expected = whole(softmax(zoom(values, GEOMETRY.crop_shape, order)), GEOMETRY, np.array([1, 0, 0, 0]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("order", [1, 3])
def test_regions_equal_all_at_once(order: int) -> None:
    values = prediction(3) - 1
    dense = zoom(values, GEOMETRY.crop_shape, order)
    expected = np.zeros(GEOMETRY.crop_shape, np.uint8)
    for label, region in zip((1, 2, 3), dense, strict=True):
        expected[1 / (1 + np.exp(-region)) > 0.5] = label
    export = exporter(REGIONS, order=order)
    same_but_for_near_ties(
        export.segmentation(values, GEOMETRY),
        whole(expected, GEOMETRY, 0),
        whole(np.abs(dense).min(axis=0), GEOMETRY, 1),
    )
    found = export.probabilities(values, GEOMETRY)
    np.testing.assert_allclose(found, whole(1 / (1 + np.exp(-dense)), GEOMETRY, np.zeros(3)), atol=1e-5)


def test_a_region_must_exceed_its_threshold() -> None:
    values = prediction(3, GEOMETRY.crop_shape)
    geometry = CaseGeometry.from_json({**GEOMETRY.to_json(), "network_shape": GEOMETRY.crop_shape})
    found = exporter(REGIONS, region_threshold=0.8).segmentation(values, geometry)
    inside = 1 / (1 + np.exp(-values.astype(np.float64))) > 0.8
    np.testing.assert_array_equal(found > 0, whole(inside.any(axis=0), geometry, 0))


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 24)] * 3),
    st.tuples(*[st.integers(1, 40)] * 3),
    st.integers(1, 6),
    st.sampled_from([np.float32, np.float16]),
    st.integers(0, 99),
)
def test_any_shapes(
    network: tuple[int, int, int], image: tuple[int, int, int], num_outputs: int, dtype: Any, seed: int
) -> None:
    labels = LabelSet(
        heads=tuple((value,) for value in range(num_outputs)),
        head_names=tuple("abcdef"[:num_outputs]),
        has_regions=False,
        regions_class_order=None,
        ignore_label=None,
        foreground_labels=tuple(range(1, num_outputs)),
    )
    values = prediction(num_outputs, network, seed).astype(dtype)
    geometry = CaseGeometry(
        original_shape=image,
        original_spacing=(1.0, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        crop_start=(0, 0, 0),
        crop_stop=image,
        network_shape=network,
        network_spacing=(1.0, 1.0, 1.0),
    )
    found = exporter(labels).segmentation(values, geometry)
    # The peer returns the type that it was given, so that half precision makes ties, which the lower label wins.
    dense = zoom(values, image, 1).astype(dtype).astype(np.float32)
    margin = margins(dense) if num_outputs > 1 else np.ones(image)
    step = 1e-4 if dtype == np.float32 else 2e-2
    assert (margin[found != dense.argmax(axis=0)] < step).all()


def test_a_separate_axis_is_nearest_and_clipped_slice_by_slice() -> None:
    geometry = CaseGeometry.from_json(
        {**GEOMETRY.to_json(), "network_shape": [13, 17, 11], "network_spacing": [6.0, 1.3, 1.75]}
    )
    values = prediction()
    index = np.floor((np.arange(22) + 0.5) * 13 / 22).astype(int)  # the nearest, as no source lies half way
    for order in (1, 3):
        slices = np.stack([zoom(values[:, z], (21, 16), order) for z in range(13)], axis=1)
        expected = whole(softmax(slices[:, index]), geometry, np.array([1, 0, 0, 0]))
        np.testing.assert_allclose(exporter(order=order).probabilities(values, geometry), expected, atol=1e-5)


def test_a_cascade_may_export_its_validation_without_a_separate_axis() -> None:
    geometry = CaseGeometry.from_json({**GEOMETRY.to_json(), "network_spacing": [6.0, 1.3, 1.75]})
    values = prediction()
    together = whole(softmax(zoom(values, GEOMETRY.crop_shape, 1)), geometry, np.array([1, 0, 0, 0]))
    for setting, equal in (("never", True), ("as_prediction", False)):
        cascade = {"validation_export": {"separate_axis": setting}}
        found = exporter(validation=True, cascade=cascade).probabilities(values, geometry)
        assert np.allclose(found, together, atol=1e-5) == equal
        found = exporter(cascade=cascade).probabilities(values, geometry)
        assert not np.allclose(found, together, atol=1e-5)


def test_probabilities_are_interpolated_where_the_plan_says_so() -> None:
    """Versions 1: softmax arrives; or logits arrive and become probabilities before."""
    logits = prediction()
    dense = zoom(softmax(logits), GEOMETRY.crop_shape, 1)
    expected = whole(dense, GEOMETRY, np.array([1, 0, 0, 0]))
    arrived = exporter(average="softmax", values="softmax")
    np.testing.assert_allclose(arrived.probabilities(softmax(logits), GEOMETRY), expected, atol=1e-5)
    made = exporter(average="logits", values="softmax")
    np.testing.assert_allclose(made.probabilities(logits, GEOMETRY), expected, atol=1e-5)
    for export, given_values in ((arrived, softmax(logits)), (made, logits)):
        found = export.segmentation(given_values, GEOMETRY)
        same_but_for_near_ties(
            found, whole(dense.argmax(axis=0), GEOMETRY, 0), whole(margins(dense), GEOMETRY, 1)
        )


def test_a_spline_of_probabilities_stays_within_their_range() -> None:
    values = prediction()
    found = exporter(average="logits", values="softmax", order=3).probabilities(values, GEOMETRY)
    expected = zoom(softmax(values), GEOMETRY.crop_shape, 3)
    np.testing.assert_allclose(found, whole(expected, GEOMETRY, np.array([1, 0, 0, 0])), atol=1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        ["resample", "label", "uncrop", "transpose"],
        ["transpose", "resample", "label", "uncrop"],
        ["resample", "transpose", "label", "uncrop"],
        ["resample", "label", "transpose", "uncrop"],
    ],
)
def test_orders_of_steps_that_mean_the_same(steps: list[str]) -> None:
    values = prediction()
    np.testing.assert_array_equal(
        exporter(steps=steps).segmentation(values, GEOMETRY), exporter().segmentation(values, GEOMETRY)
    )


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"steps": ["label", "resample", "uncrop", "transpose"]}, "c.inference.export.steps"),
        ({"label_rule": "regions_in_order"}, "c.inference.export.label_rule"),
        ({"activation": "relu"}, "c.inference.export.activation"),
        ({"average": "softmax"}, "c.resampling.probabilities.values"),
        ({"probability_dtype": "bfloat16"}, "c.inference.files.probability_dtype"),
        ({"probability_extent": "patch"}, "c.inference.files.probability_extent"),
        ({"label_dtype": "int7"}, "c.inference.files.label_dtype"),
        ({"order": 4}, "c.resampling.probabilities.order"),
    ],
)
def test_what_cannot_be_executed_is_refused(changes: dict[str, Any], where: str) -> None:
    assert refusals(**changes) == [f"plan: {where}"]


def test_the_label_outside_of_the_crop() -> None:
    found = exporter(outside_label=9).segmentation(prediction(), GEOMETRY)
    outside = whole(np.zeros(GEOMETRY.crop_shape), GEOMETRY, 1) == 1
    assert (found[outside] == 9).all()
    assert (found[~outside] < NUM_LABELS).all()


def test_probabilities_of_the_crop_alone_in_half_precision() -> None:
    values = prediction()
    found = exporter(probability_extent="crop", probability_dtype="float16").probabilities(values, GEOMETRY)
    assert found.dtype == np.float16
    expected = softmax(zoom(values, GEOMETRY.crop_shape, 1)).transpose(
        0, *(axis + 1 for axis in GEOMETRY.transpose_backward)
    )
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, np.uint8),
        ({"wide_from_num_foreground_labels": 3}, np.uint16),
        ({"wide_from_num_foreground_labels": 3, "wide_label_dtype": "uint32"}, np.uint32),
        ({"wide_from_num_foreground_labels": 3, "wide_label_dtype": None}, np.uint8),
        ({"wide_from_num_foreground_labels": None}, np.uint8),
        ({"label_dtype": "uint16"}, np.uint16),
    ],
)
def test_the_type_of_labels(changes: dict[str, Any], expected: Any) -> None:
    assert exporter(**changes).segmentation(prediction(), GEOMETRY).dtype == expected


def test_tensors_of_any_precision() -> None:
    values = prediction()
    expected = exporter().probabilities(values, GEOMETRY)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float16, 3e-2), (torch.bfloat16, 2e-1)):
        found = exporter().probabilities(torch.from_numpy(values).to(dtype), GEOMETRY)
        np.testing.assert_allclose(found, expected, atol=tolerance)
    turned = torch.from_numpy(values.transpose(0, 3, 2, 1).copy()).permute(0, 3, 2, 1)
    np.testing.assert_array_equal(exporter().probabilities(turned, GEOMETRY), expected)


def test_ties_go_to_the_lower_label() -> None:
    values = np.zeros((NUM_LABELS, 13, 17, 11), np.float32)
    values[2:] = 1
    found = exporter().segmentation(values, GEOMETRY)
    np.testing.assert_array_equal(found, whole(np.full(GEOMETRY.crop_shape, 2), GEOMETRY, 0))


def test_more_than_256_outputs() -> None:
    number = 300
    labels = LabelSet(
        heads=tuple((value,) for value in range(number)),
        head_names=tuple(str(value) for value in range(number)),
        has_regions=False,
        regions_class_order=None,
        ignore_label=None,
        foreground_labels=tuple(range(1, number)),
    )
    values = np.random.default_rng(0).normal(size=(number, 4, 4, 4)).astype(np.float32)
    geometry = CaseGeometry(
        original_shape=(6, 6, 6),
        original_spacing=(1.0, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        crop_start=(0, 0, 0),
        crop_stop=(6, 6, 6),
        network_shape=(4, 4, 4),
        network_spacing=(1.5, 1.5, 1.5),
    )
    found = exporter(labels).segmentation(values, geometry)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, zoom(values, (6, 6, 6), 1).argmax(axis=0))


def test_a_prediction_of_another_shape_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="expected"):
        exporter().segmentation(prediction(shape=(3, 3, 3)), GEOMETRY)


@pytest.mark.parametrize("order", [1, 3])
def test_less_memory_gives_the_same(order: int) -> None:
    values = prediction()
    export = exporter(order=order)
    ample = export.segmentation(values, GEOMETRY)
    least = (1 << 24) + 500_000 * (1 if order == 1 else 4)
    np.testing.assert_array_equal(export.segmentation(values, GEOMETRY, memory_bytes=least), ample)


def test_too_little_memory_is_named() -> None:
    with pytest.raises(
        RunError, match=r"case_3: the export does not fit .* got 1000 bytes; expected at least \d+ bytes"
    ):
        exporter().segmentation(prediction(), GEOMETRY, memory_bytes=1000, where="case_3")


def test_memory_does_not_grow_with_classes_times_the_image() -> None:
    network, image = (240, 307, 307), (400, 512, 512)
    bound = export_memory_bytes(30, network, image)
    assert bound < 60e6
    assert export_memory_bytes(30, network, (800, 1024, 1024)) < bound + 10e6
    assert bound < 0.005 * 30 * 4 * np.prod(image)


MEASURED = """
import resource, sys
import numpy as np
import torch
from nnrules_runtime.labels import LabelSet
sys.path.insert(0, {folder!r})
from test_export import exporter
from nnrules_runtime.predict.export import export_memory_bytes
from nnrules_runtime.preprocess.geometry import CaseGeometry

torch.set_num_threads(1)
number, network, image = 30, (72, 120, 120), (120, 200, 200)
labels = LabelSet(heads=tuple((value,) for value in range(number)), head_names=tuple(map(str, range(number))),
                  has_regions=False, regions_class_order=None, ignore_label=None,
                  foreground_labels=tuple(range(1, number)))
def case(network, image):
    return CaseGeometry(original_shape=image, original_spacing=(1.0, 1.0, 1.0), transpose_forward=(0, 1, 2),
                        crop_start=(0, 0, 0), crop_stop=image, network_shape=network,
                        network_spacing=(1.0, 1.0, 1.0))
rng = np.random.default_rng(0)
export = exporter(labels, order={order})
small = rng.normal(size=(number, 40, 40, 40)).astype(np.float16)
export.segmentation(small, case((40, 40, 40), (50, 50, 50)))
values = np.empty((number, *network), np.float16)
for output in values:
    for plane in output:
        plane[...] = rng.normal(size=plane.shape)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = export.segmentation(values, case(network, image))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print((after - before) * unit, result.nbytes, export_memory_bytes(number, network, image, order={order}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 3])
def test_measured_memory_stays_within_the_bound(order: int, record_property: Any) -> None:
    pytest.importorskip("resource")
    from pathlib import Path

    program = MEASURED.format(folder=str(Path(__file__).parent), order=order)
    process = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    taken, result, bound = (int(word) for word in process.stdout.split())
    record_property("bytes taken, of the result, bound", (taken, result, bound))
    # 30 outputs on the image's grid would be 576 MB.
    assert taken <= bound + result + 8e6, (
        f"{taken / 1e6:.1f} MB beside {result / 1e6:.1f} + {bound / 1e6:.1f} MB"
    )
