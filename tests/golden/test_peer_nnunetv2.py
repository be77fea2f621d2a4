"""The installed nnunetv2 2.8.1, asked now: fingerprints that no recorded case holds, and exported plans.

``NNRULES_PEER_SEED`` draws other fingerprints. Where nnU-Net v2 is not installed these tests skip aloud,
except on CI (or with ``NNRULES_PEER=install``), which installs it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from nnrules.plan import Plan

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("NNRULES_PEER_SEED", "20260723"))
NUM_FINGERPRINTS = 72
RESIDUAL = ("ResEncUNetPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL")
CHANNELS = ("MRI", "CT", "ct", "T1", "nonorm", "zscore", "rescale_to_0_1", "RGB_to_0_1", "CTA", "PET")


def _draw(rng: np.random.Generator, family: str) -> tuple[np.ndarray, np.ndarray]:
    """Spacings (n, 3) in mm and shapes (n, 3) in voxels of one made-up dataset."""
    num = int(rng.integers(1, 60))
    in_plane, slices = float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.5, 3))
    spacing = np.tile([slices, in_plane, in_plane], (num, 1)) * rng.uniform(0.8, 1.25, (num, 3))
    shape = rng.integers(60, 600, 3) * rng.uniform(0.8, 1.2, (num, 3))
    if family == "slab":
        spacing[:, 0] = rng.uniform(3, 12) * rng.uniform(0.6, 1.4, num)
        shape[:, 0] = rng.integers(5, 40, num)
    elif family == "2d":
        spacing, shape[:, 0] = np.tile([999.0, in_plane, in_plane], (num, 1)), 1
    elif family == "tiny":
        shape = rng.integers(3, 60, (num, 3)).astype(float)
    elif family == "huge":
        shape = rng.integers(400, 1200, 3) * rng.uniform(0.9, 1.1, (num, 3))
    elif family == "bimodal":
        spacing[: num // 2] *= [rng.uniform(2, 8), 1, 1]
    elif family == "isotropic":
        spacing[:] = in_plane
        shape[:] = rng.integers(16, 300)
    elif family == "permuted":
        order = rng.permutation(3)
        spacing[:, 0] *= 5
        spacing, shape = spacing[:, order], shape[:, order]
    return spacing, np.maximum(np.round(shape), 1)


def _fingerprint(rng: np.random.Generator, family: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spacing, shape = _draw(rng, family)
    num_channels, num_labels = int(rng.integers(1, 5)), int(rng.choice([1, 2, 3, 8, 40]))
    names = [str(rng.choice(CHANNELS)) for _ in range(num_channels)]
    labels: dict[str, Any] = {
        "background": 0,
        **{f"label {value}": value for value in range(1, num_labels + 1)},
    }
    if rng.random() < 0.2:
        labels["ignore"] = num_labels + 1
    fingerprint = {
        "foreground_intensity_properties_per_channel": {
            str(index): _statistics(rng) for index in range(num_channels)
        },
        "median_relative_size_after_cropping": float(rng.choice([1.0, 0.9, 0.75, 0.7499, 0.4])),
        "shapes_after_crop": shape.astype(int).tolist(),
        "spacings": spacing.tolist(),
    }
    dataset_json = {
        "channel_names": {str(index): name for index, name in enumerate(names)},
        "labels": labels,
        "numTraining": len(spacing) if rng.random() < 0.8 else int(rng.integers(1, 500)),
        "file_ending": ".nii.gz",
    }
    return fingerprint, dataset_json


def _statistics(rng: np.random.Generator) -> dict[str, float]:
    low, lower, median, upper, high = (float(value) for value in np.sort(rng.normal(0, 300, 5)))
    return {
        "max": high,
        "mean": float(rng.uniform(lower, upper)),
        "median": median,
        "min": low,
        "percentile_00_5": lower,
        "percentile_99_5": upper,
        "std": float(rng.uniform(1, 300)),
    }


def _requests() -> list[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    families = ("plain", "slab", "2d", "tiny", "huge", "bimodal", "isotropic", "permuted")
    requests = []
    for number in range(NUM_FINGERPRINTS):
        fingerprint, dataset_json = _fingerprint(rng, families[number % len(families)])
        for planner in ("ExperimentPlanner", RESIDUAL[number // len(families) % len(RESIDUAL)]):
            arguments: dict[str, Any] = {}
            if rng.random() < 0.3:
                arguments["gpu_memory_target_in_gb"] = float(rng.choice([4, 6, 11, 16, 24, 48]))
            if rng.random() < 0.1:
                arguments["overwrite_target_spacing"] = [
                    round(float(edge), 3) for edge in rng.uniform(0.4, 4, 3)
                ]
            if rng.random() < 0.1:
                arguments["suppress_transpose"] = True
            requests.append(
                {
                    "planner": planner,
                    "fingerprint": fingerprint,
                    "dataset_json": dataset_json,
                    "arguments": arguments,
                }
            )
    return requests


def _ours(request: Mapping[str, Any], plan_request: Callable[..., Plan]) -> Plan:
    arguments = request["arguments"]
    return plan_request(
        request["planner"],
        request["fingerprint"],
        request["dataset_json"],
        gpu_memory_gb=arguments.get("gpu_memory_target_in_gb"),
        target_spacing=arguments.get("overwrite_target_spacing"),
        suppress_transpose=arguments.get("suppress_transpose", False),
    )


def test_fresh_fingerprints_are_planned_and_exported_alike(
    peer_python: Path,
    peer: ModuleType,
    plan_request: Callable[..., Plan],
    plan_differences: Callable[..., list[str]],
    exported: Callable[..., dict[str, Any]],
) -> None:
    requests = _requests()
    answers = peer.ask(peer_python, {"task": "plan", "requests": requests, "meta": True})
    assert len(answers) == len(requests) == 2 * NUM_FINGERPRINTS
    wrong = []
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        where = f"seed {SEED}, request {number}, {request['planner']}"
        assert "error" not in answer, f"{where}: {answer['error']}"
        plan = _ours(request, plan_request)
        wrong += [f"{where}: {text}" for text in plan_differences(plan, answer["plans"])]
        document = exported(plan, answer["plans"]["dataset_name"])
        if not wrong and document != answer["plans"]:
            wrong.append(f"{where}: the exported document differs")
    assert not wrong, "\n".join(wrong)


def test_exported_plans_load_and_build(
    peer_python: Path,
    peer: ModuleType,
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
) -> None:
    chosen = [request for request in _requests() if not request["arguments"]][:24]
    plans = [_ours(request, plan_request) for request in chosen]
    job = {
        "task": "load",
        "plans": [
            {"plans": exported(plan, "Dataset001_Ours"), "dataset_json": request["dataset_json"]}
            for plan, request in zip(plans, chosen, strict=True)
        ],
    }
    for plan, request, loaded in zip(plans, chosen, peer.ask(peer_python, job), strict=True):
        assert loaded["planner"] == request["planner"]
        assert loaded["reader"] == "SimpleITKIO"
        assert sorted(loaded["configurations"]) == sorted(plan.configurations)
        for name, found in loaded["configurations"].items():
            ours = plan.configurations[name]
            architecture = ours["architecture"]
            assert found["input_channels"] == architecture["num_input_channels"], name
            assert found["output_shape"] == [1, architecture["num_output_channels"], *ours["patch_size"]], (
                name
            )
            assert found["parameters"] > 0
            assert found["batch_size"] == ours["batch_size"]
            assert found["batch_dice"] == ours["loss"]["batch_dice"]
            assert found["preprocessor"] == "DefaultPreprocessor"
            assert [kwargs["order"] for kwargs in found["resampling"]] == [3, 1, 1]
            assert found["previous_stage"] == ours.get("previous_stage")
            following = ours.get("next_stage")
            assert found["next_stages"] == (None if following is None else [following])
