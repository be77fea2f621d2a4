"""Decompressed cases in memory, within a limit: reading a patch of a kept case costs a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules_runtime.train.sampling import LocatedCase

__all__ = ["CaseCache", "case_bytes", "expected_bytes"]

Triple = tuple[int, int, int]
Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def case_bytes(num_voxels: int, num_channels: int) -> int:
    """What a case takes: its image as float32, its label map as int16."""
    return num_voxels * (4 * num_channels + 2)


def expected_bytes(num_cases: float, mean_bytes: float, num_draws: float, limit_bytes: int) -> float:
    """What a cache will hold after cases have been drawn uniformly.

    Args:
        num_cases: that are drawn from.
        mean_bytes: of a case.
        num_draws: how often one is drawn.
        limit_bytes: of the cache.
    """
    if num_cases <= 0:
        return 0.0
    num_seen: float = num_cases * (1 - max(0.0, 1 - 1 / num_cases) ** num_draws)
    return min(float(limit_bytes), mean_bytes * num_seen)


class CaseCache:
    """Cases that are kept from their first use on.

    None is ever dropped for another: cases are drawn uniformly, so that any set of them is as good as any other.

    Args:
        limit_bytes: of memory; 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._cases: dict[str, Arrays] = {}

    def __reduce__(self) -> tuple[type[CaseCache], tuple[int]]:
        """Contents stay where they are."""
        return (CaseCache, (self.limit_bytes,))

    def read(self, case_id: str, case: LocatedCase, start: Triple, stop: Triple) -> Arrays:
        """Image (c, z, y, x) and label map (z, y, x) of a box inside the image; not to be written to."""
        kept = self._cases.get(case_id)
        if kept is None:
            num_bytes = case_bytes(int(np.prod(case.shape)), case.num_channels)
            if self.size_bytes + num_bytes > self.limit_bytes:
                return case.read(start, stop)
            kept = self._cases[case_id] = case.read((0, 0, 0), case.shape)
            self.size_bytes += num_bytes
        (z, y, x), (z_stop, y_stop, x_stop) = start, stop
        box = (slice(z, z_stop), slice(y, y_stop), slice(x, x_stop))
        image, label = kept
        return image[(slice(None), *box)], label[box]
