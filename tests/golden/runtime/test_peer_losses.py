"""The loss and its gradient on drawn logits and labels, against the installed nnunetv2 2.8.1."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.plan import Plan
from scipy import ndimage

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.loss import Loss
from nnrules_runtime.values import reading

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

BATCH = 3
VALUE_LIMIT = 2e-6  # of the value
GRADIENT_LIMIT = 2e-5  # of its largest entry
IGNORE = 4
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "last": [3]}
KINDS: dict[str, dict[str, Any]] = {
    "labels": LABELS,
    "labels and ignore": {**LABELS, "ignore": IGNORE},
    "regions": REGIONS,
    "regions and ignore": {**REGIONS, "ignore": IGNORE},
}


def drawn_target(rng: np.random.Generator, shape: tuple[int, ...], *, ignore: bool) -> np.ndarray:
    """Label maps ``(B, *shape)``; the second lacks a class, and with ``ignore`` most of the last is ignored."""
    field = ndimage.gaussian_filter(rng.standard_normal((BATCH, *shape)), (0, *[2] * len(shape)))
    target = np.digitize(field, np.quantile(field, [0.5, 0.7, 0.9])).astype(np.int16)
    target[1][target[1] == 2] = 0
    if ignore:
        other = ndimage.gaussian_filter(rng.standard_normal((BATCH, *shape)), (0, *[3] * len(shape)))
        target[other > np.quantile(other, 0.7)] = IGNORE
        target[-1][rng.random(shape) < 0.9] = IGNORE
    return target


@pytest.mark.parametrize(
    ("kind", "batch_dice", "name"),
    list(itertools.product(KINDS, (False, True), ("2d", "3d_fullres"))),
    ids=lambda value: {True: "batch Dice", False: "Dice a sample"}.get(value, value),
)
def test_value_and_gradient(
    kind: str,
    batch_dice: bool,
    name: str,
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
) -> None:
    statistics = dict.fromkeys(
        ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
    )
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": statistics},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[int(size) for size in rng.integers(28, 42, 3)]] * 12,
        "spacings": [[1.0, 1.0, 1.0]] * 12,
    }
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": KINDS[kind],
        "numTraining": 12,
        "file_ending": ".nii.gz",
        **({"regions_class_order": [1, 2, 3]} if "regions" in kind else {}),
    }
    document = copy.deepcopy(dict(plan_request("ExperimentPlanner", fingerprint, dataset).document))
    configuration = document["configurations"][name]
    configuration["loss"]["batch_dice"] = batch_dice
    plan = Plan(document)
    with reading(plan) as root:
        labels = LabelSet.from_plan(root)
        loss = Loss.from_plan(root.section("configurations").section(name), labels)
    patch = tuple(configuration["patch_size"])
    target = drawn_target(rng, patch, ignore="ignore" in kind)
    strides = np.cumprod(configuration["architecture"]["strides"], axis=0)[:-1]
    scale = rng.uniform(0.5, 6)
    given = {"target": target} | {
        f"logits/{level}": scale
        * rng.standard_normal((BATCH, labels.num_heads, *(patch // stride))).astype(np.float32)
        for level, stride in enumerate(strides)
    }
    given = {key: value if key == "target" else value.astype(np.float32) for key, value in given.items()}
    question = {"plans": exported(plan, "Dataset001_Ours"), "dataset": dataset, "configuration": name}
    found, theirs = ask_peer("losses", question, given)
    assert found["levels"] == len(strides)
    logits = [torch.from_numpy(given[f"logits/{level}"]).requires_grad_() for level in range(len(strides))]
    value = loss(logits, torch.from_numpy(target))
    value.backward()
    expected = float(theirs["value"])
    where = f"{kind}, {'batch Dice' if batch_dice else 'Dice of each sample'}, {name}, patch {list(patch)}"
    off = abs(value.item() - expected) / max(abs(expected), 0.1)  # it may pass through 0
    compare(f"loss {expected:.6f} of {where}, relative", off, VALUE_LIMIT)
    worst = 0.0
    for level, one in enumerate(logits):
        gradient = theirs[f"gradient/{level}"]
        ours = np.zeros_like(gradient) if one.grad is None else one.grad.numpy()
        largest = float(np.abs(gradient).max())
        assert (largest > 0) == (level < len(strides) - 1)  # the lowest level has no weight
        worst = max(worst, float(np.abs(ours - gradient).max()) / (largest or 1))
    compare(f"gradient of {len(strides)} levels of {where}, relative to its largest", worst, GRADIENT_LIMIT)
