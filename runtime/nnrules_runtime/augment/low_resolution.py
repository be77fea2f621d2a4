"""Simulation of low resolution: nearest neighbour down, linear or cubic up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

from nnrules_runtime.augment import spline
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import Channels, RandomFactor, happens
from nnrules_runtime.values import Section

__all__ = ["LowResolution", "enlarge_cubically", "enlarge_linearly", "lower_resolution"]

Triple = tuple[int, int, int]
Enlarge = Callable[[torch.Tensor, Triple], torch.Tensor]


def enlarge_linearly(small: torch.Tensor, shape: Triple) -> torch.Tensor:
    """Linear resize, aligned at the outer edges of the voxels, the border repeated.

    Args:
        small: float32 (Z', Y', X').
        shape: the edges of the result.

    Returns:
        A new tensor.
    """
    depth, height, width = shape
    wide = interpolate(small[None], (height, width), mode="bilinear")[0]
    old = len(wide)
    if old == depth:
        return wide
    result = torch.empty(shape)
    for index in range(depth):
        position = min(max((index + 0.5) * old / depth - 0.5, 0.0), old - 1.0)
        low = min(int(position), max(old - 2, 0))
        torch.lerp(wide[low], wide[min(low + 1, old - 1)], position - low, out=result[index])
    return result


def enlarge_cubically(small: torch.Tensor, shape: Triple) -> torch.Tensor:
    """Cubic spline resize, aligned at the outer edges of the voxels, the border repeated.

    Args:
        small: float32 (Z', Y', X').
        shape: the edges of the result.

    Returns:
        A new tensor.
    """
    result = small
    # The last axis first, while there are few voxels: it is the slowest.
    for axis in (2, 1, 0):
        if result.shape[axis] != shape[axis]:
            result = spline.resize_axis(result, axis, shape[axis])
    return result


def lower_resolution(channel: torch.Tensor, shape: Triple, *, enlarge: Enlarge, clip: bool) -> torch.Tensor:
    """Go down to a smaller grid and back.

    Args:
        channel: float32 (Z, Y, X).
        shape: the smaller grid.
        enlarge: how to go up again.
        clip: to the range of the smaller grid.

    Returns:
        A tensor of the shape of ``channel``.
    """
    depth, height, width = channel.shape
    small = interpolate(channel[None, None], shape, mode="nearest-exact")[0, 0]
    result = enlarge(small, (depth, height, width))
    if clip:
        low, high = torch.aminmax(small)
        result.clamp_(low.item(), high.item())
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class LowResolution:
    """``low_resolution``. Draws: whether, whether for each channel, then one zoom a channel or one for all."""

    probability: float
    zoom: RandomFactor
    is_divisor: bool
    axes: tuple[int, ...]
    enlarge: Enlarge
    clip: bool
    channels: Channels

    @classmethod
    def from_plan(cls, section: Section, num_channels: int, axes: tuple[int, ...]) -> LowResolution:
        """Read the transform's parameters; ``axes`` of (Z, Y, X) are those of the configuration."""
        zoom, up = section.section("zoom"), section.section("up")
        section.section("down").require("order", 0)
        ignored = section.value("ignored_axes") or []
        return cls(
            probability=section.value("probability"),
            zoom=RandomFactor.from_plan(zoom),
            is_divisor=zoom.choice("meaning", {"edge_factor": False, "edge_divisor": True}),
            axes=tuple(axis for index, axis in enumerate(axes) if index not in ignored),
            enlarge=up.choice("order", {1: enlarge_linearly, 3: enlarge_cubically}),
            clip=up.choice("clip", {"none": False, "input_range": True}),
            channels=Channels(
                count=num_channels,
                alike=section.require("channels_alike", False, True),
                probability=section.value("channel_probability"),
            ),
        )

    def smaller(self, shape: Triple, zoom: float) -> Triple:
        """The smaller grid for a drawn zoom; edges are rounded half to even, and at least 1."""
        factor = 1 / zoom if self.is_divisor else zoom
        edges = list(shape)
        for axis in self.axes:
            edges[axis] = max(1, round(shape[axis] * factor))
        return (edges[0], edges[1], edges[2])

    def draw(self, rng: np.random.Generator) -> Mapping[int, tuple[float, ...]] | None:
        """For each chosen channel its zoom."""
        return self.channels.draw(rng, self.zoom.draw) if happens(rng, self.probability) else None

    def apply(self, patch: Patch, drawn: Mapping[int, tuple[float, ...]]) -> None:
        """Lower the resolution of the channels."""
        for channel, (zoom,) in drawn.items():
            patch.image[channel] = lower_resolution(
                patch.image[channel],
                self.smaller(patch.shape, zoom),
                enlarge=self.enlarge,
                clip=self.clip,
            )
