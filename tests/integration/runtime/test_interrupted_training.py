"""A training that is killed again and again ends with the same weights, to the bit, as one that never was.

Children train with a seed on a CPU. They are killed by SIGKILL, which no program can prepare for: at random moments,
and at chosen ones in the midst of writing a checkpoint.
"""

import copy
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

from nnrules_runtime.network.weights import read_weights
from nnrules_runtime.train.checkpoint import read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_RANDOM_KILLS = 15
LABELS = {"background": 0, "a": 1, "b": 2}

# Trains; may kill itself at one of the places below, in the second checkpoint that it writes.
CHILD = """
import contextlib, os, signal, sys
from pathlib import Path
import torch
from nnrules.dataset import load_dataset
from nnrules.plan import Plan
from nnrules_runtime import files
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.train import checkpoint, session
from nnrules_runtime.train.run import TrainingOptions, train_fold
from nnrules_runtime.workspace import Workspace

folder, place = Path(sys.argv[1]), sys.argv[2]
writes = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

original_write, original_save = session.write_checkpoint, torch.save
original_replace, original_sync = Path.replace, files.sync_folder

def write(path, value):
    global writes
    writes += 1
    if writes == 2 and place == "before writing":
        die()
    original_write(path, value)
    if writes == 2 and place == "after writing":
        die()

def save(document, stream):
    original_save(document, stream)
    if writes == 2 and place == "half of the file is written":
        stream.flush()
        os.ftruncate(stream.fileno(), stream.tell() // 2)
        die()

def replace(self, target):
    if writes == 2 and place == "before renaming" and str(target).endswith(".pt"):
        die()
    result = original_replace(self, target)
    if writes == 2 and place == "after renaming" and str(target).endswith(".pt"):
        die()
    return result

session.write_checkpoint, torch.save, Path.replace = write, save, replace

profile = choose_profile(
    None, device="cpu", precision="float32", compile=False, num_threads=1, num_workers=1, deterministic=True
)
print("ready", flush=True)
result = train_fold(
    Plan.load(folder / "plan.json"), load_dataset(folder / "dataset"), "3d_fullres", 0,
    Workspace(Path(sys.argv[3])), profile=profile, options=TrainingOptions(validate=False),
)
print("finished" if result.outcome.finished else "stopped", flush=True)
"""
PLACES = (
    "before writing", "half of the file is written", "before renaming", "after renaming", "after writing",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_fingerprint: Callable[..., Fingerprint],
    write_boxes: Callable[..., Path],
    shrink: Callable[..., None],
) -> Path:
    """A plan and a dataset of small images."""
    made = tmp_path_factory.mktemp("interrupted")
    shape = (18, 22, 20)
    fingerprint = make_fingerprint([shape] * 10, [(1.0, 1.0, 1.0)] * 10, channels=("MRI",), labels=LABELS)
    document = copy.deepcopy(dict(make_plan(fingerprint, load_pack("nnunet@2.8.0")).document))
    shrink(document["configurations"]["3d_fullres"], features=(4, 6, 8))
    training = document["training"]
    training |= {
        "epochs": 14,
        "num_iterations_per_epoch": 5,
        "num_validation_iterations_per_epoch": 2,
        "seed": 11,
    }
    training["checkpoints"]["every_num_epochs"] = 1
    (made / "plan.json").write_text(json.dumps(document))
    write_boxes(made / "dataset", num_cases=10, shape=shape, box=(6, 8, 9), starts=(2, 8), seed=3)
    return made


def child(folder: Path, work: Path, place: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), place, str(work)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def finish(process: subprocess.Popen[str]) -> bool:
    """Wait for a child; whether it finished rather than was killed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), err
    return out == "finished\n"


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was never interrupted."""
    work = tmp_path_factory.mktemp("whole")
    assert finish(child(folder, work))
    return work / "models" / "3d_fullres" / "fold_0"


def weights(fold: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    document: dict[str, Any] = json.loads((fold / "model.json").read_text())
    return read_weights(fold / document["weights"][checkpoint]["file"])[0]


def epochs(fold: Path) -> list[dict[str, Any]]:
    times = {"seconds", "seconds_per_iteration", "share_waiting", "peak_memory_bytes"}
    lines = (fold / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in times} for line in lines]


def assert_same(fold: Path, whole: Path) -> None:
    for checkpoint in ("final", "best"):
        expected, found = weights(whole, checkpoint), weights(fold, checkpoint)
        assert expected.keys() == found.keys()
        different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
        assert not different, checkpoint
    assert epochs(fold) == epochs(whole)
    assert not list(fold.glob(".*.tmp")), "what a killed process left is removed"


def killed_at_random_moments(folder: Path, work: Path, moments: random.Random, num_kills: int) -> int:
    """Train to the end through at most so many kills; returns how many there were."""
    path = work / "models" / "3d_fullres" / "fold_0" / "checkpoint.pt"
    kills, reached = 0, 0
    while True:
        process = child(folder, work)
        if kills < num_kills:
            # Preprocessing and the first batch take about a second.
            time.sleep(moments.uniform(0.0, 2.5))
            process.kill()
        if finish(process):
            return kills
        kills += 1
        epoch = read_checkpoint(path).epoch if path.exists() else 0
        assert epoch >= reached
        reached = epoch


def test_killed_at_random_moments(folder: Path, whole: Path, tmp_path: Path) -> None:
    moments = random.Random(5)
    kills = 0
    # A fast machine is at the end before it has been killed so often: then once more from the start.
    for number in range(20):
        work = tmp_path / f"work{number}"
        kills += killed_at_random_moments(folder, work, moments, NUM_RANDOM_KILLS - kills)
        assert_same(work / "models" / "3d_fullres" / "fold_0", whole)
        if kills >= NUM_RANDOM_KILLS:
            break
    assert kills == NUM_RANDOM_KILLS


def test_killed_while_a_checkpoint_is_written(folder: Path, whole: Path, tmp_path: Path) -> None:
    fold = tmp_path / "models" / "3d_fullres" / "fold_0"
    before = -1
    for place in PLACES:
        assert not finish(child(folder, tmp_path, place)), place
        epoch = read_checkpoint(fold / "checkpoint.pt").epoch  # whole, whenever it happened
        assert epoch > before, place
        before = epoch
    assert finish(child(folder, tmp_path))
    assert_same(fold, whole)
