"""What has been done, in ``steps/``: one small file a step, written when the step has ended well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from nnrules.documents import read_json, write_json
from nnrules.errors import NnrulesError, RunError

from nnrules_runtime.files import make_folder
from nnrules_runtime.workflow.contents import inputs_of, outputs_of
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph, Step

__all__ = ["Ledger", "Record", "Standing", "Status"]

_VERSION = "1.1"


class Status(Enum):
    """Where a step stands."""

    DONE = "done"
    CHANGED = "to be done again"
    OPEN = "to be done"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a step stands, and why it is to be done again.

    Attributes:
        status: where it stands.
        reason: what changed; ``None`` otherwise.
    """

    status: Status
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A step that was done.

    Attributes:
        inputs: name → digest of what it read.
        outputs: name → digest of what it left.
        seconds: that it took, in the session that ended it.
        peak_bytes: memory of its processes together, at most; ``None`` where it cannot be measured.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    seconds: float
    peak_bytes: int | None

    def to_json(self, step: Step) -> dict[str, Any]:
        """The document."""
        return {
            "schema_version": _VERSION,
            "step": step.name,
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "seconds": round(self.seconds, 2),
            "peak_bytes": self.peak_bytes,
        }


class Ledger:
    """The records of a work folder.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.workspace.steps

    def standing(self, step: Step, graph: Graph) -> Standing:
        """Whether a step is done, with what its inputs are now."""
        record = self.record(step)
        if record is None:
            return Standing(Status.OPEN)
        found = outputs_of(step, self._settings)
        if found is None:
            return Standing(Status.CHANGED, "part of its result is gone")
        if found != record.outputs:
            return Standing(Status.CHANGED, "its result was changed by something else")
        inputs = inputs_of(step, graph, self._settings)
        changed = [name for name, digest in inputs.items() if record.inputs.get(name) != digest]
        changed += [name for name in record.inputs if name not in inputs]
        return (
            Standing(Status.CHANGED, f"changed: {', '.join(changed)}") if changed else Standing(Status.DONE)
        )

    def record(self, step: Step) -> Record | None:
        """What is noted about a step; one that cannot be read counts as none: the step is done again."""
        path = self._path(step)
        if not path.is_file():
            return None
        try:
            document = read_json(path, RunError)
        except NnrulesError:
            return None
        if not isinstance(document, dict) or document.get("schema_version") != _VERSION:
            return None
        try:
            return Record(
                inputs=dict(document["inputs"]),
                outputs=dict(document["outputs"]),
                seconds=float(document["seconds"]),
                peak_bytes=document["peak_bytes"],
            )
        except (KeyError, TypeError, ValueError):
            return None

    def write(self, step: Step, inputs: Mapping[str, str], *, seconds: float, peak_bytes: int | None) -> None:
        """Note that a step was done.

        Args:
            step: the step.
            inputs: what it read, as it was when it began.
            seconds: that it took.
            peak_bytes: memory of its processes together, at most.

        Raises:
            RunError: the record cannot be written.
        """
        outputs = outputs_of(step, self._settings)
        if outputs is None:
            raise RuntimeError(f"{step.title} ended well, but not all of its result is there")
        record = Record(
            inputs=inputs,
            outputs=outputs,
            seconds=seconds,
            peak_bytes=peak_bytes,
        )
        make_folder(self._folder)
        write_json(self._path(step), record.to_json(step))

    def _path(self, step: Step) -> Path:
        return self._folder / f"{step.name}.json"
