"""How far a training is, and what it writes on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nnrules_runtime.train.metrics import EpochMetrics, MetricsLog
from nnrules_runtime.train.pseudo_dice import MovingAverage

__all__ = ["Cadence", "Outcome", "Outputs", "State"]


@dataclass(slots=True, kw_only=True)
class State:
    """How far a training is; what a checkpoint holds besides weights.

    Attributes:
        epoch: the epoch under way.
        iteration: training iterations of it that are done.
        losses: their losses; scalars on the device.
        num_iterations: training iterations since the start.
        seconds_per_iteration: as last measured, with waiting.
        average_dice: moving average of the pseudo Dice.
        best_dice: its largest value.
        seconds_before: time spent by earlier sessions.
        clock: seconds that never go backwards.
    """

    epoch: int = 0
    iteration: int = 0
    losses: list[Tensor] = field(default_factory=list)
    num_iterations: int = 0
    seconds_per_iteration: float | None = None
    average_dice: float | None = None
    best_dice: float | None = None
    seconds_before: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _started: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent on this training so far, over all sessions."""
        return self.seconds_before + (0.0 if self._started is None else self.clock() - self._started)

    def start_clock(self) -> None:
        """From now on time counts."""
        self._started = self.clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When what is written, as ``training.checkpoints`` and ``training.progress`` of the plan say.

    Attributes:
        every_num_epochs: a checkpoint after every so many epochs.
        at_last_epoch: also when the last epoch is due.
        first_epoch_may_be_best: whether the first epoch writes best weights, or only sets the value to exceed.
        average: the moving average of the pseudo Dice.
        seconds: a checkpoint also where the last one is older; how often a crash may cost is no part of the method.
    """

    every_num_epochs: int
    at_last_epoch: bool
    first_epoch_may_be_best: bool
    average: MovingAverage
    seconds: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a training writes besides its model.

    Attributes:
        folder: the fold's folder.
        log: the lines of the epochs.
        draws: whether there is matplotlib for the picture.
        write_checkpoint: writes a checkpoint of the state now.
        write_best: writes the weights now as the best ones.
        after_epoch: is given each epoch's metrics.
        second_start: is given epoch and mean Dice; starts the training a second time where the plan says so.
    """

    folder: Path
    log: MetricsLog
    draws: bool
    write_checkpoint: Callable[[], None]
    write_best: Callable[[], None]
    after_epoch: Callable[[EpochMetrics], None]
    second_start: Callable[[int, float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended.

    Attributes:
        finished: whether the last epoch is done.
        reason: why it stopped before.
        epoch: epochs that are done.
    """

    finished: bool
    reason: str | None
    epoch: int
