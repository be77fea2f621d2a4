"""nnU-Net v2 in an environment of its own, asked through a subprocess.

The environment is ``.bench/peer/.venv`` below the checkout, made on first use (about 1 GB, some minutes) from
``constraints-peer.txt``; ``NNRULES_PEER_PYTHON`` names the interpreter of another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / ".bench" / "peer"
CONSTRAINTS = CHECKOUT / "constraints-peer.txt"
WORKER = Path(__file__).resolve().parent / "peer_worker.py"
_VARIABLE = "NNRULES_PEER_PYTHON"
_REQUIREMENTS = ("torch", "nnunetv2", "batchgenerators")


class PeerMissingError(Exception):
    """There is no environment with nnU-Net v2, and none was to be made."""


def _installed(stamp: Path) -> bool:
    return stamp.is_file() and stamp.read_text() == _fingerprint_of_constraints()


def _fingerprint_of_constraints() -> str:
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def interpreter(*, install: bool) -> Path:
    """The Python that has nnunetv2.

    Args:
        install: make the environment where it is missing or made from other constraints.

    Raises:
        PeerMissingError: it is missing and ``install`` is false, or the variable names no file.
        CalledProcessError: pip failed.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise PeerMissingError(f"{_VARIABLE}={named} is no file")
        return Path(named)
    python, stamp = FOLDER / ".venv" / "bin" / "python", FOLDER / "installed"
    if _installed(stamp):
        return python
    if not install:
        raise PeerMissingError(f"nnU-Net v2 is not installed; `make bench` does it, or set {_VARIABLE}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _installed(stamp):
            subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER / ".venv"], check=True)
            # torch first and alone: a resolver that sees both may choose another build of it.
            for requirements in (_REQUIREMENTS[:1], _REQUIREMENTS):
                command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                subprocess.run([*command, "-c", CONSTRAINTS, *requirements], check=True)
            stamp.write_text(_fingerprint_of_constraints())
    return python


def ask(python: Path, job: dict[str, Any], *, timeout_s: float = 3600) -> Any:
    """Run one job of ``peer_worker.py`` and return its answer.

    Raises:
        RuntimeError: the worker failed, with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="nnrules-peer-") as folder:
        question, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(job))
        process = subprocess.run(
            [python, WORKER, question, answer],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=_environment(Path(folder)),
            cwd=folder,
        )
        if process.returncode or not answer.is_file():
            raise RuntimeError(f"nnU-Net v2 failed: {(process.stdout + process.stderr)[-2000:]}")
        return json.loads(answer.read_text())


def run_timed(command: Sequence[str | Path], folder: Path) -> float:
    """Seconds that a command line of nnU-Net v2 takes as a whole process.

    Raises:
        RuntimeError: the command failed, with the end of its output.
    """
    start = time.perf_counter()
    process = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=folder, env=_environment(folder)
    )
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed: {(process.stdout + process.stderr)[-2000:]}")
    return seconds


def _environment(folder: Path) -> dict[str, str]:
    names = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return {**os.environ, **names}
