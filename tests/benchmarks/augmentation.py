"""One training sample of 128³ from 205³, augmented by one thread: nnunet@2.8.0's plan next to nnU-Net v2's pipeline.

Both get the same image and segmentation and draw from their own generators. Targets of deep supervision are left out
on both sides. nnU-Net v2 is handed the whole initial patch, as its loader reads it. Ours crops it to the box that was
drawn, and the time of that counts.

``python augmentation.py`` prints the measurement; ``python augmentation.py worker N_REAL N_FORCED`` is what the other
interpreter runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

EDGE, INITIAL = 128, 205
ROTATION_DEGREES = 30
# Samples; forced ones differ little.
NUM_REAL, NUM_FORCED = 200, 12


def patch() -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image (1, 205³) and three nested labels: float32, int16."""
    rng = np.random.default_rng(12345)
    axes = [np.linspace(-1, 1, INITIAL, dtype=np.float32)] * 3
    z, y, x = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(z**2 + (1.2 * y) ** 2 + (x - 0.1) ** 2)
    bumps = 0.08 * np.sin(9 * z) * np.cos(7 * y) * np.sin(8 * x + 1)
    labels = np.digitize(radius + bumps, [0.25, 0.45, 0.7])
    image = (3 - labels) + 0.3 * rng.standard_normal(labels.shape, dtype=np.float32)
    return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy((3 - labels).astype(np.int16))


def timed(prepare: Callable[[int], Callable[[], Any]], count: int) -> list[float]:
    """Seconds of each of so many samples without their preparation, after one that warms up."""
    prepare(0)()
    seconds = []
    for number in range(1, count + 1):
        run = prepare(number)
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def ours(count: int, *, forced: bool) -> list[float]:
    """Seconds a sample of the runtime's pipeline."""
    from nnrules.engine.planning import make_plan
    from nnrules.fingerprint import Fingerprint

    from nnrules_runtime.augment import Augmentation
    from nnrules_runtime.labels import LabelSet
    from nnrules_runtime.values import Section

    fingerprint = Fingerprint.from_document(
        {
            "schema_version": "1.0",
            "created_by": "benchmark",
            "dataset": {
                "name": "Made",
                "channel_names": ["MRI"],
                "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
                "label_order": ["background", "a", "b", "c"],
                "regions_class_order": None,
                "ignore_label": None,
                "num_training": 20,
                "file_ending": ".nii.gz",
                "orientation_policy": "as_stored",
            },
            "extractors": {"geometry": 1},
            "cases": {
                "id": [f"case_{number:03d}" for number in range(20)],
                "shape": [[140, 140, 140]] * 20,
                "spacing": [[1.0, 1.0, 1.0]] * 20,
            },
            "crop": {"median_size_ratio": 1.0},
            "intensity": {
                "method": "exact",
                "channels": [
                    {
                        "mean": 1.0,
                        "std": 1.0,
                        "min": -3.0,
                        "median": 1.0,
                        "max": 5.0,
                        "percentile_00_5": -2.0,
                        "percentile_99_5": 4.0,
                    }
                ],
            },
        }
    )
    document = make_plan(fingerprint, "nnunet@2.8.0").document
    configuration = document["configurations"]["3d_fullres"]
    configuration["patch_size"] = [EDGE] * 3
    configuration["sampling"]["initial_patch_size"] = [INITIAL] * 3
    if forced:
        for parameters in configuration["augmentation"]["transforms"].values():
            for name in parameters:
                if name.endswith("probability") and name not in ("elastic_probability", "axis_probability"):
                    parameters[name] = 1
    problems: list[Any] = []
    root = Section(document, "", problems)
    augmentation = Augmentation.from_plan(
        root, Section(configuration, "", problems), LabelSet.from_plan(root)
    )
    image, labels = patch()

    return timed(
        lambda number: lambda: augmentation(image[None], labels[None], [np.random.default_rng(number)]), count
    )


def peers(count: int, *, forced: bool) -> list[float]:
    """Seconds a sample of nnU-Net v2's pipeline; runs where it is installed."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    angle = ROTATION_DEGREES / 360 * 2 * np.pi
    pipeline = nnUNetTrainer.get_training_transforms(
        (EDGE,) * 3, (-angle, angle), None, (0, 1, 2), False, use_mask_for_norm=[False]
    )
    if forced:
        for transform in pipeline.transforms:
            if hasattr(transform, "apply_probability"):
                transform.apply_probability = 1
                inner = transform.transform
                if type(inner).__name__ in ("GaussianBlurTransform", "SimulateLowResolutionTransform"):
                    inner.p_per_channel = 1
            if hasattr(transform, "p_rotation"):
                transform.p_rotation = transform.p_scaling = 1
    image, labels = patch()
    # Convolution or FFT is chosen by timing at first use; leave that out.
    for transform in pipeline.transforms:
        inner = getattr(transform, "transform", None)
        if type(inner).__name__ == "GaussianBlurTransform":
            for sigma in (0.5, 0.7, 0.95):
                for axis in range(3):
                    inner._benchmark_wrapper(torch.zeros(1, EDGE, EDGE, EDGE), sigma, axis)

    def prepare(number: int) -> Callable[[], Any]:
        np.random.seed(number)
        torch.manual_seed(number)
        sample = {"image": image.clone(), "segmentation": labels[None].clone()}
        return lambda: pipeline(**sample)

    return timed(prepare, count)


def measure(
    peer_python: str | Path | None, *, num_real: int = NUM_REAL, num_forced: int = NUM_FORCED
) -> dict[str, Any]:
    """Seconds a sample, one thread.

    Args:
        peer_python: an interpreter that has nnunetv2; ``None`` measures ours only.
        num_real: samples with the plan's probabilities.
        num_forced: samples with every transform on.

    Returns:
        For ``real`` and ``forced``: ``ours_mean_s``, ``ours_median_s``, the same of ``peer``, ``ratio`` of the means.
    """
    result: dict[str, Any] = {"voxels": EDGE**3, "threads": 1}
    theirs: dict[str, list[float]] = {}
    if peer_python is not None:
        # One thread for MKL and OpenMP, too.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [str(peer_python), __file__, "worker", str(num_real), str(num_forced)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, count in (("real", num_real), ("forced", num_forced)):
            mine = ours(count, forced=name == "forced")
            row = {"ours_mean_s": float(np.mean(mine)), "ours_median_s": float(np.median(mine))}
            if theirs:
                row["peer_mean_s"] = float(np.mean(theirs[name]))
                row["peer_median_s"] = float(np.median(theirs[name]))
                row["ratio"] = row["peer_mean_s"] / row["ours_mean_s"]
            result[name] = row
    finally:
        torch.set_num_threads(threads)
    return result


def _worker(num_real: int, num_forced: int) -> None:
    torch.set_num_threads(1)
    seconds = {"real": peers(num_real, forced=False), "forced": peers(num_forced, forced=True)}
    sys.stdout.write("\n" + json.dumps(seconds) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _worker(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.stdout.write(json.dumps(measure(sys.argv[1] if len(sys.argv) > 1 else None), indent=1) + "\n")
