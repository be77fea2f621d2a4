"""Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import Channels, happens, uniform
from nnrules_runtime.values import Section

__all__ = ["GaussianNoise", "NoiseDraw", "add_noise"]

_LARGEST_SEED = 2**63


class NoiseDraw(NamedTuple):
    """Standard deviation for each channel, and the seed of the noise itself."""

    deviations: Mapping[int, float]
    seed: int


def add_noise(image: torch.Tensor, drawn: NoiseDraw) -> None:
    """Add independent zero-centred noise to each voxel, in place.

    Args:
        image: float32 (C, Z, Y, X).
        drawn: what to add. One generator with its seed draws the noise of all its channels, ascending.
    """
    generator = torch.Generator().manual_seed(drawn.seed)
    noise = torch.randn(len(drawn.deviations), *image.shape[1:], generator=generator)
    for field, (channel, deviation) in zip(noise, sorted(drawn.deviations.items()), strict=True):
        image[channel].add_(field, alpha=deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise:
    """``gaussian_noise``. Draws: whether, the seed, one strength a channel or one for all."""

    probability: float
    low: float
    high: float
    is_variance: bool
    channels: Channels

    @classmethod
    def from_plan(cls, section: Section, num_channels: int) -> GaussianNoise:
        """Read the transform's parameters."""
        low, high = section.value("range") or (0.0, 0.0)
        return cls(
            probability=section.value("probability"),
            low=low,
            high=high,
            # All releases of nnU-Net pass what they call variance as a standard deviation (blueprints, 5.3).
            is_variance=section.choice("strength", {"standard_deviation": False, "variance": True}),
            channels=Channels(count=num_channels, alike=section.require("channels_alike", False, True)),
        )

    def draw(self, rng: np.random.Generator) -> NoiseDraw | None:
        """Strengths and seed for one sample."""
        if not happens(rng, self.probability):
            return None
        seed = int(rng.integers(_LARGEST_SEED))
        strengths = self.channels.draw(rng, lambda rng: uniform(rng, self.low, self.high))
        return NoiseDraw(
            {
                channel: math.sqrt(value) if self.is_variance else value
                for channel, (value,) in strengths.items()
            },
            seed,
        )

    def apply(self, patch: Patch, drawn: NoiseDraw) -> None:
        """Add the noise to the image."""
        add_noise(patch.image, drawn)
