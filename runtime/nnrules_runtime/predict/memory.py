"""How much memory a case takes, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

__all__ = ["CaseMemory", "estimate_memory"]

# Bytes at the peak of preprocessing, as preprocess.estimate measured them: reading; then making float32 arrays.
_BYTES_A_VOXEL_READ = 12
_BYTES_A_VOXEL_MADE = 12
# Feature maps of full resolution that are in memory at once: the skip, what is concatenated, and the results of two
# layers. Lower resolutions add less than one more.
_MAPS = 6
_BYTES_A_FEATURE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMemory:
    """Bytes of the host that a case takes, above what the program takes in any case.

    Attributes:
        reading: while it is read and preprocessed.
        predicting: while the network runs.
        exporting: while it is resampled to the image.
    """

    reading: int
    predicting: int
    exporting: int

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
    return CaseMemory(
        reading=num_channels * (before * _BYTES_A_VOXEL_READ + after * _BYTES_A_VOXEL_MADE),
        predicting=num_channels * after * 4 + sum_bytes + features,
        exporting=sum_bytes + export_bytes + before * result_bytes_a_voxel,
    )
