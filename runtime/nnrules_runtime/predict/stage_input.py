"""What a cascade's second stage gets from the first when new images are predicted.

The first stage's segmentation of the whole image takes the way that the plan names onto the second stage's grid
(blueprints section 11), where it becomes one channel a label. The channels are made patch by patch: in memory there
is the label map alone, however many labels there are.

Shapes: ``Z, Y, X`` are transposed axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnrules_runtime.predict.window import Padding
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.resampling import Resampler
from nnrules_runtime.values import Section

__all__ = ["StageImage", "StageInput", "StageLabels"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class StageLabels:
    """A segmentation that a network sees as one channel for each of some labels.

    Attributes:
        segmentation: ``(Z, Y, X)`` int16.
        labels: a channel each, in this order.
    """

    segmentation: Tensor
    labels: tuple[int, ...]

    @classmethod
    def of(cls, segmentation: Array, labels: Sequence[int]) -> StageLabels:
        """From an array of labels ``(Z, Y, X)`` of any integer type."""
        return cls(torch.from_numpy(np.ascontiguousarray(segmentation, np.int16)), tuple(labels))

    def padded(self, padding: Padding) -> StageLabels:
        """With voxels of no label around it."""
        edges = [
            edge for pair in zip(padding.before[::-1], padding.after[::-1], strict=True) for edge in pair
        ]
        return replace(self, segmentation=nn.functional.pad(self.segmentation, edges, value=0))

    def to(self, device: torch.device) -> StageLabels:
        """On a device."""
        return replace(self, segmentation=self.segmentation.to(device))

    def channels(self, box: tuple[slice, slice, slice], device: torch.device) -> Tensor:
        """``(L, z, y, x)`` float32 of a box, on a device."""
        patch = self.segmentation[box].to(device, non_blocking=True)
        labels = torch.tensor(self.labels, dtype=torch.int16, device=device)
        return (patch == labels[:, None, None, None]).float()


@dataclass(frozen=True, slots=True)
class StageImage:
    """A case on the second stage's grid.

    Attributes:
        image: ``(C, Z, Y, X)`` float32, the channels of the image.
        segmentation: ``(Z, Y, X)`` int16, of the first stage.
        geometry: of the case.
    """

    image: npt.NDArray[np.float32]
    segmentation: npt.NDArray[np.int16]
    geometry: CaseGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInput:
    """``cascade.prediction`` of a second stage.

    Attributes:
        preprocessing: of the second stage, with the interpolation of labels that the segmentation gets.
        crops: whether the segmentation is cropped like the image. If not, the uncropped one is resized to the
            shape of the cropped image, as nnU-Net 1 does: where the crop matters it lies wrong.
    """

    preprocessing: Preprocessing
    crops: bool

    @classmethod
    def from_plan(cls, root: Section, name: str) -> StageInput:
        """Read ``cascade.input`` and ``cascade.prediction``.

        Args:
            root: the plan.
            name: the configuration of the second stage.
        """
        cascade = root.section("configurations").section(name).section("cascade")
        given, prediction = cascade.section("input"), cascade.section("prediction")
        given.require("encoding", "one_hot")
        given.require("labels", "foreground")
        prediction.require("source", "segmentation_file")
        never_separate = prediction.choice(
            "resampling", {"as_segmentation": False, "as_segmentation_never_separate": True}
        )
        crops = prediction.choice("crop", {"as_image": True, "none": False})
        preprocessing = Preprocessing.from_plan(root, name)
        labels: Resampler = preprocessing.segmentation
        if never_separate:
            labels = replace(labels, separate=None)
        return cls(preprocessing=replace(preprocessing, segmentation=labels), crops=crops)

    def prepare(self, image: Array, segmentation: Array, spacing: Sequence[float]) -> StageImage:
        """Bring a case onto the second stage's grid.

        Where the segmentation is cropped like the image it also counts as its label map: what it labels lies inside
        of the mask in which intensities are normalised (nnunetv2 2.8.1, ``DefaultPreprocessor.run_case``).

        Args:
            image: ``(C, Z, Y, X)``, original axes.
            segmentation: ``(Z, Y, X)`` of the first stage, original axes.
            spacing: mm (z, y, x).

        Raises:
            ImageError: as :meth:`~nnrules_runtime.preprocess.case.Preprocessing.run`.
        """
        if self.crops:
            prepared = self.preprocessing.run(image, segmentation, spacing, locate=False)
            assert prepared.label is not None
            return StageImage(prepared.image, prepared.label, prepared.geometry)
        prepared = self.preprocessing.run(image, None, spacing)
        geometry = prepared.geometry
        resized = self.preprocessing.segmentation.resample_labels(
            segmentation.transpose(geometry.transpose_forward),
            geometry.network_shape,
            original_spacing=geometry.transposed_spacing,
            network_spacing=geometry.network_spacing,
            where="segmentation of the first stage",
        )
        return StageImage(prepared.image, resized.astype(np.int16, copy=False), geometry)
