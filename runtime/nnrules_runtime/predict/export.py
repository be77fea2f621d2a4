"""From a prediction on the network's grid to a segmentation on the image's.

Interpolate to the cropped image, choose labels, put the crop into the whole image, transpose back, in whichever order
the plan names. All is done in tiles: beside the prediction and the result, memory holds one byte a voxel of the
network's grid and a few MB a thread, however many classes there are; see :func:`export_memory_bytes`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.predict.export_tiles import TiledPrediction
from nnrules_runtime.predict.export_tiling import (
    FIXED_BYTES,
    grid_bytes,
    scratch_bytes,
    threads_within,
    tile_shape,
)
from nnrules_runtime.predict.export_values import Box
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.resampling import Resampler, axis_operator
from nnrules_runtime.resampling.threads import thread_count
from nnrules_runtime.values import Section

__all__ = ["Exporter", "crop_box", "export_memory_bytes"]

_LOGGER = logging.getLogger(__name__)

Array = NDArray[Any]
Prediction = torch.Tensor | NDArray[Any]

# Each order of steps that gives the same: interpolation before labels, labels before the whole image. A transposition
# only renames axes.
_STEPS = [
    ("resample", "label", "uncrop", "transpose"),
    ("resample", "label", "transpose", "uncrop"),
    ("resample", "transpose", "label", "uncrop"),
    ("transpose", "resample", "label", "uncrop"),
]
_DEFAULT_MEMORY_BYTES = 1 << 30


def export_memory_bytes(
    num_outputs: int,
    network_shape: Sequence[int],
    crop_shape: Sequence[int],
    *,
    order: int = 1,
    num_threads: int = 1,
) -> int:
    """Most bytes that :meth:`Exporter.segmentation` takes beside the prediction and the result.

    Args:
        num_outputs: K.
        network_shape: (Z, Y, X) of the prediction.
        crop_shape: (Z', Y', X') of the cropped image.
        order: spline order of ``resampling.probabilities``.
        num_threads: threads.
    """
    operators = [
        axis_operator(before, after, order) for before, after in zip(network_shape, crop_shape, strict=True)
    ]
    tile = tile_shape(num_outputs, operators, 1 << 62)
    grid = grid_bytes(num_outputs, network_shape) if order < 3 else 0
    return grid + num_threads * scratch_bytes(num_outputs, operators, tile) + FIXED_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """Exports predictions of one configuration.

    Attributes:
        resampler: how predictions are interpolated.
        rule: how values become labels and probabilities.
        activate_before: whether predictions are logits that become probabilities before they are interpolated.
        activated: whether the interpolated values are probabilities.
        outside_label: label outside of the crop.
        label_dtype: of segmentations.
        probability_dtype: of probabilities.
        whole_image: whether probabilities cover the whole image, or the crop alone.
    """

    resampler: Resampler
    rule: OutputRule
    activate_before: bool
    activated: bool
    outside_label: int
    label_dtype: np.dtype[Any]
    probability_dtype: np.dtype[Any]
    whole_image: bool

    @classmethod
    def from_plan(
        cls, root: Section, configuration: Section, labels: LabelSet, *, validation: bool = False
    ) -> Exporter:
        """Read ``resampling.probabilities``, ``inference.export`` and ``inference.files`` of a configuration.

        What arrives is what ``inference.folds.average`` names: logits, or probabilities.

        Args:
            root: the plan.
            configuration: one of its configurations.
            labels: the dataset's labels.
            validation: for a training's own validation cases; a cascade's second stage may export them otherwise.
        """
        del root  # all that is needed stands in the configuration
        resampling, inference = configuration.section("resampling"), configuration.section("inference")
        probabilities = resampling.section("probabilities")
        resampler = Resampler.from_plan(probabilities, resampling.section("anisotropy"), labels=False)
        cascade = configuration.optional("cascade")
        if validation and cascade is not None:
            never = cascade.section("validation_export").choice(
                "separate_axis", {"as_prediction": False, "never": True}
            )
            resampler = replace(resampler, separate=None) if never else resampler
        known = {"logits": False, "softmax": True}
        arrives = inference.section("folds").choice("average", known)
        interpolated = probabilities.choice("values", known)
        if arrives and not interpolated:
            probabilities.refuse(
                "values",
                "logits cannot be interpolated where folds are averaged as probabilities",
                got="'logits'",
                expected="'softmax', or inference.folds.average 'logits'",
            )
        export, files = inference.section("export"), inference.section("files")
        export.require("steps", *_STEPS)
        return cls(
            resampler=resampler,
            rule=OutputRule.from_plan(export, labels),
            activate_before=interpolated and not arrives,
            activated=interpolated,
            outside_label=export.value("outside_label"),
            label_dtype=_label_dtype(files, len(labels.foreground_labels)),
            probability_dtype=np.dtype(files.require("probability_dtype", "float32", "float16")),
            whole_image=files.choice("probability_extent", {"image": True, "crop": False}),
        )

    def segmentation(
        self,
        logits: Prediction,
        geometry: CaseGeometry,
        *,
        memory_bytes: int = _DEFAULT_MEMORY_BYTES,
        num_threads: int | None = None,
        where: str = "prediction",
    ) -> Array:
        """The segmentation of the whole image.

        Args:
            logits: (K, Z, Y, X) on the network's grid, transposed axes; logits or probabilities, as the plan
                averages folds; float16, bfloat16 or float32.
            geometry: of the case.
            memory_bytes: most bytes to take beside the prediction and the result.
            num_threads: threads; by default as many as torch uses.
            where: the case, for errors.

        Returns:
            Labels in the shape and order of axes of the file (z, y, x), in the plan's type.

        Raises:
            RunError: the memory is too small even for the smallest tiles, or the plan refuses the spacing.
        """
        prediction = self.tiled(logits, geometry, where=where)
        threads, tile = self._tiling(prediction, memory_bytes, num_threads, where, with_grid=True)
        result = np.full(geometry.original_shape, self.outside_label, self.label_dtype)
        view = _crop_view(result, geometry)
        prediction.write_labels(view, self.rule, activated=self.activated, tile=tile, threads=threads)
        return result

    def probabilities(
        self,
        logits: Prediction,
        geometry: CaseGeometry,
        *,
        memory_bytes: int = _DEFAULT_MEMORY_BYTES,
        num_threads: int | None = None,
        where: str = "prediction",
    ) -> Array:
        """Probabilities of every output; outside of the crop background is 1 (labels), or all are 0 (regions).

        Args:
            logits: as for :meth:`segmentation`.
            geometry: of the case.
            memory_bytes: as for :meth:`segmentation`.
            num_threads: as for :meth:`segmentation`.
            where: the case, for errors.

        Returns:
            (K, z, y, x) in the order of axes of the file, in the plan's type: of the whole image, or of the crop
            where the plan says so.

        Raises:
            RunError: as :meth:`segmentation`.
        """
        prediction = self.tiled(logits, geometry, where=where)
        threads, tile = self._tiling(prediction, memory_bytes, num_threads, where, with_grid=False)
        extent = geometry.original_shape
        if not self.whole_image:
            first, second, third = (part.stop - part.start for part in crop_box(geometry))
            extent = (first, second, third)
        result = np.zeros((len(prediction.values), *extent), self.probability_dtype)
        if self.whole_image:
            if self.rule.background is not None:
                result[self.rule.background] = 1
            view = _crop_view(result, geometry)
        else:
            view = result.transpose(0, *(axis + 1 for axis in geometry.transpose_forward))
        prediction.write_values(view, None if self.activated else self.rule, tile=tile, threads=threads)
        return result

    def labels(self, probabilities: Array) -> Array:
        """Labels of probabilities that are on their final grid already, such as a mean of models.

        Args:
            probabilities: (K, z, y, x).

        Returns:
            (z, y, x) in the plan's type.
        """
        return self.rule.labels(probabilities, activated=True, dtype=self.label_dtype)

    def tiled(
        self, logits: Prediction, geometry: CaseGeometry, *, where: str = "prediction"
    ) -> TiledPrediction:
        """A prediction, to be read in tiles on the crop's grid; arguments and errors as for :meth:`segmentation`."""
        values = torch.as_tensor(logits)
        if tuple(values.shape[1:]) != geometry.network_shape or len(values) != len(self.rule.values):
            raise ValueError(
                f"a prediction of shape {tuple(values.shape)} where {len(self.rule.values)} outputs of "
                f"{geometry.network_shape} were expected"
            )
        resampler = self.resampler
        axis = None
        if geometry.network_shape != geometry.crop_shape:
            axis = resampler.separate_axis(geometry.transposed_spacing, geometry.network_spacing, where=where)
        return TiledPrediction.of(
            values,
            geometry.crop_shape,
            order=resampler.order,
            separate=axis,
            separate_order=0 if resampler.separate is None else resampler.separate.order,
            clip=resampler.clip,
            cast_between=resampler.cast_between,
            activate=self.rule if self.activate_before else None,
        )

    def _tiling(
        self,
        prediction: TiledPrediction,
        memory_bytes: int,
        num_threads: int | None,
        where: str,
        *,
        with_grid: bool,
    ) -> tuple[int, tuple[int, int, int]]:
        """Threads and tiles that stay within the memory."""
        outputs, operators = len(prediction.values), prediction.operators
        with_grid = with_grid and prediction.is_convex and not self.rule.regions
        grid = FIXED_BYTES + (grid_bytes(outputs, prediction.values.shape[1:]) if with_grid else 0)
        threads = thread_count() if num_threads is None else num_threads
        tile = tile_shape(outputs, operators, (memory_bytes - grid) // threads)
        each = scratch_bytes(outputs, operators, tile)
        threads = threads_within(memory_bytes, grid, each, threads, where)
        _LOGGER.debug(
            "%s: export of %d outputs in tiles of %s takes at most %.0f MB beside the result",
            where,
            outputs,
            " x ".join(str(edge) for edge in tile),
            (grid + threads * each) / 1e6,
        )
        return threads, tile


def _label_dtype(files: Section, num_foreground_labels: int) -> np.dtype[Any]:
    narrow = files.require("label_dtype", "uint8", "uint16")
    wide = files.require("wide_label_dtype", None, "uint16", "uint32")
    many = files.value("wide_from_num_foreground_labels")
    is_wide = wide is not None and many is not None and num_foreground_labels >= many
    dtype: np.dtype[Any] = np.dtype(str(wide if is_wide else narrow))
    return dtype


def _crop_view(whole: Array, geometry: CaseGeometry) -> Array:
    """The crop of an array over the whole image (..., z, y, x), as a view with transposed axes."""
    lead = whole.ndim - 3
    transposed = whole.transpose(*range(lead), *(axis + lead for axis in geometry.transpose_forward))
    crop = tuple(
        slice(start, stop) for start, stop in zip(geometry.crop_start, geometry.crop_stop, strict=True)
    )
    view: Array = transposed[(slice(None),) * lead + crop]
    return view


def crop_box(geometry: CaseGeometry) -> Box:
    """The crop in the order of axes of the file (z, y, x)."""
    first, second, third = (
        slice(geometry.crop_start[axis], geometry.crop_stop[axis]) for axis in geometry.transpose_backward
    )
    return first, second, third
