"""The training of one fold, from its first epoch or from a checkpoint to its last."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Protocol

import torch
from nnrules.errors import NnrulesError
from torch import Tensor

from nnrules_runtime.progress import track
from nnrules_runtime.quantities import rough_duration
from nnrules_runtime.train.batches import Batch
from nnrules_runtime.train.budget import EpochSize, Schedule
from nnrules_runtime.train.keys import EpochKeys
from nnrules_runtime.train.metrics import EpochMetrics, peak_memory_bytes
from nnrules_runtime.train.progress_picture import PICTURE_FILE, draw_progress
from nnrules_runtime.train.sampling import Phase
from nnrules_runtime.train.state import Cadence, Outcome, Outputs, State
from nnrules_runtime.train.stopping import Stop
from nnrules_runtime.train.trainer import Trainer

__all__ = ["BatchStream", "Training"]

_LOGGER = logging.getLogger(__name__)
# The first iterations of a session open files, compile and choose algorithms: they tell nothing about the speed.
_WARM_UP_ITERATIONS = 3
# On CUDA asking whether losses are finite waits for the device.
_ITERATIONS_BETWEEN_CHECKS = 50
_ITERATIONS_BEFORE_ESTIMATE = 10
_SECONDS_BETWEEN_PICTURES = 20.0


class BatchStream(Protocol):
    """Batches in the order of :class:`~nnrules_runtime.train.keys.EpochKeys`."""

    wait_s: float

    def __next__(self) -> Batch:
        """The next batch."""


class Training:
    """One session of a training.

    Args:
        trainer: moves the weights.
        keys: the order of the batches.
        batches: the batches, in this order.
        schedule: lengths of epochs and learning rates.
        cadence: when what is written.
        state: where to begin; changed as it goes on.
        stop: whether to stop before the end.
        outputs: what is written.
    """

    def __init__(
        self,
        *,
        trainer: Trainer,
        keys: EpochKeys,
        batches: BatchStream,
        schedule: Schedule,
        cadence: Cadence,
        state: State,
        stop: Stop,
        outputs: Outputs,
    ) -> None:
        self._trainer = trainer
        self._keys = keys
        self._batches = batches
        self._schedule = schedule
        self._cadence = cadence
        self._state = state
        self._stop = stop
        self._outputs = outputs
        self._iterations_of_session = 0
        self._checkpoint_at = self._drawn_at = time.monotonic()

    def run(self) -> Outcome:
        """Train to the end, or until something asks to stop: then a checkpoint has been written.

        Raises:
            RunError: losses that are not finite, a batch that cannot be made, a full disk.
        """
        state, trainer = self._state, self._trainer
        state.start_clock()
        while (size := self._keys.size_of(state.epoch)) is not None:
            if state.iteration == 0 and self._schedule.is_over(state, size):
                break  # its length was decided before the time was over
            started, waited, first = time.monotonic(), self._batches.wait_s, state.iteration
            rate = self._schedule.learning_rate(state)
            if (reason := self._train(size)) is not None:
                return self._pause(reason)
            training_seconds = time.monotonic() - started
            share_waiting = (self._batches.wait_s - waited) / max(training_seconds, 1e-9)

            validation_losses: list[Tensor] = []
            if (reason := self._validate(size, validation_losses)) is not None:
                return self._pause(reason)

            dice = trainer.pseudo_dice.result()
            is_best = self._follow(dice.mean)
            self._outputs.second_start(state.epoch, dice.mean)
            metrics = EpochMetrics(
                epoch=state.epoch,
                num_iterations=len(state.losses),
                learning_rate=rate,
                loss=_mean_of(state.losses),
                validation_loss=_mean_of(validation_losses),
                dice=dice.by_head,
                mean_dice=dice.mean,
                average_dice=state.average_dice,
                is_best=is_best,
                seconds=time.monotonic() - started,
                seconds_per_iteration=training_seconds / max(1, len(state.losses) - first),
                share_waiting=min(1.0, share_waiting),
                num_skipped=trainer.num_skipped,
                peak_memory_bytes=peak_memory_bytes(),
                peak_gpu_memory_bytes=self._peak_gpu_memory(),
            )
            self._outputs.log.append(metrics)
            self._finish_epoch(metrics)
        self._draw()
        return Outcome(finished=True, reason=None, epoch=state.epoch)

    # -- the two halves of an epoch ----------------------------------------------------------------------------------

    def _train(self, size: EpochSize) -> str | None:
        """Training iterations; returns why to stop, or ``None`` at their end."""
        state, trainer = self._state, self._trainer
        trainer.begin_training()
        first = state.iteration
        started = time.monotonic()
        title = f"epoch {state.epoch}"
        for iteration in track(
            range(first, size.num_iterations), total=size.num_iterations - first, title=title
        ):
            if self._schedule.is_over(state, size):
                self._keys.end_training_of(state.epoch)
                break
            trainer.set_learning_rate(self._schedule.learning_rate(state))
            batch = self._next_batch()
            state.losses.append(trainer.train_step(batch, epoch=state.epoch, iteration=iteration))
            state.iteration = iteration + 1
            state.num_iterations += 1
            self._iterations_of_session += 1
            if self._iterations_of_session == _WARM_UP_ITERATIONS:
                started, first = time.monotonic(), state.iteration
            elif self._iterations_of_session > _WARM_UP_ITERATIONS:
                state.seconds_per_iteration = (time.monotonic() - started) / (state.iteration - first)
            if self._iterations_of_session == _ITERATIONS_BEFORE_ESTIMATE:
                self._say_estimate()
            if trainer.device.type == "cpu" or state.iteration % _ITERATIONS_BETWEEN_CHECKS == 0:
                trainer.check_finite(epoch=state.epoch, iteration=iteration)
            # Writing takes about as long as an iteration.
            if reason := self._stop.reason(seconds_needed=2 * (state.seconds_per_iteration or 0.0)):
                return reason
        trainer.check_finite(epoch=state.epoch, iteration=state.iteration - 1)
        return None

    def _say_estimate(self) -> None:
        seconds, left = self._state.seconds_per_iteration, self._schedule.seconds_left(self._state)
        if seconds is not None and left is not None:
            _LOGGER.info("%.2f s an iteration, about %s left", seconds, rough_duration(left))

    def _validate(self, size: EpochSize, losses: list[Tensor]) -> str | None:
        """Validation iterations; weights don't change, so that a stop in here repeats all of them."""
        trainer = self._trainer
        trainer.begin_validation()
        for _ in range(size.num_validation_iterations):
            batch = self._next_batch()
            while batch.key.phase is Phase.TRAIN:  # prepared before the time of this epoch was over
                batch = self._next_batch()
            losses.append(trainer.validation_step(batch))
            if reason := self._stop.reason(seconds_needed=self._state.seconds_per_iteration or 0.0):
                return reason
        return None

    def _next_batch(self) -> Batch:
        try:
            return next(self._batches)
        except NnrulesError:
            # A damaged case is no fault of the weights: what was learned is kept.
            with suppress(NnrulesError):
                self._outputs.write_checkpoint()
            raise

    # -- after an epoch ----------------------------------------------------------------------------------------------

    def _follow(self, mean_dice: float | None) -> bool:
        """Update the moving average; write the weights where it exceeds its best, strictly."""
        state = self._state
        if mean_dice is None:
            return False
        state.average_dice = self._cadence.average(state.average_dice, mean_dice)
        assert state.average_dice is not None
        if state.best_dice is None:
            state.best_dice = state.average_dice
            is_best = self._cadence.first_epoch_may_be_best
        else:
            is_best = state.average_dice > state.best_dice
            state.best_dice = max(state.best_dice, state.average_dice)
        if is_best:
            self._outputs.write_best()
        return is_best

    def _finish_epoch(self, metrics: EpochMetrics) -> None:
        state = self._state
        is_last = self._schedule.is_last(state)
        state.epoch += 1
        state.iteration = 0
        state.losses.clear()
        self._trainer.reset_counts()
        now = time.monotonic()
        due = state.epoch % self._cadence.every_num_epochs == 0 and (
            self._cadence.at_last_epoch or not is_last
        )
        if due or (not is_last and now - self._checkpoint_at >= self._cadence.seconds):
            self._outputs.write_checkpoint()
            self._checkpoint_at = time.monotonic()
        if metrics.epoch == 0 or now - self._drawn_at >= _SECONDS_BETWEEN_PICTURES:
            self._draw()
        self._outputs.after_epoch(metrics)
        _LOGGER.info("%s", self._line(metrics))

    def _draw(self) -> None:
        if self._outputs.draws and (epochs := self._outputs.log.read()):
            draw_progress(epochs, self._outputs.folder / PICTURE_FILE)
            self._drawn_at = time.monotonic()

    def _line(self, metrics: EpochMetrics) -> str:
        parts = [f"epoch {metrics.epoch}: loss {_text(metrics.loss)}"]
        if metrics.validation_loss is not None:
            classes = ", ".join(f"{name} {_text(value, 3)}" for name, value in metrics.dice.items())
            parts.append(f"validation loss {_text(metrics.validation_loss)}")
            parts.append(f"pseudo Dice {_text(metrics.mean_dice, 3)} ({classes})")
            parts.append(f"average {_text(metrics.average_dice, 3)}{' (best)' if metrics.is_best else ''}")
        parts.append(f"rate {metrics.learning_rate:.3g}")
        parts.append(f"{metrics.seconds:.1f} s, {metrics.seconds_per_iteration:.2f} s an iteration")
        parts.append(f"{metrics.share_waiting:.0%} waiting for data")
        if metrics.num_skipped:
            parts.append(f"{metrics.num_skipped} steps left out")
        if left := self._schedule.seconds_left(self._state):
            parts.append(f"about {rough_duration(left)} left")
        return "; ".join(parts)

    def _pause(self, reason: str) -> Outcome:
        self._outputs.write_checkpoint()
        _LOGGER.info(
            "stopped by %s in epoch %d after %d iterations of it; the same command continues",
            reason,
            self._state.epoch,
            self._state.iteration,
        )
        return Outcome(finished=False, reason=reason, epoch=self._state.epoch)

    def _peak_gpu_memory(self) -> int | None:
        if self._trainer.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self._trainer.device)
        torch.cuda.reset_peak_memory_stats(self._trainer.device)
        return peak


def _mean_of(losses: list[Tensor]) -> float | None:
    return float(torch.stack(losses).double().mean()) if losses else None


def _text(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
