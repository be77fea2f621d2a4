"""Normalisation schemes, against their formulas in double precision."""

import numpy as np
import pytest
from nnrules.errors import ImageError

from nnrules_runtime.preprocess.normalization import ChannelNormalization, Epsilon

FLOOR, ADD = Epsilon(1e-8, is_added=False), Epsilon(1e-8, is_added=True)


@pytest.fixture
def image():
    return np.random.default_rng(5).normal(400, 90, (9, 14, 11)).astype(np.float32)


def applied(image, inside=None, **fields):
    result = image.copy()
    ChannelNormalization(**fields).apply(result, inside)
    assert result.dtype == np.float32
    return result


@pytest.mark.parametrize("epsilon", [FLOOR, ADD])
def test_zscore_of_the_whole_image(image, epsilon):
    exact = image.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    assert np.abs(applied(image, scheme="zscore", epsilon=epsilon) - expected).max() < 1e-6


@pytest.mark.parametrize("zeroes_outside", [False, True])
def test_zscore_inside_of_a_mask(image, zeroes_outside):
    inside = np.random.default_rng(6).random(image.shape) > 0.4
    exact = image.astype(np.float64)
    expected = np.where(
        inside, (exact - exact[inside].mean()) / exact[inside].std(), 0 if zeroes_outside else exact
    )
    got = applied(image, inside, scheme="zscore", epsilon=FLOOR, use_mask=True, zeroes_outside=zeroes_outside)
    assert np.abs(got - expected).max() < 1e-5
    unmasked = applied(image, inside, scheme="zscore", epsilon=FLOOR)
    assert np.array_equal(unmasked, applied(image, scheme="zscore", epsilon=FLOOR))


def test_mask_without_a_voxel_inside(image):
    nothing = np.zeros(image.shape, bool)
    kept = applied(image, nothing, scheme="zscore", epsilon=FLOOR, use_mask=True)
    assert np.array_equal(kept, image)
    assert not applied(
        image, nothing, scheme="zscore", epsilon=FLOOR, use_mask=True, zeroes_outside=True
    ).any()


@pytest.mark.parametrize("value", [0.0, 7.1, -1024.3, 1e6])
@pytest.mark.parametrize("epsilon", [FLOOR, ADD])
def test_constant_image_becomes_zero(value, epsilon):
    # 7.1 as float32 is not 7.1: the difference must not be divided by 1e-8.
    constant = np.full((5, 6, 7), value, np.float32)
    assert not applied(constant, scheme="zscore", epsilon=epsilon).any()


def test_large_offset_does_not_spoil_the_deviation():
    values = np.random.default_rng(7).normal(60000, 2, (40, 64, 64)).astype(np.float32)
    exact = values.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    assert (
        np.abs(applied(values, scheme="zscore", epsilon=FLOOR) - expected).max() < 2e-3
    )  # half a step of float32


def test_few_bright_voxels_do_not_spoil_the_deviation():
    plane = np.random.default_rng(1).integers(3, 9, (1, 512, 700)).astype(np.float32)
    plane[0, :20] = 250
    expected = (plane.astype(np.float64) - plane.mean(dtype=np.float64)) / plane.std(dtype=np.float64)
    ChannelNormalization(scheme="zscore", epsilon=Epsilon(1e-8, is_added=False)).apply(plane, None)
    assert np.abs(plane - expected).max() < 1e-6 * np.abs(expected).max()


def test_ct_clips_and_uses_global_statistics(image):
    got = applied(image, scheme="ct", epsilon=FLOOR, lower=350, upper=420, mean=390, std=20)
    assert np.abs(got - (np.clip(image.astype(np.float64), 350, 420) - 390) / 20).max() < 1e-6
    flat = applied(image, scheme="ct", epsilon=FLOOR, lower=0, upper=1000, mean=0, std=0)
    assert np.allclose(flat, image / 1e-8)


def test_rescaling_to_the_range_of_the_image(image):
    got = applied(image, scheme="rescale_to_0_1", epsilon=FLOOR)
    assert got.min() == 0
    assert got.max() == 1
    assert not applied(np.full_like(image, 3), scheme="rescale_to_0_1", epsilon=FLOOR).any()


def test_rgb_by_the_range_of_the_format():
    image = np.array([[[0, 51, 255]]], np.float32)
    assert applied(image, scheme="rgb_to_0_1", lower=0, upper=255).tolist() == [[[0, pytest.approx(0.2), 1]]]
    for wrong in (-1, 256):
        with pytest.raises(ImageError, match="rgb_to_0_1"):
            applied(np.full((1, 1, 1), wrong, np.float32), scheme="rgb_to_0_1", lower=0, upper=255)


def test_no_normalisation_changes_nothing(image):
    assert np.array_equal(applied(image, scheme="none"), image)
