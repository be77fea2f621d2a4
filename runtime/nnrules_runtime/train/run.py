"""All of one training, as the command does it: preprocess what is missing, train, validate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.evaluate.summary import Summary
from nnrules_runtime.preprocess.dataset import preprocess_dataset
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.batches import PreviousStage
from nnrules_runtime.train.checkpoint import CHECKPOINT_FILE, training_fields
from nnrules_runtime.train.job import Job, check_configuration, fold_of, run_job
from nnrules_runtime.train.model_files import epochs_behind, is_finished
from nnrules_runtime.train.recipe import Recipe
from nnrules_runtime.train.start import check_weights
from nnrules_runtime.train.state import Outcome
from nnrules_runtime.train.validation import is_validated, validate
from nnrules_runtime.workspace import Workspace

__all__ = ["TrainingOptions", "TrainingResult", "train_fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a training is run; none of it changes the method but the time budget.

    Attributes:
        max_seconds: wall-clock limit, with preprocessing, at which training stops so that it can continue.
        budget_seconds: time in which the whole schedule is to finish; see :mod:`nnrules_runtime.train.budget`.
        weights: weights of another training to begin with.
        restart: begin anew whatever there is.
        tensorboard: also write TensorBoard's events.
        validate: predict and score the validation cases at the end.
        overrides: fields of the plan that were set for this run, for the records.
        previous: segmentations of the previous stage, for the second stage of a cascade.
    """

    max_seconds: float | None = None
    budget_seconds: float | None = None
    weights: Path | None = None
    restart: bool = False
    tensorboard: bool = False
    validate: bool = True
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    previous: PreviousStage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a run has come to.

    Attributes:
        outcome: of the training.
        folder: the fold's folder.
        summary: scores of the validation cases; ``None`` where they were not validated now.
    """

    outcome: Outcome
    folder: Path
    summary: Summary | None


def train_fold(
    plan: Plan,
    dataset: Dataset,
    configuration: str,
    fold: int | str,
    workspace: Workspace,
    *,
    profile: Profile,
    options: TrainingOptions | None = None,
) -> TrainingResult:
    """Train one fold of a configuration and validate it. What is done already is not done again.

    Args:
        plan: the plan.
        dataset: its dataset.
        configuration: one of the plan's configurations.
        fold: number of the fold, or ``"all"``.
        workspace: where everything is written.
        profile: how to execute.
        options: further choices.

    Raises:
        NnrulesError: as :func:`~nnrules_runtime.train.job.run_job`, preprocessing and
            :func:`~nnrules_runtime.train.validation.validate`.
    """
    options = options or TrainingOptions()
    started = time.monotonic()
    check_configuration(plan, configuration)
    recipe = Recipe.from_plan(plan, configuration)
    folder = workspace.fold(configuration, fold)
    finished = not options.restart and is_finished(folder, training_fields(plan, configuration, fold))
    if finished and (is_validated(folder) or not options.validate):
        outcome = Outcome(finished=True, reason=None, epoch=epochs_behind(folder))
        return TrainingResult(outcome=outcome, folder=folder, summary=None)
    if options.weights is not None and (options.restart or not (folder / CHECKPOINT_FILE).exists()):
        check_weights(options.weights, recipe.network)
    store = preprocess_dataset(plan, dataset, configuration, workspace)
    left = options.max_seconds
    if left is not None:
        left = max(0.0, left - (time.monotonic() - started))
    job = Job(
        plan=plan,
        configuration=configuration,
        fold=fold,
        dataset=dataset,
        store=store,
        workspace=workspace,
        profile=profile,
        max_seconds=left,
        budget_seconds=options.budget_seconds,
        weights=options.weights,
        restart=options.restart,
        tensorboard=options.tensorboard,
        previous=options.previous,
        overrides=options.overrides,
    )
    outcome = run_job(job)
    summary = None
    if outcome.finished and options.validate and not is_validated(folder):
        summary = validate(
            folder,
            plan,
            configuration,
            case_ids=fold_of(job, recipe).validation,
            dataset=dataset,
            store=store,
            profile=profile,
        )
    return TrainingResult(outcome=outcome, folder=folder, summary=summary)
