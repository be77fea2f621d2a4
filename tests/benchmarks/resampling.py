"""Resampling and export next to nnU-Net v2, in turns, with the same arrays and threads.

``python resampling.py PEER_PYTHON`` prints the measurements.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnrules_runtime.predict.export import Exporter
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.resampling import LabelRule, Resampler, SeparateAxis, zoom

WORKER = Path(__file__).resolve().parent / "runtime_peer" / "resample.py"
NUM_THREADS = 2
REPEATS = 5
NUM_CLASSES = 30
MIN_RATIO = {"image_ct": 10, "image_128": 5, "labels_ct": 5, "labels_128": 5, "export_30": 10}

Array = NDArray[Any]
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One array to another grid: an ``image`` (cubic), ``labels`` (linear) or an ``export`` of logits (linear)."""

    kind: str
    make: Callable[[], Array]
    shape: Triple
    spacing: tuple[float, float, float]
    new_spacing: tuple[float, float, float]


def volume(shape: Triple) -> Array:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def organs(shape: Triple) -> Array:
    """Smooth labels 0 to 5, int8, with ragged edges."""
    rng = np.random.default_rng(2)
    coarse = rng.normal(size=[max(4, edge // 20) for edge in shape]).astype(np.float32)
    field = zoom(coarse, shape, 1) + 0.03 * rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(np.digitize(field, [0.3, 0.6, 0.9, 1.2, 1.5]), np.int8)


def logits(shape: Triple) -> Array:
    """A background and balls of confident classes with noise, float16."""
    rng = np.random.default_rng(3)
    axes = [np.arange(edge, dtype=np.float32) for edge in shape]
    values = np.full((NUM_CLASSES, *shape), 3, np.float16)
    for output in values[1:]:
        center, radius = rng.uniform(0.2, 0.8, 3) * shape, rng.uniform(0.04, 0.15) * max(shape)
        distance = np.sqrt(
            (axes[0][:, None, None] - center[0]) ** 2
            + (axes[1][:, None] - center[1]) ** 2
            + (axes[2] - center[2]) ** 2
        )
        noise = rng.standard_normal(shape, dtype=np.float32)
        output[...] = np.clip(8 * (1.5 - distance / radius), -14, 14) + 0.5 * noise
    return values


JOBS = {
    "image_ct": Job(
        kind="image",
        make=lambda: volume((128, 512, 512)),
        shape=(160, 512, 512),
        spacing=(1.25, 1.0, 1.0),
        new_spacing=(1.0, 1.0, 1.0),
    ),
    "image_128": Job(
        kind="image",
        make=lambda: volume((128, 128, 128)),
        shape=(102, 160, 160),
        spacing=(1.0, 1.0, 1.0),
        new_spacing=(1.25, 0.8, 0.8),
    ),
    "labels_ct": Job(
        kind="labels",
        make=lambda: organs((128, 512, 512)),
        shape=(160, 512, 512),
        spacing=(1.25, 1.0, 1.0),
        new_spacing=(1.0, 1.0, 1.0),
    ),
    "labels_128": Job(
        kind="labels",
        make=lambda: organs((128, 128, 128)),
        shape=(102, 160, 160),
        spacing=(1.0, 1.0, 1.0),
        new_spacing=(1.25, 0.8, 0.8),
    ),
    # An eighth of 400 x 512 x 512, which takes nnU-Net v2 more than 13 GB.
    "export_30": Job(
        kind="export",
        make=lambda: logits((120, 154, 154)),
        shape=(200, 256, 256),
        spacing=(1.0, 1.0, 1.0),
        new_spacing=(0.6, 0.6, 0.6),
    ),
}


def ours(job: Job, array: Array) -> Array:
    """What the runtime does with nnunet@2.8.0's settings."""
    before, after = job.spacing, job.new_spacing
    if job.kind == "export":
        return exporter(len(array)).segmentation(array, _geometry(job, array.shape[1:]))
    separate = SeparateAxis(spacings=("original", "network"), order=0, ratio_above=3, shared="together")
    if job.kind == "image":
        resampler = Resampler(order=3, separate=separate)
        return resampler.resample(array[None], job.shape, original_spacing=before, network_spacing=after)[0]
    resampler = Resampler(order=1, separate=separate, rule=LabelRule("argmax_nearest"))
    return resampler.resample_labels(array, job.shape, original_spacing=before, network_spacing=after)


def exporter(num_outputs: int) -> Exporter:
    return Exporter(
        resampler=Resampler(
            order=1,
            separate=SeparateAxis(
                spacings=("network", "original"), order=0, ratio_above=3, shared="together"
            ),
        ),
        rule=OutputRule(
            activation="softmax", regions=False, values=tuple(range(num_outputs)), threshold=0.5, background=0
        ),
        activate_before=False,
        activated=False,
        outside_label=0,
        label_dtype=np.dtype(np.uint8),
        probability_dtype=np.dtype(np.float32),
        whole_image=True,
    )


def _geometry(job: Job, network_shape: Any) -> CaseGeometry:
    return CaseGeometry(
        original_shape=job.shape,
        original_spacing=job.new_spacing,
        transpose_forward=(0, 1, 2),
        crop_start=(0, 0, 0),
        crop_stop=job.shape,
        network_shape=network_shape,
        network_spacing=job.spacing,
    )


def measure(
    peer_python: Path, repeats: int = REPEATS, names: tuple[str, ...] = tuple(JOBS)
) -> dict[str, dict[str, float]]:
    """Medians of runs in turns, and by how much the results differ.

    Args:
        peer_python: the interpreter that has nnunetv2.
        repeats: runs of each.
        names: of :data:`JOBS`.

    Returns:
        For each job ``ours_s``, ``peer_s``, ``ratio``, ``min_ratio``, and ``largest_difference`` of images or
        ``differing_share`` of the voxels of labels.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    try:
        with tempfile.TemporaryDirectory(prefix="nnrules-resampling-") as made:
            return _measure(peer_python, Path(made), repeats, names)
    finally:
        torch.set_num_threads(threads)


def _measure(
    peer_python: Path, folder: Path, repeats: int, names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    jobs = {
        name: {
            "kind": job.kind,
            "shape": job.shape,
            "spacing": job.spacing,
            "new_spacing": job.new_spacing,
            "num_threads": NUM_THREADS,
        }
        for name, job in JOBS.items()
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with (
        (folder / "warnings").open("w") as warnings,
        subprocess.Popen(
            [peer_python, WORKER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=warnings,
            text=True,
        ) as worker,
    ):
        _answer(worker, folder)
        found = {name: _in_turns(name, worker, folder, repeats) for name in names}
        worker.communicate()
    return found


def _answer(worker: subprocess.Popen[str], folder: Path) -> str:
    """The next line that the worker marks as an answer; nnU-Net v2 greets on the same stream."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("answer "):
            return line.removeprefix("answer ")
    raise RuntimeError(f"nnU-Net v2 failed: {(folder / 'warnings').read_text()[-2000:]}")


def _in_turns(name: str, worker: subprocess.Popen[str], folder: Path, repeats: int) -> dict[str, float]:
    assert worker.stdin is not None
    job, result_file = JOBS[name], folder / "result.npy"
    array = job.make()
    np.save(folder / f"{name}.npy", array)
    result = ours(job, array)
    seconds, theirs = [], []
    for _ in range(repeats):
        worker.stdin.write(f"{name} {result_file}\n")
        worker.stdin.flush()
        theirs.append(float(_answer(worker, folder)))
        start = time.perf_counter()
        result = ours(job, array)
        seconds.append(time.perf_counter() - start)
    (folder / f"{name}.npy").unlink()
    return _row(name, seconds, theirs, result, np.load(result_file))


def _row(
    name: str, seconds: list[float], theirs: list[float], result: Array, expected: Array
) -> dict[str, float]:
    row = {
        "ours_s": statistics.median(seconds),
        "peer_s": statistics.median(theirs),
        "ratio": statistics.median(theirs) / statistics.median(seconds),
        "min_ratio": float(MIN_RATIO[name]),
    }
    if JOBS[name].kind == "image":
        row["largest_difference"] = float(np.abs(result - expected).max())
    else:
        row["differing_share"] = float((result != expected).mean())
    return row


if __name__ == "__main__":
    json.dump(measure(Path(sys.argv[1])), sys.stdout, indent=1)
