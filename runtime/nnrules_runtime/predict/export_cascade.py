"""The first stage of a cascade on the grid of the second: labels that the second stage is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.predict.export_tiles import TiledPrediction
from nnrules_runtime.predict.export_tiling import tile_shape
from nnrules_runtime.resampling import Resampler
from nnrules_runtime.resampling.threads import thread_count
from nnrules_runtime.values import Section

__all__ = ["CascadeUpsampler"]

Array = NDArray[Any]

_TILE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeUpsampler:
    """Takes predictions of the first stage to the shape of the second stage's image.

    Attributes:
        resampler: how they are interpolated.
        rule: how values become labels.
        interpolates_labels: whether labels are interpolated rather than outputs.
        activate_before: whether predictions are logits that become probabilities before they are interpolated.
        activated: whether the interpolated values are probabilities.
    """

    resampler: Resampler
    rule: OutputRule
    interpolates_labels: bool
    activate_before: bool
    activated: bool

    @classmethod
    def from_plan(cls, root: Section, configuration: Section, labels: LabelSet) -> CascadeUpsampler:
        """Read ``cascade.upsampling`` of the second stage.

        Args:
            root: the plan; what arrives is what the first stage's ``inference.folds.average`` names.
            configuration: the second stage.
            labels: the dataset's labels.
        """
        section = configuration.section("cascade").section("upsampling")
        anisotropy = configuration.section("resampling").section("anisotropy")
        first = root.section("configurations").section(configuration.value("previous_stage"))
        arrives = (
            first.section("inference").section("folds").choice("average", {"logits": False, "softmax": True})
        )
        values = section.require("values", "logits", "softmax", "segmentation")
        if values == "logits" and arrives:
            section.refuse(
                "values",
                "logits cannot be interpolated where the first stage gives probabilities",
                got="'logits'",
                expected="'softmax' or 'segmentation', or inference.folds.average 'logits'",
            )
        if values != "segmentation":
            section.require("label_rule", "argmax")
        return cls(
            resampler=Resampler.from_plan(section, anisotropy, labels=values == "segmentation"),
            rule=OutputRule.from_plan(first.section("inference").section("export"), labels),
            interpolates_labels=values == "segmentation",
            activate_before=values == "softmax" and not arrives,
            activated=arrives or values == "softmax",
        )

    def segmentation(
        self,
        prediction: torch.Tensor | Array,
        shape: Sequence[int],
        *,
        original_spacing: Sequence[float],
        network_spacing: Sequence[float],
        previous_stage_spacing: Sequence[float],
        where: str = "prediction of the first stage",
        num_threads: int | None = None,
    ) -> Array:
        """Labels on the second stage's grid.

        Args:
            prediction: (K, Z, Y, X) on the first stage's grid, transposed axes.
            shape: (Z', Y', X') of the second stage's image.
            original_spacing: mm of the image as stored, transposed axes.
            network_spacing: mm of the second stage.
            previous_stage_spacing: mm of the first stage.
            where: the case, for errors.
            num_threads: threads; by default as many as torch uses.

        Returns:
            (Z', Y', X') int16.

        Raises:
            RunError: the plan refuses the spacing.
        """
        values = torch.as_tensor(prediction)
        threads = thread_count() if num_threads is None else num_threads
        spacings = {
            "original_spacing": original_spacing,
            "network_spacing": network_spacing,
            "previous_stage_spacing": previous_stage_spacing,
        }
        target = tuple(shape) if not self.interpolates_labels else tuple(values.shape[1:])
        axis = None
        if target != tuple(values.shape[1:]):
            axis = self.resampler.separate_axis(**spacings, where=where)
        tiled = TiledPrediction.of(
            values,
            target,
            order=self.resampler.order,
            separate=axis,
            separate_order=0 if self.resampler.separate is None else self.resampler.separate.order,
            clip=self.resampler.clip,
            cast_between=self.resampler.cast_between,
            activate=self.rule if self.activate_before else None,
        )
        labels = np.empty(target, np.int16)
        tile = tile_shape(len(values), tiled.operators, _TILE_BYTES)
        tiled.write_labels(labels, self.rule, activated=self.activated, tile=tile, threads=threads)
        if self.interpolates_labels:
            return self.resampler.resample_labels(labels, shape, **spacings, where=where)
        return labels
