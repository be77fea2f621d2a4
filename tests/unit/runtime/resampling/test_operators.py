"""Operators of one axis against scipy's zoom, and the laws of interpolation."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnrules_runtime.resampling.operators import (
    COLUMNS,
    MOST_MULTIPLICATIONS,
    axis_operator,
    linear_taps,
    nearest_index,
)

SIZES = [(1, 5), (2, 7), (5, 5), (9, 4), (20, 33), (64, 51), (128, 160), (100, 37), (3, 200), (300, 20)]
ORDERS = (0, 1, 3)

sizes = st.integers(1, 70)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_equals_scipy_zoom(
    before: int, after: int, order: int, record_property: Callable[[str, object], None]
) -> None:
    values = np.random.default_rng(0).normal(size=(before, 4))
    expected = ndimage.zoom(values, (after / before, 1), order=order, mode="nearest", grid_mode=True)
    assert expected.shape[0] == after
    for dtype, tolerance in ((np.float32, 2e-7), (np.float64, 1e-12)):
        matrix = axis_operator(before, after, order, dtype).dense(0, after, 0, before)
        worst = float(np.abs(matrix.astype(np.float64) @ values - expected).max())
        record_property(f"largest difference, {np.dtype(dtype)}", worst)
        assert worst <= tolerance * np.abs(values).max(), f"{worst:.2e} from scipy"


@given(sizes, sizes)
def test_nearest_takes_the_upper_of_two_equally_near(before: int, after: int) -> None:
    places = (2 * np.arange(after) + 1) * before  # twice `after` times (source + 0.5)
    expected = np.clip(places // (2 * after), 0, before - 1)
    # Whole numbers: exact. Division rounds where source + 0.5 is whole, so those may go either way.
    exact = places % (2 * after) != 0
    np.testing.assert_array_equal(nearest_index(before, after)[exact], expected[exact])


@given(sizes, sizes)
@example(1, 49)
def test_linear_weights_are_shares_of_neighbours(before: int, after: int) -> None:
    lower, upper, share = linear_taps(before, after)
    # A source that is a rounding error below a whole number has its upper neighbour with a share that rounds to 1.
    assert ((share >= 0) & (share <= 1)).all()
    assert ((upper == lower) | (upper == lower + 1)).all()
    assert lower.min() >= 0
    assert upper.max() < before


@settings(deadline=None)
@given(sizes, sizes, st.sampled_from(ORDERS))
def test_a_constant_stays_constant(before: int, after: int, order: int) -> None:
    matrix = axis_operator(before, after, order, np.float64).dense(0, after, 0, before)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@settings(deadline=None)
@given(sizes, sizes, st.sampled_from(ORDERS))
def test_reversed_input_gives_reversed_output(before: int, after: int, order: int) -> None:
    matrix = axis_operator(before, after, order, np.float64).dense(0, after, 0, before)
    if order == 0:  # ties go up in both directions
        return
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-12)


@settings(deadline=None)
@given(st.integers(30, 70), st.integers(30, 70))
def test_a_straight_line_stays_straight_inside(before: int, after: int) -> None:
    places = (np.arange(after) + 0.5) * before / after - 0.5
    inside = (places > 15) & (places < before - 16)
    matrix = axis_operator(before, after, 3, np.float64).dense(0, after, 0, before)
    # The repeated border bends the line; its influence falls by 3.7 a voxel.
    np.testing.assert_allclose((matrix @ np.arange(before))[inside], places[inside], atol=1e-6)


@settings(deadline=None)
@given(sizes, sizes, st.sampled_from((1, 3)))
def test_blocks_are_the_operator(before: int, after: int, order: int) -> None:
    operator = axis_operator(before, after, order)
    if operator.index is not None:
        assert operator.is_identity
        return
    matrix = np.zeros((after, before), np.float32)
    for block in operator.blocks:
        matrix[block.start : block.stop, block.first : block.last] = block.weights
        assert block.weights.size * COLUMNS <= MOST_MULTIPLICATIONS or len(block.weights) == 1
    np.testing.assert_array_equal(matrix, operator.dense(0, after, 0, before))


def test_equal_sizes_need_no_interpolation() -> None:
    for order in ORDERS:
        operator = axis_operator(9, 9, order)
        assert operator.is_identity
        assert operator.is_convex
        np.testing.assert_array_equal(operator.dense(2, 5, 0, 9), np.eye(9)[2:5])


def test_only_splines_leave_the_range() -> None:
    assert [axis_operator(5, 9, order).is_convex for order in ORDERS] == [True, True, False]
