"""The layout of a work folder.

==========================================  =========================================================
``preprocessed/CONFIGURATION/CASE/``        one folder a case, see :mod:`nnrules_runtime.preprocess.store`
``models/CONFIGURATION/plan.json``          the plan, so that the folder predicts on its own
``models/CONFIGURATION/fold_0/``            model.json, weights, checkpoint, metrics.jsonl
``models/CONFIGURATION/fold_0/validation``  predictions of the fold's validation cases, summary.json
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
