"""How long preprocessing takes as a whole process, next to nnU-Net v2's with the plans that it made."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peer
from measurement import Measurement, skipped

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
GOLDEN = SHARED / "golden" / "runtime" / "a_preprocessing"
SETS: tuple[tuple[str, list[str]], ...] = (("head_neck_ct", ["--gpu-memory-gb", "1"]), ("acdc", []))
CONFIGURATION = "3d_fullres"
PROCESSES = 2
MIN_RATIO = 5


def all_sets(python: Path | None, repeats: int) -> list[Measurement]:
    """One row a set: full resolution, two processes each, files in the page cache."""
    return [_one(name, options, python, repeats) for name, options in SETS]


def _one(name: str, options: list[str], python: Path | None, repeats: int) -> Measurement:
    title = f"preprocessing {name} ({CONFIGURATION}), whole process"
    data = SHARED / "data" / name
    if not (data / "dataset.json").is_file() or not (GOLDEN / name / "plans.json").is_file():
        return skipped(title, f"../shared/data/{name} or its recorded plans are absent")
    with tempfile.TemporaryDirectory(prefix="nnrules-preprocessing-") as made:
        folder = Path(made)
        plan = folder / "plan.json"
        _run("plan", str(data), *options, "-o", str(plan))
        seconds = []
        theirs = []
        for number in range(repeats):
            start = time.perf_counter()
            work = str(folder / f"work{number}")
            chosen = ["-c", CONFIGURATION, "--workers", str(PROCESSES)]
            _run("run", "preprocess", str(plan), str(data), *chosen, "--work", work, "--json")
            seconds.append(time.perf_counter() - start)
            if python is not None:
                peers = folder / f"peer{number}"
                peers.mkdir()
                theirs.append(_peer(python, peers, data, GOLDEN / name))
    note = f"{PROCESSES} processes each" if theirs else "nnU-Net v2 is not installed"
    peer_s = statistics.median(theirs) if theirs else None
    return Measurement(title, statistics.median(seconds), peer_s=peer_s, target_ratio=MIN_RATIO, note=note)


def _run(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "nnrules", *arguments], check=True, capture_output=True, cwd=CHECKOUT
    )


def _peer(python: Path, folder: Path, data: Path, recorded: Path) -> float:
    plans = json.loads((recorded / "plans.json").read_text())
    name = plans["dataset_name"]
    for parent in ("nnUNet_raw", "nnUNet_preprocessed"):
        (folder / parent).mkdir(exist_ok=True)
    (folder / "nnUNet_raw" / name).symlink_to(data, target_is_directory=True)
    preprocessed = folder / "nnUNet_preprocessed" / name
    preprocessed.mkdir()
    shutil.copy(recorded / "dataset.json", preprocessed)
    shutil.copy(recorded / "dataset_fingerprint.json", preprocessed)
    shutil.copy(recorded / "plans.json", preprocessed / f"{plans['plans_name']}.json")
    number = name[len("Dataset") :].split("_")[0]
    command = [
        python.parent / "nnUNetv2_preprocess",
        "-d",
        number,
        "-c",
        CONFIGURATION,
        "-np",
        str(PROCESSES),
    ]
    return peer.run_timed(command, folder)
