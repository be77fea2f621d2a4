"""Keeps cases that are read at the same time within the memory that there is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nnrules.dataset import Case
from nnrules.image_io import read_geometry
from nnrules.memory import available_bytes

__all__ = ["MemoryGate", "needed_bytes"]

logger = logging.getLogger(__name__)

# Headers of smaller cases are not worth a look: reading one takes as long as reading a small image.
_SMALL_FILES_BYTES = 4 * 2**20
# Per voxel and channel 4 bytes, twice: SimpleITK's image and numpy's array, or channels, then joined.
# Measured on int16 CT with uint8 labels: 5.3 bytes a voxel in all, so this errs on the side of caution.
_IMAGE_BYTES = 8
_LABEL_BYTES = 4
_RESERVE = 0.8  # share of the available memory that cases may take


def needed_bytes(case: Case) -> int:
    """Estimate of the memory that measuring a case takes at its peak; 0 for cases that are small on disk.

    Raises:
        ImageError: when a header cannot be read.
    """
    if sum(path.stat().st_size for path in case.image_paths if path.is_file()) < _SMALL_FILES_BYTES:
        return 0
    geometry = read_geometry(case.image_paths[0])
    num_voxels = geometry.shape[0] * geometry.shape[1] * geometry.shape[2]
    num_channels = geometry.num_channels * len(case.image_paths)
    return num_voxels * (num_channels * _IMAGE_BYTES + _LABEL_BYTES)


class MemoryGate:
    """Lets cases in as long as their estimates fit together; a case that fits nowhere runs alone.

    Args:
        limit_bytes: what all cases together may take; ``None`` for no limit.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._changed = threading.Condition()

    @classmethod
    def for_this_machine(cls) -> MemoryGate:
        """A gate for most of the memory that is available now."""
        available = available_bytes()
        return cls(None if available is None else int(available * _RESERVE))

    @contextmanager
    def entered(self, case: Case) -> Iterator[None]:
        """Wait until the case fits, and hold its share meanwhile."""
        wanted = 0 if self._limit_bytes is None else needed_bytes(case)
        if self._limit_bytes is not None and wanted > self._limit_bytes:
            logger.warning(
                "%s needs about %d MB of memory and %d MB are available: it is read alone",
                case.id,
                wanted // 10**6,
                self._limit_bytes // 10**6,
            )
        with self._changed:
            self._changed.wait_for(lambda: self._fits(wanted))
            self._used_bytes += wanted
        try:
            yield
        finally:
            with self._changed:
                self._used_bytes -= wanted
                self._changed.notify_all()

    def _fits(self, wanted: int) -> bool:
        if self._limit_bytes is None or not wanted or not self._used_bytes:
            return True
        return self._used_bytes + wanted <= self._limit_bytes
