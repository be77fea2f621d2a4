"""Axis orders: the only place where zyx and xyz meet.

Arrays are ``(C, Z, Y, X)``; shape and spacing are zyx, because that is how numpy sees a SimpleITK image.
Origin and direction stay in the order of SimpleITK and carry the ending ``_xyz``. World coordinates are
those of ITK and
DICOM: x rises to the patient's left, y to posterior, z to superior ("LPS").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import asin, degrees, sqrt
from typing import TypeVar

__all__ = [
    "AxisMapping",
    "canonical_axes",
    "direction_angle_degrees",
    "orientation_code",
    "xyz_from_zyx",
    "zyx_from_xyz",
]

_T = TypeVar("_T")

_RISING = "LPS"
_FALLING = "RAI"
_RAS_SIGNS = (-1, -1, 1)  # x to right and y to anterior run against ITK's world axes, z to superior with them


def zyx_from_xyz(values_xyz: Iterable[_T]) -> tuple[_T, ...]:
    """Reverse per-axis values from SimpleITK's order to the order of numpy's axes; any number of axes."""
    return tuple(values_xyz)[::-1]


def xyz_from_zyx(values: Iterable[_T]) -> tuple[_T, ...]:
    """Reverse per-axis values from the order of numpy's axes to SimpleITK's; any number of axes."""
    return tuple(values)[::-1]


def _world_axes(direction_xyz: Sequence[float]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For index axes x, y, z: the world axis each follows most closely, and the sign with which it does.

    Every world axis is taken once: of the six assignments, the one with the largest sum of absolute cosines
    wins (the earlier one in lexicographic order on a tie, so that 45° oblique images get one fixed answer).
    """
    if len(direction_xyz) != 9:
        raise ValueError(f"a 3D direction matrix has 9 entries, got {len(direction_xyz)}")
    best = max(
        permutations(range(3)),
        key=lambda worlds: sum(abs(direction_xyz[3 * world + axis]) for axis, world in enumerate(worlds)),
    )
    signs = [1 if direction_xyz[3 * world + axis] >= 0 else -1 for axis, world in enumerate(best)]
    return (best[0], best[1], best[2]), (signs[0], signs[1], signs[2])


def orientation_code(direction_xyz: Sequence[float]) -> str:
    """Anatomical code of the closest axis-aligned orientation, e.g. ``"LPS"`` for the identity matrix.

    Letter ``i`` names the direction of the patient towards which index axis ``i`` rises, for the index axes
    in the order x, y, z: the same meaning and order as ``SimpleITK.DICOMOrient`` and nibabel's
    ``aff2axcodes``. Reverse the string to read it along an array's axes Z, Y, X.

    Args:
        direction_xyz: 9 direction cosines, row by row; column ``i`` is the world direction (LPS) of index
            axis ``i``. 4 entries, from a 2D image, have no anatomical meaning.

    Returns:
        Three letters of L/R, P/A, S/I; ``""`` for a 2D image.
    """
    if len(direction_xyz) == 4:
        return ""
    worlds, signs = _world_axes(direction_xyz)
    return "".join(
        (_RISING if sign > 0 else _FALLING)[world] for world, sign in zip(worlds, signs, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisMapping:
    """How to lay an array ``(Z, Y, X)`` out in another orientation: first permute, then flip.

    Attributes:
        order: position in the source of each axis of the result, as for ``numpy.transpose``.
        flips: which axes of the *result* run backwards.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @property
    def is_identity(self) -> bool:
        """Whether the layout stays as it is."""
        return self.order == (0, 1, 2) and not any(self.flips)


def canonical_axes(direction_xyz: Sequence[float]) -> AxisMapping:
    """The permutation and the flips that bring ``(Z, Y, X)`` closest to RAS.

    Nothing is resampled: an oblique image stays oblique, by at most 45° to each axis. A 2D image stays as
    it is.
    """
    if len(direction_xyz) == 4:
        return AxisMapping(order=(0, 1, 2), flips=(False, False, False))
    worlds, signs = _world_axes(direction_xyz)
    source_xyz = [worlds.index(world) for world in range(3)]
    order = [2 - source_xyz[2 - axis] for axis in range(3)]
    flips = [signs[source_xyz[2 - axis]] != _RAS_SIGNS[2 - axis] for axis in range(3)]
    return AxisMapping(order=(order[0], order[1], order[2]), flips=(flips[0], flips[1], flips[2]))


def direction_angle_degrees(first_xyz: Sequence[float], second_xyz: Sequence[float]) -> float:
    """Largest angle in degrees between equal index axes of two direction matrices of the same size.

    Uses the chord, because for small angles the arc cosine of a dot product would lose the noise that is
    asked for.

    Raises:
        ValueError: when the matrices differ in size or an axis has no length.
    """
    if len(first_xyz) != len(second_xyz):
        raise ValueError(f"direction matrices of {len(first_xyz)} and {len(second_xyz)} entries")
    size = round(sqrt(len(first_xyz)))
    worst = 0.0
    for axis in range(size):
        first = _unit([first_xyz[size * row + axis] for row in range(size)])
        second = _unit([second_xyz[size * row + axis] for row in range(size)])
        chord = sqrt(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)))
        worst = max(worst, degrees(2 * asin(min(1.0, chord / 2))))
    return worst


def _unit(vector: Sequence[float]) -> list[float]:
    length = sqrt(sum(value * value for value in vector))
    if not length > 0:
        raise ValueError("an axis of the direction matrix has no length")
    return [value / length for value in vector]
