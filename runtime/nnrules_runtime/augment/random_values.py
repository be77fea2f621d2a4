"""Random numbers as a plan describes them.

Every function draws from the generator that it is given, and a number of values that depends on the plan and on what
was drawn before, never on intensities or labels: a draw can be made before its patch is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnrules_runtime.values import Section

__all__ = ["Channels", "RandomFactor", "happens", "uniform"]


def happens(rng: np.random.Generator, probability: float) -> bool:
    """Whether an event of this probability happens: one draw, also for 0 (never) and 1 (always)."""
    return bool(rng.random() < probability)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One value from the range, evenly."""
    return float(rng.uniform(low, high))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFactor:
    """A factor and how it is drawn.

    Attributes:
        low: lower end of the range.
        high: upper end of the range.
        half_below_one: with probability 0.5, if ``low`` is below 1, evenly from ``low`` to 1; otherwise evenly from
            max(1, ``low``) to ``high`` (nnU-Net of all releases; the text has evenly over the range).
    """

    low: float
    high: float
    half_below_one: bool

    @classmethod
    def from_plan(cls, section: Section) -> RandomFactor:
        """Read ``distribution`` and ``range``."""
        low, high = section.value("range") or (1.0, 1.0)
        half = section.choice("distribution", {"uniform": False, "half_below_one": True})
        return cls(low=float(low), high=float(high), half_below_one=half)

    def draw(self, rng: np.random.Generator) -> float:
        """One factor."""
        if not self.half_below_one:
            return uniform(rng, self.low, self.high)
        if happens(rng, 0.5) and self.low < 1:
            return uniform(rng, self.low, 1.0)
        return uniform(rng, max(self.low, 1.0), self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Which image channels a transform of a chosen sample changes, and whether they share their random values.

    Attributes:
        count: image channels (without those of a previous stage).
        alike: all channels share one value.
        probability: of each channel by itself.
    """

    count: int
    alike: bool
    probability: float = 1.0

    def draw(
        self, rng: np.random.Generator, value: Callable[[np.random.Generator], float | tuple[float, ...]]
    ) -> dict[int, tuple[float, ...]]:
        """Channels and their values.

        Order of the draws: one for each channel whether it takes part (none where all do), then the values of those
        that do, ascending (one value for all where they are alike).

        Args:
            rng: where to draw.
            value: draws the value or values of one channel.

        Returns:
            For each chosen channel its values.
        """
        chosen = range(self.count)
        if self.probability < 1:
            chosen = [channel for channel in chosen if happens(rng, self.probability)]  # type: ignore[assignment]
        values: dict[int, tuple[float, ...]] = {}
        shared: tuple[float, ...] | None = None
        for channel in chosen:
            if shared is None or not self.alike:
                drawn = value(rng)
                shared = drawn if isinstance(drawn, tuple) else (drawn,)
            values[channel] = shared
        return values
