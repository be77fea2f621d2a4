"""nnU-Net v2 as a process that the tests of its parity ask, and what they compare.

``NNRULES_PEER_SEED`` draws other inputs. Where nnU-Net v2 is not installed these tests skip aloud, except on CI (or
with ``NNRULES_PEER=install``), which installs it.
"""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from nnrules.plan import Plan

SEED = int(os.environ.get("NNRULES_PEER_SEED", "20261123"))
SERVER = Path(__file__).resolve().parent / "peer_jobs" / "serve.py"

Arrays = dict[str, np.ndarray]
AskPeer = Callable[..., tuple[Any, Arrays]]
Compare = Callable[[str, float, float], None]
Difference = Callable[[Mapping[str, float], Mapping[str, float]], float]


class Peer:
    """A running process of nnU-Net v2.

    Args:
        python: its interpreter.
        folder: for questions and answers.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        names = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        self._folder, self._count = folder, 0
        self._log = folder / "log.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env={**os.environ, **names},
            )

    def ask(
        self, task: str, document: Any, arrays: Mapping[str, np.ndarray] | None = None
    ) -> tuple[Any, Arrays]:
        """The answer of a module of ``peer_jobs``.

        Args:
            task: its name.
            document: anything that JSON can hold.
            arrays: by name.

        Returns:
            Its document and its arrays.
        """
        folder = self._folder / f"{task}_{self._count}"
        self._count += 1
        folder.mkdir()
        np.savez(folder / "question.npz", **dict(arrays or {}))  # type: ignore[arg-type]
        (folder / "question.json").write_text(json.dumps({"task": task, "document": document}))
        stream: IO[str] | None = self._process.stdin
        assert stream is not None
        assert self._process.stdout is not None
        stream.write(f"{folder}\n")
        stream.flush()
        assert self._process.stdout.readline(), f"nnU-Net v2 ended: {self._log.read_text()[-2000:]}"
        answer = json.loads((folder / "answer.json").read_text())
        assert "error" not in answer, answer["error"]
        with np.load(folder / "answer.npz") as file:
            return answer["document"], {name: file[name] for name in file.files}

    def stop(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def ask_peer(peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskPeer]:
    """``ask_peer(task, document, arrays) -> (document, arrays)``: see :class:`Peer`."""
    process = Peer(peer_python, tmp_path_factory.mktemp("peer"))
    yield process.ask
    process.stop()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Draws of this test, which depend on the seed and its name only."""
    return np.random.default_rng([SEED, *request.node.name.encode()])


@pytest.fixture
def compare(record_property: Callable[[str, object], None]) -> Compare:
    """``compare(what, difference, at_most)``: asserts, records and shows (``-rA``) by how much something differs."""

    def check(what: str, difference: float, at_most: float) -> None:
        record_property(what, difference)
        line = f"compared {what}: difference {difference:.3g}, at most {at_most:g} (seed {SEED})"
        sys.stdout.write(f"{line}\n")
        assert difference <= at_most, line

    return check


@pytest.fixture(scope="session")
def narrow() -> Callable[..., Plan]:
    """The plan with few features, doubled at each stage, so that a CPU runs its networks in no time.

    ``sums`` is the type of the sums over windows and folds; default: the plan's.
    """

    def make(plan: Plan, *, features: int = 4, most: int = 16, sums: str | None = None) -> Plan:
        document = copy.deepcopy(dict(plan.document))
        for configuration in document["configurations"].values():
            architecture = configuration["architecture"]
            stages = range(architecture["num_stages"])
            architecture["features_per_stage"] = [min(features * 2**stage, most) for stage in stages]
            if sums is not None:
                inference = configuration["inference"]
                inference["accumulation"]["dtype"] = inference["folds"]["dtype"] = sums
        return Plan(document)

    return make


# nnU-Net v2's names of metrics, and ours.
METRICS = {
    "Dice": "dice", "IoU": "iou", "TP": "tp", "FP": "fp", "FN": "fn", "TN": "tn", "n_pred": "num_predicted",
    "n_ref": "num_reference",
}  # fmt: skip


@pytest.fixture(scope="session")
def largest_difference() -> Difference:
    """Over all metrics of ours and of nnU-Net v2; undefined on one side only is infinitely far off."""

    def find(found: Mapping[str, float], expected: Mapping[str, float]) -> float:
        worst = 0.0
        for theirs, ours in METRICS.items():
            if math.isnan(expected[theirs]) or math.isnan(found[ours]):
                off = 0.0 if math.isnan(expected[theirs]) and math.isnan(found[ours]) else math.inf
            else:
                off = abs(found[ours] - expected[theirs])
            worst = max(worst, off)
        return worst

    return find
