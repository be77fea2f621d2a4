"""Statistics of one channel that are the same whatever the number of threads.

A sum over all voxels is split among threads where there are several, and its last bits change with their number.
Sums over rows are not: each row is summed by one thread in one order. The rows are then added up in float64.
"""

from __future__ import annotations

import math

import torch

__all__ = ["mean", "mean_and_deviation"]


def _rows(channel: torch.Tensor) -> torch.Tensor:
    return channel.view(-1, channel.shape[-1])


def mean(channel: torch.Tensor) -> float:
    """Mean of a contiguous float32 tensor."""
    return float(_rows(channel).sum(dim=1).numpy().sum(dtype="float64")) / channel.numel()


def mean_and_deviation(channel: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation (divisor n - 1, as in nnunetv2) of a contiguous float32 tensor.

    The deviation is the root of the mean square of ``channel`` after subtraction of the mean of its rows, plus what
    the rows differ: no difference of large numbers.
    """
    rows = _rows(channel)
    count, width = channel.numel(), rows.shape[1]
    row_means = rows.sum(dim=1) / width
    centre = float(row_means.numpy().mean(dtype="float64"))
    if count < 2:
        return centre, math.nan
    inside = torch.linalg.vector_norm(rows - row_means[:, None], dim=1).numpy().astype("float64")
    between = row_means.numpy().astype("float64") - centre
    total = float((inside**2).sum()) + width * float((between**2).sum())
    return centre, math.sqrt(total / (count - 1))
