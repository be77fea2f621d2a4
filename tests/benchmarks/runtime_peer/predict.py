"""Predictions and timings of nnU-Net v2. Runs in its own environment: ``python predict.py JOB ANSWER``, both JSON.

A job has ``mode``:

- ``cases``: predict images with given weights. Sums over windows are made twice: by nnU-Net (float16), and exactly
  (its windows, its mirroring, its network, summed in float64), so that rounding can be told from mistakes.
- ``time``: answers each line on standard input, ``window`` (the sliding window) or ``case`` (from the array to the
  segmentation), with the seconds that it took, so that two programs can run in turns.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file


def main(job, answer):
    torch.set_num_threads(job["num_threads"])
    result = {"cases": predict_cases, "time": measure}[job["mode"]](job)
    Path(answer).write_text(json.dumps(result))


def new_predictor(*, mirrors):
    return nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=mirrors,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )


def predict_cases(job):
    plans = json.loads(Path(job["plans"]).read_text())
    dataset = json.loads(Path(job["dataset"]).read_text())
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            keywords = configuration["architecture"]["arch_kwargs"]
            keywords["features_per_stage"] = [
                min(job["features"] * 2**stage, job["max_features"]) for stage in range(keywords["n_stages"])
            ]
    manager = PlansManager(plans)
    configuration = manager.get_configuration(job["configuration"])
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        job["num_channels"],
        heads,
        deep_supervision=False,
    )
    network.eval()
    parameters = [load_file(path) for path in job["weights"]]
    predictor = new_predictor(mirrors=bool(job["mirror_axes"]))
    axes = tuple(job["mirror_axes"]) or None
    predictor.manual_initialization(network, manager, configuration, parameters, dataset, "none", axes)
    arrays = {}
    for name, paths in job["images"].items():
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case(paths, None, manager, configuration, dataset)
        data = torch.from_numpy(data)
        logits = {"own": predictor.predict_logits_from_preprocessed_data(data)}
        logits["exact"] = torch.stack([exact(predictor, state, data) for state in parameters]).mean(0)
        for kind, values in logits.items():
            segmentation, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
                values.float(),
                manager,
                configuration,
                predictor.label_manager,
                properties,
                return_probabilities=True,
            )
            arrays[f"{name}/{kind}"] = segmentation
            arrays[f"{name}/{kind}/probabilities"] = probabilities
    np.savez(job["output"], **arrays)
    return {"tiles": "done"}


@torch.inference_mode()
def exact(predictor, state, data):
    predictor.network.load_state_dict(state)
    patch = predictor.configuration_manager.patch_size
    data, inside = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
    weight = compute_gaussian(tuple(patch), 1 / 8, 10, torch.float32, torch.device("cpu")).double()
    total = torch.zeros(
        (predictor.label_manager.num_segmentation_heads, *data.shape[1:]), dtype=torch.float64
    )
    weights = torch.zeros(data.shape[1:], dtype=torch.float64)
    for slicer in predictor._internal_get_sliding_window_slicers(data.shape[1:]):
        values = predictor._internal_maybe_mirror_and_predict(data[slicer][None])[0]
        total[slicer] += values.double() * weight
        weights[slicer[1:]] += weight
    return (total / weights)[(slice(None), *inside[1:])].float()


def measure(job):
    answers, sys.stdout = sys.stdout, sys.stderr  # nnU-Net prints
    predictor = new_predictor(mirrors=True)
    predictor.initialize_from_trained_model_folder(job["model"], (0,), "checkpoint_final.pth")
    with np.load(job["image"]) as file:
        image, spacing = file["image"], file["spacing"].tolist()
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    data, _, _ = preprocessor.run_case_npy(
        image,
        None,
        {"spacing": spacing},
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.dataset_json,
    )
    data = torch.from_numpy(data)

    actions = {
        "window": lambda: predictor.predict_logits_from_preprocessed_data(data),
        "case": lambda: predictor.predict_single_npy_array(image, {"spacing": spacing}),
    }
    for line in sys.stdin:
        action = actions[line.strip()]
        start = time.perf_counter()
        action()
        print(time.perf_counter() - start, file=answers, flush=True)
    return {}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
