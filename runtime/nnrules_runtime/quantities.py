"""Times, sizes and metrics as people read them."""

from __future__ import annotations

from math import isnan

__all__ = ["duration", "metric", "rough_duration", "size"]


def duration(seconds: float) -> str:
    """A time that was measured or estimated: ``2.0 s``, ``12.5 min`` or ``30.1 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rough_duration(seconds: float) -> str:
    """A time that is left, which is another one soon: ``12 min``; of hours the tenths are shown, too."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def size(num_bytes: int) -> str:
    """Memory or disk: ``12.5 MB``, ``1.25 GB``."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def metric(value: float) -> str:
    """A metric such as Dice: ``0.8312``; NaN is ``undefined``."""
    return "undefined" if isnan(value) else f"{value:.4f}"
