"""What a run of the whole method is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.workspace import Workspace

__all__ = ["Refit", "Settings"]

Refit = Literal["cv", "all"]
"""What predicts in the end: the models of the cross-validation, or one trained on all cases (Supplement G)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A run of the whole method; travels to the processes of the steps.

    Attributes:
        plan: the plan, with what was set for this run.
        dataset: its dataset.
        workspace: where everything is written.
        configurations: those to train; ``None``: all that the plan trains.
        folds: those to train; ``None``: all. ``("all",)``: one model of all cases, without a choice. The first stage
            of a cascade always has all folds: the second one is trained on predictions of cases that were held out.
        splits: folds of the user's own, see :mod:`nnrules_runtime.folds.splits`; ``None``: the plan's.
        refit: what is trained for the choice that was made; ``None``: nothing more than the folds.
        profile: parts of the execution profile that were given, see :func:`nnrules_runtime.profile.choose_profile`.
        preprocess_workers: processes of the preprocessing; ``None``: as fit.
        bundle: the file of the bundle; ``None``: none is made.
        licence: of the bundle: an SPDX identifier, or a text.
        overrides: fields of the plan that were set for this run, for the records.
    """

    plan: Plan
    dataset: Dataset
    workspace: Workspace
    configurations: tuple[str, ...] | None = None
    folds: tuple[int | str, ...] | None = None
    splits: Path | None = None
    refit: Refit | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    preprocess_workers: int | None = None
    bundle: Path | None = None
    licence: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
