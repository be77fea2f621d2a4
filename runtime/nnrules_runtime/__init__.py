"""nnrules_runtime: executes a plan, and decides nothing.

The public interface::

    from nnrules.dataset import load_dataset
    from nnrules.plan import Plan
    from nnrules_runtime import Predictor, Profile, Workspace, train_fold

    plan, dataset = Plan.load("plan.json"), load_dataset("dataset.json")
    train_fold(plan, dataset, "3d_fullres", 0, Workspace("work"), profile=Profile.for_training(plan))

    predictor = Predictor("work")
    labels = predictor.predict(image, spacing=(3.0, 0.8, 0.8))  # (C, Z, Y, X) and mm along z, y, x

It needs torch (``pip install "nnrules[runtime]"``). Names are loaded when they are first used, so that importing the
package costs nothing. Of nnrules it imports ``plan``, ``schema``, ``resources``, ``errors``, ``axes``, ``image_io``,
``dataset`` and ``documents``, never the engine and never a rule; import-linter holds it to that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnrules_runtime.evaluate import EvaluationCase, Summary, evaluate_cases, find_pairs
    from nnrules_runtime.network.model_import import import_nnunetv2
    from nnrules_runtime.predict.predictor import Predictor
    from nnrules_runtime.preprocess.dataset import preprocess_dataset
    from nnrules_runtime.preprocess.store import CaseStore
    from nnrules_runtime.profile import Profile
    from nnrules_runtime.train.overrides import with_training
    from nnrules_runtime.train.run import TrainingOptions, TrainingResult, train_fold
    from nnrules_runtime.workspace import Workspace

__all__ = [
    "CaseStore",
    "EvaluationCase",
    "Predictor",
    "Profile",
    "Summary",
    "TrainingOptions",
    "TrainingResult",
    "Workspace",
    "evaluate_cases",
    "find_pairs",
    "import_nnunetv2",
    "preprocess_dataset",
    "train_fold",
    "with_training",
]

__version__ = "0.1.0"

_HOMES = {
    "CaseStore": "nnrules_runtime.preprocess.store",
    "EvaluationCase": "nnrules_runtime.evaluate.case",
    "Predictor": "nnrules_runtime.predict.predictor",
    "Profile": "nnrules_runtime.profile",
    "Summary": "nnrules_runtime.evaluate.summary",
    "TrainingOptions": "nnrules_runtime.train.run",
    "TrainingResult": "nnrules_runtime.train.run",
    "Workspace": "nnrules_runtime.workspace",
    "evaluate_cases": "nnrules_runtime.evaluate.run",
    "find_pairs": "nnrules_runtime.evaluate.pairs",
    "import_nnunetv2": "nnrules_runtime.network.model_import",
    "preprocess_dataset": "nnrules_runtime.preprocess.dataset",
    "train_fold": "nnrules_runtime.train.run",
    "with_training": "nnrules_runtime.train.overrides",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nnrules_runtime' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
