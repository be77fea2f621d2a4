"""What the transforms work on, and what a transform is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

__all__ = ["Box", "Patch", "Transform"]

Triple = tuple[int, int, int]


class Box(NamedTuple):
    """A box of voxels, (z, y, x): its first voxel and its edges."""

    offset: Triple
    size: Triple

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of the last three axes."""
        first, second, third = (
            slice(start, start + edge) for start, edge in zip(self.offset, self.size, strict=True)
        )
        return (first, second, third)


@dataclass(slots=True)
class Patch:
    """One sample on its way through the transforms, which change it in place.

    Attributes:
        image: float32 (C, Z, Y, X); contiguous.
        labels: int16 (L, Z, Y, X): the segmentation, then the previous stage's if there is one; contiguous.
    """

    image: torch.Tensor
    labels: torch.Tensor

    @property
    def shape(self) -> Triple:
        """Edges in voxels, (z, y, x)."""
        _, depth, height, width = self.image.shape
        return (depth, height, width)

    def crop(self, box: Box) -> None:
        """Keep a box. Nothing happens, not even a copy, where it is the whole patch."""
        if self.shape != box.size:
            self.image = self.image[(..., *box.slices)].contiguous()
            self.labels = self.labels[(..., *box.slices)].contiguous()


class Transform(Protocol):
    """One entry of ``augmentation.transforms``, of one configuration."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Everything random about one sample, ``None`` where the transform leaves it as it is."""

    def apply(self, patch: Patch, drawn: Any) -> None:
        """Change a patch as drawn."""
