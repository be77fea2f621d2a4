"""Label maps between grids against the definition: scipy interpolates each indicator, then the rule chooses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from nnrules_runtime.resampling import LabelRule, nearest_index, zoom_labels

RULES = [
    LabelRule("argmax_nearest"),
    LabelRule("argmax"),
    LabelRule("threshold"),
    LabelRule("threshold", 0.3),
]

edges = st.tuples(*[st.integers(1, 9)] * 3)


def definition(
    labels: NDArray[np.int16], shape: tuple[int, ...], order: int, rule: LabelRule
) -> NDArray[np.int16]:
    """Every label's indicator on the new grid, voxel by voxel."""
    if labels.shape == shape:
        return labels
    factors = [after / before for before, after in zip(labels.shape, shape, strict=True)]
    present = np.unique(labels)
    scores = np.stack(
        [
            np.clip(
                ndimage.zoom(
                    (labels == label).astype(float), factors, order=order, mode="nearest", grid_mode=True
                ),
                0,
                1,
            )
            for label in present
        ]
    )
    if rule.name == "threshold":
        result = np.zeros(shape, labels.dtype)
        for label, score in zip(present, scores, strict=True):
            result[score >= rule.threshold] = label
        return result
    result = present[scores.argmax(axis=0)]
    if rule.name == "argmax_nearest":
        pairs = zip(labels.shape, shape, strict=True)
        near = labels[np.ix_(*(nearest_index(before, after) for before, after in pairs))]
        of_near = np.take_along_axis(scores, np.searchsorted(present, near)[None], axis=0)[0]
        result = np.where(of_near == scores.max(axis=0), near, result)
    return result


@settings(deadline=None, max_examples=150)
@given(edges, edges, st.sampled_from(RULES), st.integers(1, 5), st.integers(0, 1000))
def test_linear_equals_the_definition(
    before: tuple[int, ...], after: tuple[int, ...], rule: LabelRule, count: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(-1, count, before).astype(np.int16)
    result = zoom_labels(labels, after, (1, 1, 1), rule)
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, definition(labels, after, 1, rule))


@settings(deadline=None, max_examples=40)
@given(edges, st.sampled_from(RULES), st.integers(0, 1000))
def test_ties_of_even_factors_equal_the_definition(
    before: tuple[int, ...], rule: LabelRule, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, [2 * edge for edge in before]).astype(np.int16)
    np.testing.assert_array_equal(
        zoom_labels(labels, before, (1, 1, 1), rule), definition(labels, before, 1, rule)
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.threshold}")
def test_large_smooth_labels_equal_the_definition(rule: LabelRule) -> None:
    noise = np.random.default_rng(5).normal(size=(40, 60, 50))
    labels = np.digitize(ndimage.gaussian_filter(noise, 4), [-0.02, 0.0, 0.02]).astype(np.int16) - 1
    for shape in ((55, 44, 61), (20, 75, 50), (40, 60, 31)):
        np.testing.assert_array_equal(
            zoom_labels(labels, shape, (1, 1, 1), rule), definition(labels, shape, 1, rule)
        )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.threshold}")
def test_cubic_equals_the_definition_but_for_ties(rule: LabelRule) -> None:
    labels = np.random.default_rng(6).integers(-1, 4, (11, 9, 13)).astype(np.int16)
    result = zoom_labels(labels, (15, 13, 11), (3, 3, 3), rule)
    np.testing.assert_array_equal(result, definition(labels, (15, 13, 11), 3, rule))


def test_nearest_copies() -> None:
    labels = np.random.default_rng(7).integers(-1, 6, (5, 9, 7)).astype(np.int16)
    shape = (11, 4, 9)
    index = np.ix_(*(nearest_index(before, after) for before, after in zip(labels.shape, shape, strict=True)))
    np.testing.assert_array_equal(zoom_labels(labels, shape, (0, 0, 0), RULES[0]), labels[index])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_of_order_zero_copies_slices(axis: int) -> None:
    labels = np.random.default_rng(8).integers(0, 3, (8, 8, 8)).astype(np.int16)
    shape, orders = [11, 11, 11], [1, 1, 1]
    orders[axis] = 0
    result = np.moveaxis(zoom_labels(labels, shape, orders, RULES[0]), axis, 0)
    slices = np.moveaxis(labels, axis, 0)
    for at, source in enumerate(nearest_index(8, 11)):
        one = definition(slices[source][None], (1, 11, 11), 1, RULES[0])[0]
        np.testing.assert_array_equal(result[at], one)


def test_a_slab_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(9).integers(0, 3, (9, 8, 7)).astype(np.int16)
    whole = zoom_labels(labels, (14, 11, 12), (1, 1, 1), RULES[0])
    monkeypatch.setattr("nnrules_runtime.resampling.labels._SLAB_VOXELS", 300)
    monkeypatch.setattr("nnrules_runtime.resampling.labels._CHUNK", 7)
    np.testing.assert_array_equal(zoom_labels(labels, (14, 11, 12), (1, 1, 1), RULES[0]), whole)


def test_an_unchanged_shape_is_a_copy() -> None:
    labels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    result = zoom_labels(labels, (2, 2, 2), (1, 1, 1), RULES[0])
    np.testing.assert_array_equal(result, labels)
    assert not np.shares_memory(result, labels)


def test_one_label_stays_it() -> None:
    for rule in RULES:
        assert (zoom_labels(np.full((3, 4, 5), -1, np.int16), (7, 3, 5), (1, 1, 1), rule) == -1).all()
