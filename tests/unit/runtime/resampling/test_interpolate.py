"""Images between grids against scipy's zoom, which scikit-image's resize is made of."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from nnrules_runtime.resampling import zoom
from nnrules_runtime.resampling.interpolate import apply_axis, value_range
from nnrules_runtime.resampling.operators import axis_operator

ORDERS = (0, 1, 3)
SHAPES = [
    ((12, 20, 17), (15, 31, 17)),
    ((30, 20, 17), (9, 31, 25)),
    ((8, 40, 150), (20, 30, 140)),
    ((5, 7, 6), (5, 7, 9)),
    ((5, 7, 6), (5, 12, 6)),
    ((5, 7, 6), (11, 7, 6)),
    ((1, 22, 9), (1, 15, 11)),
    ((1, 1, 1), (3, 2, 4)),
    ((6, 300, 260), (9, 140, 290)),
]


def reference(array: NDArray[np.floating], shape: tuple[int, ...], order: int) -> NDArray[np.float64]:
    factors = [after / before for before, after in zip(array.shape, shape, strict=True)]
    result = ndimage.zoom(array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    assert result.shape == shape
    return np.clip(result, array.min(), array.max())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("before", "after"), SHAPES)
def test_equals_scikit_image_resize(
    before: tuple[int, ...],
    after: tuple[int, ...],
    order: int,
    record_property: Callable[[str, object], None],
) -> None:
    values = np.random.default_rng(1).normal(size=(2, *before))
    for dtype, tolerance in ((np.float32, 3e-6), (np.float64, 1e-11)):
        given_values = values.astype(dtype)
        for threads in (1, 2):
            result = zoom(given_values, after, order, num_threads=threads)
            assert result.dtype == dtype
            worst = max(
                float(np.abs(part - reference(channel, after, order)).max())
                for part, channel in zip(result, given_values, strict=True)
            )
            record_property(f"largest difference, {np.dtype(dtype)}, {threads} threads", worst)
            assert worst <= tolerance, f"{worst:.2e}"


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.integers(1, 14)] * 3),
    st.sampled_from(ORDERS),
    st.integers(0, 9),
)
def test_stays_within_the_range_of_the_channel(
    before: tuple[int, ...], after: tuple[int, ...], order: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(1, *before)).astype(np.float32)
    result = zoom(values, after, order)
    low, high = value_range(values)
    slack = 1e-6 if order == 1 else 0
    assert result.min() >= low - slack
    assert result.max() <= high + slack


def test_without_clipping_a_spline_overshoots() -> None:
    step = np.repeat([0.0, 1.0], 10).astype(np.float32)
    assert zoom(step, (50,), 3, clip=False).max() > 1.05
    assert zoom(step, (50,), 3).max() == 1


def test_each_channel_has_its_own_range() -> None:
    step = np.repeat([0.0, 1.0], 10).astype(np.float32)
    result = zoom(np.stack((step, 100 * step)), (50,), 3)
    np.testing.assert_array_equal(result.max(axis=1), [1, 100])


def test_leading_axes_and_fewer_spatial_axes() -> None:
    values = np.random.default_rng(2).normal(size=(2, 3, 9, 8)).astype(np.float32)
    result = zoom(values, (5, 12), 3)
    assert result.shape == (2, 3, 5, 12)
    np.testing.assert_allclose(result[1, 2], reference(values[1, 2], (5, 12), 3), atol=3e-6)


def test_order_zero_keeps_integers() -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 4)
    result = zoom(values, (6, 4), 0)
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, np.repeat(values, 2, axis=0))


def test_integers_and_half_precision_are_interpolated_in_single_precision() -> None:
    for dtype in (np.int16, np.float16, np.uint8):
        assert zoom(np.ones((4, 4), dtype), (5, 5), 3).dtype == np.float32


def test_views_of_any_strides() -> None:
    values = np.random.default_rng(3).normal(size=(7, 9, 8)).astype(np.float32)
    view = values.transpose(2, 0, 1)[:, ::-1]
    np.testing.assert_array_equal(zoom(view, (9, 12, 5), 3), zoom(np.ascontiguousarray(view), (9, 12, 5), 3))


def test_no_value_is_the_range_of_nothing_but_not_a_number() -> None:
    values = np.array([np.nan, 1.0, 3.0], np.float32)
    assert value_range(values) == (1, 3)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("edge", [4, 40])
def test_one_axis_of_a_small_array(axis: int, edge: int) -> None:
    shape = [3, edge, edge + 1, edge + 2]
    values = np.random.default_rng(4).normal(size=shape)
    matrix = axis_operator(shape[axis], 23, 3, np.float64).dense(0, 23, 0, shape[axis])
    expected = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    np.testing.assert_allclose(apply_axis(matrix, values, axis), expected, atol=1e-12)


def test_worker_processes_need_not_load_torch() -> None:
    program = (
        "import sys, nnrules_runtime.resampling; raise SystemExit(len({'torch', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
