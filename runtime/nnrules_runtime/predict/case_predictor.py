"""One image through whatever predicts it: a configuration, both stages of a cascade, an ensemble, postprocessing.

::

    prepare  → what the networks of the first stages take        (reads nothing but the array)
    logits   → what each member predicts, on its network's grid  (cascades go through both stages here)
    export   → labels of the whole image, of one member or of the mean of all, postprocessed

The file pipeline does the three on different cases at the same time; :meth:`CasePredictor.predict` one after the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.plan import Plan

from nnrules_runtime.postprocess import BYTES_PER_VOXEL, Postprocessing
from nnrules_runtime.predict.arrays import with_all_axes
from nnrules_runtime.predict.export import crop_box
from nnrules_runtime.predict.export_average import AverageExporter, Share
from nnrules_runtime.predict.export_values import Box
from nnrules_runtime.predict.members import Member, Part, Prepared, check_alike, check_stages
from nnrules_runtime.predict.memory import (
    EXPORT_BYTES,
    CaseMemory,
    MemoryOfMember,
    combined_memory,
    export_bytes,
)
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.predict.stage_input import StageInput
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.profile import Profile
from nnrules_runtime.values import reading

__all__ = ["CasePredictor", "Member"]

Array = npt.NDArray[Any]

# Of a voxel of an image as read, mostly int16 or float32.
_IMAGE_BYTES = 4


class CasePredictor:
    """Predicts with one member, or with the mean of several; :func:`nnrules_runtime.open_predictor` makes them.

    Args:
        members: at least one.
        postprocessing: of the segmentations; default: none.

    Raises:
        ModelError: members differ in channels, labels or orientation, or a first stage is not that of its second.
        PlanError: the plan has values that the runtime does not know.
    """

    def __init__(
        self, members: Sequence[Member | Predictor], *, postprocessing: Postprocessing | None = None
    ) -> None:
        self.members = tuple(Member(entry) if isinstance(entry, Predictor) else entry for entry in members)
        if not self.members:
            raise ValueError("a predictor needs a member")
        self.postprocessing = Postprocessing.none() if postprocessing is None else postprocessing
        for member in self.members:
            check_stages(member)
        leading = self.members[0].predictor
        check_alike(leading, self.singles)
        self._stage_inputs: dict[Predictor, StageInput] = {}
        for member in self.members:
            if member.first is not None:
                with reading(member.predictor.plan) as root:
                    stage_input = StageInput.from_plan(root, member.predictor.configuration)
                self._stage_inputs[member.predictor] = stage_input
        with reading(leading.plan) as root:
            configuration = root.section("configurations").section(leading.configuration)
            self._average = AverageExporter.from_plan(root, configuration, leading.labels)

    @classmethod
    def of(cls, predictor: Predictor | CasePredictor) -> CasePredictor:
        """A predictor of one configuration as one of cases; others as they are."""
        return predictor if isinstance(predictor, CasePredictor) else cls([predictor])

    # -- arrays -----------------------------------------------------------------------------------------------------

    def predict(self, image: Array, spacing: Sequence[float], *, where: str = "image") -> Array:
        """Labels of an image.

        Args:
            image: ``(C, Z, Y, X)``; ``(Z, Y, X)`` or ``(Y, X)`` of a single channel; of any real type. In the
                orientation that the plan is for (``dataset.orientation_policy``).
            spacing: mm (z, y, x), or (y, x).
            where: how the image is called in errors.

        Returns:
            Labels in the image's spatial shape, postprocessed.

        Raises:
            ImageError: another number of channels than the networks take, or values that are not finite.
            RunError: the prediction is not finite, or memory does not suffice.
        """
        labels = self.predict_together([image], spacing, where=where)
        return labels.reshape(image.shape[-2:] if image.ndim == 2 else labels.shape)

    def predict_together(
        self, images: Sequence[Array], spacing: Sequence[float], *, where: str = "images"
    ) -> Array:
        """Labels of several images of one subject on one grid, such as two sequences of an examination.

        Their probabilities are averaged, as those of an ensemble's members are.

        Args:
            images: as for :meth:`predict`; at least one.
            spacing: of all of them.
            where: how they are called in errors.

        Returns:
            Labels ``(Z, Y, X)``, postprocessed.

        Raises:
            ImageError: as :meth:`predict`.
            RunError: as :meth:`predict`; or the images differ in shape.
        """
        return self.export(self._predicted(images, spacing, where), where=where)

    def predict_probabilities(self, image: Array, spacing: Sequence[float], *, where: str = "image") -> Array:
        """Probabilities of each class or region of an image, not postprocessed; errors as for :meth:`predict`.

        Returns:
            ``(K, Z, Y, X)``, or ``(K, Y, X)`` of a 2D image, in the plan's type. Where the plan keeps the cropped
            region only (``inference.files.probability_extent``), the shape is that of the crop.
        """
        found, _ = self.export_probabilities(self._predicted([image], spacing, where), where=where)
        return found[:, 0] if image.ndim == 2 else found

    def _predicted(self, images: Sequence[Array], spacing: Sequence[float], where: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        for image in images:
            array, millimetres = with_all_axes(image, spacing)
            parts += self.logits(self.prepare(array, millimetres), where=where)
        return tuple(parts)

    # -- the three stages -------------------------------------------------------------------------------------------

    def prepare(self, image: Array, spacing: tuple[float, float, float]) -> Prepared:
        """Preprocess an image ``(C, Z, Y, X)`` with a spacing in mm (z, y, x); errors as for :meth:`predict`."""
        self.check_takes_images()
        entries = {entry: entry.prepare(image, spacing) for entry in self._entries}
        return Prepared(entries, image if self._stage_inputs else None, spacing)

    def logits(self, prepared: Prepared, *, where: str = "image") -> tuple[Part, ...]:
        """What the members predict, in their order, on the host; a first stage predicts once for all."""
        parts: dict[Member, Part] = {}
        for entry in self._entries:
            image, geometry = prepared.entries[entry]
            part = Part(entry, entry.logits(image, where=where), geometry)
            seconds = [member for member in self.members if member.first is entry]
            labels = entry.export(part.values, geometry, where=where) if seconds else None
            parts |= {member: part for member in self.members if member.predictor is entry}
            del part  # if nobody else needs it, the second stage has its memory
            for member in seconds:
                assert labels is not None
                parts[member] = self._second_stage(member, labels, prepared, where)
        return tuple(parts[member] for member in self.members)

    def export(self, parts: Sequence[Part], *, where: str = "image") -> Array:
        """Labels ``(Z, Y, X)`` of the whole image: of one part, or of the mean of several; postprocessed."""
        if len(parts) == 1:
            (part,) = parts
            labels = part.predictor.export(part.values, part.geometry, where=where)
        else:
            labels = self._average.segmentation(_shares(parts), memory_bytes=export_bytes(), where=where)
        if not self.postprocessing.steps:
            return labels
        return self.postprocessing.apply(labels, parts[0].geometry.original_spacing)

    def export_probabilities(
        self, parts: Sequence[Part], *, where: str = "image"
    ) -> tuple[Array, Box | None]:
        """Probabilities ``(K, z, y, x)``, and the part of the image that they cover; ``None``: the whole."""
        if len(parts) == 1:
            (part,) = parts
            found = part.predictor.export_probabilities(part.values, part.geometry, where=where)
            is_whole = part.predictor.exporter.whole_image
            return found, None if is_whole else crop_box(part.geometry)
        found, box = self._average.probabilities(_shares(parts), memory_bytes=export_bytes(), where=where)
        return found, None if self._average.whole_image else box

    def _second_stage(self, member: Member, labels: Array, prepared: Prepared, where: str) -> Part:
        assert prepared.image is not None
        case = self._stage_inputs[member.predictor].prepare(prepared.image, labels, prepared.spacing)
        values = member.predictor.logits(case.image, previous=case.segmentation, where=where)
        return Part(member.predictor, values, case.geometry)

    # -- what it is and takes ---------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """The plan of the first member."""
        return self.members[0].predictor.plan

    @property
    def profile(self) -> Profile:
        """How its networks are executed."""
        return self.members[0].predictor.profile

    @property
    def reader(self) -> CaseReader:
        """Reads images in the orientation of the plan."""
        return self.members[0].predictor.reader

    @property
    def num_channels(self) -> int:
        """Channels that an image must have."""
        return self.members[0].predictor.num_channels

    @property
    def configurations(self) -> tuple[str, ...]:
        """Of the members."""
        return tuple(member.predictor.configuration for member in self.members)

    @property
    def singles(self) -> tuple[Predictor, ...]:
        """All networks of all members, by configuration; each once, first stages before their second."""
        found: dict[Predictor, None] = {}
        for member in self.members:
            found |= dict.fromkeys([member.entry, member.predictor])
        return tuple(found)

    @property
    def _entries(self) -> tuple[Predictor, ...]:
        return tuple(dict.fromkeys(member.entry for member in self.members))

    def check_takes_images(self) -> None:
        """Refuse a second stage without its first.

        Raises:
            RunError: there is one.
        """
        for entry in self._entries:
            entry.check_single_stage()

    def compile_if_it_pays(self, num_passes: int) -> None:
        """Compile the networks if so many patches are worth it on this device; on a CPU they never are.

        Args:
            num_passes: patches that are still to come, of all networks.
        """
        for single in self.singles:
            single.compile_if_it_pays(num_passes // len(self.singles))

    def num_passes(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Patches that the networks see of an image, at most.

        Args:
            shape: voxels (z, y, x).
            spacing: mm (z, y, x).
        """
        return sum(single.num_passes(shape, spacing) for single in self.singles)

    def memory(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        *,
        probabilities: bool = False,
        num_images: int = 1,
    ) -> CaseMemory:
        """Memory of the host that a case takes at most.

        Args:
            shape: voxels (z, y, x).
            spacing: mm (z, y, x).
            probabilities: whether they are written, too.
            num_images: images whose probabilities are averaged.
        """
        alone = {member.predictor for member in self.members if member.first is None}
        leading = self.members[0].predictor
        num_voxels = int(np.prod(shape, dtype=np.int64))
        return combined_memory(
            [
                MemoryOfMember(
                    memory=member.predictor.memory(shape, spacing, probabilities=probabilities),
                    first=None if member.first is None else member.first.memory(shape, spacing),
                    first_is_member=member.first in alone,
                )
                for member in self.members
            ],
            num_images=num_images,
            image_bytes=self.num_channels * num_voxels * _IMAGE_BYTES,
            num_voxels=num_voxels,
            label_itemsize=leading.exporter.label_dtype.itemsize,
            extra_bytes_a_voxel=BYTES_PER_VOXEL if self.postprocessing.steps else 0,
            export_limit=EXPORT_BYTES,
        )


def _shares(parts: Sequence[Part]) -> list[Share]:
    return [Share(part.predictor.exporter, part.values, part.geometry) for part in parts]
