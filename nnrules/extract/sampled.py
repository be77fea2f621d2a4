"""nnU-Net v2's sampled intensity statistics, to the bit.

Facts from nnunetv2 2.8.1 (dataset fingerprint extractor): the number of draws a case is the integer part of
1e8 divided by the number of cases; each case has its own ``RandomState(1234)``, which draws with replacement
from the foreground values of channel 0, then 1, and so on; values are float32; the draws of all cases are
joined in case order, and numpy's mean, standard deviation and percentiles of that array are stored. A case
without foreground adds an empty float64 array, and joining that turns everything into float64, which changes
the last bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nnrules.extract.intensity import DEFAULT_FLOAT_LIMIT_BYTES, PERCENTS, ValueSummary, statistics_document

__all__ = ["SampledPool"]

_SEED = 1234
_NUM_DRAWS = 100_000_000


class SampledPool:
    """Draws from the foreground values of each case and gives the statistics of all draws.

    The draws take 0.4 GB a channel, whatever the number of cases; beyond the limit they go to a temporary
    file. Statistics take 0.4 GB more (three times that when a case has no foreground). Use it as a context
    manager.

    Args:
        num_cases: number of cases of the dataset.
        num_channels: number of channels of each.
        float_limit_bytes: limit in bytes a channel.
        spill_directory: folder for the temporary file; the system's by default.
    """

    def __init__(
        self,
        *,
        num_cases: int,
        num_channels: int,
        float_limit_bytes: int = DEFAULT_FLOAT_LIMIT_BYTES,
        spill_directory: Path | None = None,
    ) -> None:
        self._num_draws = _NUM_DRAWS // num_cases
        self._num_cases = num_cases
        self._num_added = 0
        self._num_with_foreground = 0
        self._spill: IO[bytes] | None = None
        shape = (num_channels, self._num_draws * num_cases)
        self._draws: npt.NDArray[np.float32]
        if shape[1] * np.dtype(np.float32).itemsize > float_limit_bytes:
            self._spill = tempfile.TemporaryFile(dir=spill_directory)  # noqa: SIM115 - closed by __exit__
            self._draws = np.memmap(self._spill, dtype=np.float32, mode="w+", shape=shape)
        else:
            self._draws = np.empty(shape, dtype=np.float32)

    def __enter__(self) -> SampledPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draws = np.empty((0, 0), dtype=np.float32)
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def add(self, summaries: Sequence[ValueSummary]) -> None:
        """Draw from the next case, in case order.

        Args:
            summaries: for each channel its foreground values, float32, in array order and without counts;
                empty for a case without foreground.
        """
        self._num_added += 1
        if not len(summaries[0].values):
            return
        generator = np.random.RandomState(_SEED)
        start = self._num_with_foreground * self._num_draws
        for channel, summary in enumerate(summaries):
            # What RandomState.choice does, without its slow copy; no index can be out of range.
            drawn = generator.randint(0, len(summary.values), size=self._num_draws)
            target = self._draws[channel, start : start + self._num_draws]
            np.take(summary.values, drawn, out=target, mode="clip")
        self._num_with_foreground += 1

    def statistics(self) -> list[dict[str, float] | None]:
        """One entry of the fingerprint document a channel; ``None`` where no case has foreground.

        To be called once: it reorders the draws instead of copying them.
        """
        if not self._num_with_foreground:
            return [None] * len(self._draws)
        dtype = np.float32 if self._num_with_foreground == self._num_added else np.float64
        length = self._num_with_foreground * self._num_draws
        return [_statistics(np.asarray(draws[:length], dtype)) for draws in self._draws]


def _statistics(draws: npt.NDArray[Any]) -> dict[str, float]:
    mean, std = float(np.mean(draws)), float(np.std(draws))
    minimum, maximum = float(np.min(draws)), float(np.max(draws))
    # Last, because the order of the draws decides the last bits of mean and standard deviation.
    percentiles = np.percentile(draws, np.array(PERCENTS), overwrite_input=True)
    return statistics_document(
        mean=mean, std=std, minimum=minimum, maximum=maximum, percentiles=percentiles.tolist()
    )
