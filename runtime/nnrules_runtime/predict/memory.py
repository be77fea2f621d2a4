"""How much memory a case takes, from its header alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from nnrules.memory import available_bytes

__all__ = [
    "EXPORT_BYTES",
    "CaseMemory",
    "MemoryOfMember",
    "combined_memory",
    "estimate_memory",
    "export_bytes",
]

EXPORT_BYTES = 1 << 30
"""Most memory that an export takes beside predictions and result."""

# Bytes at the peak of preprocessing, as preprocess.estimate measured them: reading; then making float32 arrays.
_BYTES_A_VOXEL_READ = 12
_BYTES_A_VOXEL_MADE = 12
# Feature maps of full resolution that are in memory at once: the skip, what is concatenated, and the results of two
# layers. Lower resolutions add less than one more.
_MAPS = 6
_BYTES_A_FEATURE = 4
# A label map as int16 while it is cropped and resampled, twice.
_BYTES_A_LABEL_VOXEL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMemory:
    """Bytes of the host that a case takes, above what the program takes in any case.

    Attributes:
        reading: while it is read and preprocessed.
        predicting: while the network runs.
        exporting: while it is resampled to the image.
        prepared: what waits for the network; part of ``reading`` and ``predicting``.
        predicted: what waits for the export; part of ``predicting`` and ``exporting``.
        written: what is written; part of ``exporting``.
    """

    reading: int
    predicting: int
    exporting: int
    prepared: int = 0
    predicted: int = 0
    written: int = 0

    @property
    def peak(self) -> int:
        """What it takes if it is worked on alone."""
        return max(self.reading, self.predicting, self.exporting)

    @property
    def overlapping(self) -> int:
        """What several such cases take, each at another stage."""
        return self.reading + self.predicting + self.exporting


def estimate_memory(
    *,
    num_channels: int,
    image_shape: Sequence[int],
    network_shape: Sequence[int],
    sum_bytes: int,
    feature_values: int,
    export_bytes: int,
    result_bytes_a_voxel: int,
    on_device: bool,
) -> CaseMemory:
    """Add up what is in memory at each stage.

    Args:
        num_channels: of the image.
        image_shape: voxels of the file.
        network_shape: voxels on the network's grid; without a crop, as a header does not know it.
        sum_bytes: of the sums of the prediction.
        feature_values: values of one feature map at full resolution times their number, for one batch.
        export_bytes: most that exporting takes beside prediction and result.
        result_bytes_a_voxel: of what is written.
        on_device: whether the network runs elsewhere than on the host.
    """
    before, after = prod(image_shape), prod(network_shape)
    features = 0 if on_device else _MAPS * feature_values * _BYTES_A_FEATURE
    prepared = num_channels * after * 4
    return CaseMemory(
        reading=num_channels * (before * _BYTES_A_VOXEL_READ + after * _BYTES_A_VOXEL_MADE),
        predicting=prepared + sum_bytes + features,
        exporting=sum_bytes + export_bytes + before * result_bytes_a_voxel,
        prepared=prepared,
        predicted=sum_bytes,
        written=before * result_bytes_a_voxel,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOfMember:
    """What a member of an ensemble takes.

    Attributes:
        memory: of its networks; in a cascade, of the second stage.
        first: of a cascade's first stage, whose labels are exported.
        first_is_member: whether that stage is a member, too: it then predicts once for both.
    """

    memory: CaseMemory
    first: CaseMemory | None = None
    first_is_member: bool = False


def combined_memory(
    members: Sequence[MemoryOfMember],
    *,
    num_images: int,
    image_bytes: int,
    num_voxels: int,
    label_itemsize: int,
    extra_bytes_a_voxel: int,
    export_limit: int,
) -> CaseMemory:
    """What several members take, which predict one after the other and are exported together.

    Args:
        members: one or more, the first of which says what is written.
        num_images: images that are averaged.
        image_bytes: of an image as read, which a cascade keeps for its second stage.
        num_voxels: of an image.
        label_itemsize: bytes of a voxel of a segmentation.
        extra_bytes_a_voxel: that are taken after the export.
        export_limit: most bytes that an export may take beside predictions and result.
    """
    alone = [member.memory for member in members if member.first is None]
    firsts = [member.first for member in members if member.first is not None and not member.first_is_member]
    entries = [*alone, *firsts]
    kept = image_bytes if any(member.first is not None for member in members) else 0
    prepared = kept + sum(entry.prepared for entry in entries)
    reading = (
        (num_images - 1) * prepared + prepared + max(entry.reading - entry.prepared for entry in entries)
    )
    predicted = sum(member.memory.predicted for member in members)
    held, peak = num_images * prepared + (num_images - 1) * predicted, 0
    for member in members:
        own = member.memory
        if member.first is None:
            peak = max(peak, held + own.predicting - own.prepared)
        else:
            peak = max(peak, held + _of_cascade(own, member.first, num_voxels, label_itemsize))
        held += own.predicted
    predicted *= num_images
    written = members[0].memory.written
    scratch = sum(_scratch(member.memory) for member in members) * num_images
    if len(members) * num_images > 1:
        scratch = min(export_limit, scratch)
    return CaseMemory(
        reading=reading,
        predicting=peak,
        exporting=predicted + written + max(scratch, extra_bytes_a_voxel * num_voxels),
        prepared=num_images * prepared,
        predicted=predicted,
        written=written,
    )


def _of_cascade(second: CaseMemory, first: CaseMemory, num_voxels: int, label_itemsize: int) -> int:
    """Most bytes from the first stage's networks to the second's, above what waits for the network."""
    segmentation = num_voxels * label_itemsize
    steps: Iterable[int] = (
        first.predicting - first.prepared,
        first.predicted + _scratch(first) + segmentation,
        segmentation + second.reading + num_voxels * _BYTES_A_LABEL_VOXEL,
        # Channels are made of labels patch by patch.
        second.predicting + second.prepared // 2,
    )
    return max(steps)


def _scratch(memory: CaseMemory) -> int:
    return memory.exporting - memory.predicted - memory.written


def export_bytes() -> int:
    """Memory that an export may take now: a quarter of what is free, within limits."""
    free = available_bytes()
    return EXPORT_BYTES if free is None else min(EXPORT_BYTES, max(free // 4, 1 << 26))
