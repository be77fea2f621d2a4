"""Sliding-window predictions against a plain loop over windows, copies and folds."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.errors import PlanError, RunError
from nnrules.plan import Plan
from scipy.special import expit, softmax
from torch import Tensor, nn

from nnrules_runtime.predict.sliding import SlidingWindow
from nnrules_runtime.predict.window import Importance, Window
from nnrules_runtime.profile import Profile, choose_profile
from nnrules_runtime.values import reading

PROFILE = choose_profile(device="cpu", precision="float32", num_threads=1)
Toy = Callable[[int, int], nn.Module]
MakePlan = Callable[..., Plan]

pytestmark = pytest.mark.usefixtures("one_thread")


def sliding_window(plan: Plan, name: str, *, profile: Profile = PROFILE, **options: Any) -> SlidingWindow:
    with reading(plan) as root:
        return SlidingWindow(root.section("configurations").section(name), profile, **options)


def image_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)


def plain_loop(plan: Plan, name: str, networks: list[nn.Module], image: np.ndarray) -> np.ndarray:
    """The plan's inference in float64, one window, one copy and one fold after the other."""
    document = plan.configurations[name]
    inference = document["inference"]
    has_regions = inference["export"]["activation"] == "sigmoid"
    activate = expit if has_regions else (lambda values: softmax(values, axis=0))
    with reading(plan) as root:
        configuration = root.section("configurations").section(name)
        window, importance = Window.from_plan(configuration), Importance.from_plan(configuration)
    shape = image.shape[1:]
    padding = window.padding(shape)
    widths = [(0, 0), *zip(padding.before, padding.after, strict=True)]
    padded = np.pad(image, widths, constant_values=window.padding_value)
    tiles = window.tiles(padded.shape[1:])
    weight = importance.map(window.size)
    if len(tiles) == 1 and not importance.weights_single_tile:
        weight = np.ones_like(weight)
    axes = document["mirror_axes"] if inference["mirroring"]["enabled"] else []
    flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]
    first = 2 if document["dim"] == 2 else 1
    total: Any = 0
    for network in networks:
        sums, weights = np.zeros((3 - has_regions, *padded.shape[1:])), np.zeros(padded.shape[1:])
        for index in tiles:
            box = tiles.box(index)
            copies = []
            for flip in flips:
                turned = tuple(first + axis for axis in flip)
                patch = torch.from_numpy(np.flip(padded[(slice(None), *box)], turned).copy())
                with torch.no_grad():
                    output = network(patch[None, :, 0] if document["dim"] == 2 else patch[None])[0]
                values = output.double().numpy()
                values = values[:, None] if document["dim"] == 2 else values
                if inference["mirroring"]["average"] == "softmax":
                    values = activate(values)
                copies.append(np.flip(values, turned))
            mean = np.mean(copies, axis=0)
            if (
                inference["accumulation"]["values"] == "softmax"
                and inference["mirroring"]["average"] == "logits"
            ):
                mean = activate(mean)
            sums[(slice(None), *box)] += mean * weight
            weights[box] += weight
        values = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
        if inference["folds"]["average"] == "softmax" and inference["accumulation"]["values"] == "logits":
            values = activate(values)
        total = total + values / len(networks)
    return total[(slice(None), *padding.inside(shape))]


@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
def test_packs(
    make_small_plan: MakePlan, drawn_network: Callable[..., nn.Module], pack: str, name: str
) -> None:
    plan = make_small_plan(
        pack,
        changes={
            f"configurations.{name}.inference.{key}.dtype": "float32" for key in ("accumulation", "folds")
        },
    )
    networks = [drawn_network(plan, name, seed) for seed in range(2)]
    image = image_of((13, 14, 27))  # axis 1 is smaller than the patch
    sliding = sliding_window(plan, name)
    found = sliding([sliding.prepared(network) for network in networks], image).numpy()
    wanted = plain_loop(plan, name, networks, image)
    assert found.dtype == np.float32
    difference = np.abs(found - wanted).max()
    assert difference <= 3e-5, f"{pack} {name} differs by {difference}"


@pytest.mark.parametrize("averages", list(itertools.product(["logits", "softmax"], repeat=3)))
@pytest.mark.parametrize("labels", [None, {"background": 0, "whole": [1, 2], "core": [2]}])
def test_averages(
    make_small_plan: MakePlan, toy: Toy, averages: tuple[str, str, str], labels: dict[str, Any] | None
) -> None:
    """Each place where logits or probabilities can be averaged; logits cannot come after probabilities."""
    name = "3d_fullres"
    place = f"configurations.{name}.inference"
    copies, windows, folds = averages
    changes = {
        f"{place}.mirroring.average": copies,
        f"{place}.accumulation.values": windows,
        f"{place}.folds.average": folds,
        f"{place}.accumulation.dtype": "float64",
        f"{place}.folds.dtype": "float64",
    }
    plan = make_small_plan(labels=labels, changes=changes)
    if list(averages) != sorted(averages):
        with pytest.raises(PlanError, match="cannot become logits again"):
            sliding_window(plan, name)
        return
    num_heads = 3 if labels is None else 2
    networks = [toy(1, num_heads), toy(1, num_heads)]
    with torch.no_grad():
        networks[1].weight.mul_(-0.5)
    image = image_of((9, 20, 16))
    found = sliding_window(plan, name)(networks, image).numpy()
    np.testing.assert_allclose(found, plain_loop(plan, name, networks, image), atol=3e-6)


def test_float64_is_kept(make_small_plan: MakePlan, toy: Toy) -> None:
    changes = {"configurations.3d_fullres.inference.accumulation.dtype": "float64"}
    plan = make_small_plan(changes=changes)
    assert sliding_window(plan, "3d_fullres")([toy(1, 3)], image_of((8, 16, 16))).dtype == torch.float64


def test_half_precision_has_no_coarse_corners(make_small_plan: MakePlan, toy: Toy) -> None:
    """float16 as the plan says; relative to a voxel's own value, wherever it lies in a window."""
    plan = make_small_plan()
    image = 20 * image_of((30, 40, 50))
    networks = [toy(1, 3)]
    found = sliding_window(plan, "3d_fullres")(networks, image)
    assert found.dtype == torch.float16
    wanted = plain_loop(plan, "3d_fullres", networks, image)
    # Up to eight windows and as many roundings of 2^-11; what cancels is as large as the largest logit.
    assert np.abs(found.numpy() - wanted).max() <= 8 * 2**-11 * np.abs(wanted).max()


@pytest.mark.parametrize("size", [1, 2, 3, 8, 64])
def test_size_of_batches_changes_nothing(
    make_small_plan: MakePlan, toy: Toy, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    changes = {"configurations.3d_fullres.inference.accumulation.dtype": "float32"}
    plan = make_small_plan(changes=changes)
    image = image_of((9, 17, 30))
    sliding = sliding_window(plan, "3d_fullres")
    wanted = sliding([toy(1, 3)], image)
    monkeypatch.setattr(sliding._batches, "_size", size)
    network = toy(1, 3)
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(sliding([network], image), wanted, rtol=0, atol=1e-6)
    passes = sliding.num_passes((9, 17, 30))
    assert sum(seen) == passes
    assert seen == [size] * (passes // size) + [passes % size] * (passes % size > 0)


@pytest.mark.parametrize(("axes", "copies"), [(None, 8), ((), 1), ((1,), 2), ((0, 2), 4)])
def test_mirror_axes(make_small_plan: MakePlan, toy: Toy, axes: tuple[int, ...] | None, copies: int) -> None:
    sliding = sliding_window(make_small_plan(), "3d_fullres", mirror_axes=axes)
    assert sliding.num_passes((8, 16, 16)) == copies
    network = toy(1, 3)
    sliding([network], image_of((8, 16, 16)))
    assert network.num_patches == copies


def test_mirroring_can_be_planned_away(make_small_plan: MakePlan) -> None:
    changes = {"configurations.3d_fullres.inference.mirroring.enabled": False}
    assert sliding_window(make_small_plan(changes=changes), "3d_fullres").flips == ((),)


def test_mirrored_image_has_the_mirrored_prediction(
    make_small_plan: MakePlan, drawn_network: Callable[..., nn.Module]
) -> None:
    """With all copies, and windows that lie symmetrically."""
    changes = {"configurations.3d_fullres.inference.accumulation.dtype": "float32",
               "configurations.3d_fullres.inference.importance.name": "uniform"}  # fmt: skip
    plan = make_small_plan(changes=changes)
    sliding = sliding_window(plan, "3d_fullres")
    networks = [drawn_network(plan, "3d_fullres")]
    image = torch.from_numpy(image_of((12, 24, 16)))
    for axis in (1, 2, 3):
        mirrored = sliding(networks, image.flip(axis)).flip(axis)
        torch.testing.assert_close(mirrored, sliding(networks, image), rtol=0, atol=3e-5)


def test_constant_network_gives_its_constant(make_small_plan: MakePlan, pack: str) -> None:
    class Constant(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (
                torch.tensor([1.0, -2.0, 0.5]).reshape(1, 3, 1, 1, 1).expand(len(image), 3, *image.shape[2:])
            )

    sliding = sliding_window(make_small_plan(pack), "3d_fullres")
    found = sliding([Constant()], image_of((11, 35, 5))).float()
    flat = found.flatten(1)
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat), rtol=2e-3, atol=2e-3)


def test_value_of_the_padding(make_small_plan: MakePlan) -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(image.clone())
            return torch.zeros(len(image), 3, *image.shape[2:])

    changes = {"configurations.3d_fullres.inference.window.padding.value": -7.5}
    sliding = sliding_window(make_small_plan(changes=changes), "3d_fullres", mirror_axes=())
    sliding([Spy()], np.ones((1, 5, 16, 3), np.float32))
    assert len(seen) == 1
    assert (seen[0][0, 0, 1:6, :, 6:9] == 1).all()  # 3 missing: one before, two after; 13: six before
    assert int((seen[0] == -7.5).sum()) == 8 * 16 * 16 - 5 * 16 * 3


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e6])
def test_infinity_is_refused(make_small_plan: MakePlan, value: float) -> None:
    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.full((len(image), 3, *image.shape[2:]), value)

    plan = make_small_plan()
    with pytest.raises(RunError, match=r"case_7: the prediction is not finite") as caught:
        sliding_window(plan, "3d_fullres")([Broken()], image_of((8, 16, 16)), where="case_7")
    assert "--precision float32" in str(caught.value)
    changes = {"configurations.3d_fullres.inference.accumulation.infinity": "allow"}
    plan = make_small_plan(changes=changes)
    found = sliding_window(plan, "3d_fullres")([Broken()], image_of((8, 16, 16)))
    assert not found.isfinite().any()


def test_unknown_values_are_named_together(make_small_plan: MakePlan) -> None:
    place = "configurations.3d_fullres.inference"
    changes = {f"{place}.window.starts": "random", f"{place}.accumulation.dtype": "int8",
               f"{place}.importance.name": "triangle", f"{place}.mirroring.combinations": "single"}  # fmt: skip
    with pytest.raises(PlanError) as caught:
        sliding_window(make_small_plan(changes=changes), "3d_fullres")
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    for name in ("'random'", "'int8'", "'triangle'", "'single'", "'evenly_spread'", "'float16'"):
        assert name in text


def test_memory_of_sums(make_small_plan: MakePlan, toy: Toy) -> None:
    sliding = sliding_window(make_small_plan(), "3d_fullres")
    shape = (20, 30, 40)
    assert sliding.sum_bytes(shape) == sliding([toy(1, 3)], image_of(shape)).nbytes
    # Folds are added into the same sums.
    assert sliding.sum_bytes(shape, 5) == sliding.sum_bytes(shape)
    changes = {"configurations.3d_fullres.inference.folds.average": "softmax"}
    apart = sliding_window(make_small_plan(changes=changes), "3d_fullres")
    assert apart.sum_bytes(shape, 5) == 2 * sliding.sum_bytes(shape)


def test_too_little_memory_is_said_with_bytes(
    make_small_plan: MakePlan, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnrules_runtime.predict.batching.available_bytes", lambda: 1000)
    with pytest.raises(RunError, match=r"huge: the prediction does not fit .*12,288 bytes .*1,000 bytes"):
        sliding_window(make_small_plan(), "3d_fullres")([toy(1, 3)], image_of((8, 16, 16)), where="huge")


def test_out_of_memory_halves_the_batch(make_small_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Large(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            sizes.append(len(image))
            if len(image) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")
            return image.repeat(1, 3, 1, 1, 1)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    sliding = sliding_window(make_small_plan(), "3d_fullres")
    monkeypatch.setattr(sliding._batches, "_size", 8)
    found = sliding([Large()], image_of((8, 16, 16)))
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert found.shape == (3, 8, 16, 16)

    class TooLarge(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")

    with pytest.raises(
        RunError, match=r"one patch does not fit into the memory of cpu; got CUDA out of memory"
    ):
        sliding([TooLarge()], image_of((8, 16, 16)))


def test_compiled_networks_see_one_size_of_batch(
    make_small_plan: MakePlan, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = choose_profile(device="cpu", precision="float32", num_threads=1, compile=True)
    plan = make_small_plan()
    sliding = sliding_window(plan, "3d_fullres", profile=profile, mirror_axes=())
    monkeypatch.setattr(sliding._batches, "_size", 4)
    network = toy(1, 3)
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    assert sliding.num_passes((8, 16, 48)) == 5  # windows along the last axis
    found = sliding([network], image_of((8, 16, 48)))
    assert seen == [4, 4]
    eager = sliding_window(plan, "3d_fullres", mirror_axes=())([toy(1, 3)], image_of((8, 16, 48)))
    torch.testing.assert_close(found, eager)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_network_runs_in_the_precision_of_the_profile(
    make_small_plan: MakePlan, drawn_network: Callable[..., nn.Module], precision: str
) -> None:
    plan = make_small_plan()
    profile = choose_profile(device="cpu", precision=precision, num_threads=1)
    sliding = sliding_window(plan, "3d_fullres", profile=profile)
    network = sliding.prepared(drawn_network(plan, "3d_fullres"))
    kinds: set[torch.dtype] = set()
    network.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    sliding([network], image_of((8, 16, 16)))
    assert kinds == {torch.float32 if precision == "float32" else torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
