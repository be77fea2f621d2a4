"""The previous stage's channels: structuring elements and operators by their definitions, components by counting."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.augment.binary_operators import OPERATORS, ball, dilation
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.previous_stage import (
    ComponentDraw,
    OperatorDraw,
    StageComponents,
    StageOperators,
    apply_operator,
    remove_components,
)

CASCADE = "3d_cascade_fullres"


def defined_ball(radius: float, num_axes: int) -> np.ndarray:
    """Samples of an open grid from -r to r; the definition in scikit-image's documentation of ``ball``."""
    samples = complex(0, 2 * radius + 1)
    grid = np.mgrid[tuple(slice(-radius, radius, samples) for _ in range(num_axes))]
    inside: np.ndarray = (grid**2).sum(0) <= radius * radius
    return inside


@pytest.mark.parametrize("num_axes", [2, 3])
@pytest.mark.parametrize("radius", [1.0, 1.49, 1.5, 1.9, 2.0, 3.3, 5.0, 7.99, 8.0])
def test_ball(radius: float, num_axes: int) -> None:
    assert np.array_equal(ball(radius, num_axes), defined_ball(radius, num_axes))


def test_ball_of_a_broken_radius_is_small() -> None:
    # blueprints, 11: r 1.9 gives 4×4×4 samples with 8 voxels.
    assert ball(1.9, 3).shape == (4, 4, 4)
    assert ball(1.9, 3).sum() == 8


def volume(seed: int = 0, shape: tuple[int, ...] = (15, 18, 21)) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    mask: np.ndarray = field > 0.05
    return mask


@pytest.mark.parametrize("radius", [1.0, 1.6, 2.2, 4.0, 7.5])
def test_dilation_is_a_convolution(radius: float) -> None:
    mask, element = volume(), ball(radius, 3)
    # torch pads "same" with (n - 1) // 2 voxels before and the rest after.
    edge = element.shape[0]
    before = (edge - 1) // 2
    padded = torch.nn.functional.pad(
        torch.from_numpy(mask)[None, None].double(), (before, edge - 1 - before) * 3
    )
    counted = torch.nn.functional.conv3d(padded, torch.from_numpy(element)[None, None].double())[0, 0]
    assert np.array_equal(dilation(mask, element), counted.numpy() > 0.5)


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_operators_of_odd_elements_as_scipy(name: str, radius: float) -> None:
    mask, element = volume(1), ball(radius, 3)

    def dilated(m: np.ndarray) -> np.ndarray:
        return ndimage.binary_dilation(m, element)

    def eroded(m: np.ndarray) -> np.ndarray:
        return ndimage.binary_erosion(m, element, border_value=1)

    wanted = {
        "dilation": dilated(mask),
        "erosion": eroded(mask),
        "opening": dilated(eroded(mask)),
        "closing": eroded(dilated(mask)),
    }[name]
    assert np.array_equal(OPERATORS[name](mask, element), wanted)


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.parametrize("fill", [False, True])
def test_operators_of_uniform_volumes(name: str, fill: bool) -> None:
    mask = np.full((6, 7, 8), fill)
    assert np.array_equal(OPERATORS[name](mask, ball(2.0, 3)), mask)


def one_hot(seed: int = 2, shape: tuple[int, ...] = (15, 18, 21)) -> torch.Tensor:
    labels = (
        np.random.default_rng(seed)
        .integers(0, 4, [edge // 3 for edge in shape])
        .repeat(3, 0)
        .repeat(3, 1)
        .repeat(3, 2)
    )
    return torch.stack([torch.from_numpy(labels == label).float() for label in (1, 2, 3)])


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_operator_keeps_the_channels_one_hot(name: str) -> None:
    before = one_hot()
    after = before.clone()
    apply_operator(after, OperatorDraw(1, name, 1.7), is_2d=False)
    wanted = OPERATORS[name](before[1].numpy() > 0, ball(1.7, 3))
    assert np.array_equal(after[1].numpy() > 0, wanted)
    added = wanted & ~(before[1].numpy() > 0)
    for index in (0, 2):
        assert np.array_equal(after[index].numpy() > 0, (before[index].numpy() > 0) & ~added)
    assert float(after.sum(0).max()) <= 1


def test_an_operator_in_two_dimensions_is_a_disk() -> None:
    channels = torch.zeros(2, 1, 11, 11)
    channels[0, 0, 5, 5] = 1
    apply_operator(channels, OperatorDraw(0, "dilation", 3.0), is_2d=True)
    assert np.array_equal(channels[0, 0, 2:9, 2:9].numpy() > 0, ball(3.0, 2))


def with_components() -> torch.Tensor:
    """Channel 0: components of 1, 2 and 36 voxels; the second is connected by an edge only."""
    channels = torch.zeros(2, 6, 8, 8)
    channels[0, 0, 0, 0] = 1
    channels[0, 3, 6, 6] = channels[0, 3, 7, 7] = 1
    channels[0, 1:5, 1:4, 2:5] = 1
    return channels


@pytest.mark.parametrize(("full", "small"), [(True, 2), (False, 3)])
def test_one_of_the_small_components_is_removed(full: bool, small: int) -> None:
    total = float(with_components().sum())
    left = set()
    for pick in np.linspace(0, 0.999, 12):
        channels = with_components()
        remove_components(channels, ComponentDraw(0, float(pick), None), max_voxels=36, one=True, full=full)
        left.add(tuple(channels[0].nonzero().flatten().tolist()))
        assert float(channels.sum()) < total
        assert channels[0, 1:5, 1:4, 2:5].all()
    assert len(left) == small


def test_all_small_components_are_removed_or_filled() -> None:
    channels = with_components()
    remove_components(channels, ComponentDraw(0, 0.5, 1), max_voxels=37, one=False, full=True)
    assert not channels[0].any()
    assert float(channels[1].sum()) == 39


def test_nothing_is_smaller_than_a_share_of_zero() -> None:
    # nnU-Net 1.x (blueprints, 11): two arguments are swapped, so nothing is ever removed.
    channels = with_components()
    remove_components(channels, ComponentDraw(0, 0.5, 1), max_voxels=0, one=True, full=True)
    assert torch.equal(channels, with_components())


def test_one_hot_channels_follow_the_image(make_augmentation: Callable[..., Augmentation]) -> None:
    augmentation = make_augmentation(configuration=CASCADE, validation=True)
    rng = np.random.default_rng(0)
    shape = augmentation.patch_size
    image = torch.from_numpy(rng.standard_normal((2, *shape)).astype(np.float32))
    label = torch.from_numpy(rng.integers(-1, 4, shape).astype(np.int16))
    previous = torch.from_numpy(rng.integers(-1, 4, shape).astype(np.int16))
    found, labels = augmentation.apply(augmentation.draw(rng), image.clone(), label.clone(), previous.clone())
    assert augmentation.num_channels == 5
    assert torch.equal(found[:2], image)
    for channel, value in zip(found[2:], (1, 2, 3), strict=True):
        assert torch.equal(channel, (previous == value).float())
    assert torch.equal(labels, label.clamp_min(0))


def test_intensities_of_the_previous_stage_are_not_augmented(
    make_augmentation: Callable[..., Augmentation],
) -> None:
    augmentation = make_augmentation(configuration=CASCADE, changes={
        f"transforms.{name}.probability": 1
        for name in ("gaussian_noise", "gaussian_blur", "brightness", "contrast", "low_resolution", "gamma")
    })  # fmt: skip
    rng = np.random.default_rng(0)
    draw = augmentation.draw(rng)
    box = draw.size
    found, _ = augmentation.apply(
        draw,
        torch.randn(2, *box),
        torch.zeros(box, dtype=torch.int16),
        torch.from_numpy(rng.integers(0, 4, box).astype(np.int16)),
    )
    assert set(np.unique(found[2:].numpy())) <= {0.0, 1.0}
    assert float(found[2:].sum(0).max()) <= 1


@pytest.mark.parametrize(
    ("pack", "operator_values", "component_values"),
    [
        ("nnunet@2.8.0", (False, 0.5), (True, 0.15)),
        ("nnunet@1.7.0", (False, 1), (True, 0)),
        ("preprint@2.0.0", (True, 1), (False, 0.15)),
    ],
)
def test_values_of_the_packs(
    pack: str,
    operator_values: tuple[bool, float],
    component_values: tuple[bool, float],
    make_augmentation: Callable[..., Augmentation],
) -> None:
    transforms: dict[str, Any] = dict(make_augmentation(pack, CASCADE).transforms)
    operators, components = transforms["previous_stage_operators"], transforms["previous_stage_components"]
    assert isinstance(operators, StageOperators)
    assert isinstance(components, StageComponents)
    once, label_probability = operator_values
    assert (operators.once, operators.label_probability) == operator_values
    assert (operators.low, operators.high, operators.probability) == (1, 8, 0.4)
    assert (components.one, components.max_share) == component_values
    assert components.probability == 0.2
    draws = [operators.draw(np.random.default_rng(seed)) for seed in range(400)]
    if once:
        assert all(len({(d.operator, d.radius) for d in drawn}) == 1 for drawn in draws if drawn)
    sizes = [len(drawn) for drawn in draws if drawn is not None]
    assert np.mean(sizes) == pytest.approx(3 * label_probability, abs=0.35)
    # Every order of the labels occurs.
    if label_probability == 1:
        assert len({tuple(d.channel for d in drawn) for drawn in draws if drawn}) == 6


def test_components_pick_evenly(make_augmentation: Callable[..., Augmentation]) -> None:
    transforms: dict[str, Any] = dict(make_augmentation(configuration=CASCADE).transforms)
    patch = Patch(
        torch.cat([torch.zeros(2, 6, 8, 8), with_components(), torch.zeros(1, 6, 8, 8)]),
        torch.zeros(1, 6, 8, 8),
    )
    transforms["previous_stage_components"].apply(patch, [ComponentDraw(0, 0.0, None)])
    # 15 % of 384 voxels are 57.6: all three are small, and the first one in the scan is picked.
    assert float(patch.image[2].sum()) == 38
