"""What a training leaves behind besides its log: the model, and ``training.json``, which says how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnrules.documents import read_json, write_json
from nnrules.errors import ModelError
from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.network.model import MODEL_FILE, write_model, write_plan
from nnrules_runtime.train.checkpoint import check_same_training

__all__ = [
    "TRAINING_FILE",
    "TrainedModel",
    "epochs_behind",
    "final_weights",
    "is_finished",
    "recorded_split",
    "remove_model",
]

TRAINING_FILE = "training.json"


class TrainedModel:
    """The model of a fold.

    Args:
        folder: the fold's folder.
        plan: the plan.
        configuration: its configuration.
        fold: the fold.
    """

    def __init__(self, folder: Path, plan: Plan, configuration: str, fold: int | str) -> None:
        self._folder = folder
        self._plan = plan
        self._configuration = configuration
        self._fold = fold

    def begin(self) -> None:
        """Put the plan in place.

        Raises:
            ModelError: other folds there were trained with a plan whose weights mean something else.
        """
        write_plan(self._folder.parent, self._plan, self._configuration)

    def write_best(self, state: Mapping[str, Tensor], *, epoch: int) -> None:
        """Write weights as the best so far, after this many epochs.

        Raises:
            RunError: the disk is full or the folder not writable; the weights before stay.
        """
        write_model(
            self._folder,
            state,
            plan=self._plan,
            configuration=self._configuration,
            fold=self._fold,
            checkpoint="best",
            epoch=epoch,
        )

    def write_final(
        self, state: Mapping[str, Tensor], *, epoch: int, fields: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> None:
        """Write the final weights, which end the training.

        Args:
            state: the weights.
            epoch: epochs behind them.
            fields: what training has read of the plan, see
                :func:`~nnrules_runtime.train.checkpoint.training_fields`.
            facts: how it was done.

        Raises:
            RunError: the disk is full or the folder not writable.
        """
        write_json(self._folder / TRAINING_FILE, {**facts, "plan_fields": dict(fields)})
        write_model(
            self._folder,
            state,
            plan=self._plan,
            configuration=self._configuration,
            fold=self._fold,
            checkpoint="final",
            epoch=epoch,
        )


def is_finished(folder: Path, fields: Mapping[str, Any]) -> bool:
    """Whether the training of a folder has come to its end.

    Args:
        folder: the fold's folder.
        fields: what training reads of the plan now.

    Raises:
        ModelError: it has, with another plan; or its files are damaged.
    """
    if final_weights(folder) is None:
        return False
    training = folder / TRAINING_FILE
    if training.is_file():  # an imported model has none
        check_same_training(read_json(training, ModelError).get("plan_fields", {}), fields, training)
    return True


def final_weights(folder: Path) -> dict[str, str] | None:
    """SHA-256 of the weights of a training that has come to its end, by checkpoint; else ``None``.

    Raises:
        ModelError: model.json cannot be read.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        return None
    document = read_json(path, ModelError)
    weights = document.get("weights") if isinstance(document, dict) else None
    if not isinstance(weights, dict) or "final" not in weights:
        return None
    return {name: str(entry.get("sha256")) for name, entry in weights.items() if isinstance(entry, dict)}


def recorded_split(folder: Path) -> dict[str, str] | None:
    """Which cases a finished training was trained and validated with, see ``Fold.fields``; ``None``: not recorded.

    Raises:
        ModelError: training.json cannot be read.
    """
    path = folder / TRAINING_FILE
    if not path.is_file():  # an imported model has none
        return None
    document = read_json(path, ModelError)
    fields = document.get("plan_fields", {}) if isinstance(document, dict) else {}
    return {name: value for name, value in fields.items() if name.startswith("split.")} or None


def epochs_behind(folder: Path) -> int:
    """The epochs behind the final weights of a finished training, which a time budget may have set; 0: unknown.

    Raises:
        ModelError: model.json cannot be read.
    """
    return int(read_json(folder / MODEL_FILE, ModelError)["weights"]["final"]["epoch"] or 0)


def remove_model(folder: Path) -> None:
    """Remove the model of a fold; its description first, so that half of it never looks whole."""
    (folder / MODEL_FILE).unlink(missing_ok=True)
    (folder / TRAINING_FILE).unlink(missing_ok=True)
    for path in folder.glob("*.safetensors"):
        path.unlink()
