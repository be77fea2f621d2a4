"""Gamma: a power of the intensities, scaled to [0, 1] and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from nnrules_runtime.augment import statistics
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import Channels, RandomFactor, happens
from nnrules_runtime.values import Section

__all__ = ["Epsilon", "Gamma", "apply_gamma"]

Keep = Literal["mean_and_deviation", "mean_then_deviation", "none"]

# The logarithm of 0 and of denormal numbers takes a path that is thirty times slower; this power of it is still 0.
_SMALLEST = 1e-37


@dataclass(frozen=True, slots=True)
class Epsilon:
    """How a divisor is kept from zero: at least ``value``, or ``value`` added to it."""

    value: float
    add: bool

    @classmethod
    def from_plan(cls, section: Section) -> Epsilon:
        """Read ``epsilon`` and ``epsilon_use`` (null where there is nothing to divide)."""
        add = section.choice("epsilon_use", {"floor": False, "add": True, None: False})
        return cls(float(section.value("epsilon") or 0.0), add)

    def divisor(self, value: float) -> float:
        """What to divide by."""
        return value + self.value if self.add else max(value, self.value)


def apply_gamma(
    channel: torch.Tensor,
    gamma: float,
    *,
    invert: bool,
    keep: Keep,
    range_epsilon: Epsilon,
    statistics_epsilon: Epsilon,
) -> None:
    """Replace x by ((x - min) / range) ** gamma · range + min, in place.

    Sign, range and retained statistics are all affine, so they are one multiplication and one addition after the
    power, whatever their number.

    Args:
        channel: float32, contiguous.
        gamma: the exponent, above 0.
        invert: negate the intensities before and after.
        keep: ``mean_and_deviation``: afterwards shift and scale to mean and standard deviation before;
            ``mean_then_deviation``: shift first and scale the result, mean included (batchgenerators before 0.25);
            ``none``.
        range_epsilon: keeps the division by the range from zero. Where it is added, it is also part of the range
            that is multiplied afterwards (batchgenerators), where it is a floor it is not (batchgeneratorsv2).
        statistics_epsilon: keeps the division by the standard deviation afterwards from zero.
    """
    sign = -1.0 if invert else 1.0
    low, high = (bound.item() for bound in torch.aminmax(channel))
    bottom = -high if invert else low
    extent = high - low
    # What follows is said of the negated channel where it is inverted; ``sign`` undoes it at the end.
    mean_before, deviation_before = 0.0, 1.0
    if keep != "none":
        mean_before, deviation_before = statistics.mean_and_deviation(channel)
        mean_before *= sign
    divisor = range_epsilon.divisor(extent)
    channel.sub_(high if invert else low).mul_(sign / divisor if divisor > 0 else 0.0)
    channel.clamp_min_(_SMALLEST).log_().mul_(gamma).exp_()
    scale, shift = (divisor if range_epsilon.add else extent), bottom
    if keep != "none":
        mean_power, deviation_power = statistics.mean_and_deviation(channel)
        # In units of the result before statistics are restored: power · scale + shift.
        restore = deviation_before / statistics_epsilon.divisor(deviation_power * scale)
        if keep == "mean_and_deviation":
            scale, shift = scale * restore, mean_before - mean_power * scale * restore
        else:
            scale, shift = scale * restore, (mean_before - mean_power * scale) * restore
    channel.mul_(sign * scale).add_(sign * shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """``gamma`` and ``gamma_inverted``. Draws: whether, one exponent a channel or one for all."""

    probability: float
    gamma: RandomFactor
    invert: bool
    keep: Keep
    range_epsilon: Epsilon
    statistics_epsilon: Epsilon
    channels: Channels

    @classmethod
    def from_plan(cls, section: Section, num_channels: int) -> Gamma:
        """Read the transform's parameters."""
        kept = section.section("statistics")
        return cls(
            probability=section.value("probability"),
            gamma=RandomFactor.from_plan(section.section("gamma")),
            invert=section.require("invert", False, True),
            keep=kept.require("keep", "mean_and_deviation", "mean_then_deviation", "none"),
            range_epsilon=Epsilon.from_plan(section.section("range_epsilon")),
            statistics_epsilon=Epsilon.from_plan(kept),
            channels=Channels(count=num_channels, alike=section.require("channels_alike", False, True)),
        )

    def draw(self, rng: np.random.Generator) -> Mapping[int, tuple[float, ...]] | None:
        """The exponent for each channel."""
        return self.channels.draw(rng, self.gamma.draw) if happens(rng, self.probability) else None

    def apply(self, patch: Patch, drawn: Mapping[int, tuple[float, ...]]) -> None:
        """Change the channels."""
        for channel, (gamma,) in drawn.items():
            apply_gamma(
                patch.image[channel],
                gamma,
                invert=self.invert,
                keep=self.keep,
                range_epsilon=self.range_epsilon,
                statistics_epsilon=self.statistics_epsilon,
            )
