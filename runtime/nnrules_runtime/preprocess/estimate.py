"""What preprocessing will take, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from nnrules.dataset import Case
from nnrules.image_io import read_geometry

from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.reading import CaseReader

__all__ = ["CaseEstimate", "Estimate", "estimate_case"]

# Bytes a voxel at the peak, above measured ones (images of 9 to 32 million voxels, 1 to 4 channels of int16 and
# float32, to fewer, as many and more voxels: 60 to 100 % of the estimate). Before resampling: the stored image, its
# float32 copy, label map and mask; after it: the result, the resampled label map, compression.
_BYTES_BEFORE = (9, 8)  # a channel, and for the label map
_BYTES_AFTER = (6, 4)
_BYTES_OF_A_WORKER = 150 * 10**6


@dataclass(frozen=True, slots=True)
class CaseEstimate:
    """One case.

    Attributes:
        memory_bytes: at the peak, above what a worker takes in any case.
        disk_bytes: of the stored arrays of all targets before compression.
    """

    memory_bytes: int
    disk_bytes: int


def estimate_case(case: Case, reader: CaseReader, recipes: Sequence[Preprocessing]) -> CaseEstimate:
    """Predict from the header of the first image file.

    Raises:
        ImageError: the header cannot be read.
    """
    geometry = read_geometry(case.image_paths[0])
    shape, spacing = reader.grid(geometry)
    num_channels = len(recipes[0].normalizations)
    before = prod(shape)
    memory, disk = 0, 0
    for recipe in recipes:
        first, second, third = recipe.transpose_forward
        after, _ = recipe.network_grid(
            (shape[first], shape[second], shape[third]), (spacing[first], spacing[second], spacing[third])
        )
        memory = max(memory, prod(after) * (num_channels * _BYTES_AFTER[0] + _BYTES_AFTER[1]))
        itemsize = (
            num_channels * np.dtype(recipe.image_dtype).itemsize + np.dtype(recipe.label_dtype).itemsize
        )
        disk += prod(after) * itemsize
    memory += before * (num_channels * _BYTES_BEFORE[0] + _BYTES_BEFORE[1])
    return CaseEstimate(memory, disk)


@dataclass(frozen=True, slots=True)
class Estimate:
    """All cases that are to be made.

    Attributes:
        num_cases: so many.
        num_unchanged: cases that are there already.
        num_workers: processes; 0 is the calling one.
        memory_bytes: of all processes together, at most.
        disk_bytes: at most.
    """

    num_cases: int
    num_unchanged: int
    num_workers: int
    memory_bytes: int
    disk_bytes: int

    @classmethod
    def of(cls, cases: Sequence[CaseEstimate], *, num_unchanged: int, num_workers: int) -> Estimate:
        """Sum up; the largest cases may meet."""
        at_once = max(1, num_workers)
        largest = sorted((case.memory_bytes for case in cases), reverse=True)[:at_once]
        return cls(
            num_cases=len(cases),
            num_unchanged=num_unchanged,
            num_workers=num_workers,
            memory_bytes=sum(largest) + at_once * _BYTES_OF_A_WORKER,
            disk_bytes=sum(case.disk_bytes for case in cases),
        )

    def to_text(self) -> str:
        """One line."""
        unchanged = f", {self.num_unchanged} unchanged" if self.num_unchanged else ""
        if not self.num_cases:
            return f"nothing to do{unchanged}"
        processes = f"{self.num_workers} processes" if self.num_workers > 1 else "1 process"
        return (
            f"{self.num_cases} cases to do{unchanged}; {processes}, up to {self.memory_bytes / 1e9:.1f} GB of memory, "
            f"up to {self.disk_bytes / 1e9:.2f} GB on disk; time is known after the first case"
        )
