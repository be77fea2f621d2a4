"""Resampling and export by nnU-Net v2. Runs in its own environment: ``python resample.py FOLDER``.

FOLDER/jobs.json names the jobs; their arrays lie beside it. Each line on standard input is ``NAME`` or ``NAME FILE``:
the job is run, ``answer SECONDS`` is written to standard output, and its result to FILE.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

EXPORT = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


def main(folder):
    jobs = json.loads((folder / "jobs.json").read_text())
    say("ready")
    for line in sys.stdin:
        name, *target = line.split()
        job = jobs[name]
        array = np.load(folder / f"{name}.npy")
        torch.set_num_threads(job["num_threads"])
        start = time.perf_counter()
        result = export(array, job) if job["kind"] == "export" else resample(array, job)
        seconds = time.perf_counter() - start
        for path in target:
            np.save(path, result)
        say(seconds)


def say(what):
    sys.stdout.write(f"answer {what}\n")
    sys.stdout.flush()


def resample(array, job):
    is_segmentation = job["kind"] == "labels"
    return resample_data_or_seg_to_shape(
        array[None],
        job["shape"],
        job["spacing"],
        job["new_spacing"],
        is_seg=is_segmentation,
        order=1 if is_segmentation else 3,
        order_z=0,
        force_separate_z=None,
    )[0]


def export(logits, job):
    plans = PlansManager(
        {
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {
                "3d_fullres": {
                    "architecture": {},  # is not looked at, but there must be one
                    "spacing": job["spacing"],
                    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                    "resampling_fn_probabilities_kwargs": EXPORT,
                }
            },
        }
    )
    labels = {"background": 0} | {f"class {number}": number for number in range(1, len(logits))}
    properties = {
        "spacing": job["new_spacing"],
        "shape_before_cropping": job["shape"],
        "bbox_used_for_cropping": [[0, edge] for edge in job["shape"]],
        "shape_after_cropping_and_before_resampling": job["shape"],
    }
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        plans,
        plans.get_configuration("3d_fullres"),
        plans.get_label_manager({"labels": labels, "channel_names": {"0": "CT"}}),
        properties,
        num_threads_torch=job["num_threads"],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
