"""nnrules_runtime: executes a plan, and decides nothing.

The public interface::

    from nnrules.dataset import load_dataset
    from nnrules.plan import Plan
    from nnrules_runtime import Profile, Workspace, open_predictor, train_fold

    plan, dataset = Plan.load("plan.json"), load_dataset("dataset.json")
    train_fold(plan, dataset, "3d_fullres", 0, Workspace("work"), profile=Profile.for_training(plan))

    predictor = open_predictor("work")
    labels = predictor.predict(image, spacing=(3.0, 0.8, 0.8))  # (C, Z, Y, X) and mm along z, y, x

It needs torch (``pip install "nnrules[runtime]"``). Names are loaded when they are first used, so that importing the
package costs nothing. Of nnrules it imports ``plan``, ``schema``, ``resources``, ``errors``, ``axes``, ``image_io``,
``dataset`` and ``documents``, never the engine and never a rule; import-linter holds it to that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnrules_runtime.bundle import Bundle, open_bundle, write_bundle
    from nnrules_runtime.evaluate import EvaluationCase, Summary, evaluate_cases, find_pairs
    from nnrules_runtime.network.model_import import import_nnunetv2
    from nnrules_runtime.predict.case_predictor import CasePredictor
    from nnrules_runtime.predict.predictor import Predictor
    from nnrules_runtime.predictors import open_predictor
    from nnrules_runtime.preprocess.dataset import preprocess_dataset
    from nnrules_runtime.preprocess.store import CaseStore
    from nnrules_runtime.profile import Profile
    from nnrules_runtime.select.best import find_best
    from nnrules_runtime.select.cross_validation import write_cross_validation
    from nnrules_runtime.select.empirical import Empirical
    from nnrules_runtime.train.overrides import with_training
    from nnrules_runtime.train.run import TrainingOptions, TrainingResult, train_fold
    from nnrules_runtime.workspace import Workspace

__all__ = [
    "Bundle",
    "CasePredictor",
    "CaseStore",
    "Empirical",
    "EvaluationCase",
    "Predictor",
    "Profile",
    "Summary",
    "TrainingOptions",
    "TrainingResult",
    "Workspace",
    "evaluate_cases",
    "find_best",
    "find_pairs",
    "import_nnunetv2",
    "open_bundle",
    "open_predictor",
    "preprocess_dataset",
    "train_fold",
    "with_training",
    "write_bundle",
    "write_cross_validation",
]

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "nnrules_runtime.bundle.reading",
    "CasePredictor": "nnrules_runtime.predict.case_predictor",
    "CaseStore": "nnrules_runtime.preprocess.store",
    "Empirical": "nnrules_runtime.select.empirical",
    "EvaluationCase": "nnrules_runtime.evaluate.case",
    "Predictor": "nnrules_runtime.predict.predictor",
    "Profile": "nnrules_runtime.profile",
    "Summary": "nnrules_runtime.evaluate.summary",
    "TrainingOptions": "nnrules_runtime.train.run",
    "TrainingResult": "nnrules_runtime.train.run",
    "Workspace": "nnrules_runtime.workspace",
    "evaluate_cases": "nnrules_runtime.evaluate.run",
    "find_best": "nnrules_runtime.select.best",
    "find_pairs": "nnrules_runtime.evaluate.pairs",
    "import_nnunetv2": "nnrules_runtime.network.model_import",
    "open_bundle": "nnrules_runtime.bundle.reading",
    "open_predictor": "nnrules_runtime.predictors",
    "preprocess_dataset": "nnrules_runtime.preprocess.dataset",
    "train_fold": "nnrules_runtime.train.run",
    "with_training": "nnrules_runtime.train.overrides",
    "write_bundle": "nnrules_runtime.bundle.writing",
    "write_cross_validation": "nnrules_runtime.select.cross_validation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nnrules_runtime' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
