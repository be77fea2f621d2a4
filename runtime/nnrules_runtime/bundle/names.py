"""Names in an archive: relative, plain, and a file on every system."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nnrules.errors import Problem

__all__ = ["REFUSED", "is_plain", "name_problems"]

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

_PLAIN = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_DRIVE = re.compile(r"[A-Za-z]:")
# Windows opens a device under these names, whatever follows the first point.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_SHOWN = 60
REFUSED = "Do not use this file: no bundle that nnrules wrote looks like this."
"""What to do about an archive that somebody made up."""


def is_plain(name: str) -> bool:
    """Whether a name is good for a file on every system."""
    return _PLAIN.match(name) is not None and _special(name) is None


def name_problems(names: Iterable[str], where: str) -> Iterator[Problem]:
    """What is wrong with the names of an archive.

    Args:
        names: all of them.
        where: what the archive is called.
    """
    seen: set[str] = set()
    for name in names:
        what = _problem(name)
        if what is None and name.casefold() in seen:
            what = "this name stands twice in the archive"
        if what is not None:
            yield Problem(where=where, what=what, got=repr(name)[:_SHOWN], fix=REFUSED)
        seen.add(name.casefold())


def _problem(name: str) -> str | None:
    if name.startswith("/") or _DRIVE.match(name):
        return "this name begins at the root of a disk"
    if "\\" in name:
        return "this name has a backslash"
    if ".." in name.split("/"):
        return "this name leads out of the archive"
    if not _PLAIN.match(name):
        return "this is no name of a file in a bundle"
    return _special(name)


def _special(name: str) -> str | None:
    for part in name.split("/"):
        if part.partition(".")[0].casefold() in _DEVICES:
            return "this is the name of a device on some systems"
        if part.endswith("."):
            return "this name ends with a point, which some systems drop"
    return None
