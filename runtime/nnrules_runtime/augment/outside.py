"""Voxels outside of the non-zero mask: their intensities and their label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.values import Section

__all__ = ["MaskOutside", "ReplaceLabel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOutside:
    """``mask_outside``: intensities where the segmentation is below 0 are reset. Draws nothing."""

    channels: tuple[int, ...]
    value: float

    @classmethod
    def from_plan(cls, section: Section, masked_channels: tuple[int, ...]) -> MaskOutside:
        """Read the transform's parameters; ``masked_channels`` were normalised inside the mask."""
        return cls(
            channels=section.choice("channels", {"normalized_inside_mask": masked_channels}),
            value=section.value("value"),
        )

    def draw(self, rng: np.random.Generator) -> bool | None:  # noqa: ARG002 - nothing is random
        """Whether there is a channel to reset."""
        return True if self.channels else None

    def apply(self, patch: Patch, drawn: bool) -> None:  # noqa: ARG002
        """Reset the intensities."""
        segmentation = patch.labels[0]
        if segmentation.min() < 0:
            outside = segmentation < 0
            for channel in self.channels:
                patch.image[channel].masked_fill_(outside, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceLabel:
    """``replace_outside_label``: one label becomes another, the previous stage's too. Draws nothing."""

    old: int
    new: int

    @classmethod
    def from_plan(cls, section: Section) -> ReplaceLabel:
        """Read the transform's parameters."""
        return cls(old=section.value("from"), new=section.value("to"))

    def draw(self, rng: np.random.Generator) -> bool | None:  # noqa: ARG002 - nothing is random
        """Always."""
        return True

    def apply(self, patch: Patch, drawn: bool) -> None:  # noqa: ARG002
        """Replace the label."""
        smallest = int(patch.labels.min())
        if smallest == self.old == self.new - 1:
            # One pass: nothing is below it and nothing between.
            patch.labels.clamp_min_(self.new)
        elif smallest <= self.old:
            patch.labels.masked_fill_(patch.labels == self.old, self.new)
