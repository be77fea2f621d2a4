"""Which patches make up a batch: pure functions of a sample's own random numbers.

Axes are (z, y, x) of preprocessed arrays; a 2D configuration has patches with z = 1. A patch is placed before
augmentation, which crops the centre of it: ``initial`` is its size as it is read, ``final`` what the network gets.
The start of a patch may be negative and its end may lie beyond the image: see ``sampling.border`` of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.prepared import ANNOTATED
from nnrules_runtime.train.sampling_draws import (
    Phase,
    Stream,
    new_seed,
    rank_samples,
    sample_generator,
    seed_of_fold,
)
from nnrules_runtime.train.sampling_limits import StartLimits, overhang, pad_then_crop, slices
from nnrules_runtime.values import Section

__all__ = [
    "LocatedCase",
    "Patch",
    "PatchSampler",
    "Phase",
    "Stream",
    "new_seed",
    "rank_samples",
    "sample_generator",
    "seed_of_fold",
]

Triple = tuple[int, int, int]
Key = tuple[int, ...]
"""A class or region: its label values."""

_RANDOM_TRIES = 64


class Patch(NamedTuple):
    """Where a sample lies.

    Attributes:
        start: its first voxel (z, y, x); may lie outside the image.
        size: of the patch before augmentation.
        is_forced: whether it had to show foreground.
        key: the class or region that it was centred on, or ``None``.
    """

    start: Triple
    size: Triple
    is_forced: bool
    key: Key | None


class LocatedCase(Protocol):
    """What the sampler must know of a case: a part of ``nnrules_runtime.preprocess.store.StoredCase``."""

    @property
    def shape(self) -> Triple:
        """Voxels (z, y, x)."""

    @property
    def num_channels(self) -> int:
        """Channels of the image."""

    @property
    def present(self) -> tuple[Key, ...]:
        """Classes or regions with locations, without that of all annotated voxels."""

    @property
    def original_classes(self) -> tuple[Key, ...]:
        """Classes or regions that the case had before it was resampled."""

    def locations(self) -> Mapping[Key, npt.NDArray[np.int32]]:
        """Voxels (n, 3) of each class or region, and of :data:`ANNOTATED` where there is an ignore label."""

    def read(self, start: Triple, stop: Triple) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Image (c, z, y, x) and label map (z, y, x) of a box inside the image."""

    def label(self) -> npt.NDArray[Any]:
        """The whole label map (z, y, x)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSampler:
    """The ``sampling`` of a configuration.

    Attributes:
        batch_size: samples of a batch, all ranks together.
        final_size: voxels (z, y, x) that the network gets.
        sizes: voxels (z, y, x) that are read, by phase.
        border_image: image beyond the border.
        border_label: label map beyond the border.
        border_previous: segmentation of the previous stage beyond the border.
        is_2d: whether patches are slices.
    """

    batch_size: int
    final_size: Triple
    sizes: tuple[Triple, Triple]
    border_image: float
    border_label: int
    border_previous: int
    is_2d: bool
    _heads: frozenset[Key]
    _num_forced: int
    _share: float
    _forced_last: bool
    _by_chance: bool
    _original_classes: bool
    _by_slice: bool
    _no_foreground: str
    _random_annotated: bool
    _pad_then_crop: bool
    _limit_both: bool

    @classmethod
    def from_plan(cls, configuration: Section, labels: LabelSet) -> PatchSampler:
        """Read ``sampling``, ``patch_size``, ``batch_size`` and ``dim`` of a configuration."""
        sampling = configuration.section("sampling")
        foreground, border = sampling.section("foreground"), sampling.section("border")
        forced, validation = sampling.section("forced_position"), sampling.section("validation")
        is_2d = configuration.choice("dim", {3: False, 2: True})
        final = _triple(configuration.value("patch_size"))
        initial = _triple(sampling.value("initial_patch_size"))
        sampling.require("case_choice", "uniform_with_replacement")
        forced.require("class_lost", "random")
        validation.require("positions", "as_training")
        return cls(
            batch_size=configuration.value("batch_size"),
            final_size=final,
            sizes=(initial, validation.choice("patch", {"final": final, "initial": initial})),
            border_image=border.value("image_value"),
            border_label=border.value("label_value"),
            border_previous=border.value("previous_stage_value"),
            is_2d=is_2d,
            _heads=frozenset(labels.heads[head] for head in labels.foreground_heads),
            _num_forced=foreground.value("num_samples"),
            _share=foreground.value("share"),
            _forced_last=foreground.choice("which", {"last": True, "first": False}),
            _by_chance=foreground.choice("each_by_chance", {False: False, True: True}),
            _original_classes=forced.choice("class", {"stored_classes": False, "original_classes": True}),
            _by_slice=_read_slice_rule(forced, is_2d=is_2d),
            _no_foreground=forced.require("no_foreground", "random", "background_voxel", "annotated_voxel"),
            _random_annotated=sampling.choice("random_position", {"uniform": False, "annotated_voxel": True}),
            _pad_then_crop=border.choice("placement", {"overhang": False, "pad_then_crop": True}),
            _limit_both=border.choice("forced_start_limits", {"lower": False, "both": True}),
        )

    def is_forced(self, sample: int, random: np.random.Generator) -> bool:
        """Whether a sample of the batch must show foreground.

        Args:
            sample: its place in the batch of all ranks together.
            random: read only where each sample is forced by chance.
        """
        if self._by_chance:
            return bool(random.random() < self._share)
        if self._forced_last:
            return sample >= self.batch_size - self._num_forced
        return sample < self._num_forced

    @staticmethod
    def choose_case(num_cases: int, random: np.random.Generator) -> int:
        """The index of a case: uniform, with replacement."""
        return int(random.integers(num_cases))

    def place(self, case: LocatedCase, sample: int, phase: Phase, random: np.random.Generator) -> Patch:
        """Draw where a sample lies in its case.

        Args:
            case: the case that was chosen for it.
            sample: its place in the batch of all ranks together.
            phase: training or validation.
            random: the sample's own random numbers.
        """
        size = self.sizes[phase]
        limits = self._limits(case.shape, size)
        is_forced = self.is_forced(sample, random)
        key, voxel = self._center(case, is_forced, random)
        if voxel is None:
            first, second, third = (axis.draw(random) for axis in limits)
        else:
            first, second, third = (
                axis.around(int(center), edge, both=self._limit_both)
                for axis, center, edge in zip(limits, voxel, size, strict=True)
            )
        return Patch((first, second, third), size, is_forced, key)

    def _limits(self, shape: Triple, size: Triple) -> list[StartLimits]:
        place = pad_then_crop if self._pad_then_crop else overhang
        limits = [place(*edges) for edges in zip(shape, size, self.final_size, strict=True)]
        if self.is_2d:
            limits[0] = slices(shape[0])
        return limits

    def _center(
        self, case: LocatedCase, is_forced: bool, random: np.random.Generator
    ) -> tuple[Key | None, npt.NDArray[Any] | None]:
        """The voxel to centre on with the class that it stands for, or ``None`` for a random position."""
        if not is_forced:
            return _annotated_voxel(case, random) if self._random_annotated else (None, None)
        possible = case.original_classes if self._original_classes else case.present
        classes = [key for key in possible if key in self._heads]
        if classes:
            key = classes[int(random.integers(len(classes)))]
            voxels = case.locations().get(key)
            # Resampling may have removed the class: `class_lost` is `random`.
            if voxels is None or not len(voxels):
                return None, None
            return key, _voxel(voxels, random, by_slice=self._by_slice)
        if self._no_foreground == "annotated_voxel":
            return _annotated_voxel(case, random)
        if self._no_foreground == "background_voxel":
            return None, _background_voxel(case, random)
        return None, None


def _annotated_voxel(
    case: LocatedCase, random: np.random.Generator
) -> tuple[Key | None, npt.NDArray[Any] | None]:
    voxels = case.locations().get(ANNOTATED)
    if voxels is None or not len(voxels):
        return None, None
    return ANNOTATED, voxels[int(random.integers(len(voxels)))]


def _voxel(
    voxels: npt.NDArray[np.int32], random: np.random.Generator, *, by_slice: bool
) -> npt.NDArray[np.int32]:
    """One of the voxels (n, 3): uniform, or first one of the slices that have any, then one in that slice."""
    if by_slice:
        in_slice = np.bincount(voxels[:, 0])
        shown = np.flatnonzero(in_slice)
        chosen = shown[int(random.integers(len(shown)))]
        number = int(random.integers(in_slice[chosen]))
        index = int(np.flatnonzero(voxels[:, 0] == chosen)[number])
    else:
        index = int(random.integers(len(voxels)))
    voxel: npt.NDArray[np.int32] = voxels[index]
    return voxel


def _background_voxel(case: LocatedCase, random: np.random.Generator) -> npt.NDArray[np.int64] | None:
    """A voxel of label 0, uniform: one that is tried at random is one as a rule; else they are counted."""
    shape = np.array(case.shape)
    for _ in range(_RANDOM_TRIES):
        voxel = random.integers(shape)
        z, y, x = (int(value) for value in voxel)
        if case.read((z, y, x), (z + 1, y + 1, x + 1))[1].item() == 0:
            return voxel
    found = np.flatnonzero(case.label() == 0)
    if not len(found):
        return None
    return np.array(np.unravel_index(found[int(random.integers(len(found)))], case.shape))


def _read_slice_rule(forced: Section, *, is_2d: bool) -> bool:
    """Whether a slice that shows the class is drawn before the voxel in it."""
    rule = forced.choice("slice", {None: None, "slice_of_voxel": False, "slice_with_class": True})
    in_slice = forced.choice("voxel", {"uniform": False, "uniform_in_slice": True})
    if (rule is not None) != is_2d:
        forced.refuse("slice", "slices are drawn in 2D and only there", got=repr(rule))
    elif in_slice != bool(rule):
        forced.refuse("voxel", "slice_with_class and uniform_in_slice go together", got=repr(in_slice))
    return bool(rule)


def _triple(size: list[int] | None) -> Triple:
    """A size of the plan as (z, y, x)."""
    values = [int(edge) for edge in size or (1, 1)]
    z, y, x = values if len(values) == 3 else (1, *values)
    return z, y, x
