"""A trained network on disk: weights, what they are, and the plan.

::

    models/CONFIGURATION/plan.json
    models/CONFIGURATION/fold_0/model.json
    models/CONFIGURATION/fold_0/final.1f2e3d4c.safetensors

Weights have part of their digest in the name: new ones never replace the file that ``model.json`` still names, so
that a crash at any moment leaves a model that can be read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from nnrules.documents import read_json, write_json
from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan
from nnrules.schema import validate
from torch import Tensor, nn

from nnrules_runtime.files import digest_of_file, make_folder
from nnrules_runtime.network.architecture import Architecture
from nnrules_runtime.network.identity import differences, network_digest, network_fields
from nnrules_runtime.network.unet import UNet
from nnrules_runtime.network.weights import load_weights, save_weights
from nnrules_runtime.values import reading

__all__ = [
    "MODEL_FILE",
    "PLAN_FILE",
    "Checkpoint",
    "Model",
    "read_model",
    "trained_folds",
    "write_model",
    "write_plan",
]

MODEL_FILE = "model.json"
PLAN_FILE = "plan.json"

Checkpoint = Literal["final", "best"]

_FORMAT = "1.0"
_SHOWN_DIGITS = 8
_PREFIX = "fold_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One trained network.

    Attributes:
        folder: where it lies.
        plan: its plan.
        configuration: the configuration of the plan.
        fold: the fold whose cases it has not seen, or ``all``.
        checkpoint: ``final`` or ``best``.
        file: the weights; their digest was verified.
        epoch: epochs of training behind them; ``None`` where unknown.
        mirror_axes: spatial axes of the network's input that prediction may mirror.
    """

    folder: Path
    plan: Plan
    configuration: str
    fold: int | str
    checkpoint: Checkpoint
    file: Path
    epoch: int | None
    mirror_axes: tuple[int, ...]

    def network(self) -> UNet:
        """The network with its weights, on the CPU, in evaluation mode.

        Raises:
            PlanError: the plan has values that the runtime does not know.
            ModelError: the weights are damaged or do not fit.
        """
        with reading(self.plan) as root:
            architecture = Architecture.from_plan(root.section("configurations").section(self.configuration))
        network = UNet(architecture)
        load_weights(self.file, network, expected=_metadata(self.plan, self.configuration))
        return network.eval()


def write_model(
    folder: Path,
    network: nn.Module | Mapping[str, Tensor],
    *,
    plan: Plan,
    configuration: str,
    fold: int | str,
    checkpoint: Checkpoint = "final",
    epoch: int | None = None,
    mirror_axes: Sequence[int] | None = None,
    source: Mapping[str, str | None] | None = None,
) -> Model:
    """Write weights and ``model.json``, and the plan into the folder above; another checkpoint there stays.

    Args:
        folder: the fold's folder; created where it is missing.
        network: the network, or its state dict with our names.
        plan: the plan.
        configuration: its configuration.
        fold: the fold, or ``all``.
        checkpoint: which checkpoint these weights are.
        epoch: epochs of training behind them.
        mirror_axes: axes that prediction may mirror; default: the plan's.
        source: ``program`` and ``trainer``; default: nnrules.

    Raises:
        ModelError: other folds there are of another plan. The weights are written all the same.
        RunError: a file cannot be written.
    """
    make_folder(folder)
    metadata = _metadata(plan, configuration)
    temporary = folder / f".{checkpoint}.safetensors"
    save_weights(temporary, network, metadata)
    digest = digest_of_file(temporary)
    file = folder / f"{checkpoint}.{digest[:_SHOWN_DIGITS]}.safetensors"
    temporary.replace(file)

    weights = {checkpoint: {"file": file.name, "sha256": digest, "epoch": epoch}}
    before: Mapping[str, Any] = {}
    with contextlib.suppress(ModelError):  # whatever stands there instead is replaced
        before = _read_document(folder)
    # A checkpoint of another network must not stay beside this one.
    if before.get("network_digest") == metadata["network_digest"]:
        weights = {**before["weights"], **weights}
    axes = plan.configurations[configuration]["mirror_axes"] if mirror_axes is None else mirror_axes
    document = {
        "schema_version": _FORMAT,
        "created_by": f"nnrules {version('nnrules')}",
        "configuration": configuration,
        "fold": fold,
        "plan_hash": metadata["plan_hash"],
        "network_digest": metadata["network_digest"],
        "mirror_axes": list(axes),
        "weights": weights,
        "source": dict(source or {"program": "nnrules"}),
    }
    validate(document, "model", where=str(folder / MODEL_FILE), error=ModelError)
    write_json(folder / MODEL_FILE, document)
    named = {entry["file"] for entry in weights.values()}
    for old in folder.glob("*.safetensors"):
        if old.name not in named:
            old.unlink(missing_ok=True)
    write_plan(folder.parent, plan, configuration)
    return _model(folder, document, plan, checkpoint)


def write_plan(models: Path, plan: Plan, configuration: str) -> None:
    """Put the plan of a configuration beside its folds.

    It may differ from one that is there in what weights do not depend on; the newer one then replaces it. A training
    should call this at its start, where a refusal costs nothing.

    Args:
        models: the folder of all folds.
        plan: the plan.
        configuration: its configuration.

    Raises:
        ModelError: folds were trained with a plan that differs in what weights depend on.
    """
    path = make_folder(models) / PLAN_FILE
    if path.exists() and trained_folds(models):
        before = Plan.load(path)
        if before.hash == plan.hash:
            return
        if configuration not in before.configurations:
            problems = [_missing_configuration(path, configuration, before)]
        else:
            trained = network_fields(before, configuration)
            problems = differences(trained, network_fields(plan, configuration), str(models))
        if problems:
            raise ModelError(problems)
    plan.save(path)


def read_model(folder: Path, checkpoint: Checkpoint = "final", *, plan: Plan | None = None) -> Model:
    """Read ``model.json`` and verify the weights that it names.

    Args:
        folder: the fold's folder.
        checkpoint: which weights.
        plan: the plan to use instead of ``plan.json``; it may differ in what weights do not depend on.

    Raises:
        ModelError: a file is missing, damaged, or of another plan.
        PlanError: ``plan.json`` is damaged.
    """
    document = _read_document(folder)
    place = str(folder / MODEL_FILE)
    name = document["configuration"]
    stored = _stored_plan(folder, place, needed=plan is None)
    for candidate in (stored, plan):
        if candidate is not None:
            _check_plan(candidate, document, stored, place)
    used = plan if plan is not None else stored
    assert used is not None
    entry = document["weights"].get(checkpoint)
    if entry is None:
        raise ModelError(
            Problem(
                where=place,
                what="this model has no such checkpoint",
                got=checkpoint,
                expected="one of " + ", ".join(document["weights"]),
                fix="Train to the end, or ask for a checkpoint that is there.",
            )
        )
    if any(axis >= used.configurations[name]["dim"] for axis in document["mirror_axes"]):
        raise ModelError(
            Problem(
                where=f"{place}: mirror_axes",
                what="the network has fewer axes",
                got=repr(document["mirror_axes"]),
                fix="The file was changed by hand: copy it again.",
            )
        )
    _verify(folder / entry["file"], entry["sha256"])
    return _model(folder, document, used, checkpoint)


def trained_folds(models: Path) -> dict[int | str, Path]:
    """The folds of a configuration that have a model, with their folders: numbers first, ``all`` last."""
    found: dict[int | str, Path] = {}
    for path in sorted(models.glob(f"{_PREFIX}*/{MODEL_FILE}")):
        text = path.parent.name.removeprefix(_PREFIX)
        if text.isdecimal() or text == "all":
            found[int(text) if text.isdecimal() else text] = path.parent
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _model(folder: Path, document: Mapping[str, Any], plan: Plan, checkpoint: Checkpoint) -> Model:
    entry = document["weights"][checkpoint]
    return Model(
        folder=folder,
        plan=plan,
        configuration=document["configuration"],
        fold=document["fold"],
        checkpoint=checkpoint,
        file=folder / entry["file"],
        epoch=entry["epoch"],
        mirror_axes=tuple(document["mirror_axes"]),
    )


def _metadata(plan: Plan, configuration: str) -> dict[str, str]:
    return {
        "plan_hash": plan.hash,
        "network_digest": network_digest(plan, configuration),
        "configuration": configuration,
    }


def _read_document(folder: Path) -> Mapping[str, Any]:
    path = folder / MODEL_FILE
    document: Mapping[str, Any] = read_json(path, ModelError)
    validate(document, "model", where=str(path), error=ModelError)
    return document


def _stored_plan(folder: Path, place: str, *, needed: bool) -> Plan | None:
    for path in (folder / PLAN_FILE, folder.parent / PLAN_FILE):
        if path.is_file():
            return Plan.load(path)
    if not needed:
        return None
    raise ModelError(
        Problem(
            where=place,
            what="the plan of this model is missing",
            got=f"no {PLAN_FILE} in the folder or the one above",
            fix="Copy the whole folder of the configuration, or name the plan.",
        )
    )


def _check_plan(plan: Plan, document: Mapping[str, Any], stored: Plan | None, place: str) -> None:
    name = document["configuration"]
    if name not in plan.configurations:
        raise ModelError(_missing_configuration(Path(place), name, plan))
    digest = network_digest(plan, name)
    if digest == document["network_digest"]:
        return
    problems = []
    if stored is not None and plan is not stored:
        problems = differences(network_fields(stored, name), network_fields(plan, name), place)
    raise ModelError(
        problems
        or Problem(
            where=place,
            what="these weights are of another plan",
            got=f"a plan with the network digest {digest}",
            expected=document["network_digest"],
            fix=f"Use the plan that they were trained with; its hash is {document['plan_hash']}.",
        )
    )


def _missing_configuration(path: Path, configuration: str, plan: Plan) -> Problem:
    return Problem(
        where=str(path),
        what="the plan has no such configuration",
        got=configuration,
        expected="one of " + ", ".join(plan.configurations),
        fix="Use the plan that the weights were trained with.",
    )


def _verify(path: Path, expected: str) -> None:
    try:
        digest = digest_of_file(path)
    except OSError as exc:
        raise ModelError(
            Problem(
                where=str(path),
                what="the weights are missing",
                got=exc.strerror or str(exc),
                fix="Copy the whole folder again, or train again.",
            )
        ) from None
    if digest != expected:
        raise ModelError(
            Problem(
                where=str(path),
                what="these are not the weights that model.json describes",
                got=f"SHA-256 {digest}",
                expected=expected,
                fix="The file is damaged or was exchanged: copy the whole folder again.",
            )
        )
