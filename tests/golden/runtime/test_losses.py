"""Values and gradients of the losses against those recorded from nnunetv2 2.8.1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.loss import Loss
from nnrules_runtime.train.loss_targets import nearest
from nnrules_runtime.values import Section

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "d_losses"
REASON = "the recorded losses are not beside the checkout (../shared/golden/runtime/d_losses)"
TERMS = {
    "dc_ce": ["dice", "cross_entropy"],
    "dc_bce": ["dice", "cross_entropy"],
    "dc_topk10": ["dice", "top_k_cross_entropy"],
    "topk10": ["top_k_cross_entropy"],
}
IGNORE = 4

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


def cases() -> dict[str, Any]:
    if not RECORDED.is_dir():
        return {}
    recorded: dict[str, Any] = json.loads((RECORDED / "losses.json").read_text())["cases"]
    # Label smoothing is no field of a plan.
    return {name: case for name, case in recorded.items() if case["loss"] in TERMS}


CASES = cases()


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    with np.load(RECORDED / "losses.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def label_set(*, regions: bool, ignore: bool) -> LabelSet:
    heads = ((1, 2, 3), (2, 3), (3,)) if regions else ((0,), (1,), (2,), (3,))
    return LabelSet(
        heads=heads,
        head_names=tuple(f"head {index}" for index in range(len(heads))),
        has_regions=regions,
        regions_class_order=(1, 2, 3) if regions else None,
        ignore_label=IGNORE if ignore else None,
        foreground_labels=(1, 2, 3),
    )


def loss_of(case: dict[str, Any]) -> Loss:
    """The loss as the pack nnunet@2.8.0 plans it."""
    regions = case["loss"] == "dc_bce"
    ignore = bool(case["use_ignore_label"]) if regions else case["ignore_label"] is not None
    activation = "sigmoid" if regions else "softmax"
    over_regions = "sum_over_heads_mean_over_valid_voxels" if ignore else "mean"
    reduction = over_regions if regions else "mean_over_valid_voxels"
    plan = {
        "architecture": {"deep_supervision": {"enabled": True}},
        "loss": {
            "terms": [{"name": name, "weight": 1} for name in TERMS[case["loss"]]],
            "batch_dice": case["batch_dice"],
            "dice": {
                "activation": activation,
                "include_background": regions,
                "smooth": 1e-5,
                "denominator_offset": 0,
                "denominator_floor": 1e-8,
                "squared": False,
                "ignored_voxels": "masked",
            },
            "cross_entropy": {"activation": activation, "class_weights": None, "reduction": reduction},
            "top_k_cross_entropy": {"share": 0.1},
            "deep_supervision": {
                "weights": case["ds_weights"] or [1],
                "target_interpolation": "nearest",
                "target_shape_rounding": "half_to_even",
            },
        },
    }
    problems: list[Any] = []
    loss = Loss.from_plan(Section(plan, "", problems), label_set(regions=regions, ignore=ignore))
    assert problems == []
    return loss


def label_map(target: Tensor, case: dict[str, Any]) -> Tensor:
    """The label map ``(B, *patch)`` of a recorded target; that of regions has a channel for each of them."""
    if case["loss"] != "dc_bce":
        return target[:, 0]
    labels = target[:, :3].sum(1).to(torch.int16)  # the regions are nested: 1 is in one, 3 in all
    if case["use_ignore_label"]:
        labels[target[:, 3]] = IGNORE
    return labels


@pytest.mark.parametrize("name", CASES or [pytest.param(None, marks=pytest.mark.skip(reason=REASON))])
def test_value_and_gradient(
    name: str, arrays: dict[str, Tensor], record_property: Callable[[str, object], None]
) -> None:
    case = CASES[name]
    loss = loss_of(case)
    weights = case["ds_weights"] or [1.0]
    assert loss.active_heads == tuple(index for index, weight in enumerate(weights) if weight)
    logits = [arrays[f"{name}__logits{level}"].clone().requires_grad_() for level in range(case["levels"])]
    # The recorded targets of the levels were drawn apart from each other, so each level is scored with its own.
    targets = [label_map(arrays[f"{name}__target{level}"], case) for level in range(case["levels"])]
    value = sum(
        (weight * loss(*pair) for weight, *pair in zip(weights, logits, targets, strict=True) if weight),
        start=torch.zeros(()),
    )
    value.backward()

    off = abs(value.item() - case["value"]) / (abs(case["value"]) or 1)
    record_property("relative difference of the value", off)
    assert off <= 1e-6
    for level, one in enumerate(logits):
        expected = arrays[f"{name}__grad{level}"]
        found = one.grad if one.grad is not None else torch.zeros_like(expected)
        off = float((found - expected).abs().max())
        record_property(f"largest difference of the gradient, level {level}", off)
        assert off <= 1e-6, f"level {level}"


def test_targets_of_levels() -> None:
    """The targets that nnUNetTrainer's data loader made for the levels of 20 batches, to the voxel."""
    with np.load(RECORDED.parent / "g_training" / "batches.npz") as file:
        targets = [torch.from_numpy(file[f"target{level}"])[:, :, 0] for level in range(3)]
    assert targets[0].shape[2:] == (24, 32, 24)
    for target in targets[1:]:
        made = nearest(targets[0].flatten(0, 1), target.shape[2:])
        assert torch.equal(made, target.flatten(0, 1)), (
            f"{int((made != target.flatten(0, 1)).sum())} voxels differ"
        )
