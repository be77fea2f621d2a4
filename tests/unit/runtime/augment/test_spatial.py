"""Rotation, scaling and crop against scipy's interpolation of the whole initial patch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.augment.patch import Box, Patch
from nnrules_runtime.augment.spatial import Spatial, SpatialDraw, affine_matrix

ANGLES = (0.4, -0.3, 0.25)


def spatial_of(augmentation: Augmentation) -> Spatial:
    transform = augmentation.transforms[0][1]
    assert isinstance(transform, Spatial)
    return transform


def drawn_for(spatial: Spatial, matrix: np.ndarray, *, whole: bool = False) -> SpatialDraw:
    box = Box((0, 0, 0), spatial.initial) if whole else spatial.needed_box(matrix)
    return SpatialDraw(tuple(map(tuple, matrix.tolist())), box)


def warp(
    spatial: Spatial, matrix: np.ndarray, image: np.ndarray, labels: np.ndarray, **options: Any
) -> Patch:
    drawn = drawn_for(spatial, matrix, **options)
    patch = Patch(torch.from_numpy(image.copy()), torch.from_numpy(labels.copy()))
    spatial.apply(patch, drawn)
    return patch


def positions(spatial: Spatial, matrix: np.ndarray, center: list[float]) -> np.ndarray:
    """(D, *P), from the formula ``center + matrix · (index - (P - 1) / 2)``."""
    final = spatial.final[3 - len(center) :]
    index = np.stack(np.meshgrid(*[np.arange(edge) - (edge - 1) / 2 for edge in final], indexing="ij"))
    return np.einsum("ij,j...->i...", matrix, index) + np.reshape(center, (-1,) + (1,) * len(final))


def blobs(shape: tuple[int, ...], seed: int = 0, *, low: int = -1) -> np.ndarray:
    """Smooth labels from ``low`` to 3."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    bounds = np.quantile(field, np.linspace(0, 1, 5 - low)[1:-1])
    return (np.digitize(field, bounds) + low).astype(np.int16)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.35])
@pytest.mark.parametrize("pack", ["nnunet@1.7.0", "nnunet@1.0.0", "preprint@2.0.0"])
def test_cubic_image_and_threshold_labels_as_scipy(
    pack: str, factor: float, make_augmentation: Callable[..., Augmentation]
) -> None:
    spatial = spatial_of(make_augmentation(pack))
    assert spatial.image_order == 3
    matrix = affine_matrix(ANGLES, (factor,) * 3)
    image, labels = noise((2, *spatial.initial)), blobs((1, *spatial.initial))
    rounded = pack == "nnunet@1.0.0"
    center = [float(np.round(edge / 2)) if rounded else edge / 2 - 0.5 for edge in spatial.initial]
    where = positions(spatial, matrix, center)
    wanted = np.stack(
        [ndimage.map_coordinates(channel.astype(float), where, order=3, mode="constant") for channel in image]
    )
    wanted_labels = np.zeros(spatial.final, dtype=np.int16)
    for label in np.unique(labels):
        indicator = (labels[0] == label).astype(float)
        wanted_labels[ndimage.map_coordinates(indicator, where, order=1, mode="constant", cval=-1) >= 0.5] = (
            label
        )
    patch = warp(spatial, matrix, image, labels)
    # Where a position is a rounding error away from the outermost voxel, it may be in or out.
    edges = np.array(spatial.initial).reshape(3, 1, 1, 1) - 1
    near = (np.minimum(np.abs(where), np.abs(where - edges)) < 1e-4).any(0)
    difference = np.abs(patch.image.numpy() - wanted)[:, ~near].max()
    assert difference < 5e-5, difference
    assert int((patch.labels[0].numpy() != wanted_labels)[~near].sum()) == 0


@pytest.mark.parametrize("border_value", [0.0, 2.5])
@pytest.mark.parametrize("order", [0, 1])
def test_image_border(
    order: int, border_value: float, make_augmentation: Callable[..., Augmentation]
) -> None:
    changes = {"transforms.spatial.image.order": order, "transforms.spatial.image.border_value": border_value}
    spatial = spatial_of(make_augmentation(changes=changes))
    matrix = affine_matrix(ANGLES, (1.8,) * 3)
    image, labels = noise((2, *spatial.initial)), blobs((1, *spatial.initial))
    where = positions(spatial, matrix, [edge / 2 - 0.5 for edge in spatial.initial])
    # Voxels beyond the border have the value, and are interpolated with: that is scipy's "grid-constant".
    wanted = np.stack(
        [
            ndimage.map_coordinates(channel, where, order=order, mode="grid-constant", cval=border_value)
            for channel in image
        ]
    )
    patch = warp(spatial, matrix, image, labels)
    if order:
        assert np.abs(patch.image.numpy() - wanted).max() < 3e-5
    else:
        assert (patch.image.numpy() != wanted).mean() < 1e-3  # positions half way between, rounded to float32


def indicator_scores(labels: np.ndarray, where: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.unique(np.append(labels, border))
    scores = [
        ndimage.map_coordinates(
            (labels == value).astype(float), where, order=1, mode="grid-constant", cval=float(value == border)
        )
        for value in values
    ]
    return values, np.stack(scores)


@pytest.mark.parametrize("rule", ["argmax", "argmax_nearest"])
@pytest.mark.parametrize("span", [1, 400])
def test_argmax_of_indicators(rule: str, span: int, make_augmentation: Callable[..., Augmentation]) -> None:
    spatial = spatial_of(make_augmentation(changes={"transforms.spatial.label.label_rule": rule}))
    matrix = affine_matrix(ANGLES, (1.3,) * 3)
    labels = blobs((2, *spatial.initial)) * span
    where = positions(spatial, matrix, [edge / 2 - 0.5 for edge in spatial.initial])
    patch = warp(spatial, matrix, noise((1, *spatial.initial)), labels)
    for plane, found in zip(labels, patch.labels.numpy(), strict=True):
        values, scores = indicator_scores(plane, where, -1)
        ordered = np.sort(scores, axis=0)
        clear = ordered[-1] - ordered[-2] > 2e-3  # nearer ones are ties in the float16 of nnunetv2
        assert clear.mean() > 0.98
        assert (found == values[scores.argmax(0)])[clear].all()


def test_exact_ties_go_to_the_smallest_label_or_to_the_nearest_voxel(
    make_augmentation: Callable[..., Augmentation],
) -> None:
    # A shift by half a voxel along one axis: F and S differ by an odd number, so every position is half way.
    for rule, wanted in (("argmax", 1), ("argmax_nearest", 3)):
        spatial = spatial_of(
            make_augmentation(
                "nnunet@2.8.0",
                "2d",
                patch=(4, 4),
                initial=(9, 10),
                changes={"transforms.spatial.label.label_rule": rule},
            )
        )
        labels = np.zeros((1, 1, 9, 10), dtype=np.int16)
        labels[..., 0::2, :], labels[..., 1::2, :] = 1, 3
        # Positions 2.5, 3.5, …: between rows 2 (label 1) and 3 (label 3). The nearest row is a tie as well; it is
        # one of the two, and the same wherever the labels are.
        patch = warp(spatial, np.eye(2), noise((1, 1, 9, 10)), labels)
        found = patch.labels.numpy()[0, 0, :, 0]
        if rule == "argmax":
            assert (found == wanted).all()
        else:
            assert set(found.tolist()) == {1, 3}


@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.7.0"])
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_the_needed_box_is_enough(
    pack: str, factor: float, make_augmentation: Callable[..., Augmentation]
) -> None:
    spatial = spatial_of(make_augmentation(pack, patch=(24, 30, 22), initial=(60, 66, 58)))
    matrix = affine_matrix((0.2, 0.1, -0.3), (factor,) * 3)
    image, labels = noise((1, *spatial.initial)), blobs((1, *spatial.initial))
    part, whole = (warp(spatial, matrix, image, labels, whole=whole) for whole in (False, True))
    assert math.prod(spatial.needed_box(matrix).size) < math.prod(spatial.initial) or spatial.image_order == 3
    assert float((part.image - whole.image).abs().max()) < 2e-5
    assert int((part.labels != whole.labels).sum()) == 0


def test_a_stack_of_slices_is_slices(make_augmentation: Callable[..., Augmentation]) -> None:
    stack = spatial_of(make_augmentation(patch=(5, 20, 18), initial=(5, 29, 26), changes={"dummy_2d": True}))
    flat = spatial_of(make_augmentation("nnunet@2.8.0", "2d"))
    matrix = affine_matrix((1.2,), (0.8, 0.8))
    image, labels = noise((2, 5, 29, 26)), blobs((1, 5, 29, 26))
    whole = warp(stack, matrix, image, labels)
    for index in range(5):
        one = warp(flat, matrix, image[:, index : index + 1], labels[:, index : index + 1])
        assert torch.equal(one.image[:, 0], whole.image[:, index])
        assert torch.equal(one.labels[:, 0], whole.labels[:, index])


@pytest.mark.parametrize(("applied_to", "factor", "wanted"), [
    ("sampling_coordinates", 0.7, 32 * 32 / 0.49),
    ("sampling_coordinates", 1.4, 32 * 32 / 1.96),
    ("object", 0.7, 32 * 32 * 0.49),
    ("object", 1.4, 32 * 32 * 1.96),
])  # fmt: skip
def test_zoom_direction(
    applied_to: str, factor: float, wanted: float, make_augmentation: Callable[..., Augmentation]
) -> None:
    """nnU-Net multiplies sampling coordinates: a smaller factor enlarges (blueprints, 5.3)."""
    changes = {
        "transforms.spatial.rotation_probability": 0,
        "transforms.spatial.scaling_probability": 1,
        "transforms.spatial.scaling.applied_to": applied_to,
        "transforms.spatial.scaling.range": [factor, factor],
    }
    augmentation = make_augmentation("nnunet@2.8.0", "2d", patch=(64, 64), initial=(80, 80), changes=changes)
    spatial = spatial_of(augmentation)
    labels = np.zeros((1, 1, 80, 80), dtype=np.int16)
    labels[..., 24:56, 24:56] = 1
    patch = Patch(torch.zeros(1, 1, 80, 80), torch.from_numpy(labels))
    spatial.apply(patch, spatial.draw(np.random.default_rng(0)))
    assert int((patch.labels == 1).sum()) == pytest.approx(wanted, rel=0.11)  # edges are whole voxels


@pytest.mark.parametrize(("crop_start", "start"), [("half_difference", 3), ("difference_of_halves", 4)])
def test_plain_crop(crop_start: str, start: int, make_augmentation: Callable[..., Augmentation]) -> None:
    # S = 20, F = 13: floor(7 / 2) = 3, 10 - 6 = 4.
    changes = {
        "transforms.spatial.crop_start": crop_start,
        "transforms.spatial.rotation_probability": 0,
        "transforms.spatial.scaling_probability": 0,
    }
    spatial = spatial_of(make_augmentation(patch=(13, 13, 13), initial=(20, 20, 20), changes=changes))
    drawn = spatial.draw(np.random.default_rng(0))
    assert drawn == SpatialDraw(None, Box((start,) * 3, (13,) * 3))


def test_edges_of_one_voxel(make_augmentation: Callable[..., Augmentation]) -> None:
    spatial = spatial_of(make_augmentation(patch=(1, 6, 6), initial=(1, 9, 9)))
    patch = warp(
        spatial,
        affine_matrix((0.3, 0.0, 0.0), (1.0,) * 3),
        np.ones((1, 1, 9, 9), np.float32),
        blobs((1, 1, 9, 9)),
    )
    assert torch.allclose(patch.image[0, 0, 1:5, 1:5], torch.ones(4, 4))


def test_nearest_labels(make_augmentation: Callable[..., Augmentation]) -> None:
    spatial = spatial_of(make_augmentation(changes={"transforms.spatial.label.order": 0}))
    matrix = affine_matrix(ANGLES, (1.4,) * 3)
    labels = blobs((1, *spatial.initial))
    where = positions(spatial, matrix, [edge / 2 - 0.5 for edge in spatial.initial])
    wanted = ndimage.map_coordinates(labels[0], where, order=0, mode="grid-constant", cval=-1)
    patch = warp(spatial, matrix, noise((1, *spatial.initial)), labels)
    assert (patch.labels[0].numpy() != wanted).mean() < 1e-3
