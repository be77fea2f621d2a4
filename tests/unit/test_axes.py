from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnrules.axes import (
    canonical_axes,
    direction_angle_degrees,
    orientation_code,
    xyz_from_zyx,
    zyx_from_xyz,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def axis_aligned() -> list[tuple[float, ...]]:
    """All 48 axis-aligned direction matrices, left-handed ones among them."""
    matrices = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        matrix = np.zeros((3, 3))
        for axis, world in enumerate(order):
            matrix[world, axis] = signs[axis]
        matrices.append(tuple(matrix.ravel()))
    return matrices


def rotation(angle_degrees: float, axis: int = 2) -> np.ndarray:
    c, s = np.cos(np.radians(angle_degrees)), np.sin(np.radians(angle_degrees))
    matrix = np.eye(3)
    i, j = [other for other in range(3) if other != axis]
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


@given(st.lists(st.integers()))
def test_round_trip(values: list[int]) -> None:
    assert xyz_from_zyx(zyx_from_xyz(values)) == tuple(values)
    assert zyx_from_xyz(xyz_from_zyx(values)) == tuple(values)


def test_order() -> None:
    assert zyx_from_xyz([0.5, 0.6, 3.0]) == (3.0, 0.6, 0.5)
    assert xyz_from_zyx((3.0, 0.6, 0.5)) == (0.5, 0.6, 3.0)


def test_orientation_of_identity_and_2d() -> None:
    assert orientation_code(IDENTITY) == "LPS"
    assert orientation_code((-1, 0, 0, 0, -1, 0, 0, 0, 1)) == "RAS"
    assert orientation_code((1.0, 0.0, 0.0, 1.0)) == ""


def test_orientation_equals_simpleitk() -> None:
    import SimpleITK as sitk

    for direction in axis_aligned():
        expected = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
        assert orientation_code(direction) == expected


@given(st.sampled_from(axis_aligned()), st.floats(-40, 40), st.integers(0, 2))
def test_orientation_is_the_closest(direction: tuple[float, ...], angle: float, axis: int) -> None:
    turned = rotation(angle, axis) @ np.reshape(direction, (3, 3))
    assert orientation_code(tuple(turned.ravel())) == orientation_code(direction)


def test_orientation_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="9 entries, got 16"):
        orientation_code((1.0,) * 16)


def test_canonical_axes_lead_to_ras() -> None:
    for direction in axis_aligned():
        mapping = canonical_axes(direction)
        matrix = np.reshape(direction, (3, 3))
        columns_zyx = [matrix[:, 2 - axis] for axis in mapping.order]
        columns_zyx = [
            -column if flip else column for column, flip in zip(columns_zyx, mapping.flips, strict=True)
        ]
        assert orientation_code(tuple(np.column_stack(columns_zyx[::-1]).ravel())) == "RAS"
        assert mapping.is_identity == (orientation_code(direction) == "RAS")


def test_canonical_axes_of_2d() -> None:
    assert canonical_axes((0.0, 1.0, 1.0, 0.0)).is_identity


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 0.1, 10.0, 90.0, 135.0, 180.0])
def test_direction_angle(angle: float) -> None:
    turned = tuple(rotation(angle).ravel())
    # The chord keeps eight digits of an angle of 1e-7°, where the arc cosine would answer 0.
    assert direction_angle_degrees(IDENTITY, turned) == pytest.approx(angle, rel=1e-6, abs=1e-9)


def test_direction_angle_takes_the_worst_axis_and_ignores_length() -> None:
    matrix = np.eye(3)
    matrix[:, 2] = (0.0, 3.0, 3.0)
    assert direction_angle_degrees(IDENTITY, tuple(matrix.ravel())) == pytest.approx(45.0)


def test_direction_angle_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="9 and 4"):
        direction_angle_degrees(IDENTITY, (1.0, 0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="no length"):
        direction_angle_degrees(IDENTITY, (0.0,) * 9)
