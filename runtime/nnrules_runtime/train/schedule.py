"""The learning rate of each epoch."""

from __future__ import annotations

from dataclasses import dataclass

from nnrules_runtime.values import Section

__all__ = ["LearningRate"]


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate as a function of the epoch.

    Attributes:
        initial: rate of epoch 0.
        exponent: of the decay; 0 where the rate is constant.
        epochs: number of epochs of the training.
    """

    initial: float
    exponent: float
    epochs: int

    @classmethod
    def from_plan(cls, training: Section) -> LearningRate:
        """Read ``training.learning_rate_schedule``, ``epochs`` and the optimizer's initial rate."""
        schedule = training.section("learning_rate_schedule")
        schedule.require("update", "epoch")
        exponent: float = schedule.value("exponent")
        return cls(
            initial=training.section("optimizer").value("initial_learning_rate"),
            exponent=schedule.choice("name", {"polynomial": exponent, "constant": 0}),
            epochs=training.value("epochs"),
        )

    def __call__(self, epoch: int) -> float:
        """The rate of an epoch, counted from 0; 0 from the last on where it decays."""
        # In this order the numbers are those of the release to the last bit.
        return (
            self.initial * (1 - epoch / self.epochs) ** self.exponent if epoch < self.epochs else self.at(1)
        )

    def at(self, share: float) -> float:
        """The rate where this share of the training is over, for a training that ends by the clock.

        Args:
            share: 0 to 1.
        """
        return float(self.initial * (1 - min(share, 1.0)) ** self.exponent)
