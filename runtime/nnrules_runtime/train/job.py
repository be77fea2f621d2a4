"""A training to be done: checked before it begins, held for this process, done or found done."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnrules.dataset import Dataset
from nnrules.errors import ModelError, Problem, RunError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.files import make_folder
from nnrules_runtime.folds import Division, Fold
from nnrules_runtime.folds.presence import class_presence, warn_of_missing_classes
from nnrules_runtime.network.model import plan_problems, trained_folds
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.batches import PreviousStage
from nnrules_runtime.train.checkpoint import CHECKPOINT_FILE, training_fields
from nnrules_runtime.train.lock import locked
from nnrules_runtime.train.metrics import METRICS_FILE
from nnrules_runtime.train.model_files import epochs_behind, is_finished, remove_model
from nnrules_runtime.train.progress_picture import PICTURE_FILE
from nnrules_runtime.train.recipe import Recipe
from nnrules_runtime.train.session import EVENTS_FOLDER, Session
from nnrules_runtime.train.state import Outcome
from nnrules_runtime.train.validation import VALIDATION_FOLDER
from nnrules_runtime.workspace import Workspace

__all__ = ["Job", "check_configuration", "fold_of", "run_job"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training to be done.

    Attributes:
        plan: the plan.
        configuration: one of its configurations.
        fold: number of the fold, or ``"all"``.
        dataset: the dataset, for the cases and their groups.
        store: its preprocessed cases.
        workspace: where the model is written.
        profile: how to execute.
        division: how the cases are divided; default: as the plan says.
        max_seconds: wall-clock limit of this session, at which it stops so that it can continue.
        budget_seconds: time in which the whole schedule is to finish; see :mod:`nnrules_runtime.train.budget`.
        weights: weights of another training to begin with.
        restart: begin anew whatever there is.
        tensorboard: also write TensorBoard's events.
        previous: segmentations of the previous stage, for the second stage of a cascade.
        overrides: fields of the plan that were set for this run, for the records.
    """

    plan: Plan
    configuration: str
    fold: int | str
    dataset: Dataset
    store: CaseStore
    workspace: Workspace
    profile: Profile
    division: Division | None = None
    max_seconds: float | None = None
    budget_seconds: float | None = None
    weights: Path | None = None
    restart: bool = False
    replaced: Collection[int | str] = ()
    tensorboard: bool = False
    previous: PreviousStage | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the training is."""
        return self.workspace.fold(self.configuration, self.fold)


def run_job(job: Job) -> Outcome:
    """Train a fold, or continue with it. Where it is finished nothing is done.

    Raises:
        PlanError: the plan has values that the runtime does not know.
        StoreError: cases were not preprocessed, or for another plan, or are damaged.
        ModelError: the checkpoint is damaged or of another plan or other cases, or the weights to begin with do not
            fit.
        RunError: another process trains here, losses are not finite, or the disk is full.
        UsageError: no such configuration; TensorBoard is wanted and not installed.
    """
    check_configuration(job.plan, job.configuration)
    _check_previous_stage(job)
    recipe = Recipe.from_plan(job.plan, job.configuration)
    fold = fold_of(job, recipe)
    case_ids = sorted({*fold.train, *fold.validation})
    job.store.check(recipe.preprocessing.digest, case_ids)
    make_folder(job.folder)
    with locked(job.folder):
        _remove_leftovers(job.folder)
        fields = training_fields(job.plan, job.configuration, job.fold, fold.fields())
        if job.restart:
            _make_way(job)
            _remove_training(job.folder)
        elif is_finished(job.folder, fields):
            _LOGGER.info("%s: finished before; --restart begins anew", job.folder)
            return Outcome(finished=True, reason=None, epoch=epochs_behind(job.folder))
        _say_about(job, fold)
        warn_of_missing_classes(fold, class_presence(job.store, case_ids), recipe.labels)
        return Session(job, recipe, fold).run()


def fold_of(job: Job, recipe: Recipe) -> Fold:
    """The training and validation cases of a job."""
    division = job.division or Division.of(recipe.folds, job.dataset, store=job.store)
    return division.fold(job.fold, configuration=job.configuration)


def check_configuration(plan: Plan, configuration: str) -> None:
    """Refuse a configuration that the plan does not have.

    Raises:
        UsageError: names those it has.
    """
    if configuration not in plan.configurations:
        raise UsageError(
            Problem(
                where=f"configuration {configuration}",
                what="the plan has no such configuration",
                expected=", ".join(plan.configurations),
            )
        )


def _check_previous_stage(job: Job) -> None:
    configuration = job.plan.configurations[job.configuration]
    previous = configuration.get("previous_stage")
    if previous is not None and job.previous is None:
        raise RunError(
            Problem(
                where=f"configuration {job.configuration}",
                what="the second stage of a cascade is trained on segmentations of the first one, and there are none",
                fix=f"Train all folds of {previous} first.",
            )
        )


def _say_about(job: Job, fold: Fold) -> None:
    """What is special about a fold."""
    if fold.is_random:
        _LOGGER.info(
            "fold %s is beyond the folds of the split: its cases are drawn at random by its number", fold.name
        )
    if job.division is not None and job.division.source is not None and fold.held_out and not fold.is_random:
        _LOGGER.info("fold %s is that of %s", fold.name, job.division.source)


def _make_way(job: Job) -> None:
    """Refuse to begin anew with a plan that other folds do not share, unless they are replaced, too: then remove them.

    One plan stands beside all folds of a configuration.

    Raises:
        ModelError: there are folds of another plan that are to stay.
        RunError: another process trains one of them.
    """
    models = job.folder.parent
    others = {fold: folder for fold, folder in trained_folds(models).items() if fold != job.fold}
    problems = plan_problems(models, job.plan, job.configuration) if others else []
    if not problems:
        return
    if not others.keys() <= set(job.replaced):
        raise ModelError(problems)
    for folder in others.values():
        with locked(folder):
            _remove_training(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a process that was killed; nobody else writes here while the lock is held."""
    for pattern in (".*.tmp", ".*.safetensors"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _remove_training(folder: Path) -> None:
    """Remove what a training wrote, and nothing else."""
    remove_model(folder)
    for name in (CHECKPOINT_FILE, METRICS_FILE, PICTURE_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in (VALIDATION_FOLDER, EVENTS_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
