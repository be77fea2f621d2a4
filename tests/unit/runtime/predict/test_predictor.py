"""The predictor: arrays in, labels out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.errors import ImageError, RunError, UsageError
from nnrules.plan import Plan
from torch import Tensor, nn

from nnrules_runtime.predict.models import find_models, read_models
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import Profile, choose_profile

PROFILE = choose_profile(device="cpu", precision="float32", num_threads=1)
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(50, 10, shape).astype(np.float32)


class Threshold(nn.Module):
    """Class 1 where the normalised image is above 0, class 0 elsewhere: the right answer is known."""

    def forward(self, image: Tensor) -> Tensor:
        value = image[:, :1]
        return torch.cat([-value, value, torch.full_like(value, -9)], 1)


def threshold(plan: Plan, name: str = "3d_fullres") -> Predictor:
    return Predictor.from_networks(plan, name, [Threshold()], profile=PROFILE)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 1.1)])
def test_labels_lie_where_the_image_is_bright(
    make_small_plan: Callable[..., Plan], spacing: tuple[float, float, float]
) -> None:
    """Whatever the spacing, sizes and cropping: a box comes back as the box that it was."""
    image = np.zeros((30, 41, 37), np.float32)
    image[4:28, 6:38, 3:34] = 10
    image[10:22, 12:30, 9:27] = 200
    labels = threshold(make_small_plan()).predict(image, spacing)
    wanted = (image == 200).astype(np.uint8)
    assert labels.shape == image.shape
    assert labels.dtype == np.uint8
    # Resampling there and back moves borders by half a voxel at most.
    near = np.zeros_like(wanted, bool)
    for axis in range(3):
        edge = np.diff(wanted.astype(int), axis=axis) != 0
        before = [slice(None)] * 3
        before[axis] = slice(0, -1)
        near[tuple(before)] |= edge
        before[axis] = slice(1, None)
        near[tuple(before)] |= edge
    assert (labels == wanted)[~near].all()
    assert (labels != wanted).mean() < 0.02


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_shapes(make_small_plan: Callable[..., Plan], name: str) -> None:
    predictor = threshold(make_small_plan(), name)
    volume = noise(9, 20, 21)
    labels = predictor.predict(volume, (2.0, 1.0, 1.0))
    assert labels.shape == (9, 20, 21)
    np.testing.assert_array_equal(predictor.predict(volume[None], (2.0, 1.0, 1.0)), labels)
    assert predictor.predict_probabilities(volume, (2.0, 1.0, 1.0)).shape == (3, 9, 20, 21)
    assert predictor.predict(volume.astype(np.int16), [2, 1, 1]).shape == (9, 20, 21)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (999.0, 1.0, 1.0)])
def test_2d_images(make_small_plan: Callable[..., Plan], spacing: tuple[float, ...]) -> None:
    predictor = threshold(make_small_plan(), "2d")
    image = noise(33, 20)
    assert predictor.predict(image, spacing).shape == (33, 20)
    assert predictor.predict_probabilities(image, spacing).shape == (3, 33, 20)
    np.testing.assert_array_equal(
        predictor.predict(image[None], (999, 1, 1))[0], predictor.predict(image, spacing)
    )


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
@pytest.mark.parametrize("labels", [None, REGIONS], ids=["labels", "regions"])
def test_all_packs(
    make_small_plan: Callable[..., Plan],
    drawn_network: Callable[..., nn.Module],
    pack: str,
    name: str,
    labels: dict[str, Any] | None,
) -> None:
    plan = make_small_plan(pack, labels=labels, channels=("T1", "T2"))
    networks = [drawn_network(plan, name, seed) for seed in range(2)]
    predictor = Predictor.from_networks(plan, name, networks, profile=PROFILE)
    image = noise(2, 12, 21, 17)
    found = predictor.predict(image, (1.5, 1.0, 1.0))
    assert found.shape == (12, 21, 17)
    probabilities = predictor.predict_probabilities(image, (1.5, 1.0, 1.0)).astype(np.float64)
    num_heads = 3 if labels is None else 2
    assert probabilities.shape == (num_heads, 12, 21, 17)
    assert np.isfinite(probabilities).all()
    if labels is None:
        # Cubic splines of probabilities (1.0) are clipped, each class for itself.
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=3e-2)
        agree = probabilities.argmax(0) == found
    else:
        wanted = np.where(probabilities[1] > 0.5, 2, np.where(probabilities[0] > 0.5, 1, 0))
        agree = wanted == found
    # Probabilities in float16 tie now and then.
    assert agree.mean() > 0.995


def test_folds_are_averaged(make_work: Callable[..., Path], tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0, 1))
    image = noise(12, 20, 20)
    both = Predictor(work, profile=PROFILE)
    single = [Predictor(work, folds=[fold], profile=PROFILE) for fold in (0, 1)]
    prepared, _ = both.prepare(image[None], (1.0, 1.0, 1.0))
    mean = sum(predictor.logits(prepared).double() for predictor in single) / 2
    torch.testing.assert_close(both.logits(prepared).double(), mean, rtol=4e-3, atol=4e-3)
    assert len(both.networks) == 2


def test_sources_are_equivalent(make_work: Callable[..., Path], tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0, 1))
    folders = find_models(work)
    image = noise(9, 18, 18)
    wanted = Predictor(work, profile=PROFILE).predict(image, (1, 1, 1))
    for source in (str(work), folders, [str(folder) for folder in folders], read_models(folders)):
        found = Predictor(source, profile=PROFILE).predict(image, (1, 1, 1))
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="needs a model"):
        Predictor([])


def test_no_environment_variable_is_read(
    make_work: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    work = make_work(tmp_path / "a folder with spaces", folds=(0,))
    assert Predictor(work, profile=PROFILE).predict(noise(8, 16, 16), (1, 1, 1)).shape == (8, 16, 16)


def test_without_mirroring(make_work: Callable[..., Path], tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0,))
    shape, spacing = (8, 16, 16), (1.0, 1.0, 1.0)
    assert Predictor(work, profile=PROFILE).num_passes(shape, spacing) == 8
    assert Predictor(work, profile=PROFILE, mirroring=False).num_passes(shape, spacing) == 1
    assert Predictor(work, folds=[0], profile=PROFILE).num_passes((12, 16, 16), spacing) == 16


@pytest.mark.parametrize(
    ("shape", "spacing", "error", "said"),
    [
        ((2, 9, 9, 9), (1, 1, 1), ImageError, "wrong number of channels; got an array of shape"),
        ((9,), (1,), UsageError, "wrong number of axes"),
        ((9, 9, 9), (1, 1), UsageError, "wrong spacing"),
        ((9, 9, 9), (1, 0, 1), UsageError, "wrong spacing"),
        ((9, 9, 9), (1, float("nan"), 1), UsageError, "wrong spacing"),
    ],
)
def test_bad_arrays(
    make_small_plan: Callable[..., Plan],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        threshold(make_small_plan()).predict(noise(*shape), spacing)


def test_values_that_are_not_finite(make_small_plan: Callable[..., Plan]) -> None:
    image = noise(9, 18, 18)
    image[3, 4, 5] = np.nan
    with pytest.raises(ImageError):
        threshold(make_small_plan()).predict(image, (1, 1, 1))


def test_second_stage_is_refused(make_small_plan: Callable[..., Plan]) -> None:
    place = "configurations.3d_fullres"
    plan = make_small_plan(
        changes={f"{place}.previous_stage": "2d", f"{place}.architecture.num_input_channels": 3}
    )
    predictor = threshold(plan)
    with pytest.raises(RunError, match="segmentation of a previous stage"):
        predictor.predict(noise(9, 18, 18), (1, 1, 1))


def test_memory_grows_with_the_image(make_small_plan: Callable[..., Plan]) -> None:
    predictor = threshold(make_small_plan())
    small, large = (predictor.memory((size, 50, 50), (1.0, 1.0, 1.0)) for size in (50, 500))
    assert 0 < small.reading < large.reading
    assert 0 < small.predicting < large.predicting
    assert 0 < small.exporting < large.exporting
    assert large.peak < large.overlapping
    # Resampled to eight times the voxels.
    assert predictor.memory((50, 50, 50), (2.0, 2.0, 2.0)).predicting > 4 * (small.predicting - 10**7)
    with_probabilities = predictor.memory((500, 50, 50), (1.0, 1.0, 1.0), probabilities=True)
    assert with_probabilities.exporting - large.exporting == 500 * 50 * 50 * 3 * 4


def test_networks_are_compiled_for_many_patches_only(
    make_small_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = threshold(make_small_plan())
    predictor.compile_if_it_pays(10**9)
    assert not predictor.profile.compile  # never on a CPU
    asked: list[int] = []

    def choose(*, device: str, num_steps: int) -> Profile:
        asked.append(num_steps)
        return choose_profile(device=device, compile=num_steps > 100)

    monkeypatch.setattr("nnrules_runtime.predict.predictor.choose_profile", choose)
    compiled: list[nn.Module] = []

    def note(network: nn.Module) -> None:
        compiled.append(network)

    monkeypatch.setattr(nn.Module, "compile", note)
    predictor.compile_if_it_pays(60)
    assert not predictor.profile.compile
    predictor.compile_if_it_pays(6000)
    assert predictor.profile.compile
    assert predictor.sliding.profile.compile
    assert compiled == predictor.networks
    predictor.compile_if_it_pays(6000)
    assert len(compiled) == 1
    assert asked == [60 // 6, 6000 // 6]
