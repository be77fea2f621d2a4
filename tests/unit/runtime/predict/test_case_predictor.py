"""Cascades, ensembles and postprocessing: each equals what its parts give by hand."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.errors import ImageError, ModelError, RunError
from nnrules.plan import Plan
from torch import Tensor, nn

from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.predict.case_predictor import CasePredictor, Member
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.predict.stage_input import StageInput
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.resampling import zoom_labels
from nnrules_runtime.values import reading

PROFILE = choose_profile(device="cpu", precision="float32", num_threads=1)
PACKS = ["nnunet@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0", "preprint@2.0.0"]
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
SPACING = (1.5, 1.0, 1.1)
COARSE = (4.0, 1.0, 1.1)

MakePlan = Callable[..., Plan]
Draw = Callable[..., nn.Module]

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(shape: tuple[int, ...] = (16, 30, 27), channels: int = 1) -> np.ndarray:
    """Noise with a bright box, and a margin of zeros that is wider at one end, so that the crop shifts everything."""
    rng = np.random.default_rng(0)
    image = np.zeros((channels, *shape), np.float32)
    inside = image[:, 1:-1, 7:-2, 5:]
    inside[...] = rng.normal(100, 20, inside.shape)
    image[:, 5:9, 12:20, 10:18] += 200
    return image


def single(plan: Plan, name: str, draw: Draw, *seeds: int) -> Predictor:
    networks = [draw(plan, name, seed) for seed in seeds or (0,)]
    return Predictor.from_networks(plan, name, networks, profile=PROFILE)


def stages(plan: Plan, draw: Draw) -> tuple[Predictor, Predictor]:
    return single(plan, FIRST, draw, 1, 2), single(plan, SECOND, draw, 3, 4)


def one_hot(labels: np.ndarray, values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    return np.stack([labels == value for value in values]).astype(np.float32)


def by_hand(
    first: Predictor, second: Predictor, image: np.ndarray, spacing: tuple[float, float, float] = SPACING
) -> tuple[np.ndarray, Any]:
    """The second stage's input, put together from the parts that the plan names."""
    segmentation = first.predict(image, spacing)
    prediction = second.plan.configurations[SECOND]["cascade"]["prediction"]
    with reading(second.plan) as root:
        recipe = Preprocessing.from_plan(root, SECOND)
    if prediction["resampling"] == "as_segmentation_never_separate":
        recipe = dataclasses.replace(
            recipe, segmentation=dataclasses.replace(recipe.segmentation, separate=None)
        )
    if prediction["crop"] == "as_image":
        case = recipe.run(image, segmentation, spacing)
        assert case.label is not None
        return np.concatenate([case.image, one_hot(case.label)]), case.geometry
    case = recipe.run(image, None, spacing)
    assert recipe.segmentation.rule is not None
    # Slices of a coarse axis are copied.
    along_z = 0 if recipe.segmentation.separate and max(spacing) > 3 else 1
    resized = zoom_labels(
        segmentation.transpose(recipe.transpose_forward).astype(np.int16),
        case.geometry.network_shape,
        (along_z, 1, 1),
        recipe.segmentation.rule,
    )
    return np.concatenate([case.image, one_hot(resized)]), case.geometry


# -- cascades -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACKS)
def test_a_cascade_is_its_parts(make_small_plan: MakePlan, drawn_network: Draw, pack: str) -> None:
    plan = make_small_plan(pack, cascade=True)
    first, second = stages(plan, drawn_network)
    image = picture()
    network_image, geometry = by_hand(first, second, image)
    # All labels occur, so that each channel of the second stage matters.
    assert {1, 2} <= set(np.unique(first.predict(image, SPACING)))
    wanted = second.predict_prepared(network_image, geometry)
    found = CasePredictor([Member(second, first)]).predict(image, SPACING)
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == image.shape[1:]
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("spacing", [SPACING, COARSE], ids=["isotropic", "coarse"])
@pytest.mark.parametrize("crop", ["as_image", "none"])
@pytest.mark.parametrize("resampling", ["as_segmentation", "as_segmentation_never_separate"])
def test_every_way_of_the_segmentation_to_the_second_stage(
    make_small_plan: MakePlan,
    drawn_network: Draw,
    crop: str,
    resampling: str,
    spacing: tuple[float, float, float],
) -> None:
    place = f"configurations.{SECOND}.cascade.prediction"
    plan = make_small_plan(cascade=True, changes={f"{place}.crop": crop, f"{place}.resampling": resampling})
    first, second = stages(plan, drawn_network)
    image = picture()
    network_image, geometry = by_hand(first, second, image, spacing)
    with reading(plan) as root:
        stage_input = StageInput.from_plan(root, SECOND)
    case = stage_input.prepare(image, first.predict(image, spacing), spacing)
    assert case.geometry == geometry
    np.testing.assert_array_equal(np.concatenate([case.image, one_hot(case.segmentation)]), network_image)
    predictor = CasePredictor([Member(second, first)])
    np.testing.assert_array_equal(
        predictor.predict(image, spacing), second.predict_prepared(network_image, geometry)
    )


def test_without_its_crop_the_segmentation_is_stretched(make_small_plan: MakePlan) -> None:
    """nnU-Net 1 resizes the uncropped file to the shape of the cropped image (blueprints section 11)."""
    place = f"configurations.{SECOND}.cascade.prediction.crop"
    image = picture()
    segmentation = np.zeros(image.shape[1:], np.uint8)
    segmentation[5:9, 12:20, 10:18] = 1
    centers = {}
    for crop in ("as_image", "none"):
        with reading(make_small_plan(cascade=True, changes={place: crop})) as root:
            case = StageInput.from_plan(root, SECOND).prepare(image, segmentation, (1.0, 1.0, 1.0))
        assert case.image.shape[1:] == (14, 21, 22)
        centers[crop] = np.argwhere(case.segmentation == 1).mean(0)
    np.testing.assert_allclose(centers["as_image"], [5.5, 8.5, 8.5], atol=0.1)  # minus the crop's start
    scale = np.array([14, 21, 22]) / image.shape[1:]
    np.testing.assert_allclose(centers["none"], (np.array([6.5, 15.5, 13.5]) + 0.5) * scale - 0.5, atol=0.6)


def test_labels_outside_of_the_mask_count_as_inside(make_small_plan: MakePlan) -> None:
    """A voxel of intensity 0 that the first stage labels is normalised with the others (nnunetv2 2.8.1)."""
    plan = make_small_plan(
        cascade=True,
        changes={"channels[0].normalization.use_mask": True, "preprocessing.crop.fill_holes": False},
    )
    image = picture()
    image[:, 6, 15, 14] = 0
    segmentation = np.zeros(image.shape[1:], np.uint8)
    with reading(plan) as root:
        stage_input = StageInput.from_plan(root, SECOND)
    without = stage_input.prepare(image, segmentation, (1.0, 1.0, 1.0))
    segmentation[6, 15, 14] = 2
    with_label = stage_input.prepare(image, segmentation, (1.0, 1.0, 1.0))
    assert without.image[0, 5, 8, 9] == 0
    assert with_label.image[0, 5, 8, 9] < -1
    assert (without.segmentation[5, 8, 9], with_label.segmentation[5, 8, 9]) == (-1, 2)


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_channels_made_patch_by_patch(make_small_plan: MakePlan, drawn_network: Draw, name: str) -> None:
    """The same as channels of the whole image, with mirroring and with an image smaller than the patch."""
    plan = make_small_plan(changes={f"configurations.{name}.architecture.num_input_channels": 3})
    with reading(plan) as root:
        predictor_labels = (1, 2)
        configuration = root.section("configurations").section(name)
        from nnrules_runtime.predict.sliding import SlidingWindow
        from nnrules_runtime.predict.stage_input import StageLabels

        sliding = SlidingWindow(configuration, PROFILE)
    networks = [sliding.prepared(drawn_network(plan, name, seed)) for seed in (0, 1)]
    rng = np.random.default_rng(0)
    for shape in ((6, 25, 12), (11, 18, 33)):
        image = rng.normal(size=(1, *shape)).astype(np.float32)
        segmentation = rng.integers(-1, 3, shape).astype(np.int16)
        wanted = sliding(networks, np.concatenate([image, one_hot(segmentation)]))
        found = sliding(networks, image, StageLabels.of(segmentation, predictor_labels))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("pack", PACKS)
def test_regions_give_the_second_stage_their_labels(
    make_small_plan: MakePlan, drawn_network: Draw, pack: str
) -> None:
    plan = make_small_plan(pack, cascade=True, labels=REGIONS)
    assert plan.configurations[SECOND]["architecture"]["num_input_channels"] == 3
    first, second = stages(plan, drawn_network)
    image = picture()
    network_image, geometry = by_hand(first, second, image)
    found = CasePredictor([Member(second, first)]).predict(image, SPACING)
    np.testing.assert_array_equal(found, second.predict_prepared(network_image, geometry))


def test_a_second_stage_alone_is_refused(make_small_plan: MakePlan, drawn_network: Draw) -> None:
    plan = make_small_plan(cascade=True)
    first, second = stages(plan, drawn_network)
    with pytest.raises(RunError, match="takes the segmentation of a previous stage"):
        CasePredictor([second]).check_takes_images()
    other = single(plan, "2d", drawn_network)
    with pytest.raises(ModelError, match="another previous stage; got 2d; expected 3d_lowres"):
        CasePredictor([Member(second, other)])
    with pytest.raises(ModelError, match="takes no segmentation of a previous stage; got 3d_lowres"):
        CasePredictor([Member(other, first)])


# -- ensembles ------------------------------------------------------------------------------------------------------


def mean_of(
    predictors: list[Predictor | CasePredictor], image: np.ndarray, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and mean of the stored probabilities, as the plan averages files, and how far labels are from a tie."""
    stored = [predictor.predict_probabilities(image, SPACING) for predictor in predictors]
    dtype = plan.document["empirical"]["ensembles"]["dtype"]
    mean = np.mean([array.astype(np.float32) for array in stored], axis=0, dtype=np.float32).astype(dtype)
    return mean, mean.astype(np.float64)


def whole_labels(mean: np.ndarray, plan: Plan, predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """The label rule on the mean, on the whole image."""
    if plan.document["dataset"]["regions_class_order"]:
        labels = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0)).astype(np.uint8)
    else:
        labels = mean.argmax(0).astype(np.uint8)
    if labels.shape == image.shape[1:]:
        return labels
    _, geometry = predictor.prepare(image, SPACING)
    whole = np.zeros(geometry.transposed_shape, np.uint8)
    box = tuple(slice(*edge) for edge in zip(geometry.crop_start, geometry.crop_stop, strict=True))
    whole[box] = labels.transpose(geometry.transpose_forward)
    return whole.transpose(geometry.transpose_backward)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("labels", [None, REGIONS], ids=["labels", "regions"])
def test_an_ensemble_is_the_mean_of_probabilities(
    make_small_plan: MakePlan, drawn_network: Draw, pack: str, labels: dict[str, Any] | None
) -> None:
    plan = make_small_plan(pack, labels=labels, cascade=True)
    members = [
        single(plan, "2d", drawn_network, 1, 2), single(plan, "3d_fullres", drawn_network, 3)
    ]  # fmt: skip
    image = picture()
    mean, _ = mean_of(list(members), image, plan)
    wanted = whole_labels(mean, plan, members[0], image)
    ensemble = CasePredictor(members)
    found = ensemble.predict(image, SPACING)
    assert found.dtype == wanted.dtype
    # Tiles of other shapes round otherwise in the last bits, which decides ties of float16 now and then.
    assert (found != wanted).mean() <= 2e-4
    assert len(np.unique(found)) > 1
    probabilities = ensemble.predict_probabilities(image, SPACING)
    assert probabilities.dtype == mean.dtype
    assert probabilities.shape == mean.shape
    tolerance = 1e-6 if mean.dtype == np.float32 else 1e-3
    np.testing.assert_allclose(
        probabilities.astype(np.float32), mean.astype(np.float32), atol=tolerance, rtol=0
    )


def test_an_ensemble_of_a_cascade_and_its_first_stage(
    make_small_plan: MakePlan, drawn_network: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_small_plan(cascade=True)
    first, second = stages(plan, drawn_network)
    image = picture()
    cascade = CasePredictor([Member(second, first)])
    mean, _ = mean_of([cascade, first], image, plan)
    wanted = whole_labels(mean, plan, first, image)
    calls = []
    real = first.logits

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(first, "logits", counted)
    for members in ([Member(second, first), first], [first, Member(second, first)]):
        calls.clear()
        ensemble = CasePredictor(members)
        found = ensemble.predict(image, SPACING)
        assert (found != wanted).mean() <= 2e-4
        assert len(calls) == 1  # the first stage predicts once for both
    assert ensemble.configurations == (FIRST, SECOND)
    assert ensemble.singles == (first, second)


def test_images_of_one_subject(make_small_plan: MakePlan, drawn_network: Draw) -> None:
    plan = make_small_plan()
    predictor = single(plan, "3d_fullres", drawn_network)
    one = picture()
    other = one[:, ::-1].copy()
    stored = [predictor.predict_probabilities(image, SPACING) for image in (one, other)]
    wanted = ((stored[0] + stored[1]) / 2).argmax(0)
    together = CasePredictor([predictor])
    found = together.predict_together([one, other], SPACING)
    assert (found != wanted).mean() <= 2e-4
    np.testing.assert_array_equal(together.predict_together([one], SPACING), predictor.predict(one, SPACING))
    with pytest.raises(RunError, match="images of several shapes cannot be averaged"):
        together.predict_together([one, one[:, :-1]], SPACING)


def test_members_of_other_datasets_are_refused(make_small_plan: MakePlan, drawn_network: Draw) -> None:
    plan = make_small_plan()
    one = single(plan, "3d_fullres", drawn_network)
    for other, said in (
        (make_small_plan(labels={"background": 0, "organ": 1}), "other labels"),
        (make_small_plan(channels=("T1", "T2")), "other numbers of channels"),
        (make_small_plan(changes={"dataset.orientation_policy": "canonical"}), "other orientations"),
    ):
        with pytest.raises(ModelError, match=said):
            CasePredictor([one, single(other, "2d", drawn_network)])
    with pytest.raises(ValueError, match="needs a member"):
        CasePredictor([])


# -- the rest -------------------------------------------------------------------------------------------------------


class Bright(nn.Module):
    """Class 1 where the image is bright."""

    def forward(self, image: Tensor) -> Tensor:
        value = image[:, :1] - 1
        return torch.cat([-value, value, torch.full_like(value, -9)], 1)


def two_pieces() -> np.ndarray:
    image = np.random.default_rng(0).normal(0, 0.01, (16, 30, 27)).astype(np.float32)
    image[2:8, 4:14, 4:20] += 10
    image[11:14, 18:24, 4:10] += 10
    return image


def test_postprocessing_comes_last(make_small_plan: MakePlan) -> None:
    predictor = Predictor.from_networks(make_small_plan(), "3d_fullres", [Bright()], profile=PROFILE)
    step = Step(name="organ", labels=(1,), components=Components(connectivity="full"))
    image = two_pieces()
    plain = predictor.predict(image, (1.0, 1.0, 1.0))
    assert plain[12, 20, 6] == plain[4, 8, 10] == 1
    processed = CasePredictor([predictor], postprocessing=Postprocessing((step,)))
    found = processed.predict(image, (1.0, 1.0, 1.0))
    assert found[12, 20, 6] == 0
    np.testing.assert_array_equal(found[:9], plain[:9])
    np.testing.assert_array_equal(
        processed.predict_probabilities(image, (1.0, 1.0, 1.0)),
        predictor.predict_probabilities(image, (1.0, 1.0, 1.0)),
    )


def test_one_configuration_takes_what_its_predictor_takes(
    make_small_plan: MakePlan, drawn_network: Draw
) -> None:
    predictor = single(make_small_plan(), "3d_fullres", drawn_network, 0, 1)
    alone = CasePredictor.of(predictor)
    assert CasePredictor.of(alone) is alone
    shape, spacing = (40, 60, 50), (1.0, 1.2, 0.9)
    for probabilities in (False, True):
        assert alone.memory(shape, spacing, probabilities=probabilities) == predictor.memory(
            shape, spacing, probabilities=probabilities
        )
    assert alone.num_passes(shape, spacing) == predictor.num_passes(shape, spacing)


def test_memory_and_passes_add_up(make_small_plan: MakePlan, drawn_network: Draw) -> None:
    plan = make_small_plan(cascade=True)
    first, second = stages(plan, drawn_network)
    flat = single(plan, "2d", drawn_network)
    shape, spacing = (90, 120, 100), (1.0, 1.0, 1.0)
    cascade = CasePredictor([Member(second, first)])
    assert cascade.num_passes(shape, spacing) == first.num_passes(shape, spacing) + second.num_passes(
        shape, spacing
    )
    image_bytes = 4 * 90 * 120 * 100
    alone = second.memory(shape, spacing)
    assert cascade.memory(shape, spacing).predicting >= alone.predicting + image_bytes
    assert cascade.memory(shape, spacing).exporting == alone.exporting
    ensemble = CasePredictor([Member(second, first), first, flat])
    found = ensemble.memory(shape, spacing)
    parts = [each.memory(shape, spacing) for each in (second, first, flat)]
    assert found.predicted == sum(part.predicted for part in parts)
    assert found.predicting > max(part.predicting for part in parts)
    assert ensemble.num_passes(shape, spacing) == sum(
        each.num_passes(shape, spacing) for each in (first, second, flat)
    )
    twice = ensemble.memory(shape, spacing, num_images=2)
    assert twice.predicted == 2 * found.predicted
    assert twice.peak > found.peak


def test_compilation_is_shared_out(
    make_small_plan: MakePlan, drawn_network: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_small_plan(cascade=True)
    first, second = stages(plan, drawn_network)
    asked: list[int] = []
    for each in (first, second):
        monkeypatch.setattr(each, "compile_if_it_pays", asked.append)
    CasePredictor([Member(second, first)]).compile_if_it_pays(1000)
    assert asked == [500, 500]


def test_2d_images_and_bad_arrays(make_small_plan: MakePlan, drawn_network: Draw) -> None:
    predictor = CasePredictor([single(make_small_plan(), "2d", drawn_network, seed) for seed in (0, 1)])
    image = np.random.default_rng(0).normal(50, 10, (33, 20)).astype(np.float32)
    assert predictor.predict(image, (1.0, 1.0)).shape == (33, 20)
    assert predictor.predict_probabilities(image, (1.0, 1.0)).shape == (3, 33, 20)
    with pytest.raises(ImageError, match="wrong number of channels"):
        predictor.predict(np.stack([image, image])[:, None], (1.0, 1.0, 1.0))
