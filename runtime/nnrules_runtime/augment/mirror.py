"""Mirroring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import happens
from nnrules_runtime.values import Section

__all__ = ["Mirror"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """``mirror``. Draws: whether, for each of the mirror axes, ascending."""

    axis_probability: float
    axes: tuple[int, ...]

    @classmethod
    def from_plan(cls, section: Section, axes: tuple[int, ...]) -> Mirror:
        """Read the transform's parameters; ``axes`` of (Z, Y, X) may be mirrored."""
        return cls(axis_probability=section.value("axis_probability"), axes=axes)

    def draw(self, rng: np.random.Generator) -> tuple[int, ...] | None:
        """The axes of (Z, Y, X) that are mirrored."""
        return tuple(axis for axis in self.axes if happens(rng, self.axis_probability)) or None

    def apply(self, patch: Patch, drawn: tuple[int, ...]) -> None:
        """Mirror image and labels."""
        dims = [axis + 1 for axis in drawn]
        patch.image = patch.image.flip(dims)
        patch.labels = patch.labels.flip(dims)
