"""Checkpoints from which a training continues as if it had never stopped.

As every random draw is a function of (seed, epoch, iteration, sample), a checkpoint needs no state of generators: the
position is enough. The file is a zip of tensors and plain values that ``torch.load(weights_only=True)`` reads, so that
nothing in it is ever executed.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan, leaves
from torch import Tensor

from nnrules_runtime.files import atomic_file

__all__ = [
    "CHECKPOINT_FILE",
    "Checkpoint",
    "check_same_training",
    "read_checkpoint",
    "training_fields",
    "write_checkpoint",
]

CHECKPOINT_FILE = "checkpoint.pt"
_FORMAT = 1
_START_AGAIN = "Start the training anew with --restart, or choose another work folder."
_MOST_SHOWN = 10

# What of a configuration training does not read: it may change between two sessions of a training.
_NOT_TRAINING = ("inference", "median_shape", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A training at one moment.

    Attributes:
        fields: what training reads of the plan, see :func:`training_fields`.
        seed: of all random draws.
        profile: how it was executed: precision, device, ….
        torch_version: the torch that wrote it.
        epoch: the epoch that is under way, or is next.
        iteration: training iterations of it that are done.
        losses: their losses, float32.
        num_iterations: training iterations since the start.
        num_skipped: iterations of this epoch without a step.
        seconds: time spent on training since the start.
        average_dice: moving average of the pseudo Dice; ``None`` before the first epoch has ended.
        best_dice: its largest value so far.
        network: the network's state.
        optimizer: the optimizer's state.
        scaler: the loss scaler's state; empty where there is none.
        budget_seconds: the time budget that the schedule follows; ``None``: the plan's schedule.
        seconds_per_iteration: as last measured; ``None`` at the start. A time budget reads it.
    """

    fields: Mapping[str, Any]
    seed: int
    profile: Mapping[str, Any]
    torch_version: str
    epoch: int
    iteration: int
    losses: Tensor
    num_iterations: int
    num_skipped: int
    seconds: float
    average_dice: float | None
    best_dice: float | None
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    budget_seconds: float | None = None
    seconds_per_iteration: float | None = None


def training_fields(
    plan: Plan, configuration: str, fold: int | str, split: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the training of a fold reads of a plan, and which cases it has: path → value.

    Inference, evaluation, postprocessing and other configurations may change without another training.

    Args:
        plan: the plan.
        configuration: its configuration.
        fold: the fold.
        split: which cases these are, see :meth:`~nnrules_runtime.folds.policy.Fold.fields`; without, the plan alone.
    """
    document = plan.document
    chosen = {
        key: value
        for key, value in document["configurations"][configuration].items()
        if key not in _NOT_TRAINING
    }
    dataset = {
        key: document["dataset"].get(key)
        for key in (
            "channel_names",
            "labels",
            "label_order",
            "regions_class_order",
            "ignore_label",
            "orientation_policy",
        )
    }
    parts = {
        # Intensities of the fingerprint are for the reader; what normalisation uses stands in its statistics.
        "channels": [
            {key: value for key, value in channel.items() if key != "intensity"}
            for channel in document["channels"]
        ],
        "configurations": {configuration: chosen},
        "dataset": dataset,
        "fold": fold,
        "folds": document["folds"],
        "preprocessing": document["preprocessing"],
        "training": document["training"],
    }
    return {**dict(leaves(parts)), **(split or {})}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the one before stays until this one is whole.

    Raises:
        RunError: the disk is full or the folder not writable; the checkpoint before is unchanged.
    """
    document: dict[str, Any] = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)
    }
    document |= {
        "format": _FORMAT,
        "fields": json.dumps(checkpoint.fields, sort_keys=True),
        "profile": json.dumps(checkpoint.profile, sort_keys=True),
        "network": dict(checkpoint.network),
        "optimizer": dict(checkpoint.optimizer),
        "scaler": dict(checkpoint.scaler),
        # torch's version is a class of its own, which reading would refuse.
        "torch_version": str(checkpoint.torch_version),
    }
    # Through a stream, as torch reports a full disk as such only then.
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        torch.save(document, stream)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, on the CPU.

    Raises:
        ModelError: it is damaged, of another format, or no checkpoint at all. Nothing in it is executed.
    """
    document = _read_document(path)
    if document.get("format") != _FORMAT:
        raise _refused(path, "a checkpoint of another format", str(document.get("format")), str(_FORMAT))
    names = {field.name for field in dataclasses.fields(Checkpoint)}
    if missing := sorted(names - document.keys()):
        raise _refused(path, "parts of this checkpoint are missing", ", ".join(missing))
    try:
        values = {name: document[name] for name in names}
        values |= {name: json.loads(document[name]) for name in ("fields", "profile")}
    except (TypeError, ValueError):
        raise _refused(path, "parts of this checkpoint cannot be read", "text that is not JSON") from None
    return Checkpoint(**values)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        # torch reads a damaged tensor without noticing, but its files hold a checksum of every record.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        document = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise _refused(path, "this checkpoint cannot be read", exc.strerror or str(exc)) from None
    except zipfile.BadZipFile:
        raise _refused(
            path, "this is no checkpoint, or a damaged one; nothing in it was executed", _start_of(path)
        ) from None
    except Exception:
        raise _refused(
            path,
            "this is no checkpoint of a training: it holds other things than tensors and plain values; "
            "nothing in it was executed",
        ) from None
    if damaged is not None:
        raise _refused(path, "this checkpoint is damaged", f"a wrong checksum of {damaged}")
    if not isinstance(document, dict):
        raise _refused(path, "this is no checkpoint of a training", type(document).__name__)
    return document


def _start_of(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:1] == b"\x80":
        return "a pickle"
    return "a zip archive that ends early" if start[:2] == b"PK" else f"a file that starts with {start!r}"


def _refused(path: Path, what: str, got: str | None = None, expected: str | None = None) -> ModelError:
    return ModelError(Problem(where=str(path), what=what, got=got, expected=expected, fix=_START_AGAIN))


def check_same_training(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue what another plan began.

    Args:
        before: what training read of the plan then, see :func:`training_fields`.
        now: what it reads of the plan now.
        path: where ``before`` was read from.

    Raises:
        ModelError: fields differ; names them with both values.
    """
    problems = list(_differences(before, json.loads(json.dumps(now)), path))
    if not problems:
        return
    what = "this is of another plan"
    if all(problem.where.startswith(f"{path}: split.") for problem in problems):
        what = "this was trained with other cases than the fold has now"
    last = Problem(where=str(path), what=what, fix=_START_AGAIN)
    if (more := len(problems) - _MOST_SHOWN) > 0:
        last = dataclasses.replace(last, got=f"{more} more differences")
    raise ModelError([*problems[:_MOST_SHOWN], last])


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, "no such field"), now.get(name, "no such field")
        if old != new:
            yield Problem(
                where=f"{path}: {name}",
                what="the training began with another value",
                got=json.dumps(old),
                expected=json.dumps(new),
            )
