"""Surface metrics against distances of all pairs of surface voxels."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage  # type: ignore[import-untyped]
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

from nnrules_runtime.evaluate.surface import surface_of, surface_scores

Mask = npt.NDArray[np.bool_]


def blob(seed: int, shape: tuple[int, int, int]) -> Mask:
    """Something smooth, that may touch the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    mask: Mask = noise > np.quantile(noise, 0.7)
    return mask


def surface_by_hand(mask: Mask) -> npt.NDArray[np.int64]:
    """Coordinates of the voxels with a face neighbour outside, from a padded copy; axes of one voxel do not count."""
    padded = np.pad(mask, 1)
    found = []
    for place in np.argwhere(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            if mask.shape[axis] == 1:
                continue
            neighbour = place + 1
            neighbour[axis] += step
            if not padded[tuple(neighbour)]:
                found.append(place)
                break
    return np.array(found)


def by_hand(first: Mask, second: Mask, spacing: tuple[float, ...], tolerance: float) -> tuple[float, float]:
    one, other = (surface_by_hand(mask) * np.array(spacing) for mask in (first, second))
    distances = cdist(one, other)
    sides = distances.min(1), distances.min(0)
    within = sum(int((side <= tolerance).sum()) for side in sides)
    return within / (len(one) + len(other)), max(np.percentile(side, 95) for side in sides)


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(3, 9), st.integers(3, 11), st.integers(3, 10)),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    tolerance=st.floats(0.1, 6),
)
@settings(deadline=None, max_examples=60)
def test_scores_are_those_of_all_pairs(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float], tolerance: float
) -> None:
    first, second = blob(seed, shape), blob(seed + 1, shape)
    expected = by_hand(first, second, spacing, tolerance)
    found = surface_scores(first, second, spacing, tolerance_mm=tolerance)
    assert found.hausdorff_95_mm == pytest.approx(expected[1], rel=1e-5)
    # A distance that equals the tolerance may fall to either side.
    distances = cdist(*(surface_by_hand(mask) * np.array(spacing) for mask in (first, second)))
    if np.abs(np.concatenate([distances.min(0), distances.min(1)]) - tolerance).min() > 1e-4:
        assert found.surface_dice == pytest.approx(expected[0], abs=1e-12)


@given(seed=st.integers(0, 2**31), shape=st.tuples(*[st.integers(1, 6)] * 3))
@settings(deadline=None)
def test_surface(seed: int, shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.7
    flat = [axis for axis, edge in enumerate(shape) if edge == 1]
    expected = np.zeros_like(mask)
    if len(flat) < 3 and mask.any():
        expected[tuple(surface_by_hand(mask).reshape(-1, 3).T.astype(int))] = True
    assert np.array_equal(surface_of(mask, flat_axes=flat), expected)


def test_slices_have_outlines() -> None:
    """Two squares in one slice, 2 voxels of 0.5 mm apart along x; the slice is 999 mm thick."""
    first, second = np.zeros((2, 1, 10, 12), bool)
    first[0, 2:8, 2:8] = True
    second[0, 2:8, 4:10] = True
    spacing = (999.0, 0.5, 0.5)
    assert surface_of(first, flat_axes=[0]).sum() == 20
    expected = by_hand(first, second, spacing, 0.5)
    found = surface_scores(first, second, spacing, tolerance_mm=0.5, flat_axes=[0])
    assert found == pytest.approx(expected)
    assert found.hausdorff_95_mm == 1.0


def test_spacing_is_of_each_axis() -> None:
    """Two voxels 3 apart along z, y, and x."""
    spacing = (5.0, 0.7, 2.0)
    for axis, edge in enumerate(spacing):
        first, second = np.zeros((2, 7, 7, 7), bool)
        place = [3, 3, 3]
        first[tuple(place)] = True
        place[axis] = 6
        second[tuple(place)] = True
        found = surface_scores(first, second, spacing, tolerance_mm=3 * edge)
        assert found.hausdorff_95_mm == pytest.approx(3 * edge, rel=1e-6)
        assert found.surface_dice == 1  # at the tolerance is within it
        assert surface_scores(first, second, spacing, tolerance_mm=2.99 * edge).surface_dice == 0


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_laws(seed: int) -> None:
    first, second = blob(seed, (8, 9, 10)), blob(seed + 1, (8, 9, 10))
    spacing = (2.0, 1.0, 0.5)
    assert surface_scores(first, first, spacing, tolerance_mm=0) == (1.0, 0.0)
    there = surface_scores(first, second, spacing, tolerance_mm=1.0)
    assert there == surface_scores(second, first, spacing, tolerance_mm=1.0)
    wider = surface_scores(first, second, spacing, tolerance_mm=2.0)
    assert wider.surface_dice >= there.surface_dice
    doubled = surface_scores(first, second, (4.0, 2.0, 1.0), tolerance_mm=2.0)
    assert doubled == pytest.approx((there.surface_dice, 2 * there.hausdorff_95_mm))
    padded = surface_scores(np.pad(first, 3), np.pad(second, 3), spacing, tolerance_mm=1.0)
    assert padded == pytest.approx(there)
    assert math.isfinite(there.hausdorff_95_mm)
