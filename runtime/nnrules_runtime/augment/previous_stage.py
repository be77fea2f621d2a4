"""A cascade's second stage: the first stage's segmentation as input channels, and what is done to them.

The channels follow those of the image, one for each label above 0, ascending; at most one of them is 1 in a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from nnrules_runtime.augment.binary_operators import OPERATORS, ball
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.random_values import happens, uniform
from nnrules_runtime.values import Section

__all__ = [
    "ComponentDraw",
    "OneHot",
    "OperatorDraw",
    "Stage",
    "StageComponents",
    "StageOperators",
    "apply_operator",
    "remove_components",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the previous stage's channels are.

    Attributes:
        first: index of the first one: the number of image channels.
        labels: their labels.
        is_2d: whether the structuring element is a disk, and components are those of a slice.
    """

    first: int
    labels: tuple[int, ...]
    is_2d: bool

    def channels(self, image: torch.Tensor) -> torch.Tensor:
        """A view of the channels."""
        return image[self.first : self.first + len(self.labels)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHot:
    """``previous_stage_one_hot``. Draws nothing."""

    stage: Stage

    @classmethod
    def from_plan(cls, section: Section, stage: Stage) -> OneHot:
        """Read the transform's parameters."""
        section.require("labels", "foreground")
        return cls(stage=stage)

    def draw(self, rng: np.random.Generator) -> bool | None:  # noqa: ARG002 - nothing is random
        """Always."""
        return True

    def apply(self, patch: Patch, drawn: bool) -> None:  # noqa: ARG002
        """Append the channels to the image and drop the second segmentation."""
        count = len(self.stage.labels)
        image = torch.empty(len(patch.image) + count, *patch.shape)
        image[: self.stage.first] = patch.image
        for channel, label in zip(image[self.stage.first :], self.stage.labels, strict=True):
            torch.eq(patch.labels[1], label, out=channel)
        patch.image = image
        patch.labels = patch.labels[:1]


class OperatorDraw(NamedTuple):
    """One operator on one channel."""

    channel: int
    operator: str
    radius: float


def apply_operator(channels: torch.Tensor, drawn: OperatorDraw, *, is_2d: bool) -> None:
    """Apply a binary operator to one of the one-hot channels, in place.

    Args:
        channels: float32 (K, Z, Y, X), one-hot or all 0. Voxels added to the channel leave all others.
        drawn: channel, operator, radius in voxels.
        is_2d: each slice by itself, with a disk.
    """
    element = ball(drawn.radius, 2 if is_2d else 3)
    before = channels[drawn.channel].numpy() > 0.5
    after = OPERATORS[drawn.operator](before, element[None] if is_2d else element)
    added = torch.from_numpy(after & ~before)
    for index, channel in enumerate(channels):
        if index != drawn.channel:
            channel.masked_fill_(added, 0)
    channels[drawn.channel].copy_(torch.from_numpy(after))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOperators:
    """``previous_stage_operators``.

    Draws: whether; the order of the labels; whether for each, in that order; operator and radius once for the sample,
    or for each label that takes part.
    """

    stage: Stage
    probability: float
    label_probability: float
    operators: tuple[str, ...]
    low: float
    high: float
    once: bool

    @classmethod
    def from_plan(cls, section: Section, stage: Stage) -> StageOperators:
        """Read the transform's parameters."""
        section.require("element", "ball")
        section.require("label_order", "random")
        section.require("one_hot", "keep")
        names = tuple(section.value("operators") or ("dilation",))
        unknown = [name for name in names if name not in OPERATORS]
        if unknown:
            known = "some of " + ", ".join(OPERATORS)
            section.refuse(
                "operators", "the runtime does not know this value", got=repr(unknown), expected=known
            )
        low, high = section.value("radius_voxels") or (1.0, 1.0)
        return cls(
            stage=stage,
            probability=section.value("probability"),
            label_probability=section.value("label_probability"),
            operators=names,
            low=low,
            high=high,
            once=section.choice("draw", {"label": False, "sample": True}),
        )

    def _operator(self, rng: np.random.Generator) -> tuple[str, float]:
        name = self.operators[int(rng.integers(len(self.operators)))]
        return name, uniform(rng, self.low, self.high)

    def draw(self, rng: np.random.Generator) -> list[OperatorDraw] | None:
        """The operators, first to last."""
        if not happens(rng, self.probability):
            return None
        order = rng.permutation(len(self.stage.labels)).tolist()
        chosen = [channel for channel in order if happens(rng, self.label_probability)]
        if self.once:
            shared = self._operator(rng)
            return [OperatorDraw(channel, *shared) for channel in chosen]
        return [OperatorDraw(channel, *self._operator(rng)) for channel in chosen]

    def apply(self, patch: Patch, drawn: list[OperatorDraw]) -> None:
        """Apply the operators."""
        for operator in drawn:
            apply_operator(self.stage.channels(patch.image), operator, is_2d=self.stage.is_2d)


class ComponentDraw(NamedTuple):
    """Removal from one channel.

    Attributes:
        channel: the channel.
        pick: in [0, 1): which of the small components, where one is removed.
        fill: the channel that gets the removed voxels, or ``None``.
    """

    channel: int
    pick: float
    fill: int | None


def remove_components(
    channels: torch.Tensor, drawn: ComponentDraw, *, max_voxels: float, one: bool, full: bool
) -> None:
    """Remove small connected components from one of the one-hot channels, in place.

    Args:
        channels: float32 (K, Z, Y, X).
        drawn: channel, which component, what it becomes.
        max_voxels: components with fewer voxels than this are small.
        one: remove one of them, else all.
        full: neighbours share a corner, else a face. (In 2D, Z = 1.)
    """
    from scipy import ndimage  # type: ignore[import-untyped]  # noqa: PLC0415 - slow, and for cascades only

    mask = channels[drawn.channel].numpy() > 0.5
    structure = np.ones((3, 3, 3), dtype=bool) if full else ndimage.generate_binary_structure(3, 1)
    components, count = ndimage.label(mask, structure)
    sizes: npt.NDArray[np.int64] = np.bincount(components.ravel(), minlength=count + 1)[1:]
    small = np.flatnonzero(sizes < max_voxels) + 1
    if not len(small):
        return
    removed = components == small[int(drawn.pick * len(small))] if one else np.isin(components, small)
    where = torch.from_numpy(removed)
    channels[drawn.channel].masked_fill_(where, 0)
    if drawn.fill is not None:
        channels[drawn.fill].masked_fill_(where, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageComponents:
    """``previous_stage_components``.

    Draws: whether; the order of the labels; whether for each, in that order; then for each that takes part which
    component, whether it is filled, and with which of the other labels.
    """

    stage: Stage
    probability: float
    label_probability: float
    max_share: float
    one: bool
    fill_probability: float
    full: bool

    @classmethod
    def from_plan(cls, section: Section, stage: Stage) -> StageComponents:
        """Read the transform's parameters."""
        return cls(
            stage=stage,
            probability=section.value("probability"),
            label_probability=section.value("label_probability"),
            max_share=section.value("max_patch_share"),
            one=section.choice("which", {"one_at_random": True, "all": False}),
            fill_probability=section.value("fill_probability"),
            full=section.choice("connectivity", {"face": False, "full": True}),
        )

    def draw(self, rng: np.random.Generator) -> list[ComponentDraw] | None:
        """The removals, first to last."""
        if not happens(rng, self.probability):
            return None
        count = len(self.stage.labels)
        order = rng.permutation(count).tolist()
        chosen = [channel for channel in order if happens(rng, self.label_probability)]
        removals = []
        for channel in chosen:
            pick, fill = float(rng.random()), None
            if happens(rng, self.fill_probability) and count > 1:
                other = int(rng.integers(count - 1))
                fill = other + (other >= channel)
            removals.append(ComponentDraw(channel, pick, fill))
        return removals

    def apply(self, patch: Patch, drawn: list[ComponentDraw]) -> None:
        """Remove the components."""
        depth, height, width = patch.shape
        for removal in drawn:
            remove_components(
                self.stage.channels(patch.image),
                removal,
                max_voxels=self.max_share * depth * height * width,
                one=self.one,
                full=self.full,
            )
