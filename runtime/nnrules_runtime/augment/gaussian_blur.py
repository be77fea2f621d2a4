"""Gaussian blur, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import Channels, happens, uniform
from nnrules_runtime.values import Section

__all__ = ["GaussianBlur", "blur_axis", "gaussian_kernel", "six_sigma_odd", "truncated_at_4_sigma"]


def six_sigma_odd(sigma: float) -> int:
    """Length of the kernel: 6 sigma + 0.5 to the nearest odd number (batchgeneratorsv2 0.3.6)."""
    length = 6 * sigma + 0.5
    rounded = round(length)
    if rounded % 2 == 1:
        return rounded
    return rounded + 1 if length >= rounded else rounded - 1


def truncated_at_4_sigma(sigma: float) -> int:
    """Length of the kernel: 2 floor(4 sigma + 0.5) + 1 (``scipy.ndimage.gaussian_filter``)."""
    return 2 * math.floor(4 * sigma + 0.5) + 1


def gaussian_kernel(sigma: float, length: int) -> list[float]:
    """Weights of an odd number of voxels, summing to 1."""
    radius = length // 2
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _border(edge: int, radius: int, border: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the voxels that stand before the first and after the last one of an axis."""
    mode = "symmetric" if border == "symmetric" else "reflect"
    index = torch.from_numpy(np.pad(np.arange(edge), radius, mode=mode))  # type: ignore[call-overload]
    return index[:radius], index[radius + edge :]


def blur_axis(channel: torch.Tensor, axis: int, kernel: list[float], border: str) -> torch.Tensor:
    """Convolve one axis with a symmetric kernel.

    Args:
        channel: float32 (Z, Y, X).
        axis: the axis.
        kernel: an odd number of weights.
        border: ``symmetric`` or ``reflect``.

    Returns:
        A new tensor of the same shape.
    """
    edge, radius = channel.shape[axis], len(kernel) // 2
    before, after = _border(edge, radius, border)
    padded = torch.cat([channel.index_select(axis, before), channel, channel.index_select(axis, after)], axis)
    blurred = padded.narrow(axis, radius, edge).mul(kernel[radius])
    for distance in range(1, radius + 1):
        for start in (radius - distance, radius + distance):
            blurred.add_(padded.narrow(axis, start, edge), alpha=kernel[radius + distance])
    return blurred


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianBlur:
    """``gaussian_blur``.

    Draws: whether, whether for each channel, then a standard deviation a channel and axis (fewer where they are
    alike).
    """

    probability: float
    low: float
    high: float
    axes_alike: bool
    length: Callable[[float], int]
    border: str
    channels: Channels
    axes: tuple[int, ...]

    @classmethod
    def from_plan(cls, section: Section, num_channels: int, axes: tuple[int, ...]) -> GaussianBlur:
        """Read the transform's parameters; ``axes`` of (Z, Y, X) are blurred."""
        low, high = section.value("sigma_voxels") or (1.0, 1.0)
        return cls(
            probability=section.value("probability"),
            low=low,
            high=high,
            axes_alike=section.require("axes_alike", False, True),
            length=section.choice(
                "kernel", {"six_sigma_odd": six_sigma_odd, "truncated_at_4_sigma": truncated_at_4_sigma}
            ),
            border=section.require("border", "reflect", "symmetric"),
            channels=Channels(
                count=num_channels,
                alike=section.require("channels_alike", False, True),
                probability=section.value("channel_probability"),
            ),
            axes=axes,
        )

    def _sigmas(self, rng: np.random.Generator) -> tuple[float, ...]:
        if self.axes_alike:
            return (uniform(rng, self.low, self.high),) * len(self.axes)
        return tuple(uniform(rng, self.low, self.high) for _ in self.axes)

    def draw(self, rng: np.random.Generator) -> Mapping[int, tuple[float, ...]] | None:
        """For each chosen channel the standard deviation in voxels along each axis."""
        return self.channels.draw(rng, self._sigmas) if happens(rng, self.probability) else None

    def apply(self, patch: Patch, drawn: Mapping[int, tuple[float, ...]]) -> None:
        """Blur the channels."""
        for channel, sigmas in drawn.items():
            blurred = patch.image[channel]
            for axis, sigma in zip(self.axes, sigmas, strict=True):
                blurred = blur_axis(blurred, axis, gaussian_kernel(sigma, self.length(sigma)), self.border)
            patch.image[channel] = blurred
