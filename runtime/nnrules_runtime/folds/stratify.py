"""Dealing cases to folds so that each class is spread evenly over them.

Iterative stratification as Sechidis, Tsoumakas and Vlahavas describe it (On the Stratification of Multi-Label Data,
2011), without chance, and with folds of equal size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

__all__ = ["deal_by_class"]

Key = tuple[int, ...]
"""A class or region: its label values."""


def deal_by_class(classes: Sequence[Collection[Key]], num_folds: int) -> list[int]:
    """Choose a fold for each unit (a case, or the cases of a group).

    The class that the fewest undealt units show comes first: whatever is dealt later has more units to make good with.
    Each of its units goes to the fold that has the fewest with it. Among equal folds, the other classes of the unit
    decide in the same way, rarer ones first, then the number of units so far, then the number of the fold. Units
    without any class come last.

    The sizes of two folds differ by one unit at most. So do, of the rarest class, and of every class where no unit
    shows two of them, the units that show it. Several classes in a unit can make more impossible.

    Args:
        classes: the classes that each unit shows, in the order in which units of the same class are dealt.
        num_folds: number of folds, at least 1.

    Returns:
        The fold of each unit.
    """
    dealt = _Dealing(classes, num_folds)
    left = list(range(len(classes)))
    while left:
        rarest = _rarest(Counter(key for unit in left for key in dealt.shows[unit]))
        now = [unit for unit in left if rarest is None or rarest in dealt.shows[unit]]
        for unit in now:
            dealt.deal(unit)
        left = [unit for unit in left if dealt.places[unit] is None]
    return [place for place in dealt.places if place is not None]


def _rarest(counts: Counter[Key]) -> Key | None:
    return min(counts, key=lambda key: (counts[key], key), default=None)


class _Dealing:
    """What each fold has so far.

    Args:
        classes: of each unit.
        num_folds: number of folds.
    """

    def __init__(self, classes: Sequence[Collection[Key]], num_folds: int) -> None:
        totals = Counter(key for entry in classes for key in set(entry))
        self.shows = [sorted(set(entry), key=lambda key: (totals[key], key)) for entry in classes]
        self.places: list[int | None] = [None] * len(classes)
        self._sizes = [0] * num_folds
        self._found: list[Counter[Key]] = [Counter() for _ in range(num_folds)]
        self._floor, self._num_larger = divmod(len(classes), num_folds)

    def deal(self, unit: int) -> None:
        """Put a unit into the fold that lacks it most."""
        fold = min(self._open(), key=lambda number: (self._has(number, unit), self._sizes[number], number))
        self.places[unit] = fold
        self._sizes[fold] += 1
        self._found[fold].update(self.shows[unit])

    def _has(self, fold: int, unit: int) -> list[int]:
        return [self._found[fold][key] for key in self.shows[unit]]

    def _open(self) -> list[int]:
        """Folds that may still get a unit, so that sizes differ by one at most in the end."""
        num_larger = sum(size > self._floor for size in self._sizes)
        limit = self._floor + (num_larger < self._num_larger)
        return [number for number, size in enumerate(self._sizes) if size < limit]
