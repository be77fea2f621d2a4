"""Resampling as a plan says: which axes together, in which order, and how labels are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from nnrules.errors import Problem, RunError
from numpy.typing import NDArray

from nnrules_runtime.resampling.interpolate import compute_dtype, zoom, zoom_planes
from nnrules_runtime.resampling.labels import LabelRule, zoom_labels
from nnrules_runtime.resampling.operators import nearest_index
from nnrules_runtime.resampling.threads import thread_count
from nnrules_runtime.values import Section

__all__ = ["Resampler", "SeparateAxis", "new_shape"]

Array = NDArray[Any]
Triple = tuple[int, int, int]
Spacing = Sequence[float]


def new_shape(shape: Sequence[int], spacing: Spacing, new_spacing: Spacing) -> Triple:
    """Voxels that cover the same extent at another spacing; halves round to the even neighbour.

    Args:
        shape: voxels of three axes.
        spacing: mm now.
        new_spacing: mm then.
    """
    # In this order of evaluation, as rounding of the division decides some halves (nnunetv2 2.8.1).
    first, second, third = (
        round(float(now) / float(then) * int(edge))
        for now, then, edge in zip(spacing, new_spacing, shape, strict=True)
    )
    return first, second, third


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateAxis:
    """When one axis is interpolated apart from the other two.

    Attributes:
        spacings: names of the spacings that are tested, in order.
        order: spline order along the separate axis.
        ratio_above: a spacing is anisotropic if its largest is more than this many times its smallest.
        shared: what to do if several axes share the largest spacing.
    """

    spacings: tuple[str, ...]
    order: int
    ratio_above: float
    shared: Literal["together", "refuse"]

    def axis(self, spacings: dict[str, Spacing], where: str) -> int | None:
        """The separate axis, or ``None`` if all are interpolated together.

        Args:
            spacings: the spacings by name, three axes each.
            where: what is resampled, for errors.

        Raises:
            RunError: several axes share the largest spacing, and the plan refuses that.
        """
        for name in self.spacings:
            spacing = np.asarray(spacings[name], float)
            if spacing.max() / spacing.min() <= self.ratio_above:
                continue
            coarsest = np.flatnonzero(spacing.max() / spacing == 1)
            if len(coarsest) == 1:
                return int(coarsest[0])
            if self.shared == "refuse":
                raise RunError(
                    Problem(
                        where=where,
                        what=f"the {name} spacing is anisotropic and several axes share the largest",
                        got=" x ".join(f"{edge:g}" for edge in spacing) + " mm",
                        expected="one coarsest axis",
                        fix="Plan with --set configurations.*.resampling.anisotropy.equal_coarsest_axes=together, "
                        "as nnU-Net does from 1.7 on.",
                    )
                )
            return None
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampler:
    """Interpolates images, predictions or label maps between grids of the same extent.

    Attributes:
        order: spline order in all axes, or in plane where one is separate.
        separate: when an axis is separate; ``None``: never.
        clip: whether images are clipped to their range before (each channel, or each slice of a channel).
        cast_between: whether slices return to the input's type before the separate axis is interpolated.
        rule: how indicators of labels become labels; ``None`` for images.
    """

    order: int
    separate: SeparateAxis | None
    clip: bool = True
    cast_between: bool = False
    rule: LabelRule | None = None

    @classmethod
    def from_plan(cls, section: Section, anisotropy: Section, *, labels: bool) -> Resampler:
        """Read one of ``resampling.data``, ``.segmentation``, ``.probabilities`` or ``cascade.upsampling``.

        Args:
            section: the object.
            anisotropy: ``resampling.anisotropy``.
            labels: whether label maps are resampled, so that the label rule counts.
        """
        order = section.require("order", 0, 1, 3)
        separate = None
        apart = section.optional("separate_axis")
        if apart is not None:
            names = apart.value("spacings")
            unknown = set(names) - {"original", "network", "previous_stage"}
            if unknown:
                apart.refuse(
                    "spacings",
                    "the runtime does not know this value",
                    got=repr(sorted(unknown)),
                    expected="any of 'original', 'network', 'previous_stage'",
                )
            separate = SeparateAxis(
                spacings=tuple(names),
                order=apart.require("order", 0, 1, 3),
                ratio_above=anisotropy.value("ratio_above"),
                shared=anisotropy.require("equal_coarsest_axes", "together", "refuse"),
            )
        # cascade.upsampling has none of these three: its predictions are in range, and edges repeat.
        if "border" in section:
            section.require("border", "edge")
        clip = section.choice("clip", {"input_range": True, "none": False}) if "clip" in section else True
        cast = (
            section.choice("intermediate_dtype", {"float64": False, "input": True})
            if "intermediate_dtype" in section
            else False
        )
        rule = None
        if labels:
            name = section.require("label_rule", "argmax_nearest", "argmax", "threshold")
            threshold = section.value("label_threshold") if "label_threshold" in section else 0.5
            rule = LabelRule(name, float(threshold))
        return cls(order=order, separate=separate, clip=clip, cast_between=cast, rule=rule)

    def resample(
        self,
        array: Array,
        new_shape: Sequence[int],
        *,
        original_spacing: Spacing,
        network_spacing: Spacing,
        previous_stage_spacing: Spacing | None = None,
        where: str = "image",
        num_threads: int | None = None,
    ) -> Array:
        """Interpolate an image, or a prediction.

        Args:
            array: (C, Z, Y, X) in transposed axes. float64 is interpolated in float64, all else in float32.
            new_shape: (Z', Y', X').
            original_spacing: mm of the image as stored, transposed axes.
            network_spacing: mm of the configuration; a 2D one has the image's own along axis 0.
            previous_stage_spacing: mm of the cascade's first stage, where the plan asks for it.
            where: what is resampled, for errors.
            num_threads: threads; by default as many as torch uses, one where torch is not loaded.

        Returns:
            (C, Z', Y', X') in the type of ``array``, float32 for integers. The array itself if its shape is
            ``new_shape``.

        Raises:
            RunError: see :meth:`SeparateAxis.axis`.
        """
        shape = tuple(int(size) for size in new_shape)
        dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float32)
        if array.shape[1:] == shape:
            return array.astype(dtype, copy=False)
        threads = thread_count() if num_threads is None else num_threads
        axis = self.separate_axis(original_spacing, network_spacing, previous_stage_spacing, where=where)
        if axis is None or self.separate is None:
            result = zoom(array, shape, self.order, self.clip, num_threads=threads)
        else:
            result = self._slice_by_slice(array, shape, axis, self.separate.order, threads)
        return result.astype(dtype, copy=False)

    def resample_labels(
        self,
        labels: Array,
        new_shape: Sequence[int],
        *,
        original_spacing: Spacing,
        network_spacing: Spacing,
        previous_stage_spacing: Spacing | None = None,
        where: str = "segmentation",
    ) -> Array:
        """Interpolate a label map; -1 is a label like any other.

        Args:
            labels: (Z, Y, X) in transposed axes.
            new_shape: (Z', Y', X').
            original_spacing: as for :meth:`resample`.
            network_spacing: as for :meth:`resample`.
            previous_stage_spacing: as for :meth:`resample`.
            where: what is resampled, for errors.

        Returns:
            (Z', Y', X'), int16 or the wider signed type of ``labels``.

        Raises:
            RunError: see :meth:`SeparateAxis.axis`.
        """
        if self.rule is None:
            raise ValueError("this resampler was made for images")
        shape = tuple(int(size) for size in new_shape)
        labels = labels.astype(np.promote_types(labels.dtype, np.int16), copy=False)
        if labels.shape == shape:
            return labels
        axis = self.separate_axis(original_spacing, network_spacing, previous_stage_spacing, where=where)
        if axis is None or self.separate is None:
            return zoom_labels(labels, shape, (self.order,) * 3, self.rule)
        if self.separate.order == 0:
            # Slices are copied whole, so that both can be done at once.
            orders = [0 if each == axis else self.order for each in range(3)]
            return zoom_labels(labels, shape, orders, self.rule)
        in_plane = [labels.shape[each] if each == axis else shape[each] for each in range(3)]
        slices = zoom_labels(labels, in_plane, (self.order,) * 3, self.rule)
        return zoom_labels(slices, shape, (self.separate.order,) * 3, self.rule)

    def separate_axis(
        self,
        original_spacing: Spacing,
        network_spacing: Spacing,
        previous_stage_spacing: Spacing | None = None,
        *,
        where: str = "image",
    ) -> int | None:
        """The axis that is interpolated apart from the others for these spacings, if any.

        Raises:
            RunError: see :meth:`SeparateAxis.axis`.
        """
        if self.separate is None:
            return None
        spacings = {"original": original_spacing, "network": network_spacing}
        if previous_stage_spacing is not None:
            spacings["previous_stage"] = previous_stage_spacing
        return self.separate.axis(spacings, where)

    def _slice_by_slice(
        self, array: Array, shape: Sequence[int], axis: int, order: int, threads: int
    ) -> Array:
        """In plane first, each slice clipped to its own range, then along the axis, unclipped."""
        channels = np.moveaxis(array, axis + 1, 1)
        plane_shape = tuple(size for each, size in enumerate(shape) if each != axis)
        needed = np.arange(channels.shape[1])
        depth = shape[axis]
        if order == 0:
            index = nearest_index(channels.shape[1], depth)
            needed, position = np.unique(index, return_inverse=True)
        result = np.empty((len(channels), depth, *plane_shape), compute_dtype(array.dtype))
        for channel, out in zip(channels, result, strict=True):
            slices: Array = channel[needed]
            if channel.shape[1:] != plane_shape:
                planes = np.empty((len(needed), *plane_shape), result.dtype)
                zoom_planes(slices, planes, self.order, self.clip, threads)
                slices = planes
            if self.cast_between and array.dtype.kind == "f":
                slices = slices.astype(array.dtype, copy=False)
            if order == 0:
                out[...] = slices[position]
            else:
                out[...] = zoom(slices, (depth, *plane_shape), order, clip=False, num_threads=threads)
        return np.moveaxis(result, 1, axis + 1)
