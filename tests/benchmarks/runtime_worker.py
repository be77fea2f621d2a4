"""A process that is asked over its standard input, so that two programs can be measured in turns.

A worker is ``python SCRIPT JOB``, JOB a JSON file. It answers each line with one line, ``answer JSON``; whatever else
it prints is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MARK = "answer "
_ENVIRONMENT = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


class Worker:
    """A worker; a context manager, as it owns a process.

    Args:
        python: its interpreter.
        script: what it runs.
        job: its job.
        folder: for its files.
    """

    def __init__(self, python: Path | str, script: Path, job: Mapping[str, Any], folder: Path) -> None:
        self._log = folder / f"{script.stem}.log"
        self._script = script
        path = folder / f"{script.stem}.json"
        path.write_text(json.dumps(job))
        names = {name: str(folder / name) for name in _ENVIRONMENT}
        threads = str(job["num_threads"])
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, script, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **names, "OMP_NUM_THREADS": threads},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def ask(self, question: str) -> Any:
        """The answer to a line.

        Raises:
            RuntimeError: the worker failed, with the end of its output.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words follow
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError(f"{self._script.name} failed: {self._log.read_text()[-2000:]}")
