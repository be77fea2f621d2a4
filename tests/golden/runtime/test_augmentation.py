"""Every transform of nnunet@2.8.0's plans against input, parameters and output recorded from batchgeneratorsv2 0.3.6.

Also the pipelines' parameters as nnunetv2 2.8.1 had them at run time.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.augment.gaussian_noise import NoiseDraw
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.spatial import SpatialDraw, center_box
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "i_augmentation"
REASON = "the recorded augmentation is not beside the checkout (../shared/golden/runtime/i_augmentation)"
PIPELINES = ("3d_iso", "3d_dummy2d", "2d")
# Ours, by the class in the recording; gamma is told apart by its parameters.
NAMES = {
    "SpatialTransform": "spatial",
    "GaussianNoiseTransform": "gaussian_noise",
    "GaussianBlurTransform": "gaussian_blur",
    "MultiplicativeBrightnessTransform": "brightness",
    "ContrastTransform": "contrast",
    "SimulateLowResolutionTransform": "low_resolution",
    "MirrorTransform": "mirror",
    "MaskImageTransform": "mask_outside",
    "RemoveLabelTransform": "replace_outside_label",
    "MoveSegAsOneHotToDataTransform": "previous_stage_one_hot",
    "ApplyRandomBinaryOperatorTransform": "previous_stage_operators",
    "RemoveRandomConnectedComponentFromOneHotEncodingTransform": "previous_stage_components",
}
# Nothing of ours: the stack of slices is a flag of the spatial transform, targets are made by the loss.
NOT_OURS = {
    "Convert3DTo2DTransform",
    "Convert2DTo3DTransform",
    "DownsampleSegForDSTransform",
    "ConvertSegmentationToRegionsTransform",
}

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON)]


def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return document


def triples() -> list[Any]:
    if not RECORDED.is_dir():
        return []
    return [
        pytest.param(name, triple, id=f"{name}-{triple['key']}")
        for name in PIPELINES
        for triple in recorded(name)["triples"]
        if triple["class"] not in NOT_OURS
    ]


@pytest.fixture(scope="module")
def documents(make_fingerprint: Callable[..., Fingerprint]) -> dict[str, Any]:
    """Plans whose 3D patches are isotropic and anisotropic, and one with a cascade."""
    slabs = make_fingerprint([(20, 320, 300)] * 20, [(8.0, 0.6, 0.6)] * 20, channels=("MRI", "CT"))
    cubes = make_fingerprint([(128, 140, 130)] * 20, [(1.0, 1.0, 1.0)] * 20, channels=("MRI", "CT"))
    large = make_fingerprint(
        [(500, 512, 512)] * 20,
        [(1.0, 0.7, 0.7)] * 20,
        labels={"background": 0, "a": 1, "b": 2, "c": 3},
    )
    return {
        "3d_dummy2d": make_plan(slabs, "nnunet@2.8.0").document,
        "3d_iso": make_plan(cubes, "nnunet@2.8.0").document,
        "2d": make_plan(cubes, "nnunet@2.8.0").document,
        "cascade": make_plan(large, "nnunet@2.8.0").document,
    }


@pytest.fixture(scope="module")
def pipelines(documents: dict[str, Any]) -> dict[str, Augmentation]:
    """The same with the recorded patches; channel 0 normalised inside the mask, channel 1 not."""
    made = {}
    for name in PIPELINES:
        document = copy.deepcopy(documents[name])
        wanted = recorded(name)
        configuration = document["configurations"]["2d" if name == "2d" else "3d_fullres"]
        configuration["patch_size"] = wanted["patch_size"]
        configuration["sampling"]["initial_patch_size"] = wanted["initial_patch_size"]
        for channel, use in zip(document["channels"], wanted["arguments"]["use_mask_for_norm"], strict=True):
            channel["normalization"]["use_mask"] = use
        made[name] = read(document, configuration)
    return made


def read(document: dict[str, Any], configuration: dict[str, Any]) -> Augmentation:
    problems: list[Any] = []
    root = Section(document, "", problems)
    augmentation = Augmentation.from_plan(
        root, Section(configuration, "", problems), LabelSet.from_plan(root)
    )
    assert not problems
    return augmentation


def with_slices(array: np.ndarray, pipeline: str) -> torch.Tensor:
    """As (C, Z, Y, X): 2D recordings have no Z, pseudo-2D ones fold it into the channels."""
    if pipeline == "2d":
        array = array[:, None]
    elif pipeline == "3d_dummy2d" and array.ndim == 3:
        array = array.reshape(-1, 4, *array.shape[1:])
    return torch.from_numpy(array.copy())


def gamma_name(triple: dict[str, Any], arrays: Any) -> str:
    inverted = bool(arrays[triple["key"] + "__param_invert_image"].all())
    return "gamma_inverted" if inverted else "gamma"


def parameters(name: str, triple: dict[str, Any], arrays: Any, augmentation: Augmentation) -> Any:
    """The recorded parameters as our transform draws them."""

    def recorded_value(parameter: str) -> Any:
        return arrays[f"{triple['key']}__param_{parameter}"]

    if name == "spatial":
        transform: Any = dict(augmentation.transforms)["spatial"]
        key = triple["key"] + "__param_affine"
        if key not in arrays:
            box = center_box(transform.initial, transform.final, transform.crop_start)
            return SpatialDraw(None, box)
        matrix = arrays[key]
        return SpatialDraw(tuple(map(tuple, matrix)), transform.needed_box(matrix))
    if name == "gaussian_blur":
        channels = np.flatnonzero(recorded_value("apply_to_channel"))
        return {int(c): tuple(s) for c, s in zip(channels, recorded_value("sigmas"), strict=True)}
    if name in ("brightness", "contrast"):
        channels = recorded_value("apply_to_channel")
        return {int(c): (float(m),) for c, m in zip(channels, recorded_value("multipliers"), strict=True)}
    if name == "low_resolution":
        channels, scales = recorded_value("apply_to_channel"), recorded_value("scales")
        # One zoom for all axes that are not ignored: the last axis never is.
        return {int(c): (float(s[-1]),) for c, s in zip(channels, scales, strict=True)}
    if name in ("gamma", "gamma_inverted"):
        channels = recorded_value("apply_to_channel")
        return {int(c): (float(g),) for c, g in zip(channels, recorded_value("gamma"), strict=True)}
    if name == "mirror":
        first = 1 if arrays[triple["key"] + "__image_in"].ndim == 3 else 0
        return tuple(int(axis) + first for axis in np.atleast_1d(recorded_value("axes"))) or None
    return True


@pytest.mark.parametrize(("pipeline", "triple"), triples())
def test_effect(
    pipeline: str,
    triple: dict[str, Any],
    pipelines: dict[str, Augmentation],
    record_property: Callable[[str, object], None],
) -> None:
    arrays = np.load(RECORDED / f"{pipeline}.npz")
    augmentation = pipelines[pipeline]
    key = triple["key"]
    name = gamma_name(triple, arrays) if triple["class"] == "GammaTransform" else NAMES[triple["class"]]
    image, labels, image_out, labels_out = (
        with_slices(arrays[f"{key}__{part}"], pipeline)
        for part in ("image_in", "seg_in", "image_out", "seg_out")
    )
    patch = Patch(image, labels)
    if name == "gaussian_noise":
        sigma = float(arrays[f"{key}__param_sigmas"])
        drawn: Any = NoiseDraw({0: sigma, 1: sigma}, triple["torch_seed_at_apply"])
    else:
        drawn = parameters(name, triple, arrays, augmentation)
    if drawn is not None:
        dict(augmentation.transforms)[name].apply(patch, drawn)
    worst = float((patch.image - image_out).abs().max())
    record_property("largest difference of the image", worst)
    differing = int((patch.labels != labels_out).sum())
    assert patch.image.shape == image_out.shape
    assert worst <= 1e-5, f"the image differs by {worst:.2e}"
    assert differing == 0, f"{differing} of {labels_out.numel()} labels differ"


def expected_parameters(transform: dict[str, Any]) -> dict[str, Any]:
    """What a recorded transform is, in the words of a plan."""
    probability = {}
    if transform["class"] == "RandomTransform":
        probability = {"probability": transform["apply_probability"]}
        transform = transform["transform"]

    def factor(value: Any) -> dict[str, Any]:
        half = isinstance(value, dict)
        return {
            "distribution": "half_below_one" if half else "uniform",
            "range": value["contrast_range"] if half else value,
        }

    kind = transform["class"]
    if kind == "SpatialTransform":
        return {
            "rotation_probability": transform["p_rotation"],
            "scaling_probability": transform["p_scaling"],
            "scaling.range": transform["scaling"],
            "scaling.distribution": "uniform",
            "scaling.all_axes_alike": transform["p_synchronize_scaling_across_axes"] == 1,
            "elastic_probability": transform["p_elastic_deform"],
            "image.border_value": transform["padding_value_image"],
            "image.order": {"bilinear": 1}[transform["mode_image"]],
            "label.order": {"bilinear": 1}[transform["mode_seg"]],
            "label.label_rule": {"nearest": "argmax_nearest"}[transform["seg_tiebreak"]],
            "label.border_label": transform["padding_value_seg"],
        }
    if kind == "GaussianNoiseTransform":
        return {
            **probability,
            "range": transform["noise_variance"],
            "channels_alike": transform["synchronize_channels"],
        }
    if kind == "GaussianBlurTransform":
        return {
            **probability,
            "sigma_voxels": transform["blur_sigma"],
            "channels_alike": transform["synchronize_channels"],
            "axes_alike": transform["synchronize_axes"],
            "channel_probability": transform["p_per_channel"],
        }
    if kind == "MultiplicativeBrightnessTransform":
        # Half of the range below one, half above: for (0.75, 1.25) that is an even draw, and the plan says so.
        return {**probability, "factor.range": factor(transform["multiplier_range"])["range"]}
    if kind == "ContrastTransform":
        return {
            **probability,
            "factor": factor(transform["contrast_range"]),
            "clip_to_input_range": transform["preserve_range"],
        }
    if kind == "SimulateLowResolutionTransform":
        return {
            **probability,
            "zoom.range": transform["scale"],
            "channel_probability": transform["p_per_channel"],
            "ignored_axes": list(transform["ignore_axes"] or []),
        }
    if kind == "GammaTransform":
        return {
            **probability,
            "gamma": factor(transform["gamma"]),
            "invert": transform["p_invert_image"] == 1,
        }
    if kind == "MaskImageTransform":
        return {"value": transform["set_outside_to"]}
    if kind == "RemoveLabelTransform":
        return {"from": transform["label_value"], "to": transform["set_to"]}
    if kind == "ApplyRandomBinaryOperatorTransform":
        return {
            **probability,
            "radius_voxels": transform["strel_size"],
            "label_probability": transform["p_per_label"],
        }
    if kind == "RemoveRandomConnectedComponentFromOneHotEncodingTransform":
        return {
            **probability,
            "label_probability": transform["p_per_label"],
            "max_patch_share": transform["dont_do_if_covers_more_than_x_percent"],
            "fill_probability": transform["fill_with_other_class_p"],
        }
    return {}


@pytest.mark.parametrize("pipeline", [*PIPELINES, "cascade"])
def test_pipeline_is_the_recorded_one(pipeline: str, documents: dict[str, Any]) -> None:
    if pipeline == "cascade":
        steps = recorded("other_pipelines")["cascade_training_transforms_in_order"]
        # Recorded without a channel that uses the mask, so without this step.
        steps.insert(9, {"class": "MaskImageTransform", "set_outside_to": 0})
    else:
        steps = recorded(pipeline)["training_transforms_in_order"]
    name = {"2d": "2d", "cascade": "3d_cascade_fullres"}.get(pipeline, "3d_fullres")
    augmentation = documents[pipeline]["configurations"][name]["augmentation"]
    plain = [step.get("transform", step) for step in steps]
    ours = iter(augmentation["order"])
    for step, inner in zip(steps, plain, strict=True):
        if inner["class"] in NOT_OURS:
            continue
        transform = next(ours)
        inverted = inner.get("p_invert_image") == 1
        known = {**NAMES, "GammaTransform": "gamma_inverted" if inverted else "gamma"}
        assert transform == known[inner["class"]]
        for path, value in expected_parameters(step).items():
            found: Any = augmentation["transforms"][transform]
            for part in path.split("."):
                found = found[part]
            assert found == value, f"{transform}.{path}"
    assert next(ours, None) is None
    folds = any(step["class"] == "Convert3DTo2DTransform" for step in steps)
    assert augmentation["dummy_2d"] == folds
    if pipeline != "cascade":
        low, high = recorded(pipeline)["rotation_for_DA"]
        assert np.radians(augmentation["rotation_range_degrees"]) == pytest.approx((low, high))


def test_mirror_axes_are_those_of_the_configuration(pipelines: dict[str, Augmentation]) -> None:
    for name in PIPELINES:
        transform: Any = dict(pipelines[name].transforms)["mirror"]
        first = 1 if name == "2d" else 0
        assert [axis - first for axis in transform.axes] == recorded(name)["mirror_axes"]
