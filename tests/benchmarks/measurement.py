"""One row of the benchmark's table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured, next to what it is compared with.

    Attributes:
        name: what was done.
        ours_s: seconds of nnrules; None where it was not measured.
        peer_s: seconds of nnU-Net v2 (or of the floor that the row names), in the same run.
        target_s: at most so many seconds.
        target_ratio: the peer takes at least so many times ours; below 1, ours takes at most 1/ratio of the
            floor.
        note: why something was not measured, or how.
    """

    name: str
    ours_s: float | None
    peer_s: float | None = None
    target_s: float | None = None
    target_ratio: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as long the peer takes."""
        return None if self.ours_s is None or self.peer_s is None else self.peer_s / self.ours_s

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.target_s is not None and self.ours_s is not None:
            return self.ours_s <= self.target_s
        if self.target_ratio is not None and self.ratio is not None:
            return self.ratio >= self.target_ratio
        return None

    def cells(self) -> list[str]:
        """The row as text."""
        target = "" if self.target_s is None else f"≤ {_seconds(self.target_s)}"
        if self.target_ratio is not None:
            factor = self.target_ratio
            target = f"≥ {factor:g} ×" if factor >= 1 else f"≤ {1 / factor:.3g} × the floor"
        ratio = "" if self.ratio is None else _times(self.ratio)
        if self.ratio is not None and self.target_ratio is not None and self.target_ratio < 1:
            ratio = f"{_times(1 / self.ratio)} the floor"
        met = {None: "", True: "yes", False: "no"}[self.met]
        return [self.name, _seconds(self.ours_s), _seconds(self.peer_s), ratio, target, met, self.note]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass(frozen=True, slots=True)
class Figure:
    """A row that is no time, such as memory or a share of equal labels.

    Attributes:
        name: what it is.
        value: with its unit.
        limit: what it is to be, with its unit.
        met: whether it is that; None without a limit.
        note: how it was measured.
    """

    name: str
    value: str
    limit: str = ""
    met: bool | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """The row as text, in the columns of :class:`Measurement`."""
        met = {None: "", True: "yes", False: "no"}[self.met]
        return [self.name, self.value, "", "", self.limit, met, self.note]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def skipped(name: str, why: str) -> Measurement:
    return Measurement(name, None, note=f"not measured: {why}")


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """The median time of several runs, after one that counts for nothing."""
    return medians_in_turns((action,), repeats)[0]


def medians_in_turns(actions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The median time of each action; they run in turns, after a round that counts for nothing."""
    found: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 1):
        for action, seconds in zip(actions, found, strict=True):
            start = time.perf_counter()
            action()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in found]


def _times(ratio: float) -> str:
    return f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"
