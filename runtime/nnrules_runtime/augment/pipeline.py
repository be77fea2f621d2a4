"""The transforms of a plan, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnrules_runtime.augment.gamma import Gamma
from nnrules_runtime.augment.gaussian_blur import GaussianBlur
from nnrules_runtime.augment.gaussian_noise import GaussianNoise
from nnrules_runtime.augment.intensity import Brightness, Contrast
from nnrules_runtime.augment.low_resolution import LowResolution
from nnrules_runtime.augment.mirror import Mirror
from nnrules_runtime.augment.outside import MaskOutside, ReplaceLabel
from nnrules_runtime.augment.patch import Box, Patch, Transform
from nnrules_runtime.augment.previous_stage import OneHot, Stage, StageComponents, StageOperators
from nnrules_runtime.augment.spatial import CenterCrop, Spatial, center_box, half_difference
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

__all__ = ["Augmentation", "SampleDraw"]

Triple = tuple[int, int, int]

_ON_STAGE = ("previous_stage_operators", "previous_stage_components")


@dataclass(frozen=True, slots=True)
class SampleDraw:
    """Everything random about one sample.

    Attributes:
        offset: first voxel of the needed box, (z, y, x) of the initial patch.
        size: its edges in voxels.
        steps: what each transform drew, in their order; ``None`` where it leaves the sample as it is.
    """

    offset: Triple
    size: Triple
    steps: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Augmentation of the samples of one configuration; picklable.

    Attributes:
        transforms: name and transform, first to last. Draws are made in this order, from the sample's own generator.
        initial_patch_size: (z, y, x), in 2D with z = 1.
        patch_size: the same of the result.
        num_channels: image channels before and after.
    """

    transforms: tuple[tuple[str, Transform], ...]
    initial_patch_size: Triple
    patch_size: Triple
    num_channels: int

    @classmethod
    def from_plan(cls, root: Section, configuration: Section, labels: LabelSet) -> Augmentation:
        """The augmentation of training patches.

        Args:
            root: the plan.
            configuration: one of its configurations.
            labels: the labels of its dataset.
        """
        initial = configuration.section("sampling").value("initial_patch_size")
        return cls._read(root, configuration, labels, "order", initial)

    @classmethod
    def for_validation(cls, root: Section, configuration: Section, labels: LabelSet) -> Augmentation:
        """What the plan does to validation patches.

        Args:
            root: the plan.
            configuration: one of its configurations.
            labels: the labels of its dataset.
        """
        sampling = configuration.section("sampling")
        size = sampling.section("validation").choice(
            "patch",
            {"final": configuration.value("patch_size"), "initial": sampling.value("initial_patch_size")},
        )
        return cls._read(root, configuration, labels, "validation_order", size)

    @classmethod
    def _read(
        cls, root: Section, configuration: Section, labels: LabelSet, order: str, initial: Sequence[int]
    ) -> Augmentation:
        reader = _Reader(root, configuration, labels, _triple(initial))
        names: list[str] = list(configuration.section("augmentation").value(order) or [])
        transforms = [(name, reader.transform(name, order)) for name in names]
        with_stage = "previous_stage_one_hot" in names
        first = names.index("previous_stage_one_hot") if with_stage else len(names)
        if early := [name for name in names[:first] if name in _ON_STAGE]:
            configuration.section("augmentation").refuse(
                order,
                "changes the previous stage's channels before they exist",
                got=", ".join(early),
                expected="`previous_stage_one_hot` before them",
            )
        if "spatial" not in names:
            box = center_box(reader.initial, reader.final, half_difference)
            transforms.insert(0, ("center_crop", CenterCrop(box=box)))
        return cls(
            transforms=tuple(transforms),
            initial_patch_size=reader.initial,
            patch_size=reader.final,
            num_channels=reader.num_channels + (len(reader.stage.labels) if with_stage else 0),
        )

    @property
    def needs_previous(self) -> bool:
        """Whether samples come with the previous stage's segmentation."""
        return any(name == "previous_stage_one_hot" for name, _ in self.transforms)

    def draw(self, generator: np.random.Generator) -> SampleDraw:
        """Draw everything about one sample, before it is read.

        Args:
            generator: the sample's own.

        Returns:
            What :meth:`apply` needs, with the box of the initial patch to read.
        """
        steps = tuple(transform.draw(generator) for _, transform in self.transforms)
        first = self.transforms[0][1]
        if isinstance(first, (Spatial, CenterCrop)):
            box: Box = steps[0].box
        else:
            # What comes before the spatial transform may look at every voxel.
            box = Box((0, 0, 0), self.initial_patch_size)
        return SampleDraw(box.offset, box.size, steps)

    def apply(
        self,
        draw: SampleDraw,
        image: torch.Tensor,
        label: torch.Tensor,
        previous: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment one sample.

        Args:
            draw: from :meth:`draw`.
            image: float32 (C, Z, Y, X), the drawn box of the initial patch. May be overwritten.
            label: int16 (Z, Y, X), the same. May be overwritten.
            previous: int16 (Z, Y, X), the previous stage's segmentation. May be overwritten.

        Returns:
            Image (C', *patch_size) and segmentation (*patch_size), C' with the previous stage's channels. They may be
            views of what was handed in.

        Raises:
            ValueError: for other shapes, or where a previous stage is missing or not wanted.
        """
        if tuple(image.shape[1:]) != draw.size or tuple(label.shape) != draw.size:
            raise ValueError(f"patch of {tuple(image.shape)}, {tuple(label.shape)} for a box of {draw.size}")
        if (previous is not None) != self.needs_previous:
            raise ValueError(
                f"previous stage's segmentation: wanted {self.needs_previous}, got {previous is not None}"
            )
        stack = label[None] if previous is None else torch.stack((label, previous))
        patch = Patch(image.contiguous(), stack.contiguous())
        for (_, transform), drawn in zip(self.transforms, draw.steps, strict=True):
            if drawn is not None:
                transform.apply(patch, drawn)
        return patch.image, patch.labels[0]

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        generators: Sequence[np.random.Generator],
        previous: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch of whole initial patches, which is left as it is.

        Args:
            images: float32 (B, C, Z, Y, X).
            labels: int16 (B, Z, Y, X).
            generators: one a sample.
            previous: int16 (B, Z, Y, X), for the second stage of a cascade.

        Returns:
            Images (B, C', *patch_size) and segmentations (B, *patch_size).
        """
        done = []
        for index, generator in enumerate(generators):
            draw = self.draw(generator)
            box = (..., *Box(draw.offset, draw.size).slices)
            stage = None if previous is None else previous[index][box].clone()
            done.append(self.apply(draw, images[index][box].clone(), labels[index][box].clone(), stage))
        return torch.stack([image for image, _ in done]), torch.stack([label for _, label in done])


def _triple(size: Sequence[int]) -> Triple:
    """A size of the plan as (z, y, x): in 2D with z = 1."""
    padded = [1] * (3 - len(size)) + [int(edge) for edge in size]
    return (padded[0], padded[1], padded[2])


class _Reader:
    """Reads the transforms of one configuration."""

    def __init__(self, root: Section, configuration: Section, labels: LabelSet, initial: Triple) -> None:
        self.initial = initial
        self.final = _triple(configuration.value("patch_size"))
        self._section = configuration.section("augmentation")
        self._is_2d = configuration.choice("dim", {2: True, 3: False})
        self._axes = (1, 2) if self._is_2d else (0, 1, 2)
        channels = root.sections("channels")
        self.num_channels = len(channels)
        self._masked = tuple(
            index
            for index, channel in enumerate(channels)
            if channel.section("normalization").require("use_mask", False, True)
        )
        self._mirror_axes = tuple(
            self._axes[axis] for axis in sorted(configuration.value("mirror_axes") or [])
        )
        self.stage = Stage(first=self.num_channels, labels=labels.foreground_labels, is_2d=self._is_2d)

    def transform(self, name: str, order: str) -> Transform:
        """The transform of one name; an unknown one is refused."""
        section = self._section.section("transforms").section(name)
        count, axes = self.num_channels, self._axes
        known: dict[str, Callable[[], Transform]] = {
            "spatial": lambda: Spatial.from_plan(
                section, self._section, self.initial, self.final, is_2d=self._is_2d
            ),
            "gaussian_noise": lambda: GaussianNoise.from_plan(section, count),
            "gaussian_blur": lambda: GaussianBlur.from_plan(section, count, axes),
            "brightness": lambda: Brightness.from_plan(section, count),
            "contrast": lambda: Contrast.from_plan(section, count),
            "low_resolution": lambda: LowResolution.from_plan(section, count, axes),
            "gamma": lambda: Gamma.from_plan(section, count),
            "gamma_inverted": lambda: Gamma.from_plan(section, count),
            "mirror": lambda: Mirror.from_plan(section, self._mirror_axes),
            "mask_outside": lambda: MaskOutside.from_plan(section, self._masked),
            "replace_outside_label": lambda: ReplaceLabel.from_plan(section),
            "previous_stage_one_hot": lambda: OneHot.from_plan(section, self.stage),
            "previous_stage_operators": lambda: StageOperators.from_plan(section, self.stage),
            "previous_stage_components": lambda: StageComponents.from_plan(section, self.stage),
        }
        if name not in known:
            expected = "some of " + ", ".join(known)
            self._section.refuse(
                order, "the runtime does not know this transform", got=repr(name), expected=expected
            )
            name = "replace_outside_label"
        return known[name]()
