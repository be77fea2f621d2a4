"""One session of a training: from the start or the last checkpoint to the end or a stop."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nnrules.documents import content_hash
from nnrules.errors import ModelError, Problem, UsageError

from nnrules_runtime.folds import Fold
from nnrules_runtime.network import reinitialize_convolutions
from nnrules_runtime.network.describe import describe
from nnrules_runtime.network.state import state_of
from nnrules_runtime.preprocess.store import CaseStore, stored_key
from nnrules_runtime.profile import keep_freed_memory
from nnrules_runtime.train.batches import BatchSource
from nnrules_runtime.train.budget import BudgetSchedule, PlannedSchedule, Schedule
from nnrules_runtime.train.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    training_fields,
    write_checkpoint,
)
from nnrules_runtime.train.keys import EpochKeys
from nnrules_runtime.train.loader import BatchLoader, cache_bytes_per_process
from nnrules_runtime.train.loop import Training
from nnrules_runtime.train.metrics import METRICS_FILE, MetricsLog
from nnrules_runtime.train.model_files import TrainedModel
from nnrules_runtime.train.optimizer import build_optimizer
from nnrules_runtime.train.progress_picture import can_draw
from nnrules_runtime.train.recipe import Recipe
from nnrules_runtime.train.resume import resume, state_of_checkpoint
from nnrules_runtime.train.sampling import Phase, new_seed, seed_of_fold
from nnrules_runtime.train.start import draw_weights, take_weights
from nnrules_runtime.train.state import Outcome, Outputs
from nnrules_runtime.train.stopping import Stop
from nnrules_runtime.train.trainer import Trainer

if TYPE_CHECKING:
    from nnrules_runtime.train.job import Job

__all__ = ["Session"]

_LOGGER = logging.getLogger(__name__)
EVENTS_FOLDER = "tensorboard"


class Session:
    """A session.

    Args:
        job: what is to be done; its folder is held by this process.
        recipe: what its plan says.
        fold: its cases.
    """

    def __init__(self, job: Job, recipe: Recipe, fold: Fold) -> None:
        self._job = job
        self._recipe = recipe
        self._fold = fold
        self._checkpoint_path = job.folder / CHECKPOINT_FILE
        self._fields = training_fields(job.plan, job.configuration, job.fold, fold.fields())
        self._checkpoint_fields = {**self._fields, "split.content": _content_of(job.store, fold)}
        self._model = TrainedModel(job.folder, job.plan, job.configuration, job.fold)
        self._log = MetricsLog(job.folder / METRICS_FILE)

    def run(self) -> Outcome:
        """Train. A finished training has its model written, and no checkpoint any more."""
        job = self._job
        job.profile.apply()
        if job.profile.device_type == "cpu":
            keep_freed_memory()
        checkpoint = resume(self._checkpoint_path, self._checkpoint_fields, job.profile, self._log)
        if checkpoint is not None and job.weights is not None:
            _LOGGER.warning("--weights is not used: the training continues from %s", self._checkpoint_path)
        self._seed = checkpoint.seed if checkpoint else self._recipe.seed
        if self._seed is None:
            self._seed = new_seed()
        self._state = state_of_checkpoint(checkpoint, job.profile.device)
        self._schedule = self._make_schedule(checkpoint)
        self._say_how(checkpoint)
        with ExitStack() as stack:
            stop = stack.enter_context(Stop(job.folder, max_seconds=job.max_seconds))
            events = stack.enter_context(_events(job.folder, self._state.epoch)) if job.tensorboard else None
            self._trainer = self._make_trainer(checkpoint)
            # After all that may be refused: the plan of an earlier training stays then.
            self._model.begin()
            keys = EpochKeys(
                self._schedule, self._state, epoch=self._state.epoch, iteration=self._state.iteration
            )
            outcome = Training(
                trainer=self._trainer,
                keys=keys,
                batches=stack.enter_context(self._make_loader(keys)),
                schedule=self._schedule,
                cadence=self._recipe.cadence,
                state=self._state,
                stop=stop,
                outputs=Outputs(
                    folder=job.folder,
                    log=self._log,
                    draws=can_draw(),
                    write_checkpoint=self._write_checkpoint,
                    write_best=self._write_best,
                    after_epoch=events or (lambda _: None),
                    second_start=self._second_start,
                ),
            ).run()
        if outcome.finished:
            self._model.write_final(
                state_of(self._trainer.network),
                epoch=self._state.epoch,
                fields=self._fields,
                facts=self._facts(),
            )
            self._checkpoint_path.unlink(missing_ok=True)
            _LOGGER.info("finished: %s", job.folder)
        return outcome

    # -- beginning ---------------------------------------------------------------------------------------------------

    def _make_schedule(self, checkpoint: Checkpoint | None) -> Schedule:
        recipe = self._recipe
        planned = PlannedSchedule(recipe.epochs, recipe.size, recipe.rate)
        before = checkpoint.budget_seconds if checkpoint else None
        budget = self._job.budget_seconds if self._job.budget_seconds is not None else before
        if budget is None:
            return planned
        if before is not None and before != budget:
            _LOGGER.warning("the time budget was %g minutes and is %g now", before / 60, budget / 60)
        return BudgetSchedule(budget, planned, recipe.size, recipe.rate)

    def _say_how(self, checkpoint: Checkpoint | None) -> None:
        job, fold = self._job, self._fold
        for line in job.profile.lines():
            _LOGGER.info("%s", line)
        _LOGGER.info(
            "%s, fold %s: %d cases train, %d validate%s; seed %d; %s",
            job.configuration,
            fold.name,
            len(fold.train),
            len(fold.validation),
            "" if fold.held_out else " (none of them held out)",
            self._seed,
            self._schedule.description,
        )
        _LOGGER.info("%s", self._sizes())
        if checkpoint is not None:
            _LOGGER.info(
                "continuing in epoch %d after %d iterations of it", checkpoint.epoch, checkpoint.iteration
            )

    def _sizes(self) -> str:
        """What the training takes, for logs."""
        recipe, profile = self._recipe, self._job.profile
        configuration = self._job.plan.configurations[self._job.configuration]
        size = describe(recipe.network, configuration["patch_size"])
        memory = size.training_bytes(configuration["batch_size"], bytes_per_value=profile.dtype.itemsize)
        # Weights and one buffer of the optimizer (two of Adam); twice while a new checkpoint replaces the old one.
        buffers = 1 if recipe.training.section("optimizer").value("name") == "sgd" else 2
        disk = size.num_parameters * 4 * (2 * (1 + buffers) + 2)
        return f"{size}; about {memory / 1e9:.1f} GB of memory, up to {disk / 1e6:.0f} MB on disk"

    def _make_trainer(self, checkpoint: Checkpoint | None) -> Trainer:
        job, recipe = self._job, self._recipe
        network = recipe.network
        seed = seed_of_fold(self._seed_value, job.fold)
        if checkpoint is None:
            draw_weights(network, recipe.configuration, _seed_of(seed, 0))
            if job.weights is not None:
                take_weights(job.weights, network)
        network.to(job.profile.device)
        network.to(memory_format=job.profile.memory_format(network.architecture.dim))  # type: ignore[call-overload]
        trainer = Trainer(
            network,
            recipe.loss.to(job.profile.device),
            build_optimizer(recipe.training, network, fused=job.profile.device_type == "cuda"),
            clip=recipe.clip,
            pseudo_dice=recipe.pseudo_dice,
            profile=job.profile,
            loss_scaling=recipe.loss_scaling,
            seed=seed,
        )
        if checkpoint is not None:
            try:
                trainer.load_state(checkpoint.network, checkpoint.optimizer, checkpoint.scaler)
            except ValueError as exc:
                raise ModelError(
                    Problem(
                        where=str(self._checkpoint_path),
                        what="this checkpoint does not fit the network or the optimizer",
                        got=str(exc).splitlines()[0],
                        fix="Start the training anew with --restart.",
                    )
                ) from None
            trainer.reset_counts(checkpoint.num_skipped)
        return trainer

    def _make_loader(self, keys: EpochKeys) -> BatchLoader:
        job, recipe, fold = self._job, self._recipe, self._fold
        phases = {
            Phase.TRAIN: (fold.train, recipe.augmentation),
            Phase.VALIDATION: (fold.validation, recipe.validation_augmentation),
        }
        sources = {
            phase: BatchSource(
                job.store,
                case_ids,
                recipe.sampler,
                augmentation,
                seed=seed_of_fold(self._seed_value, job.fold),
                phase=phase,
                previous=job.previous,
                cache_bytes=cache_bytes_per_process(job.profile.num_workers),
            )
            for phase, (case_ids, augmentation) in phases.items()
        }
        return BatchLoader(
            sources,
            keys,
            num_workers=job.profile.num_workers,
            pin_memory=job.profile.device_type == "cuda",
        )

    @property
    def _seed_value(self) -> int:
        assert self._seed is not None
        return self._seed

    # -- what is written ---------------------------------------------------------------------------------------------

    def _write_checkpoint(self) -> None:
        state, trainer = self._state, self._trainer
        write_checkpoint(
            self._checkpoint_path,
            Checkpoint(
                fields=self._checkpoint_fields,
                seed=self._seed_value,
                profile=self._job.profile.to_json(),
                torch_version=str(torch.__version__),
                epoch=state.epoch,
                iteration=state.iteration,
                losses=torch.stack(state.losses).cpu() if state.losses else torch.zeros(0),
                num_iterations=state.num_iterations,
                num_skipped=trainer.num_skipped,
                seconds=state.seconds,
                average_dice=state.average_dice,
                best_dice=state.best_dice,
                network=state_of(trainer.network),
                optimizer=trainer.optimizer.state_dict(),
                scaler=trainer.scaler_state(),
                budget_seconds=self._schedule.budget_seconds,
                seconds_per_iteration=state.seconds_per_iteration,
            ),
        )

    def _write_best(self) -> None:
        self._model.write_best(state_of(self._trainer.network), epoch=self._state.epoch + 1)

    def _facts(self) -> dict[str, Any]:
        """How the training was done, for ``training.json``."""
        state = self._state
        return {
            "seed": self._seed_value,
            "epochs": state.epoch,
            "iterations": state.num_iterations,
            "overrides": self._job.overrides,
            "seconds": round(state.seconds, 1),
            "time_budget_seconds": self._schedule.budget_seconds,
            "average_dice": state.average_dice,
            "best_average_dice": state.best_dice,
            "profile": self._job.profile.to_json(),
            "torch": str(torch.__version__),
            "cases": {
                "train": list(self._fold.train),
                "validation": list(self._fold.validation),
                "held_out": self._fold.held_out,
            },
            "splits_file": None if self._job.division is None else self._job.division.source,
            "began_with": None if self._job.weights is None else self._job.weights.name,
        }

    def _second_start(self, epoch: int, mean_dice: float | None) -> None:
        """Start again where the plan says so (nnunet 1.0 and 1.7.1)."""
        restart = self._recipe.restart
        if restart is None or not restart.is_due(epoch, mean_dice):
            return
        _LOGGER.warning("no foreground was found: second start with momentum %g", restart.momentum)
        seed = _seed_of(seed_of_fold(self._seed_value, self._job.fold), 1)
        generator = torch.Generator().manual_seed(seed)
        network = self._trainer.network
        restart.apply(
            self._trainer.optimizer,
            lambda: reinitialize_convolutions(network, self._recipe.configuration, generator),
        )


def _seed_of(seed: int, use: int) -> int:
    """A seed for torch, which takes 63 bits."""
    return (seed + use) & 0x7FFF_FFFF_FFFF_FFFF


def _events(folder: Path, epoch: int) -> Any:
    """A context manager that gives a writer of TensorBoard's events, a callable on an epoch's metrics."""
    try:
        from nnrules_runtime.train.events import Events  # noqa: PLC0415 - optional
    except ImportError:
        raise UsageError(
            Problem(
                where="--tensorboard",
                what="TensorBoard is not installed",
                fix="pip install 'nnrules[tensorboard]', or leave the option out: metrics.jsonl has the same numbers.",
            )
        ) from None
    return Events(folder / EVENTS_FOLDER, purge_from=epoch)


def _content_of(store: CaseStore, fold: Fold) -> str:
    """What identifies the preprocessed cases, so that a training does not go on with other images or labels."""
    return content_hash(
        {case_id: stored_key(store.folder, case_id) for case_id in {*fold.train, *fold.validation}}
    )
