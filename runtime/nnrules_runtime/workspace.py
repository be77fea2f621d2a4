"""The layout of a work folder.

==========================================  =========================================================
``preprocessed/CONFIGURATION/CASE/``        one folder a case, see :mod:`nnrules_runtime.preprocess.store`
``models/CONFIGURATION/plan.json``          the plan, so that the folder predicts on its own
``models/CONFIGURATION/fold_0/``            model.json, weights, checkpoint, metrics.jsonl
``models/CONFIGURATION/fold_0/validation``  predictions of the fold's validation cases, summary.json
``previous_stage/CONFIGURATION/CASE/``      what a cascade's first stage says, for training its second stage
``empirical.json``                          the model or pair that was chosen, and its postprocessing
``cross_validation/``                       its predictions of all validation cases, summary.json
``steps/``, ``logs/``                       what ``nnrules run all`` has done, and what was said
==========================================  =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Workspace", "fold_name"]


def fold_name(fold: int | str) -> str:
    """The folder of a fold: ``fold_0``, or ``fold_all``."""
    return f"fold_{fold}"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A work folder.

    Attributes:
        root: the folder.
    """

    root: Path

    def preprocessed(self, configuration: str) -> Path:
        """Preprocessed cases of a configuration."""
        return self.root / "preprocessed" / configuration

    def models(self, configuration: str) -> Path:
        """All folds of a configuration, and the plan."""
        return self.root / "models" / configuration

    def fold(self, configuration: str, fold: int | str) -> Path:
        """One training."""
        return self.models(configuration) / fold_name(fold)

    def validation(self, configuration: str, fold: int | str) -> Path:
        """Predictions of the validation cases of one training, and their scores."""
        return self.fold(configuration, fold) / "validation"

    def previous_stage(self, configuration: str) -> Path:
        """What the stage before a configuration says about training cases, on the grid of the configuration."""
        return self.root / "previous_stage" / configuration

    @property
    def empirical(self) -> Path:
        """What find-best chose."""
        return self.root / "empirical.json"

    @property
    def cross_validation(self) -> Path:
        """Predictions of all validation cases by the chosen model or pair, as new images would be predicted."""
        return self.root / "cross_validation"

    @property
    def steps(self) -> Path:
        """Records of the steps of ``nnrules run all`` that are done."""
        return self.root / "steps"

    @property
    def logs(self) -> Path:
        """What these steps said."""
        return self.root / "logs"
