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
from typing import Any, Literal, Protocol

from nnrules.documents import read_json, write_json
from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan
from nnrules.schema import validate
from torch import Tensor, nn

from nnrules_runtime.files import digest_of_file, make_folder
from nnrules_runtime.network.architecture import Architecture
from nnrules_runtime.network.identity import differences, network_digest, network_fields
from nnrules_runtime.network.model_checks import check_plan, check_weights_file, missing_configuration
from nnrules_runtime.network.unet import UNet
from nnrules_runtime.network.weights import load_weights, save_weights
from nnrules_runtime.values import reading

__all__ = [
    "MODEL_FILE",
    "PLAN_FILE",
    "Checkpoint",
    "Model",
    "WeightSource",
    "model_from_document",
    "plan_problems",
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


class WeightSource(Protocol):
    """Weights that are no file of their own, such as a part of a bundle."""

    def read(self) -> bytes:
        """The bytes of a safetensors file, verified.

        Raises:
            ModelError: they are damaged or gone.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One trained network.

    Attributes:
        folder: where it lies; in a bundle, the path of the bundle and of the folder in it.
        plan: its plan.
        configuration: the configuration of the plan.
        fold: the fold whose cases it has not seen, or ``all``.
        checkpoint: ``final`` or ``best``.
        file: the weights. Those of a folder were verified when the model was read, those of a bundle are when the
            network is built.
        epoch: epochs of training behind them; ``None`` where unknown.
        mirror_axes: spatial axes of the network's input that prediction may mirror.
        weights: where the weights are read from, if ``file`` is no file of its own.
    """

    folder: Path
    plan: Plan
    configuration: str
    fold: int | str
    checkpoint: Checkpoint
    file: Path
    epoch: int | None
    mirror_axes: tuple[int, ...]
    weights: WeightSource | None = None

    def network(self) -> UNet:
        """The network with its weights, on the CPU, in evaluation mode.

        Raises:
            PlanError: the plan has values that the runtime does not know.
            ModelError: the weights are damaged or do not fit.
        """
        with reading(self.plan) as root:
            architecture = Architecture.from_plan(root.section("configurations").section(self.configuration))
        network = UNet(architecture)
        source = self.file if self.weights is None else self.weights.read()
        expected = _metadata(self.plan, self.configuration)
        load_weights(source, network, where=str(self.file), expected=expected)
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
    if trained_folds(models):
        problems = plan_problems(models, plan, configuration)
        if problems:
            raise ModelError(problems)
        if path.exists() and Plan.load(path).hash == plan.hash:
            return
    plan.save(path)


def plan_problems(models: Path, plan: Plan, configuration: str) -> list[Problem]:
    """How the plan beside the folds differs in what weights depend on.

    Args:
        models: the folder of all folds.
        plan: the plan.
        configuration: its configuration.
    """
    path = models / PLAN_FILE
    if not path.exists():
        return []
    before = Plan.load(path)
    if before.hash == plan.hash:
        return []
    if configuration not in before.configurations:
        return [missing_configuration(str(path), configuration, before)]
    trained = network_fields(before, configuration)
    return differences(trained, network_fields(plan, configuration), str(models))


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
    stored = _stored_plan(folder, needed=plan is None)
    model = model_from_document(folder, document, checkpoint, stored=stored, plan=plan)
    check_weights_file(model.file, document["weights"][checkpoint]["sha256"])
    return model


def model_from_document(
    folder: Path,
    document: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    stored: Plan | None,
    plan: Plan | None = None,
    weights: WeightSource | None = None,
) -> Model:
    """A model as its ``model.json`` describes it; of its weights nothing is read.

    Args:
        folder: of the fold.
        document: ``model.json``, valid by its schema.
        checkpoint: which weights.
        stored: the plan that lies beside the model.
        plan: the plan to use instead; one of both must be given.
        weights: where weights come from that are no file in ``folder``.

    Raises:
        ModelError: the document is of another plan, or has no such checkpoint.
    """
    place = str(folder / MODEL_FILE)
    for candidate in (stored, plan):
        if candidate is not None:
            check_plan(candidate, document, stored, place)
    used = plan if plan is not None else stored
    assert used is not None
    if checkpoint not in document["weights"]:
        raise ModelError(
            Problem(
                where=place,
                what="this model has no such checkpoint",
                got=checkpoint,
                expected="one of " + ", ".join(document["weights"]),
                fix="Train to the end, or ask for a checkpoint that is there.",
            )
        )
    axes = document["mirror_axes"]
    if any(axis >= used.configurations[document["configuration"]]["dim"] for axis in axes):
        raise ModelError(
            Problem(
                where=f"{place}: mirror_axes",
                what="the network has fewer axes",
                got=repr(axes),
                fix="The file was changed by hand: copy it again.",
            )
        )
    return _model(folder, document, used, checkpoint, weights)


def trained_folds(models: Path) -> dict[int | str, Path]:
    """The folds of a configuration that have a model, with their folders: numbers first, ``all`` last."""
    found: dict[int | str, Path] = {}
    for path in sorted(models.glob(f"{_PREFIX}*/{MODEL_FILE}")):
        text = path.parent.name.removeprefix(_PREFIX)
        if text.isdecimal() or text == "all":
            found[int(text) if text.isdecimal() else text] = path.parent
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _model(
    folder: Path,
    document: Mapping[str, Any],
    plan: Plan,
    checkpoint: Checkpoint,
    weights: WeightSource | None = None,
) -> Model:
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
        weights=weights,
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


def _stored_plan(folder: Path, *, needed: bool) -> Plan | None:
    for path in (folder / PLAN_FILE, folder.parent / PLAN_FILE):
        if path.is_file():
            return Plan.load(path)
    if not needed:
        return None
    raise ModelError(
        Problem(
            where=str(folder / MODEL_FILE),
            what="the plan of this model is missing",
            got=f"no {PLAN_FILE} in the folder or the one above",
            fix="Copy the whole folder of the configuration, or name the plan.",
        )
    )
