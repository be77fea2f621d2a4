"""How long the fingerprint of the hippocampus set takes, next to nnU-Net v2's and to reading alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import peer
from measurement import Measurement, median_seconds, medians_in_turns, skipped

CHECKOUT = Path(__file__).resolve().parents[2]
HIPPOCAMPUS = CHECKOUT.parent / "shared" / "data" / "hippocampus"


def hippocampus(python: Path | None, repeats: int) -> list[Measurement]:
    """Whole processes, on files that the system has in memory."""
    name = "fingerprint of the hippocampus set, whole process"
    if not (HIPPOCAMPUS / "dataset.json").is_file():
        return [skipped(name, "../shared/data/hippocampus is absent")]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def ours(*options: str) -> None:
            command = [sys.executable, "-m", "nnrules", "fingerprint", str(HIPPOCAMPUS), *options, "--json"]
            subprocess.run(command, check=True, capture_output=True, cwd=CHECKOUT)

        def reading() -> None:
            script = CHECKOUT / "tests" / "benchmarks" / "read_images.py"
            environment = {**peer.os.environ, "PYTHONPATH": str(CHECKOUT)}
            subprocess.run(
                [sys.executable, script, HIPPOCAMPUS],
                check=True,
                capture_output=True,
                env=environment,
                cwd=folder,
            )

        # Taken in turns, so that a busy moment of the machine meets both.
        exact, floor = medians_in_turns((ours, reading), repeats)
        sampled = median_seconds(lambda: ours("--intensity", "nnunetv2_sampled"), repeats)
        theirs = None if python is None else _peer(python, folder)
    note = "" if theirs is not None else "nnU-Net v2 is not installed"
    return [
        Measurement(f"{name}, exact", exact, peer_s=theirs, target_ratio=4, note=note),
        Measurement(f"{name}, nnU-Net v2's sample", sampled, peer_s=theirs, note=note),
        Measurement(
            f"{name}, exact, next to reading the files alone", exact, peer_s=floor, target_ratio=1 / 1.5,
            note="reading with the same library and threads",
        ),
    ]  # fmt: skip


def _peer(python: Path, folder: Path) -> float:
    """One run: it takes several times as long as all of ours together."""
    raw = folder / "nnUNet_raw" / "Dataset004_Hippocampus"
    raw.parent.mkdir()
    raw.symlink_to(HIPPOCAMPUS, target_is_directory=True)
    (folder / "nnUNet_preprocessed").mkdir()
    command = [python.parent / "nnUNetv2_extract_fingerprint", "-d", "4", "-np", "2"]
    return peer.run_timed(command, folder)
