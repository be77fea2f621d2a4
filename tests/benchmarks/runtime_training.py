"""Training steps of the Hippocampus network: next to nnU-Net v2's trainer, and with the loader next to one batch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measurement import Measurement, skipped
from runtime_worker import Worker

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
DATASET = SHARED / "data" / "hippocampus"
RECORDED = SHARED / "golden" / "runtime" / "a_preprocessing" / "hippocampus"
FOLDER = Path(__file__).resolve().parent
CONFIGURATION = "3d_fullres"
STEP, LOADER = "training step, hippocampus network", "training step with the loader, hippocampus"
MIN_RATIO = 4
# With the loader a step takes at most so many times a step on one batch.
MAX_LOADER = 1.25
STEPS_IN_BLOCK = 10
# Batches that are ready when the first is asked for must be used up before the loader is measured.
WARM_UP = 4


def steps(python: Path | None, repeats: int) -> list[Measurement]:
    """A step on one real batch: ours as its profile is chosen and in float32, theirs in float32."""
    if absent := _absent():
        return [skipped(STEP, absent)]
    with tempfile.TemporaryDirectory(prefix="nnrules-steps-") as made:
        folder = Path(made)
        with _ours(folder) as ours:
            facts = ours.ask("facts")
            precision = facts["profile"]["precision"]
            precisions = list(dict.fromkeys((precision, "float32")))
            actions = {name: (ours, f"step {name}") for name in precisions}
            if python is None:
                medians = _in_turns(actions, repeats)
            else:
                with Worker(
                    python, FOLDER / "runtime_peer" / "train_step.py", _peer_job(folder), folder
                ) as peer:
                    medians = _in_turns({**actions, "peer": (peer, "step")}, repeats)
    shape = " × ".join(str(edge) for edge in facts["batch"][2:])
    note = f"batch {facts['batch'][0]} × {shape}, {facts['profile']['num_threads']} threads; nnU-Net v2 in float32"
    return [
        Measurement(
            f"{STEP}, {name}",
            medians[name],
            peer_s=medians.get("peer"),
            target_ratio=MIN_RATIO if name == precision == "bfloat16" else None,
            note=note if python is not None else "nnU-Net v2 is not measured",
        )
        for name in precisions
    ]


def loading(repeats: int, *, num_steps: int = STEPS_IN_BLOCK, warm_up: int = WARM_UP) -> list[Measurement]:
    """Blocks of steps in turns: with batches of the loader, and on one batch.

    Args:
        repeats: blocks of each.
        num_steps: steps of a block that count.
        warm_up: steps before them.
    """
    if absent := _absent():
        return [skipped(LOADER, absent)]
    with tempfile.TemporaryDirectory(prefix="nnrules-loader-") as made, _ours(Path(made)) as ours:
        cached, loaded = [], []
        for _ in range(repeats):
            cached.append(ours.ask(f"cached {num_steps} {warm_up}"))
            loaded.append(ours.ask(f"loaded {num_steps} {warm_up}"))
        workers = ours.ask("facts")["profile"]["num_workers"]
    waiting = statistics.median(block["waiting"] for block in loaded)
    return [
        Measurement(
            f"{LOADER}, next to a step on one cached batch",
            statistics.median(block["seconds"] for block in loaded),
            peer_s=statistics.median(block["seconds"] for block in cached),
            target_ratio=1 / MAX_LOADER,
            note=f"{waiting:.1%} of the time waiting for batches; worker processes: {workers}; "
            f"medians of {repeats} blocks of {num_steps} steps, their means",
        )
    ]


def _absent() -> str:
    for path in (DATASET / "dataset.json", RECORDED / "plans.json"):
        if not path.is_file():
            return f"../shared/{path.relative_to(SHARED)} is absent"
    return ""


def _ours(folder: Path) -> Worker:
    plan = folder / "plan.json"
    command = ["-m", "nnrules", "plan", str(DATASET), "--rules", "nnunet@2.8.0", "-o", str(plan)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=CHECKOUT)
    job = {
        "plan": str(plan),
        "dataset": str(DATASET),
        "configuration": CONFIGURATION,
        "work": str(folder / "work"),
        "batch": str(folder / "batch.npz"),
        "num_threads": torch.get_num_threads(),
    }
    return Worker(sys.executable, FOLDER / "runtime_training_worker.py", job, folder)


def _peer_job(folder: Path) -> dict[str, Any]:
    return {
        "plans": str(RECORDED / "plans.json"),
        "dataset": str(RECORDED / "dataset.json"),
        "configuration": CONFIGURATION,
        "batch": str(folder / "batch.npz"),
        "num_threads": torch.get_num_threads(),
    }


def _in_turns(actions: dict[str, tuple[Worker, str]], repeats: int) -> dict[str, float]:
    """Median of each after a round that counts for nothing."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, (worker, question) in actions.items():
            seconds = worker.ask(question)
            if turn:
                found[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}
