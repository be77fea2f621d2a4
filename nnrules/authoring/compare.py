"""Compares what a rule gave with what a test expects."""

from __future__ import annotations

import math
import re

from nnrules.engine.source import Json

__all__ = ["FLOAT_TOLERANCE", "NOTHING", "differences", "find"]

FLOAT_TOLERANCE = 1e-9
"""Absolute and relative tolerance where a fraction is on either side; whole numbers and texts must be equal.

Nine digits are more than anybody works out by hand, and far above what the last bit of a float differs by
between CPUs.
"""

NOTHING = object()
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def find(values: dict[str, Json], path: str) -> object:
    """The value at a path, where ``values`` has a dotted path of its own for each decided field.

    Returns:
        The value, or ``NOTHING`` where the path leads nowhere.
    """
    owners = [name for name in values if path == name or path.startswith((f"{name}.", f"{name}["))]
    if not owners:
        return NOTHING
    owner = max(owners, key=len)
    found: Json = values[owner]
    for name, index in _PART.findall(path[len(owner) :]):
        if index and isinstance(found, list) and int(index) < len(found):
            found = found[int(index)]
        elif name and isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return NOTHING
    return found


def differences(got: Json, wanted: Json, path: str = "") -> list[tuple[str, Json, Json]]:
    """Where two values differ.

    Returns:
        ``(path, got, wanted)`` for each leaf, or for the smallest part whose form differs. A mapping that
        is expected names every field.
    """
    if isinstance(got, dict) and isinstance(wanted, dict) and set(got) == set(wanted):
        return [
            item
            for key in got
            for item in differences(got[key], wanted[key], f"{path}.{key}" if path else key)
        ]
    if isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        if all(not isinstance(item, (list, dict)) for item in [*got, *wanted]):
            return [] if all(map(_equal, got, wanted)) else [(path, got, wanted)]
        return [
            item
            for index, pair in enumerate(zip(got, wanted, strict=True))
            for item in differences(*pair, f"{path}[{index}]")
        ]
    return [] if _equal(got, wanted) else [(path, got, wanted)]


def _equal(got: Json, wanted: Json) -> bool:
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (got, wanted)]
    if all(numbers) and (isinstance(got, float) or isinstance(wanted, float)):
        return math.isclose(got, wanted, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)  # type: ignore[arg-type]
    return type(got) is type(wanted) and got == wanted
