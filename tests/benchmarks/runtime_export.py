"""Export of 30 classes to 400 × 512 × 512 voxels: seconds next to nnU-Net v2's, and memory next to its stated bound."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurement import Figure, Measurement
from resampling import NUM_CLASSES, logits
from runtime_worker import Worker

FOLDER = Path(__file__).resolve().parent
SHAPE = (400, 512, 512)
QUICK_SHAPE = (20, 512, 512)
# Spacing of the network's grid; that of the image is 0.6.
SPACING, NEW_SPACING = (1.0, 1.0, 1.0), (0.6, 0.6, 0.6)
MIN_RATIO = 10
# What nnU-Net v2 takes for a voxel of the result, at this ratio of grids: the logits as float16 and as float64, the
# interpolated ones as float16, and one class as float64 a few times. Measured with 20 × 512 × 512: 0.77 GB.
PEER_BYTES_PER_VOXEL = 150
SHARE_OF_MEMORY = 0.9

Triple = tuple[int, int, int]


def exports(python: Path | None, repeats: int, *, quick: bool = False) -> list[Measurement | Figure]:
    """Both in turns on the same logits; nnU-Net v2 with fewer slices where the memory does not hold them all."""
    shape = QUICK_SHAPE if quick else SHAPE
    with tempfile.TemporaryDirectory(prefix="nnrules-export-") as made:
        folder = Path(made)
        whole = _job(folder, "whole", shape)
        part = _part(shape)
        fewer = whole if part == shape or python is None else _job(folder, "part", part)
        first, ours, theirs, equal = _in_turns(python, folder, whole, fewer, repeats)
    title = f"export of {NUM_CLASSES} classes, {_text(shape)} from {_text(_network_shape(shape))}"
    scale = shape[0] / part[0]
    peer_s = statistics.median(answer["seconds"] for answer in theirs) * scale if theirs else None
    notes = []
    if theirs:
        gigabytes = max(answer["bytes"] for answer in theirs) / 1e9
        notes = [f"nnU-Net v2 took {gigabytes:.1f} GB beside the logits", f"labels {equal:.4%} equal"]
        if scale > 1:
            notes.insert(0, f"nnU-Net v2: {_text(part)}, scaled by {scale:.3g}, as the memory holds no more")
    most, bound = first["bytes"], first["bound"]
    return [
        Measurement(
            title,
            statistics.median(answer["seconds"] for answer in ours),
            peer_s=peer_s,
            target_ratio=MIN_RATIO,
            note="; ".join(notes) or "nnU-Net v2 is not measured",
        ),
        Figure(
            f"{title}: memory beside logits and result",
            f"{most / 1e6:.0f} MB",
            limit=f"≤ {bound / 1e6:.0f} MB, the bound it states",
            met=most <= bound,
            note="largest resident memory of the process above that before, first export",
        ),
    ]


def _in_turns(
    python: Path | None, folder: Path, whole: dict[str, Any], fewer: dict[str, Any], repeats: int
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], float]:
    """Our first answer, then those of both, and the share of equal labels."""
    mine, other = folder / "ours.npy", folder / "peer.npy"
    script = FOLDER / "runtime_export_worker.py"
    theirs: list[dict[str, Any]] = []
    with Worker(sys.executable, script, whole, folder) as worker:
        # The first one shows the memory: later ones find what it left.
        memory = worker.ask(f"export {mine}")
        ours = [] if python is not None else [worker.ask("export") for _ in range(repeats)]
        if python is not None:
            with Worker(python, FOLDER / "runtime_peer" / "export.py", fewer, folder) as peer:
                for turn in range(repeats):  # nnU-Net v2 takes too long to warm it up
                    ours.append(worker.ask("export"))
                    theirs.append(peer.ask(f"export {other}" if turn == 0 else "export"))
    if theirs and fewer is not whole:
        with Worker(sys.executable, script, fewer, folder) as worker:
            worker.ask(f"export {mine}")
    equal = float((np.load(mine) == np.load(other)).mean()) if theirs else float("nan")
    return memory, ours, theirs, equal


def _part(shape: Triple) -> Triple:
    """As many slices as the memory holds when nnU-Net v2 exports them."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    own = 2 * NUM_CLASSES * int(np.prod(_network_shape(shape)))  # our logits
    slices = int((available * SHARE_OF_MEMORY - own) / (PEER_BYTES_PER_VOXEL * shape[1] * shape[2]))
    return max(10, min(shape[0], slices)), shape[1], shape[2]


def _job(folder: Path, name: str, shape: Triple) -> dict[str, Any]:
    path = folder / f"{name}.npy"
    np.save(path, logits(_network_shape(shape)))
    return {
        "logits": str(path),
        "shape": shape,
        "spacing": SPACING,
        "new_spacing": NEW_SPACING,
        "num_threads": torch.get_num_threads(),
    }


def _network_shape(shape: Triple) -> Triple:
    z, y, x = (round(edge * new / old) for edge, old, new in zip(shape, SPACING, NEW_SPACING, strict=True))
    return z, y, x


def _text(shape: Triple) -> str:
    return " × ".join(str(edge) for edge in shape)
