"""Pipelines: every pack, orders, randomness that depends on nothing but the sample's generator."""

import gc
import pickle
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.values import Section

EVERYTHING = {
    "transforms.spatial.rotation_probability": 1,
    "transforms.spatial.scaling_probability": 1,
    **{
        f"transforms.{name}.probability": 1
        for name in (
            "gaussian_noise", "gaussian_blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted",
        )
    },
}  # fmt: skip
STAGE = {
    "transforms.previous_stage_operators.probability": 1,
    "transforms.previous_stage_components.probability": 1,
}


def batch(
    augmentation: Augmentation, size: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    rng = np.random.default_rng(9)
    shape = (size, *augmentation.initial_patch_size)
    images = torch.from_numpy(rng.standard_normal((size, 2, *shape[1:])).astype(np.float32))
    labels = torch.from_numpy(rng.integers(-1, 4, shape).astype(np.int16))
    return images, labels, labels.clone() if augmentation.needs_previous else None


def generators(seeds: tuple[int, ...] = (1, 2, 3)) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"])
@pytest.mark.parametrize("forced", [False, True])
def test_every_pack_runs(
    pack: str, configuration: str, forced: bool, make_augmentation: Callable[..., Augmentation]
) -> None:
    changes = {**EVERYTHING, **(STAGE if "cascade" in configuration else {})} if forced else {}
    augmentation = pickle.loads(pickle.dumps(make_augmentation(pack, configuration, changes=changes)))
    images, labels, previous = batch(augmentation)
    untouched = images.clone(), labels.clone()
    found, found_labels = augmentation(images, labels, generators(), previous)
    assert found.shape == (3, augmentation.num_channels, *augmentation.patch_size)
    assert found_labels.shape == (3, *augmentation.patch_size)
    assert (found.dtype, found_labels.dtype) == (torch.float32, torch.int16)
    assert torch.isfinite(found).all()
    assert int(found_labels.min()) >= 0
    assert torch.equal(images, untouched[0])
    assert torch.equal(labels, untouched[1])


@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.0.0"])
def test_samples_leave_no_tensors_behind(make_augmentation: Callable[..., Augmentation], pack: str) -> None:
    """Tensors in cycles stay until Python looks for cycles: gigabytes in a worker that makes samples for days."""
    augmentation = make_augmentation(pack, "3d_cascade_fullres", changes=EVERYTHING | STAGE)
    images, labels, previous = batch(augmentation)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        augmentation(images, labels, generators(), previous)
        gc.collect()
        left = [item for item in gc.garbage if isinstance(item, (torch.Tensor, np.ndarray))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left


@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.7.0"])
def test_a_sample_depends_on_its_generator_alone(
    pack: str, make_augmentation: Callable[..., Augmentation]
) -> None:
    augmentation = make_augmentation(pack, changes=EVERYTHING)
    images, labels, _ = batch(augmentation)
    found, found_labels = augmentation(images, labels, generators())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.manual_seed(77)
        other, other_labels = augmentation(images[[2, 0]], labels[[2, 0]], generators((3, 1)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(other, found[[2, 0]])
    assert torch.equal(other_labels, found_labels[[2, 0]])


@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.7.0"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_box_is_all_that_is_read(
    pack: str, configuration: str, make_augmentation: Callable[..., Augmentation]
) -> None:
    augmentation = make_augmentation(pack, configuration)
    images, labels, _ = batch(augmentation, 1)
    for seed in range(30):
        (found,), (found_labels,) = augmentation(images, labels, generators((seed,)))
        draw = augmentation.draw(np.random.default_rng(seed))
        box = tuple(slice(start, start + edge) for start, edge in zip(draw.offset, draw.size, strict=True))
        image, label = augmentation.apply(draw, images[0][(..., *box)].clone(), labels[0][box].clone())
        assert torch.equal(image, found)
        assert torch.equal(label, found_labels)
        assert all(
            s >= 0 and s + e <= i
            for s, e, i in zip(draw.offset, draw.size, augmentation.initial_patch_size, strict=True)
        )


def test_most_boxes_are_the_patch_itself(make_augmentation: Callable[..., Augmentation]) -> None:
    augmentation = make_augmentation()
    draws = [augmentation.draw(np.random.default_rng(seed)) for seed in range(1000)]
    plain = sum(draw.size == augmentation.patch_size for draw in draws)
    # 0.8 · 0.8, within four standard deviations.
    assert plain == pytest.approx(640, abs=4 * np.sqrt(1000 * 0.64 * 0.36))


def test_any_order_runs_in_that_order(make_augmentation: Callable[..., Augmentation]) -> None:
    results = []
    for order in permutations(["mirror", "spatial", "brightness"]):
        augmentation = make_augmentation(changes={**EVERYTHING, "order": list(order)})
        assert [name for name, _ in augmentation.transforms] == list(order)
        images, labels, _ = batch(augmentation)
        found, _ = augmentation(images, labels, generators())
        assert found.shape[2:] == augmentation.patch_size
        results.append(found)
    assert len({result.numpy().tobytes() for result in results}) == 6


def test_without_transforms_the_centre_is_left(make_augmentation: Callable[..., Augmentation]) -> None:
    augmentation = make_augmentation(changes={"order": []})
    images, labels, _ = batch(augmentation)
    found, found_labels = augmentation(images, labels, generators())
    assert torch.equal(found, images[:, :, 4:16, 3:17, 3:13])
    assert torch.equal(found_labels, labels[:, 4:16, 3:17, 3:13])


def test_validation_only_replaces_the_outside_label(make_augmentation: Callable[..., Augmentation]) -> None:
    augmentation = make_augmentation(validation=True)
    assert augmentation.initial_patch_size == augmentation.patch_size
    images, labels, _ = batch(augmentation)
    found, found_labels = augmentation(images, labels, generators())
    assert torch.equal(found, images)
    assert torch.equal(found_labels, labels.clamp_min(0))


def test_channels_normalised_inside_the_mask_are_reset_outside(
    make_augmentation: Callable[..., Augmentation],
) -> None:
    for use_mask in ((True, False), (False, True), (False, False)):
        augmentation = make_augmentation(changes={"order": ["mask_outside"]}, use_mask=use_mask)
        images, labels, _ = batch(augmentation)
        found, found_labels = augmentation(images, labels, generators())
        plain, _ = make_augmentation(changes={"order": []})(images, labels, generators())
        for channel, reset in enumerate(use_mask):
            wanted = plain[:, channel].masked_fill(found_labels < 0, 0) if reset else plain[:, channel]
            assert torch.equal(found[:, channel], wanted)


@pytest.mark.parametrize(("old", "new"), [(-1, 0), (2, 0), (0, 5), (-1, 3)])
def test_one_label_is_replaced(old: int, new: int, make_augmentation: Callable[..., Augmentation]) -> None:
    changes = {
        "order": ["replace_outside_label"],
        "transforms.replace_outside_label": {"from": old, "to": new},
    }
    augmentation = make_augmentation(changes=changes)
    images, labels, _ = batch(augmentation)
    labels[0, 8, 8, 8] = -2  # preprocessing may keep labels below -1
    _, found = augmentation(images, labels, generators())
    inside = labels[:, 4:16, 3:17, 3:13]
    assert torch.equal(found, torch.where(inside == old, new, inside))


def test_mirror_axes_are_those_of_the_configuration(make_augmentation: Callable[..., Augmentation]) -> None:
    changes = {"order": ["mirror"], "transforms.mirror.axis_probability": 1}
    for configuration, axes in (("2d", (2, 3)), ("3d_fullres", (1, 2, 3))):
        augmentation = make_augmentation(configuration=configuration, changes=changes)
        images, labels, _ = batch(augmentation)
        found, _ = augmentation(images, labels, generators())
        plain, _ = make_augmentation(configuration=configuration, changes={"order": []})(
            images, labels, generators()
        )
        assert torch.equal(found, plain.flip([axis + 1 for axis in axes]))


def test_wrong_shapes_and_stages_are_refused(make_augmentation: Callable[..., Augmentation]) -> None:
    augmentation = make_augmentation()
    draw = augmentation.draw(np.random.default_rng(0))
    image, label = torch.zeros(2, *draw.size), torch.zeros(draw.size, dtype=torch.int16)
    with pytest.raises(ValueError, match="for a box of"):
        augmentation.apply(draw, image[:, 1:], label)
    with pytest.raises(ValueError, match="previous stage"):
        augmentation.apply(draw, image, label, label)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("order", ["spatial", "elastic"]),
        ("transforms.spatial.center", "anywhere"),
        ("transforms.spatial.label.label_rule", "vote"),
        ("transforms.gaussian_blur.border", "wrap"),
        ("transforms.gamma.statistics.keep", "median"),
        ("transforms.low_resolution.up.order", 5),
    ],
)
def test_unknown_values_are_refused(
    path: str, value: object, plan_documents: dict[str, dict[str, object]]
) -> None:
    import copy
    from typing import Any

    from nnrules_runtime.labels import LabelSet

    document: Any = copy.deepcopy(plan_documents["nnunet@2.8.0"])
    place = document["configurations"]["3d_fullres"]["augmentation"]
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    problems: list[Any] = []
    root = Section(document, "", problems)
    configuration = root.section("configurations").section("3d_fullres")
    Augmentation.from_plan(root, configuration, LabelSet.from_plan(root))
    assert any(last in problem.where and problem.expected for problem in problems)
