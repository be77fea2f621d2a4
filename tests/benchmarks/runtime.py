"""The runtime next to nnU-Net v2: preprocessing, resampling, training steps, augmentation, prediction, export.

Each part is measured in turns with nnU-Net v2 on the same inputs and threads. Parts that need data beside the checkout
(../shared) say so where it is absent.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import augmentation
import prediction
import preprocessing
import resampling
import runtime_export
import runtime_training
import torch
from measurement import Figure, Measurement, skipped

Row = Measurement | Figure
Part = Callable[[], list[Row]]

RESAMPLED = {
    "image_ct": "resampling of a 128 × 512 × 512 volume by 1.25 in z",
    "labels_ct": "resampling of its segmentation",
    "image_128": "resampling of a 128³ volume to 102 × 160 × 160",
    "labels_128": "resampling of its segmentation, 128³",
}
AUGMENTED = {"real": "as the plan draws them", "forced": "every transform on"}
# Samples of 128³ in a round of augmentation: with the plan's probabilities, and with every transform on.
SAMPLES, SAMPLES_FORCED = 100, 6
MIN_AUGMENTATION, MIN_PREDICTION, MIN_EQUAL = 2, 3, 0.999
INTRODUCTION = """Both are measured in turns on the same inputs with the same number of threads; medians. nnU-Net v2
computes in float32 on a CPU, nnrules in what its profile chooses, with float32 beside it where that differs. Whole
processes include the start of Python."""


def parts(python: Path | None, repeats: int, *, quick: bool) -> dict[str, Part]:
    """The parts by name.

    Args:
        python: the interpreter that has nnunetv2; ``None`` measures nnrules alone, as far as a part can.
        repeats: runs of each measurement.
        quick: with small arrays and few steps, to see whether everything runs.
    """
    samples, forced = (2, 1) if quick else (SAMPLES, SAMPLES_FORCED)
    loading = {"num_steps": 1, "warm_up": 1} if quick else {}
    return {
        "preprocessing": lambda: [*preprocessing.all_sets(python, repeats)],
        "resampling": lambda: _resampling(python, repeats, quick=quick),
        "training step": lambda: [*runtime_training.steps(python, repeats)],
        "loader": lambda: [*runtime_training.loading(repeats, **loading)],
        "augmentation": lambda: _augmentation(python, repeats, samples, forced),
        "prediction": lambda: _prediction(python, repeats),
        "export": lambda: [*runtime_export.exports(python, repeats, quick=quick)],
    }


def _resampling(python: Path | None, repeats: int, *, quick: bool) -> list[Row]:
    if python is None:
        return [skipped("resampling", "nnU-Net v2 is not installed")]
    names = tuple(name for name in RESAMPLED if not quick or name.endswith("128"))
    found = resampling.measure(python, repeats, names)
    return [
        Measurement(
            RESAMPLED[name],
            row["ours_s"],
            peer_s=row["peer_s"],
            target_ratio=row["min_ratio"],
            note=f"largest difference {row['largest_difference']:.1g}"
            if "largest_difference" in row
            else f"{1 - row['differing_share']:.4%} of the labels equal",
        )
        for name, row in found.items()
    ]


def _augmentation(python: Path | None, repeats: int, num_real: int, num_forced: int) -> list[Row]:
    rounds: list[dict[str, Any]] = [
        augmentation.measure(python, num_real=num_real, num_forced=num_forced) for _ in range(repeats)
    ]
    return [
        Measurement(
            f"augmentation of a 128³ patch, {how}, one core",
            statistics.median(found[name]["ours_mean_s"] for found in rounds),
            peer_s=None
            if python is None
            else statistics.median(found[name]["peer_mean_s"] for found in rounds),
            target_ratio=MIN_AUGMENTATION if name == "real" else None,
            note=f"medians of {repeats} rounds, in turns, of the mean of {count} samples",
        )
        for (name, how), count in zip(AUGMENTED.items(), (num_real, num_forced), strict=True)
    ]


def _prediction(python: Path | None, repeats: int) -> list[Row]:
    title = "prediction of a hippocampus case with mirroring"
    if python is None:
        return [skipped(title, "nnU-Net v2 is not installed")]
    if not prediction.MODEL.is_dir() or not prediction.IMAGE.is_file():
        return [skipped(title, "../shared/golden/runtime/c_model or the image is absent")]
    found = prediction.measure(python, repeats, num_threads=torch.get_num_threads())
    parts_of = {"case": f"{title}, from array to segmentation", "window": f"{title}, the network's part"}
    rows: list[Row] = []
    for kind, name in parts_of.items():
        row = found[kind]
        rows.append(Measurement(name, row["ours_s"], peer_s=row["peer_s"], target_ratio=MIN_PREDICTION))
        rows.append(Measurement(f"{name}, float32", row["ours_float32_s"], peer_s=row["peer_s"]))
    names = {"ours": "", "ours_float32": ", float32"}
    return rows + [
        Figure(
            f"labels of it equal to nnU-Net v2's{names[name]}",
            f"{share:.3%}",
            limit=f"≥ {MIN_EQUAL:.1%}",
            met=share >= MIN_EQUAL,
            note="its recorded segmentation",
        )
        for name, share in found["labels"].items()
    ]
