"""nnU-Net v2 as a process that the tests of its parity ask.

``NNRULES_PEER_SEED`` draws other inputs. Where nnU-Net v2 is not installed these tests skip aloud, except on CI (or
with ``NNRULES_PEER=install``), which installs it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import pytest

SEED = int(os.environ.get("NNRULES_PEER_SEED", "20261123"))
SERVER = Path(__file__).resolve().parent / "peer_jobs" / "serve.py"

Arrays = dict[str, np.ndarray]
AskPeer = Callable[..., tuple[Any, Arrays]]
Compare = Callable[[str, float, float], None]


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
def peer_python(peer: ModuleType) -> Path:
    """The interpreter of nnU-Net v2."""
    install = bool(os.environ.get("CI")) or os.environ.get("NNRULES_PEER") == "install"
    try:
        found: Path = peer.interpreter(install=install)
    except peer.PeerMissingError as exc:
        pytest.skip(str(exc))
    return found


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
