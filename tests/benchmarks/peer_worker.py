"""Runs inside the environment of nnU-Net v2: answers one JSON file with another.

Usage: peer_worker.py JOB.json ANSWER.json, with nnU-Net's three folders in the environment. Jobs:

- ``{"task": "plan", "requests": [...], "meta": true, "repeats": 1}``: what the planners make of fingerprints.
  ``meta`` builds their networks without weights, which is faster and gives the same numbers. Answers
  ``plans`` (the file that the planner saved) or ``error``, and ``seconds``, for each request.
- ``{"task": "load", "plans": [...]}``: reads plans as training does and builds each configuration's network.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

_RAW, _PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"


def _planner(name: str) -> Any:
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    if name == "ExperimentPlanner":
        return default_experiment_planner.ExperimentPlanner
    return getattr(residual_encoder_unet_planners, name)


def _without_weights() -> None:
    """The planners build a network only to count its feature maps; that needs no memory."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    original = ExperimentPlanner.static_estimate_VRAM_usage

    def estimate(*args: Any, **kwargs: Any) -> Any:
        with torch.device("meta"):
            return original(*args, **kwargs)

    ExperimentPlanner.static_estimate_VRAM_usage = staticmethod(estimate)


def _plan(request: dict[str, Any], number: int) -> dict[str, Any]:
    name = f"Dataset{number % 999 + 1:03d}_Peer"
    raw = Path(os.environ[_RAW]) / name
    preprocessed = Path(os.environ[_PREPROCESSED]) / name
    for folder in (raw, preprocessed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # A case that is never opened: the reader is named, so that no image is needed.
    dataset = {**request["dataset_json"], "overwrite_image_reader_writer": "SimpleITKIO"}
    dataset["dataset"] = {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(request["fingerprint"]))
    answer: dict[str, Any] = {}
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            planner = _planner(request["planner"])(name, **request.get("arguments", {}))
            planner.plan_experiment()
        answer["plans"] = json.loads((preprocessed / f"{planner.plans_identifier}.json").read_text())
    except Exception as exc:
        answer["error"] = repr(exc)
    answer["seconds"] = time.perf_counter() - start
    return answer


def _plan_all(job: dict[str, Any]) -> list[dict[str, Any]]:
    if job.get("meta"):
        _without_weights()
    answers = []
    for number, request in enumerate(job["requests"]):
        runs = [_plan(request, number) for _ in range(job.get("repeats", 1))]
        answers.append({**runs[-1], "seconds": sorted(run["seconds"] for run in runs)[len(runs) // 2]})
    return answers


def _load(plans: dict[str, Any], dataset_json: dict[str, Any]) -> dict[str, Any]:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset_json)
    found: dict[str, Any] = {
        "reader": manager.image_reader_writer_class.__name__,
        "planner": manager.experiment_planner_class.__name__,
        "configurations": {},
    }
    for name in manager.available_configurations:
        configuration = manager.get_configuration(name)
        inputs = determine_num_input_channels(manager, configuration, dataset_json)
        with torch.device("meta"):
            network = get_network_from_plans(
                configuration.network_arch_class_name,
                configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import,
                inputs,
                labels.num_segmentation_heads,
                allow_init=False,
                deep_supervision=False,
            )
            shape = list(network(torch.empty(1, inputs, *configuration.patch_size)).shape)
        found["configurations"][name] = {
            "input_channels": inputs,
            "output_shape": shape,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "batch_size": configuration.batch_size,
            "batch_dice": configuration.batch_dice,
            "preprocessor": configuration.preprocessor_class.__name__,
            "resampling": [
                configuration.resampling_fn_data.keywords,
                configuration.resampling_fn_seg.keywords,
                configuration.resampling_fn_probabilities.keywords,
            ],
            "previous_stage": configuration.previous_stage_name,
            "next_stages": configuration.next_stage_names,
        }
    return found


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    warnings.simplefilter("ignore")
    if job["task"] == "plan":
        answer: Any = _plan_all(job)
    else:
        answer = [_load(entry["plans"], entry["dataset_json"]) for entry in job["plans"]]
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
