"""The prediction of images with trained networks: from an array to labels, and from files to files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnrules.errors import Problem, RunError
from nnrules.plan import Plan
from torch import Tensor, nn

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.network.fit import check_network_fits
from nnrules_runtime.network.model import Checkpoint
from nnrules_runtime.predict.arrays import with_all_axes
from nnrules_runtime.predict.export import Exporter, export_memory_bytes
from nnrules_runtime.predict.inference_profile import inference_profile
from nnrules_runtime.predict.memory import EXPORT_BYTES, CaseMemory, estimate_memory, export_bytes
from nnrules_runtime.predict.models import ModelSource, models_of
from nnrules_runtime.predict.sliding import SlidingWindow
from nnrules_runtime.predict.stage_input import StageLabels
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.profile import Profile, choose_profile
from nnrules_runtime.values import reading

__all__ = ["Predictor"]

_LOGGER = logging.getLogger(__name__)
# A training step is two patches, forward and backward, and backward is twice the work of forward.
_PASSES_OF_A_STEP = 6
Array = npt.NDArray[Any]


class Predictor:
    """Predicts with the networks of one configuration.

    ::

        predictor = Predictor("work/models/3d_fullres")
        labels = predictor.predict(image, spacing=(3.0, 0.8, 0.8))

    Several networks, of several folds, are averaged as the plan says. Ensembles of configurations, cascades,
    postprocessing and bundles: :func:`nnrules_runtime.open_predictor`.

    Args:
        models: a work folder, the folder of a configuration or of a fold; or several folders of folds; or models
            that have been read.
        configuration: which one, where a work folder has several.
        folds: which ones; default: every numbered fold that has been trained, or ``all`` where there is none.
        checkpoint: ``final`` or ``best``; default: the plan's.
        device: where to run, such as ``cuda:0``; default: what is there.
        profile: how to execute; overrides ``device``.
        mirroring: whether images are mirrored as the plan says; without, up to eight times faster, and less exact.

    Raises:
        ModelError: a model is missing, damaged, or of another plan than the others.
        PlanError: the plan has values that the runtime does not know.
    """

    def __init__(
        self,
        models: ModelSource | Sequence[ModelSource],
        *,
        configuration: str | None = None,
        folds: Sequence[int | str] | None = None,
        checkpoint: Checkpoint | None = None,
        device: str | None = None,
        profile: Profile | None = None,
        mirroring: bool = True,
    ) -> None:
        found = models_of(models, configuration=configuration, folds=folds, checkpoint=checkpoint)
        self.models = found
        self._set_up(
            found[0].plan,
            found[0].configuration,
            [model.network() for model in found],
            device=device,
            profile=profile,
            mirror_axes=found[0].mirror_axes if mirroring else (),
        )

    @classmethod
    def from_networks(
        cls,
        plan: Plan,
        configuration: str,
        networks: Sequence[nn.Module],
        *,
        device: str | None = None,
        profile: Profile | None = None,
        mirror_axes: Sequence[int] | None = None,
    ) -> Predictor:
        """A predictor of networks in memory, such as one that is being trained.

        They are set to evaluation mode, moved to the device of the profile, and used as they are then.

        Args:
            plan: their plan.
            configuration: their configuration.
            networks: one a fold.
            device: as for the class.
            profile: as for the class.
            mirror_axes: axes to mirror; default: the plan's.
        """
        predictor = cls.__new__(cls)
        predictor.models = ()
        predictor._set_up(
            plan, configuration, networks, device=device, profile=profile, mirror_axes=mirror_axes
        )
        return predictor

    def _set_up(
        self,
        plan: Plan,
        name: str,
        networks: Sequence[nn.Module],
        *,
        device: str | None,
        profile: Profile | None,
        mirror_axes: Sequence[int] | None,
    ) -> None:
        self.plan, self.configuration = plan, name
        self._mirror_axes = mirror_axes
        with reading(plan) as root:
            configuration = root.section("configurations").section(name)
            self.profile = profile or inference_profile(root, device=device)
            self.labels = LabelSet.from_plan(root)
            check_network_fits(root, configuration, self.labels)
            self.reader = CaseReader.from_plan(root)
            self.preprocessing = Preprocessing.from_plan(root, name)
            self.sliding = SlidingWindow(configuration, self.profile, mirror_axes=mirror_axes)
            self.exporter = Exporter.from_plan(root, configuration, self.labels)
            self._num_features = int(
                (configuration.section("architecture").value("features_per_stage") or [0])[0]
            )
            self.previous_stage: str | None = (
                configuration.value("previous_stage") if "previous_stage" in configuration else None
            )
        self.networks = [self.sliding.prepared(network) for network in networks]

    def predict(self, image: Array, spacing: Sequence[float], *, where: str = "image") -> Array:
        """Labels of an image.

        Args:
            image: ``(C, Z, Y, X)``; ``(Z, Y, X)`` or ``(Y, X)`` of a single channel; of any real type. In the
                orientation that the plan is for (``dataset.orientation_policy``).
            spacing: mm (z, y, x), or (y, x).
            where: how the image is called in errors.

        Returns:
            Labels in the image's spatial shape.

        Raises:
            ImageError: another number of channels than the networks take, or values that are not finite.
            RunError: the prediction is not finite, or memory does not suffice.
        """
        array, millimetres = with_all_axes(image, spacing)
        labels = self.export(*self._predicted(array, millimetres, where), where=where)
        return labels.reshape(image.shape[-2:] if image.ndim == 2 else labels.shape)

    def predict_probabilities(self, image: Array, spacing: Sequence[float], *, where: str = "image") -> Array:
        """Probabilities of each class or region of an image; arguments and errors as for :meth:`predict`.

        Returns:
            ``(K, Z, Y, X)``, or ``(K, Y, X)`` of a 2D image, in the plan's type. Where the plan keeps the cropped
            region only (``inference.files.probability_extent``), the shape is that of the crop.
        """
        array, millimetres = with_all_axes(image, spacing)
        found = self.export_probabilities(*self._predicted(array, millimetres, where), where=where)
        return found[:, 0] if image.ndim == 2 else found

    def predict_prepared(
        self,
        image: npt.NDArray[np.float32] | Tensor,
        geometry: CaseGeometry,
        *,
        previous: Array | None = None,
        where: str = "image",
    ) -> Array:
        """Labels, on the original grid, of an image that has been preprocessed.

        Args:
            image: ``(C, Z, Y, X)`` on the network's grid.
            geometry: of its preprocessing.
            previous: as for :meth:`logits`.
            where: how the image is called in errors.
        """
        return self.export(self.logits(image, previous=previous, where=where), geometry, where=where)

    def logits(
        self,
        image: npt.NDArray[np.float32] | Tensor,
        *,
        previous: Array | None = None,
        where: str = "image",
    ) -> Tensor:
        """What the plan averages over folds (logits or probabilities) of a preprocessed image, on the host.

        Args:
            image: ``(C, Z, Y, X)`` on the network's grid.
            previous: of a second stage: the first stage's segmentation ``(Z, Y, X)`` on the same grid, which the
                network sees as one channel a foreground label.
            where: how the image is called in errors.

        Returns:
            ``(K, Z, Y, X)``.
        """
        stage = None if previous is None else StageLabels.of(previous, self.labels.foreground_labels)
        values = self.sliding(self.networks, image, stage, where=where).cpu()
        return values.float() if values.dtype == torch.float64 else values

    def export(self, logits: Tensor, geometry: CaseGeometry, *, where: str = "image") -> Array:
        """Labels on the original grid from :meth:`logits`."""
        return self.exporter.segmentation(logits, geometry, memory_bytes=export_bytes(), where=where)

    def export_probabilities(self, logits: Tensor, geometry: CaseGeometry, *, where: str = "image") -> Array:
        """Probabilities ``(K, Z, Y, X)`` on the original grid from :meth:`logits`."""
        return self.exporter.probabilities(logits, geometry, memory_bytes=export_bytes(), where=where)

    def prepare(self, image: Array, spacing: Sequence[float]) -> tuple[npt.NDArray[np.float32], CaseGeometry]:
        """Preprocess an image ``(C, Z, Y, X)``; errors as for :meth:`predict`."""
        prepared = self.preprocessing.run(image, None, spacing)
        return prepared.image, prepared.geometry

    def compile_if_it_pays(self, num_passes: int) -> None:
        """Compile the networks if so many patches are worth it on this device; on a CPU they never are.

        Args:
            num_passes: patches that are still to come.
        """
        if self.profile.compile:
            return
        chosen = choose_profile(device=self.profile.device, num_steps=num_passes // _PASSES_OF_A_STEP)
        if not chosen.compile:
            return
        reasons = {**self.profile.reasons, "compile": chosen.reasons["compile"]}
        self.profile = replace(self.profile, compile=True, reasons=reasons)
        with reading(self.plan) as root:
            configuration = root.section("configurations").section(self.configuration)
            self.sliding = SlidingWindow(configuration, self.profile, mirror_axes=self._mirror_axes)
        for network in self.networks:
            network.compile()

    @property
    def num_channels(self) -> int:
        """Channels that an image must have."""
        return self.preprocessing.num_channels

    def check_single_stage(self) -> None:
        """Refuse the second stage of a cascade, whose input is more than the image.

        Raises:
            RunError: it is one.
        """
        if self.previous_stage is not None:
            raise RunError(
                Problem(
                    where=f"plan: configurations.{self.configuration}",
                    what="this network takes the segmentation of a previous stage, not only an image",
                    got=self.previous_stage,
                    fix="Use `nnrules run predict -c`, or open_predictor, which predict with both stages.",
                )
            )

    def network_shape(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int, int]:
        """Voxels on the network's grid of an image that nothing is cropped from.

        Args:
            shape: voxels (z, y, x).
            spacing: mm (z, y, x).
        """
        order = self.preprocessing.transpose_forward
        first, second, third = (float(spacing[axis]) for axis in order)
        grid, _ = self.preprocessing.network_grid([shape[axis] for axis in order], (first, second, third))
        return grid

    def num_passes(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Patches that the networks see of an image, at most; arguments as for :meth:`network_shape`."""
        return len(self.networks) * self.sliding.num_passes(self.network_shape(shape, spacing))

    def memory(
        self, shape: Sequence[int], spacing: Sequence[float], *, probabilities: bool = False
    ) -> CaseMemory:
        """Memory of the host that an image takes at most.

        Args:
            shape: as for :meth:`network_shape`.
            spacing: as for :meth:`network_shape`.
            probabilities: whether they are written, too.
        """
        grid = self.network_shape(shape, spacing)
        written = self.exporter.label_dtype.itemsize
        if probabilities:
            written += self.labels.num_heads * self.exporter.probability_dtype.itemsize
        exporting = export_memory_bytes(
            self.labels.num_heads,
            grid,
            [shape[axis] for axis in self.preprocessing.transpose_forward],
            order=self.exporter.resampler.order,
            num_threads=self.profile.num_threads,
        )
        return estimate_memory(
            num_channels=self.num_channels,
            image_shape=shape,
            network_shape=grid,
            sum_bytes=self.sliding.sum_bytes(grid, len(self.networks)),
            feature_values=prod(self.sliding.window.size) * self._num_features * self.sliding.batch_size,
            export_bytes=min(EXPORT_BYTES, exporting),
            result_bytes_a_voxel=written,
            on_device=self.profile.device_type != "cpu",
        )

    def _predicted(self, image: Array, spacing: Sequence[float], where: str) -> tuple[Tensor, CaseGeometry]:
        self.check_single_stage()
        prepared, geometry = self.prepare(image, spacing)
        return self.logits(prepared, where=where), geometry
