"""Steps of postprocessing: which components stay, and the laws that follow."""

import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from nnrules_runtime.postprocess import Components, Postprocessing, Step, components
from nnrules_runtime.values import Section

Array = np.ndarray
FACE, FULL = Components(connectivity="face"), Components(connectivity="full")
SPACING = (3.0, 0.5, 1.0)

label_maps = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    elements=st.sampled_from([0, 0, 1, 2, 3]),
)
label_sets = st.sampled_from([(1,), (2,), (1, 2), (2, 3), (1, 2, 3), (3, 7), (9,)])
kinds = st.builds(
    Components,
    connectivity=st.sampled_from(["face", "full"]),
    size=st.sampled_from(["voxels", "volume"]),
    min_size=st.sampled_from([None, 1.0, 1.5, 2.0, 3.0, 1000.0]),
)


def step(labels: Sequence[int], kind: Components = FULL, name: str = "it") -> Step:
    return Step(name=name, labels=tuple(labels), components=kind)


def applied(labels: Any, *steps: Step) -> Array:
    return Postprocessing(tuple(steps)).apply(np.asarray(labels, np.uint8), SPACING)


def by_scipy(labels: Array, one: Step) -> Array:
    """The definition, by another library and without a box or parts."""
    structure = np.ones((3, 3, 3)) if one.components.connectivity == "full" else None
    numbers, count = ndimage.label(np.isin(labels, one.labels), structure)
    sizes = [int((numbers == number).sum()) for number in range(1, count + 1)]
    unit = math.prod(SPACING) if one.components.size == "volume" else 1
    result = labels.copy()
    for number, size in enumerate(sizes, 1):
        least = one.components.min_size
        if size != max(sizes) and (least is None or size * unit < least):
            result[numbers == number] = 0
    return result


def test_only_the_largest_component_stays() -> None:
    labels = [[[1, 0, 2, 2, 0, 1], [1, 1, 0, 0, 0, 1]]]
    assert applied(labels, step([1])).tolist() == [[[1, 0, 2, 2, 0, 0], [1, 1, 0, 0, 0, 0]]]
    assert applied(labels, step([2])).tolist() == labels
    # Together they touch, but for the last column; each keeps its value.
    assert applied(labels, step([1, 2])).tolist() == [[[1, 0, 2, 2, 0, 0], [1, 1, 0, 0, 0, 0]]]


def test_neighbours() -> None:
    """Voxels that share a corner or an edge are neighbours with full connectivity only."""
    corner = np.zeros((3, 3, 3), np.uint8)
    corner[0, 0, 0] = corner[1, 1, 1] = corner[2, 2, 2] = 1
    corner[2, 2, 1] = 1
    assert applied(corner, step([1], FULL)).tolist() == corner.tolist()
    assert np.argwhere(applied(corner, step([1], FACE))).tolist() == [[2, 2, 1], [2, 2, 2]]
    flat = [[[1, 0, 0], [0, 1, 1]]]
    assert applied(flat, step([1], FULL)).tolist() == flat
    assert applied(flat, step([1], FACE)).tolist() == [[[0, 0, 0], [0, 1, 1]]]


def test_all_of_the_largest_size_stay() -> None:
    labels = [[[1, 1, 0, 1, 0, 1, 1]]]
    assert applied(labels, step([1])).tolist() == [[[1, 1, 0, 0, 0, 1, 1]]]


def test_large_enough_components_stay_as_well() -> None:
    labels = [[[1, 1, 1, 0, 1, 1, 0, 1]]]
    two = Components(connectivity="full", min_size=2)
    assert applied(labels, step([1], two)).tolist() == [[[1, 1, 1, 0, 1, 1, 0, 0]]]
    # A voxel has 1.5 mm³.
    in_mm3 = Components(connectivity="full", size="volume", min_size=1.5)
    assert applied(labels, step([1], in_mm3)).tolist() == labels
    in_mm3 = Components(connectivity="full", size="volume", min_size=3.1)
    assert applied(labels, step([1], in_mm3)).tolist() == [[[1, 1, 1, 0, 0, 0, 0, 0]]]


def test_each_step_sees_the_outcome_of_the_one_before() -> None:
    labels = [[[1, 1, 2, 1, 1, 1, 0, 2, 2]]]
    # The union leaves the first six; of them the longer piece of 1; then 2 has one voxel left.
    assert applied(labels, step([1, 2]), step([1])).tolist() == [[[0, 0, 2, 1, 1, 1, 0, 0, 0]]]
    assert applied(labels, step([2]), step([1])).tolist() == [[[0, 0, 0, 1, 1, 1, 0, 2, 2]]]


def test_no_step_gives_a_new_array() -> None:
    labels = np.ones((1, 2, 3), np.int16)
    result = Postprocessing.none().apply(labels, SPACING)
    assert Postprocessing.none().steps == ()
    assert result is not labels
    assert not np.shares_memory(result, labels)
    np.testing.assert_array_equal(result, labels)


def test_other_than_three_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="Z, Y, X"):
        Postprocessing.none().apply(np.zeros((3, 3), np.uint8), SPACING)


@settings(max_examples=200, deadline=None)
@given(labels=label_maps, values=label_sets, kind=kinds)
def test_as_another_library_does_it(labels: Array, values: tuple[int, ...], kind: Components) -> None:
    np.testing.assert_array_equal(applied(labels, step(values, kind)), by_scipy(labels, step(values, kind)))


@settings(max_examples=100, deadline=None)
@given(labels=label_maps, values=label_sets, kind=kinds, parts=st.integers(1, 9))
def test_in_whatever_parts_it_is_counted(
    labels: Array, values: tuple[int, ...], kind: Components, parts: int
) -> None:
    whole = applied(labels, step(values, kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_CHUNK_VOXELS", parts)
        np.testing.assert_array_equal(applied(labels, step(values, kind)), whole)


@settings(max_examples=100, deadline=None)
@given(labels=label_maps, values=label_sets, kind=kinds)
def test_laws(labels: Array, values: tuple[int, ...], kind: Components) -> None:
    one = Postprocessing((step(values, kind),))
    before = labels.copy()
    result = one.apply(labels, SPACING)
    np.testing.assert_array_equal(labels, before)
    assert result.dtype == labels.dtype
    changed = result != labels
    assert not result[changed].any()
    assert np.isin(labels[changed], values).all()
    # Something of what was there stays, and a second time changes nothing.
    assert np.isin(result, values).any() == np.isin(labels, values).any()
    np.testing.assert_array_equal(one.apply(result, SPACING), result)


@settings(max_examples=50, deadline=None)
@given(
    labels=label_maps,
    values=label_sets,
    kind=kinds,
    axes=st.sets(st.integers(0, 2)),
    order=st.permutations(range(3)),
)
def test_mirrored_and_transposed_alike(
    labels: Array, values: tuple[int, ...], kind: Components, axes: set[int], order: list[int]
) -> None:
    """Also arrays that are not contiguous."""
    turned = np.flip(labels, tuple(axes)).transpose(order)
    expected = np.flip(applied(labels, step(values, kind)), tuple(axes)).transpose(order)
    spacing = tuple(SPACING[axis] for axis in order)
    np.testing.assert_array_equal(Postprocessing((step(values, kind),)).apply(turned, spacing), expected)


@settings(max_examples=50, deadline=None)
@given(labels=label_maps, kind=kinds, order=st.permutations([(1,), (2,), (3,)]))
def test_the_order_of_disjoint_steps_is_free(
    labels: Array, kind: Components, order: list[tuple[int, ...]]
) -> None:
    in_order = applied(labels, *(step((value,), kind) for value in (1, 2, 3)))
    np.testing.assert_array_equal(applied(labels, *(step(values, kind) for values in order)), in_order)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_types_of_labels(dtype: Any) -> None:
    labels = np.array([[[300 % np.iinfo(dtype).max, 0, 1, 1]]], dtype)
    value = int(labels[0, 0, 0])
    result = Postprocessing((step([value, 1]),)).apply(labels, SPACING)
    assert result.dtype == dtype
    assert result.tolist() == [[[0, 0, 1, 1]]]


@given(steps=st.lists(st.builds(step, label_sets, kinds, st.sampled_from(["a", "b"])), max_size=3))
def test_documents_and_pickles(steps: list[Step]) -> None:
    postprocessing = Postprocessing.none().then(*steps)
    assert Postprocessing.from_json(postprocessing.to_json()) == postprocessing
    assert pickle.loads(pickle.dumps(postprocessing)) == postprocessing


def test_a_step_says_what_it_does() -> None:
    assert step([1], name="organ").to_text() == "only the largest component of organ stays"
    kind = Components(connectivity="face", size="volume", min_size=50)
    assert step([1], kind).to_text() == "only the largest component of it stays, and any of at least 50 mm³"


def test_components_of_a_plan() -> None:
    document = {
        "keep": "largest",
        "ties": "keep_all",
        "connectivity": "face",
        "size": "volume",
        "min_size": 2,
    }
    problems: list[Any] = []
    found = Components.from_plan(Section({"components": document}, "postprocessing", problems))
    assert problems == []
    assert found == Components(connectivity="face", size="volume", min_size=2.0)
    wrong = {"keep": "two", "ties": "none", "connectivity": "edge", "size": "mass", "min_size": None}
    Components.from_plan(Section({"components": wrong}, "postprocessing", problems))
    assert [problem.where.rpartition(".")[2] for problem in problems] == [
        "keep",
        "ties",
        "connectivity",
        "size",
    ]
