"""Cropping to the non-zero region, against scipy's definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnrules.errors import ImageError
from scipy import ndimage

from nnrules_runtime.preprocess import crop as crop_module
from nnrules_runtime.preprocess.crop import Crop, fill_holes, nonzero_box

SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)


def crop(**changes):
    values = {
        "fills_holes": True,
        "outside_label": -1,
        "refuses_all_zero": False,
        "zeroes_lower_labels": False,
    }
    return Crop(**{**values, **changes})


@settings(max_examples=300, deadline=None)
@given(arrays.arrays(np.bool_, SHAPES), st.booleans())
def test_filled_as_scipy_fills(mask, are_few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crop_module, "_FEW", 2 if are_few else 0)
        assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.6])
def test_filled_as_scipy_fills_in_larger_masks(share):
    mask = np.random.default_rng(3).random((20, 25, 30)) > share
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.int8, st.tuples(st.integers(1, 2), *[st.integers(1, 5)] * 3), elements=st.integers(0, 1))
)
def test_box_is_the_smallest_one_and_filling_does_not_change_it(image):
    union = (image != 0).any(axis=0)
    box = nonzero_box(image)
    if not union.any():
        assert box is None
        return
    (expected,) = ndimage.find_objects(union.astype(int))
    assert box == expected
    (filled,) = ndimage.find_objects(ndimage.binary_fill_holes(union).astype(int))
    assert box == filled


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.int8, st.tuples(st.integers(1, 2), *[st.integers(1, 6)] * 3), elements=st.integers(0, 1))
)
def test_region_of_the_crop_is_the_region_of_the_whole_image(image):
    box = crop().box(image)
    whole = ndimage.binary_fill_holes((image != 0).any(axis=0))
    assert np.array_equal(crop().inside(image[(slice(None), *box)]), whole[box])


def test_outside_gets_its_label_only_where_nothing_is_annotated():
    inside = np.array([[[True, False, False, True]]])
    label = np.array([[[0, 0, 2, -3]]], np.int16)
    kept = label.copy()
    crop().mark_outside(kept, inside)
    assert kept.tolist() == [[[0, -1, 2, -3]]]
    crop(zeroes_lower_labels=True).mark_outside(label, inside)
    assert label.tolist() == [[[0, -1, 2, 0]]]


def test_without_a_reference_the_map_is_zero_inside():
    inside = np.array([[[True, False]]])
    assert crop(outside_label=-2).outside_only(inside).tolist() == [[[0, -2]]]


def test_all_zero_image_is_kept_or_refused():
    image = np.zeros((1, 2, 3, 4))
    assert crop().box(image) == (slice(0, 2), slice(0, 3), slice(0, 4))
    assert not crop().inside(image).any()
    with pytest.raises(ImageError, match="all intensities are 0"):
        crop(refuses_all_zero=True).box(image)


def test_holes_stay_where_the_plan_does_not_fill_them():
    image = np.ones((1, 3, 3, 3))
    image[0, 1, 1, 1] = 0
    assert crop().inside(image).all()
    assert not crop(fills_holes=False).inside(image)[1, 1, 1]
