"""All of one training, as the command does it: preprocess what is missing, train, validate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.evaluate.summary import Summary
from nnrules_runtime.folds import Division, Fold
from nnrules_runtime.preprocess.dataset import preprocess_configurations, store_folder
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.batches import PreviousStage
from nnrules_runtime.train.cascade import NextStages, stages_of
from nnrules_runtime.train.checkpoint import CHECKPOINT_FILE, training_fields
from nnrules_runtime.train.first_stage import FirstStage
from nnrules_runtime.train.job import Job, check_configuration, run_job
from nnrules_runtime.train.lock import locked
from nnrules_runtime.train.model_files import epochs_behind, is_finished
from nnrules_runtime.train.recipe import Recipe
from nnrules_runtime.train.start import check_weights
from nnrules_runtime.train.state import Outcome
from nnrules_runtime.train.validation import is_validated, validate
from nnrules_runtime.workspace import Workspace

__all__ = ["TrainingOptions", "TrainingResult", "train_fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a training is run; none of it changes the method but the time budget and the splits.

    Attributes:
        max_seconds: wall-clock limit, with preprocessing, at which training stops so that it can continue.
        budget_seconds: time in which the whole schedule is to finish; see :mod:`nnrules_runtime.train.budget`.
        weights: weights of another training to begin with.
        restart: begin anew whatever there is.
        replaced: other folds that are to begin anew after this one, and are removed where they are of another plan.
        tensorboard: also write TensorBoard's events.
        validate: predict and score the validation cases at the end.
        save_probabilities: also write probabilities of the validation cases, which pairs of models are chosen by.
        splits: folds of the user's own in place of the plan's, in the form of nnU-Net's ``splits_final.json``; see
            :mod:`nnrules_runtime.folds.splits`.
        overrides: fields of the plan that were set for this run, for the records.
        previous: segmentations of the previous stage, for the second stage of a cascade; default: what the folds of
            the first stage in the workspace say about cases that they held out.
    """

    max_seconds: float | None = None
    budget_seconds: float | None = None
    weights: Path | None = None
    restart: bool = False
    replaced: Collection[int | str] = ()
    tensorboard: bool = False
    validate: bool = True
    save_probabilities: bool = False
    splits: Path | None = None
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

    The second stage of a cascade needs the first one: the folds of it that held out the cases of this fold, trained
    to their end. ``"all"`` of a second stage trains on every case with the segmentation of the fold of the first stage
    that held it out, as nnU-Net does.

    Args:
        plan: the plan.
        dataset: its dataset.
        configuration: one of the plan's configurations.
        fold: number of the fold, or ``"all"``.
        workspace: where everything is written.
        profile: how to execute.
        options: further choices.

    Raises:
        RunError: there is no such fold, the splits are wrong, or folds of the first stage are missing.
        NnrulesError: as :func:`~nnrules_runtime.train.job.run_job`, preprocessing and
            :func:`~nnrules_runtime.train.validation.validate`.
    """
    run = _Run(plan, dataset, configuration, workspace, profile=profile, options=options or TrainingOptions())
    return run.train(fold)


class _Run:
    """One call of :func:`train_fold`."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        configuration: str,
        workspace: Workspace,
        *,
        profile: Profile,
        options: TrainingOptions,
    ) -> None:
        self._started = time.monotonic()
        check_configuration(plan, configuration)
        self._plan = plan
        self._dataset = dataset
        self._configuration = configuration
        self._workspace = workspace
        self._profile = profile
        self._options = options
        self._recipe = Recipe.from_plan(plan, configuration)
        self._stores: dict[str, CaseStore] = {}

    def train(self, name: int | str) -> TrainingResult:
        options = self._options
        folder = self._workspace.fold(self._configuration, name)
        division = self._division()
        fold = division.fold(name, configuration=self._configuration)
        fields = training_fields(self._plan, self._configuration, name, fold.fields())
        finished = not options.restart and is_finished(folder, fields)
        if finished and (not options.validate or self._is_validated(folder, fold, division)):
            outcome = Outcome(finished=True, reason=None, epoch=epochs_behind(folder))
            return TrainingResult(outcome=outcome, folder=folder, summary=None)
        first = self._first_stage(fold, division, finished=finished)
        if options.weights is not None and (options.restart or not (folder / CHECKPOINT_FILE).exists()):
            check_weights(options.weights, self._recipe.network)
        stores = self._preprocessed()
        previous = options.previous
        if first is not None:
            previous = first.segmentations(stores, profile=self._profile)
        outcome = run_job(self._job(name, division, previous))
        summary = None
        if outcome.finished and options.validate:
            with locked(folder):
                # Another process may have done it in the meantime.
                if not self._is_validated(folder, fold, division):
                    summary = self._validate(folder, fold, division, previous)
        return TrainingResult(outcome=outcome, folder=folder, summary=summary)

    def _division(self) -> Division:
        """The folds; preprocessing comes before them only where they are dealt by what cases show."""
        policy, splits = self._recipe.folds, self._options.splits
        store = None
        if Division.needs_store(policy, splits):
            store = self._preprocessed()[self._configuration]
        return Division.of(policy, self._dataset, splits=splits, store=store)

    def _preprocessed(self) -> dict[str, CaseStore]:
        """The cases for this configuration and the stages before it; each image is read once."""
        if not self._stores:
            names = [self._configuration]
            if self._options.previous is None:
                names = list(stages_of(self._plan, self._configuration))
            preprocess_configurations(self._plan, self._dataset, names, self._workspace)
            self._stores = {
                name: CaseStore(store_folder(self._plan, name, self._workspace)) for name in names
            }
        return self._stores

    def _first_stage(self, fold: Fold, division: Division, *, finished: bool) -> FirstStage | None:
        """The models of the first stage that are needed, if there is one."""
        if len(stages_of(self._plan, self._configuration)) == 1 or self._options.previous is not None:
            return None
        case_ids = set(fold.validation) if finished else {*fold.train, *fold.validation}
        return FirstStage.find(
            self._plan, self._configuration, self._workspace, division=division, case_ids=case_ids
        )

    def _job(self, name: int | str, division: Division, previous: PreviousStage | None) -> Job:
        options, left = self._options, self._options.max_seconds
        if left is not None:
            left = max(0.0, left - (time.monotonic() - self._started))
        return Job(
            plan=self._plan,
            configuration=self._configuration,
            fold=name,
            dataset=self._dataset,
            store=self._stores[self._configuration],
            workspace=self._workspace,
            profile=self._profile,
            division=division,
            max_seconds=left,
            budget_seconds=options.budget_seconds,
            weights=options.weights,
            restart=options.restart,
            replaced=options.replaced,
            tensorboard=options.tensorboard,
            previous=previous,
            overrides=options.overrides,
        )

    def _next_stages(self, fold: Fold, division: Division) -> NextStages | None:
        return NextStages.of(self._plan, self._configuration, self._workspace, fold, division)

    def _is_validated(self, folder: Path, fold: Fold, division: Division) -> bool:
        probabilities_of = fold.validation if self._options.save_probabilities else ()
        if not is_validated(folder, self._plan, self._configuration, probabilities_of=probabilities_of):
            return False
        handed_on = self._next_stages(fold, division)
        return handed_on is None or handed_on.is_done()

    def _validate(
        self, folder: Path, fold: Fold, division: Division, previous: PreviousStage | None
    ) -> Summary | None:
        return validate(
            folder,
            self._plan,
            self._configuration,
            case_ids=fold.validation,
            dataset=self._dataset,
            store=self._stores[self._configuration],
            profile=self._profile,
            probabilities=self._options.save_probabilities,
            previous=previous,
            next_stages=self._next_stages(fold, division),
        )
