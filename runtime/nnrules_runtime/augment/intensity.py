"""Brightness and contrast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nnrules_runtime.augment import statistics
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import Channels, RandomFactor, happens
from nnrules_runtime.values import Section

__all__ = ["Brightness", "Contrast", "change_contrast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness:
    """``brightness``: intensities times a factor. Draws: whether, one factor a channel or one for all."""

    probability: float
    factor: RandomFactor
    channels: Channels

    @classmethod
    def from_plan(cls, section: Section, num_channels: int) -> Brightness:
        """Read the transform's parameters."""
        return cls(
            probability=section.value("probability"),
            factor=RandomFactor.from_plan(section.section("factor")),
            channels=Channels(count=num_channels, alike=section.require("channels_alike", False, True)),
        )

    def draw(self, rng: np.random.Generator) -> Mapping[int, tuple[float, ...]] | None:
        """The factor for each channel."""
        return self.channels.draw(rng, self.factor.draw) if happens(rng, self.probability) else None

    def apply(self, patch: Patch, drawn: Mapping[int, tuple[float, ...]]) -> None:
        """Multiply the channels."""
        for channel, (factor,) in drawn.items():
            patch.image[channel].mul_(factor)


def change_contrast(channel: torch.Tensor, factor: float, *, around_mean: bool, clip: bool) -> None:
    """Multiply intensities around a centre, in place.

    Args:
        channel: float32, contiguous.
        factor: multiplies the distance from the centre.
        around_mean: the centre is the channel's mean, else 0.
        clip: to the smallest and largest value before.
    """
    low, high = torch.aminmax(channel) if clip else (None, None)
    if around_mean:
        centre = statistics.mean(channel)
        channel.sub_(centre).mul_(factor).add_(centre)
    else:
        channel.mul_(factor)
    if low is not None and high is not None:
        channel.clamp_(low.item(), high.item())


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """``contrast``. Draws: whether, one factor a channel or one for all."""

    probability: float
    factor: RandomFactor
    around_mean: bool
    clip: bool
    channels: Channels

    @classmethod
    def from_plan(cls, section: Section, num_channels: int) -> Contrast:
        """Read the transform's parameters."""
        return cls(
            probability=section.value("probability"),
            factor=RandomFactor.from_plan(section.section("factor")),
            around_mean=section.choice("around", {"channel_mean": True, "zero": False}),
            clip=section.require("clip_to_input_range", True, False),
            channels=Channels(count=num_channels, alike=section.require("channels_alike", False, True)),
        )

    def draw(self, rng: np.random.Generator) -> Mapping[int, tuple[float, ...]] | None:
        """The factor for each channel."""
        return self.channels.draw(rng, self.factor.draw) if happens(rng, self.probability) else None

    def apply(self, patch: Patch, drawn: Mapping[int, tuple[float, ...]]) -> None:
        """Change the contrast of the channels."""
        for channel, (factor,) in drawn.items():
            change_contrast(patch.image[channel], factor, around_mean=self.around_mean, clip=self.clip)
