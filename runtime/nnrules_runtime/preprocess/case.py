"""Preprocessing of one case: the recipe of a configuration, and what it makes of arrays.

Steps and their order are the plan's. Facts: nnunetv2 2.8.1 ``DefaultPreprocessor``, nnunet 1.7.1
``GenericPreprocessor``; blueprints section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from nnrules.documents import content_hash
from nnrules.errors import ImageError, Problem

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.case_steps import STEPS, CaseInWork
from nnrules_runtime.preprocess.crop import Crop
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.preprocess.locations import LocationSampler
from nnrules_runtime.preprocess.normalization import ChannelNormalization, normalizations_from_plan
from nnrules_runtime.preprocess.prepared import PreparedCase
from nnrules_runtime.preprocess.store import FORMAT_VERSION
from nnrules_runtime.resampling import Resampler, new_shape
from nnrules_runtime.values import Section

__all__ = ["PreparedCase", "Preprocessing"]

Spacing = tuple[float, float, float]
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What a configuration's preprocessing does; can be sent to other processes.

    Attributes:
        digest: hash of all fields of the plan that the result depends on, and of nothing else: equal digests mean
            equal arrays.
        dim: 2 or 3, dimension of the network.
        spacing: mm that images are resampled to, transposed axes; two entries in 2D, where slices keep their
            distance.
        transpose_forward: order of the axes.
        steps: names of the steps, first to last.
        crop: how images are cropped.
        normalizations: one a channel.
        data: interpolation of images.
        segmentation: interpolation of label maps.
        locations: what is stored for foreground sampling.
        label_values: values that a label map may hold.
        image_dtype: type that images are stored in.
        label_dtype: type that label maps are stored in.
    """

    digest: str
    dim: int
    spacing: tuple[float, ...]
    transpose_forward: Triple
    steps: tuple[str, ...]
    crop: Crop
    normalizations: tuple[ChannelNormalization, ...]
    data: Resampler
    segmentation: Resampler
    locations: LocationSampler
    label_values: tuple[int, ...]
    image_dtype: str
    label_dtype: str

    @classmethod
    def from_plan(cls, root: Section, configuration_name: str) -> Preprocessing:
        """Read everything that preprocessing for one configuration depends on.

        Args:
            root: the plan.
            configuration_name: one of its configurations.
        """
        configuration = root.section("configurations").section(configuration_name)
        section = root.section("preprocessing")
        labels = LabelSet.from_plan(root)
        resampling = configuration.section("resampling")
        resampling.require("shape_rounding", "half_to_even")
        anisotropy = resampling.section("anisotropy")
        crop = Crop.from_plan(section.section("crop"))
        storage = section.section("storage")
        first, second, third = configuration.value("transpose_forward") or (0, 1, 2)
        ignored = () if labels.ignore_label is None else (labels.ignore_label,)
        return cls(
            digest=_digest(root, configuration, labels),
            dim=configuration.require("dim", 3, 2),
            spacing=tuple(configuration.value("spacing") or ()),
            transpose_forward=(first, second, third),
            steps=_steps(configuration),
            crop=crop,
            normalizations=normalizations_from_plan(root),
            data=Resampler.from_plan(resampling.section("data"), anisotropy, labels=False),
            segmentation=Resampler.from_plan(resampling.section("segmentation"), anisotropy, labels=True),
            locations=LocationSampler.from_plan(
                section.section("foreground_locations"), labels, outside_label=crop.outside_label
            ),
            label_values=(0, *labels.foreground_labels, *ignored),
            image_dtype=storage.require("image_dtype", "float32", "float16"),
            label_dtype=storage.require("label_dtype", "int16", "int8", "int32"),
        )

    @staticmethod
    def digest_from_plan(root: Section, configuration_name: str) -> str:
        """The digest alone."""
        configuration = root.section("configurations").section(configuration_name)
        return _digest(root, configuration, LabelSet.from_plan(root))

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return len(self.normalizations)

    def network_grid(self, cropped_shape: Sequence[int], spacing: Spacing) -> tuple[Triple, Spacing]:
        """Shape and spacing after resampling.

        Args:
            cropped_shape: voxels before, transposed axes.
            spacing: mm before, transposed axes.
        """
        target = (spacing[0], *self.spacing) if self.dim == 2 else self.spacing
        network_spacing = (float(target[0]), float(target[1]), float(target[2]))
        return new_shape(cropped_shape, spacing, network_spacing), network_spacing

    def run(
        self,
        image: npt.NDArray[Any],
        label: npt.NDArray[Any] | None,
        spacing: Sequence[float],
        *,
        keep_mask: bool = False,
        locate: bool = True,
    ) -> PreparedCase:
        """Preprocess one case.

        Args:
            image: ``(C, Z, Y, X)`` of any real type, in the orientation of the plan; unchanged.
            label: ``(Z, Y, X)`` of any integer type, or ``None`` for a new image; unchanged.
            spacing: mm (z, y, x).
            keep_mask: without a label, whether to return a label map of 0 and the outside label, resampled.
            locate: with a label, whether to look for the voxels of its classes, which only training needs.

        Returns:
            Its arrays, in transposed axes.

        Raises:
            ImageError: a wrong number of channels, undeclared label values, intensities that are not finite, or
                something that the plan refuses.
        """
        if image.ndim != 4 or len(image) != self.num_channels:
            raise ImageError(
                Problem(
                    where="image",
                    what="wrong number of channels",
                    got=f"an array of shape {image.shape}",
                    expected=f"(channel, z, y, x) with {self.num_channels} channels",
                )
            )
        original_shape = (image.shape[1], image.shape[2], image.shape[3])
        work = CaseInWork(self, image, label, _permuted(spacing, self.transpose_forward), keep_mask=keep_mask)
        for step in self.steps:
            work.run(step)
        grid_shape, grid_spacing = self.network_grid(work.cropped_shape, work.spacing)
        geometry = CaseGeometry(
            original_shape=original_shape,
            original_spacing=_permuted(spacing, (0, 1, 2)),
            transpose_forward=self.transpose_forward,
            crop_start=cast(Triple, tuple(part.start for part in work.box)),
            crop_stop=cast(Triple, tuple(part.stop for part in work.box)),
            network_shape=grid_shape,
            network_spacing=grid_spacing,
        )
        located = work.label if label is not None and locate else None
        return PreparedCase(
            image=np.ascontiguousarray(work.owned()),
            label=work.label,
            geometry=geometry,
            locations={} if located is None else self.locations.locate(located),
            original_classes=self.locations.classes_of(work.original_values),
        )


def _permuted(spacing: Sequence[float], order: Triple) -> Spacing:
    first, second, third = (float(spacing[axis]) for axis in order)
    return first, second, third


def _steps(configuration: Section) -> tuple[str, ...]:
    """The steps of a plan, if they can be executed in their order."""
    key = "preprocessing_steps"
    steps: tuple[str, ...] = tuple(configuration.value(key) or ())
    for step in steps:
        if step not in STEPS:
            configuration.refuse(
                key, "the runtime does not know this step", got=step, expected=f"one of {', '.join(STEPS)}"
            )
    # A crop on the network's grid could not be taken back, and target spacings are in transposed axes.
    before = steps[: steps.index("resample")] if "resample" in steps else ()
    if "transpose" not in before or ("crop" in steps and "crop" not in before):
        configuration.refuse(
            key,
            "the runtime does not know this order",
            got=", ".join(steps),
            expected="resample, after transpose and crop",
        )
    return steps


def _digest(root: Section, configuration: Section, labels: LabelSet) -> str:
    """Hash of the fields that preprocessing reads; names of channels and labels are not among them."""
    section = root.section("preprocessing")
    resampling = configuration.section("resampling")
    dataset = root.section("dataset")
    return content_hash(
        {
            "format": FORMAT_VERSION,
            "orientation": dataset.value("orientation_policy")
            if "orientation_policy" in dataset
            else "as_stored",
            "preprocessing": {
                key: section.value(key)
                for key in ("crop", "normalization", "storage", "foreground_locations")
            },
            "channels": [channel.value("normalization") for channel in root.sections("channels")],
            "labels": [list(labels.heads), list(labels.foreground_heads), labels.ignore_label],
            "configuration": {
                key: configuration.value(key)
                for key in ("dim", "spacing", "transpose_forward", "preprocessing_steps")
            },
            "resampling": {
                key: resampling.value(key) for key in ("shape_rounding", "anisotropy", "data", "segmentation")
            },
        }
    )
