"""Drawn outputs of a first stage on the second stage's grid, against the installed nnunetv2 2.8.1."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.plan import Plan
from scipy import ndimage

from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.train.cascade import StageLink
from nnrules_runtime.values import reading

RECORDED = (
    Path(__file__).resolve().parents[4] / "shared" / "golden" / "runtime" / "a_preprocessing" / "head_neck_ct"
)
REASON = (
    "the recorded dataset is not beside the checkout (../shared/golden/runtime/a_preprocessing/head_neck_ct)"
)
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
NUM_CASES = 12
# Splines are float64 there and float32 here: labels differ where two outputs are equal to the last digits.
SHARE_LIMIT = 1e-4

pytestmark = [
    pytest.mark.peer,
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


def drawn_geometry(rng: np.random.Generator, root: Any) -> CaseGeometry:
    """A small image near the full resolution of the plan, with or without thick slices, as the first stage sees it."""
    first, second = (Preprocessing.from_plan(root, name) for name in (FIRST, SECOND))
    order = first.transpose_forward
    spacing = np.array(second.spacing) * rng.uniform(0.7, 1.4, 3)
    shape = rng.integers(16, 44, 3)
    if rng.random() < 0.5:
        spacing[0] *= 4
        shape[0] = max(3, shape[0] // 4)
    start = rng.integers(0, 3, 3)
    transposed = shape + start + rng.integers(0, 3, 3)
    network_shape, network_spacing = first.network_grid(shape.tolist(), tuple(spacing.tolist()))
    original, millimetres = [0, 0, 0], [0.0, 0.0, 0.0]
    for axis, edge, step in zip(order, transposed.tolist(), spacing.tolist(), strict=True):
        original[axis], millimetres[axis] = edge, step
    return CaseGeometry(
        original_shape=(original[0], original[1], original[2]),
        original_spacing=(millimetres[0], millimetres[1], millimetres[2]),
        transpose_forward=order,
        crop_start=tuple(start.tolist()),
        crop_stop=tuple((start + shape).tolist()),
        network_shape=network_shape,
        network_spacing=network_spacing,
    )


@pytest.mark.parametrize("stretch", [1, 5], ids=["as planned", "with thick slices"])
def test_drawn_predictions(
    stretch: float,
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
) -> None:
    fingerprint, dataset = (
        json.loads((RECORDED / file).read_text()) for file in ("dataset_fingerprint.json", "dataset.json")
    )
    document = copy.deepcopy(
        dict(plan_request("ExperimentPlanner", fingerprint, dataset, gpu_memory_gb=1).document)
    )
    # What decides about a separate axis is the first stage's spacing alone.
    document["configurations"][FIRST]["spacing"][0] *= stretch
    plan = Plan(document)
    with reading(plan) as root:
        link = StageLink.from_plan(root, SECOND)
        geometries = [drawn_geometry(rng, root) for _ in range(NUM_CASES)]
    outputs = len(dataset["labels"])
    cases, given, ours = [], {}, []
    for number, geometry in enumerate(geometries):
        noise = rng.standard_normal((outputs, *geometry.network_shape))
        logits = (20 * ndimage.gaussian_filter(noise, (0, 1, 1, 1))).astype(np.float32)
        shape, _ = link.grid.network_grid(geometry.crop_shape, geometry.transposed_spacing)
        cases.append(
            {"shape": shape, "spacing": list(geometry.original_spacing), "cropped": list(geometry.crop_shape)}
        )
        given[str(number)] = logits
        ours.append(link.segmentation(torch.from_numpy(logits), geometry, where=str(number)))
    question = {
        "plans": exported(plan, "Dataset001_Ours"),
        "dataset": dataset,
        "first": FIRST,
        "cases": cases,
    }
    _, theirs = ask_peer("cascade", question, given)
    different = voxels = 0
    for number, found in enumerate(ours):
        expected = theirs[str(number)]
        assert found.shape == expected.shape
        assert len(np.unique(expected)) > 2
        different += int((found != expected).sum())
        voxels += expected.size
    what = (
        f"labels of {NUM_CASES} predictions on the second grid: {different} of {voxels} voxels differ; share"
    )
    compare(what, different / voxels, SHARE_LIMIT)
