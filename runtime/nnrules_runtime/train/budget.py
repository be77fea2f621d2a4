"""Which epochs a training has: those of the plan, or those that fit into a time budget.

**A time budget** is a training whose schedule finishes in a given time, whatever the machine's speed. It is not a
plan's schedule that is cut off: a polynomial decay that is cut off never reaches its small rates, where most of the
final accuracy comes from. Instead the learning rate follows the share of the schedule that is over,

    rate(p) = the plan's rate at epoch p × epochs,   p = max(time spent / budget, iterations done / iterations planned),

looked up before each iteration. So it reaches its end when the time is over, or with the plan's last iteration where
the budget is generous. Epochs are as long as the plan says, or shorter so that there are about 25 of them (pseudo Dice
and best weights need several); validation iterations shrink in proportion, and time for the last ones is kept back.
As it depends on a clock, such a training cannot be repeated to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from nnrules_runtime.train.schedule import LearningRate

__all__ = ["BudgetSchedule", "EpochSize", "PlannedSchedule", "Position", "Schedule"]

_EPOCHS_IN_BUDGET = 25
# The first epoch of a budget measures the speed, after compilation and the first reading of files.
_ITERATIONS_TO_MEASURE = 10
# A validation iteration has no backward pass, which takes about two thirds of a training iteration.
_VALIDATION_COST = 1 / 3


class Position(Protocol):
    """How far a training is."""

    @property
    def epoch(self) -> int:
        """The epoch under way."""

    @property
    def num_iterations(self) -> int:
        """Training iterations since the start."""

    @property
    def seconds(self) -> float:
        """Time spent on training since the start."""

    @property
    def seconds_per_iteration(self) -> float | None:
        """As last measured."""


@dataclass(frozen=True, slots=True)
class EpochSize:
    """Length of an epoch.

    Attributes:
        num_iterations: training iterations.
        num_validation_iterations: validation iterations.
    """

    num_iterations: int
    num_validation_iterations: int


class Schedule(Protocol):
    """Which epochs there are, and with which learning rate."""

    @property
    def description(self) -> str:
        """For logs."""

    @property
    def budget_seconds(self) -> float | None:
        """The time budget, where there is one."""

    def epoch_size(self, epoch: int, position: Position) -> EpochSize | None:
        """Length of an epoch; ``None``: the training is over. Asked a few batches before it begins."""

    def learning_rate(self, position: Position) -> float:
        """The rate of the next iteration."""

    def is_over(self, position: Position, size: EpochSize) -> bool:
        """Whether no further training iteration fits into an epoch of this size; asked within it."""

    def is_last(self, position: Position) -> bool:
        """Whether the epoch at this position is known to be the last."""

    def seconds_left(self, position: Position) -> float | None:
        """Estimate of the time that is left; ``None``: not known yet."""


class PlannedSchedule:
    """The schedule of the plan.

    Args:
        epochs: number of epochs.
        size: length of each.
        rate: the plan's learning rate.
    """

    budget_seconds: float | None = None

    def __init__(self, epochs: int, size: EpochSize, rate: LearningRate) -> None:
        self.epochs = epochs
        self._size = size
        self._rate = rate

    @property
    def description(self) -> str:
        """For logs."""
        return f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'} of {self._size.num_iterations} iterations"

    def epoch_size(self, epoch: int, position: Position) -> EpochSize | None:  # noqa: ARG002
        """The plan's length, for the plan's number of epochs."""
        return self._size if epoch < self.epochs else None

    def learning_rate(self, position: Position) -> float:
        """The rate of the epoch."""
        return self._rate(position.epoch)

    def is_over(self, position: Position, size: EpochSize) -> bool:  # noqa: ARG002 - a plan's epochs are never cut
        """Never within an epoch."""
        return False

    def is_last(self, position: Position) -> bool:
        """Whether this is the plan's last epoch."""
        return position.epoch >= self.epochs - 1

    def seconds_left(self, position: Position) -> float | None:
        """From the mean time of an epoch so far."""
        done = position.num_iterations / self._size.num_iterations
        return position.seconds / done * (self.epochs - done) if done else None


class BudgetSchedule:
    """A schedule that is over when its time is.

    Args:
        seconds: the budget: time spent on training, over all sessions; without preprocessing and the prediction of
            the validation cases at the end.
        plan: the plan's schedule, which is the upper limit.
        rate: the plan's learning rate.
    """

    def __init__(self, seconds: float, plan: PlannedSchedule, size: EpochSize, rate: LearningRate) -> None:
        self._seconds = seconds
        self._plan = plan
        self._size = size
        self._rate = rate

    @property
    def budget_seconds(self) -> float | None:
        """The budget."""
        return self._seconds

    @property
    def description(self) -> str:
        """For logs."""
        return (
            f"as many iterations as fit into {self._seconds / 60:g} minutes, at most {self._plan.description}; "
            "the learning rate follows the time"
        )

    def share_over(self, position: Position) -> float:
        """Share of the schedule that is over, 0 to 1."""
        planned = self._plan.epochs * self._size.num_iterations
        return min(1.0, max(position.seconds / self._seconds, position.num_iterations / planned))

    def learning_rate(self, position: Position) -> float:
        """The plan's rate at this share of its epochs."""
        # The very end has a rate of 0: the last iteration is just before it.
        return self._rate.at(min(self.share_over(position), 1 - 1e-6))

    def epoch_size(self, epoch: int, position: Position) -> EpochSize | None:  # noqa: ARG002
        """As long as fits; the first one is short and measures."""
        planned_left = self._plan.epochs * self._size.num_iterations - position.num_iterations
        left = self._seconds - position.seconds
        if planned_left <= 0 or (left <= 0 and position.num_iterations > 0):
            return None
        if position.seconds_per_iteration is None:
            return self._of(min(_ITERATIONS_TO_MEASURE, planned_left))
        fits = math.floor(left / self._seconds_each(position))
        if fits < 1:
            return None
        wished = math.ceil(self._seconds / _EPOCHS_IN_BUDGET / self._seconds_each(position))
        wanted = min(self._size.num_iterations, wished, planned_left)
        # What would remain for a last, tiny epoch is added to this one.
        return self._of(fits if fits < wanted * 1.5 else wanted)

    def is_over(self, position: Position, size: EpochSize) -> bool:
        """Whether the time that is left is needed for this epoch's validation."""
        each = position.seconds_per_iteration or 0.0
        needed = each * (1 + size.num_validation_iterations * _VALIDATION_COST)
        return position.num_iterations > 0 and position.seconds + needed >= self._seconds

    def is_last(self, position: Position) -> bool:  # noqa: ARG002
        """Never known before."""
        return False

    def seconds_left(self, position: Position) -> float | None:
        """What is left of the budget."""
        return max(0.0, self._seconds - position.seconds)

    def _of(self, num_iterations: int) -> EpochSize:
        share = num_iterations / self._size.num_iterations
        validation = math.ceil(self._size.num_validation_iterations * min(1.0, share))
        return EpochSize(num_iterations, validation)

    def _seconds_each(self, position: Position) -> float:
        """Time of a training iteration with its part of validation."""
        share = self._size.num_validation_iterations / self._size.num_iterations * _VALIDATION_COST
        return (position.seconds_per_iteration or 0.0) * (1 + share)
