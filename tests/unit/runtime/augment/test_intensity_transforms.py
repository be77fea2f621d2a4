"""Noise, blur, brightness, contrast, low resolution and gamma against scipy and the formulas of the releases."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnrules_runtime.augment import Augmentation, statistics
from nnrules_runtime.augment.gamma import Epsilon, apply_gamma
from nnrules_runtime.augment.gaussian_blur import six_sigma_odd, truncated_at_4_sigma
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import Channels

SHAPE = (12, 14, 10)


def channel(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def applied(augmentation: Augmentation, name: str, drawn: Any, image: np.ndarray) -> np.ndarray:
    patch = Patch(torch.from_numpy(image.copy()), torch.zeros((1, *image.shape[1:]), dtype=torch.int16))
    dict(augmentation.transforms)[name].apply(patch, drawn)
    result: np.ndarray = patch.image.numpy()
    return result


@pytest.mark.parametrize("pack", ["nnunet@1.7.0", "nnunet@1.0.0", "nnunet@0.6.0", "preprint@2.0.0"])
@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.5])
def test_blur_is_scipys(pack: str, sigma: float, make_augmentation: Callable[..., Augmentation]) -> None:
    image = np.stack([channel(0), channel(1)])
    found = applied(make_augmentation(pack), "gaussian_blur", {1: (sigma,) * 3}, image)
    assert np.array_equal(found[0], image[0])
    wanted = ndimage.gaussian_filter(image[1].astype(float), sigma)
    assert np.abs(found[1] - wanted).max() < 3e-6


def test_blur_is_wider_than_the_patch(make_augmentation: Callable[..., Augmentation]) -> None:
    image = channel(2, (1, 4, 14, 10))
    found = applied(make_augmentation("nnunet@1.7.0"), "gaussian_blur", {0: (1.5,) * 3}, image)
    assert np.abs(found[0] - ndimage.gaussian_filter(image[0].astype(float), 1.5)).max() < 3e-6


def test_kernel_lengths() -> None:
    # blueprints, 5.3: 3 for sigma < 0.584, 5 below 0.917, else 7.
    for sigma, length in ((0.5, 3), (0.583, 3), (0.585, 5), (0.916, 5), (0.918, 7), (1.0, 7)):
        assert six_sigma_odd(sigma) == length
    for sigma in np.linspace(0.3, 2, 40):
        impulse = np.zeros(41)
        impulse[20] = 1
        assert truncated_at_4_sigma(sigma) == np.count_nonzero(ndimage.gaussian_filter1d(impulse, sigma))


def test_blur_in_two_dimensions_leaves_the_slice_axis(make_augmentation: Callable[..., Augmentation]) -> None:
    image = channel(3, (2, 1, 20, 18))
    found = applied(make_augmentation("nnunet@1.7.0", "2d"), "gaussian_blur", {0: (0.9, 0.9)}, image)
    assert np.abs(found[0, 0] - ndimage.gaussian_filter(image[0, 0].astype(float), 0.9)).max() < 3e-6


@pytest.mark.parametrize(("strength", "wanted"), [("standard_deviation", 0.04), ("variance", 0.2)])
def test_noise_strength(strength: str, wanted: float, make_augmentation: Callable[..., Augmentation]) -> None:
    changes = {
        "transforms.gaussian_noise.probability": 1,
        "transforms.gaussian_noise.strength": strength,
        "transforms.gaussian_noise.range": [0.04, 0.04],
    }
    augmentation = make_augmentation(changes=changes)
    transform: Any = dict(augmentation.transforms)["gaussian_noise"]
    drawn = transform.draw(np.random.default_rng(5))
    found = applied(augmentation, "gaussian_noise", drawn, np.zeros((2, 40, 40, 40), np.float32))
    for field in found:
        assert field.std() == pytest.approx(wanted, rel=0.02)
        assert abs(field.mean()) < 4 * wanted / math.sqrt(field.size)
    # Independent voxels and channels.
    assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(found[0].ravel()[1:], found[0].ravel()[:-1])[0, 1]) < 0.02


def test_contrast_around_zero_and_around_the_mean(make_augmentation: Callable[..., Augmentation]) -> None:
    image = channel(4)[None]
    for around, wanted in (
        ("zero", image * 1.4),
        ("channel_mean", (image - image.mean()) * 1.4 + image.mean()),
    ):
        for clip in (True, False):
            changes = {"transforms.contrast.around": around, "transforms.contrast.clip_to_input_range": clip}
            found = applied(make_augmentation(changes=changes), "contrast", {0: (1.4,)}, image)
            limited = np.clip(wanted, image.min(), image.max()) if clip else wanted
            assert np.abs(found - limited).max() < 2e-6


def reference_gamma(
    x: np.ndarray, gamma: float, *, invert: bool, keep: str, range_epsilon: Epsilon, epsilon: Epsilon
) -> np.ndarray:
    """batchgenerators' steps one by one, in float64; blueprints, 5.3."""
    x = x.astype(float) * (-1 if invert else 1)
    mean, deviation = x.mean(), x.std(ddof=1)
    low, extent = x.min(), x.max() - x.min()
    below = extent + range_epsilon.value if range_epsilon.add else max(extent, range_epsilon.value)
    x = ((x - low) / below) ** gamma * (below if range_epsilon.add else extent) + low
    if keep != "none":
        now = x.std(ddof=1)
        divisor = now + epsilon.value if epsilon.add else max(now, epsilon.value)
        if keep == "mean_and_deviation":
            x = (x - x.mean()) / divisor * deviation + mean
        else:
            x = (x - x.mean() + mean) / divisor * deviation
    return x * (-1 if invert else 1)


@pytest.mark.parametrize("keep", ["mean_and_deviation", "mean_then_deviation", "none"])
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_formula(keep: Any, invert: bool, add: bool, gamma: float) -> None:
    image = channel(6)
    range_epsilon, epsilon = Epsilon(1e-3, add), Epsilon(1e-2, add)
    wanted = reference_gamma(
        image, gamma, invert=invert, keep=keep, range_epsilon=range_epsilon, epsilon=epsilon
    )
    found = torch.from_numpy(image.copy())
    apply_gamma(
        found, gamma, invert=invert, keep=keep, range_epsilon=range_epsilon, statistics_epsilon=epsilon
    )
    assert np.abs(found.numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize("keep", ["mean_and_deviation", "mean_then_deviation", "none"])
@pytest.mark.parametrize("add", [False, True])
def test_gamma_of_a_constant_channel_is_finite(keep: Any, add: bool) -> None:
    image = torch.full((4, 5, 6), 2.5)
    epsilon = Epsilon(1e-7, add)
    apply_gamma(image, 0.8, invert=False, keep=keep, range_epsilon=epsilon, statistics_epsilon=epsilon)
    assert torch.isfinite(image).all()
    if keep != "mean_then_deviation":
        assert torch.allclose(image, torch.full_like(image, 2.5), atol=1e-6)


@pytest.mark.parametrize("pack", ["nnunet@1.7.0", "preprint@2.0.0"])
@pytest.mark.parametrize("zoom", [0.5, 0.63, 0.97])
def test_low_resolution_is_skimages(
    pack: str, zoom: float, make_augmentation: Callable[..., Augmentation]
) -> None:
    """``skimage.transform.resize`` is ``ndimage.zoom`` with ``grid_mode``, and clips to its input's range."""
    image = channel(7)[None]
    smaller = [round(edge * zoom) for edge in SHAPE]
    small = ndimage.zoom(
        image[0],
        [s / e for s, e in zip(smaller, SHAPE, strict=True)],
        order=0,
        mode="nearest",
        grid_mode=True,
    )
    large = ndimage.zoom(
        small.astype(float),
        [e / s for s, e in zip(smaller, SHAPE, strict=True)],
        order=3,
        mode="nearest",
        grid_mode=True,
    )
    wanted = np.clip(large, small.min(), small.max())
    drawn = {0: (1 / zoom if pack == "preprint@2.0.0" else zoom,)}
    found = applied(make_augmentation(pack), "low_resolution", drawn, image)
    assert found[0].shape == SHAPE
    assert np.abs(found[0] - wanted).max() < 1e-5


def test_low_resolution_leaves_ignored_axes(make_augmentation: Callable[..., Augmentation]) -> None:
    image = np.repeat(np.arange(12, dtype=np.float32)[:, None, None], 14, 1).repeat(10, 2)[None]
    changes = {"transforms.low_resolution.ignored_axes": [0]}
    found = applied(make_augmentation(changes=changes), "low_resolution", {0: (0.5,)}, image)
    assert np.allclose(found, image)


def test_statistics_do_not_depend_on_threads() -> None:
    image = torch.from_numpy(channel(8, (64, 64, 65)))
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append((statistics.mean(image), *statistics.mean_and_deviation(image)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]
    exact = image.double()
    assert found[0] == pytest.approx((exact.mean().item(), exact.mean().item(), exact.std().item()), rel=1e-6)


def test_channels_alike_share_their_values() -> None:
    rng = np.random.default_rng(0)
    alike = Channels(count=5, alike=True).draw(rng, lambda rng: rng.random())
    apart = Channels(count=5, alike=False).draw(rng, lambda rng: rng.random())
    assert len(set(alike.values())) == 1
    assert len(set(apart.values())) == 5
