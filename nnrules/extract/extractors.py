"""Extractors that other packages bring: properties of a case that nnrules does not know.

A package declares an object under the entry point group ``nnrules.extractors``::

    [project.entry-points."nnrules.extractors"]
    fat = "my_package:fat_extractor"

The object follows :class:`CaseExtractor`. What it returns arrives in the fingerprint as
``extra.columns.<name>_<key>``, and rules read it as ``extra.<name>_<key>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from math import isfinite
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from nnrules.dataset import Case, DatasetFacts
from nnrules.errors import FingerprintError, Problem
from nnrules.image_geometry import Geometry

__all__ = ["GROUP", "CaseExtractor", "ExtraValue", "load_extractors", "run_extractors", "value_type"]

GROUP = "nnrules.extractors"

ExtraValue: TypeAlias = float | int | bool | str

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = ("geometry", "labels", "intensity", "features")


@runtime_checkable
class CaseExtractor(Protocol):
    """An object that measures one case.

    Attributes:
        name: letters, digits and underscores; prefix of its columns.
        version: raise it when results change, so that cached cases are measured anew.
        units: unit of each key; keys without one may be left out.
    """

    name: str
    version: int | str
    units: Mapping[str, str]

    def extract(
        self,
        image: npt.NDArray[Any],
        label: npt.NDArray[Any],
        geometry: Geometry,
        facts: DatasetFacts,
    ) -> Mapping[str, ExtraValue]:
        """Measure one case; called from several threads at once.

        Args:
            image: ``(C, Z, Y, X)``, not cropped, in the stored type and, under the policy ``canonical``,
                turned to RAS. Not to be changed.
            label: ``(Z, Y, X)``, integers. Not to be changed.
            geometry: where the voxels lie.
            facts: what dataset.json declares.

        Returns:
            The same keys for every case, each with a finite number, a bool or a text.
        """


def load_extractors(names: Sequence[str] | None = None) -> tuple[CaseExtractor, ...]:
    """Load the installed extractors in the order of their names.

    Args:
        names: those to load; ``None`` for all that are installed.

    Raises:
        FingerprintError: when one is missing, cannot be loaded or does not follow the protocol.
    """
    if names is not None and not names:
        return ()
    points = {point.name: point for point in entry_points(group=GROUP)}
    chosen = sorted(points if names is None else set(names))
    problems, loaded = [], []
    for name in chosen:
        where = f"entry point {GROUP}:{name}"
        if name not in points:
            installed = ", ".join(sorted(points)) or "none is installed"
            problems.append(
                Problem(where=where, what="no such extractor", expected=installed, fix="Install its package.")
            )
            continue
        try:
            extractor = points[name].load()
        except Exception as exc:  # somebody else's code may raise anything
            problems.append(Problem(where=where, what="cannot be loaded", got=f"{type(exc).__name__}: {exc}"))
            continue
        problem = _protocol_problem(where, extractor)
        if problem is not None:
            problems.append(problem)
        else:
            loaded.append(extractor)
    if problems:
        raise FingerprintError(problems)
    return tuple(loaded)


def _protocol_problem(where: str, extractor: object) -> Problem | None:
    if not isinstance(extractor, CaseExtractor):
        return Problem(
            where=where,
            what="not an extractor",
            got=type(extractor).__name__,
            expected="an object with name, version, units and extract(image, label, geometry, facts)",
        )
    if not _NAME.fullmatch(extractor.name) or extractor.name in _RESERVED:
        return Problem(
            where=where,
            what="not a name for an extractor",
            got=repr(extractor.name),
            expected=f"letters, digits and underscores, and none of {', '.join(_RESERVED)}",
        )
    return None


def run_extractors(
    extractors: Sequence[CaseExtractor],
    case: Case,
    *,
    image: npt.NDArray[Any],
    label: npt.NDArray[Any],
    geometry: Geometry,
    facts: DatasetFacts,
) -> dict[str, ExtraValue]:
    """Run extractors on a case.

    Returns:
        ``<name>_<key>`` to value.

    Raises:
        FingerprintError: when one raises or returns something that a fingerprint cannot hold; names the case.
    """
    found: dict[str, ExtraValue] = {}
    problems = []
    for extractor in extractors:
        where = f"{case.id}: extractor {extractor.name}"
        try:
            results = dict(extractor.extract(image, label, geometry, facts))
        except Exception as exc:  # somebody else's code may raise anything
            problems.append(Problem(where=where, what="failed", got=f"{type(exc).__name__}: {exc}"))
            continue
        for key, value in results.items():
            plain = value.item() if isinstance(value, np.generic) else value
            if not isinstance(key, str) or not _NAME.fullmatch(f"x{key}") or value_type(plain) is None:
                problems.append(
                    Problem(
                        where=where,
                        what="a result that a fingerprint cannot hold",
                        got=f"{key!r}: {value!r}"[:80],
                        expected="letters, digits and underscores: a finite number, bool or text",
                    )
                )
            else:
                found[f"{extractor.name}_{key}"] = plain
    if problems:
        raise FingerprintError(problems)
    return found


def value_type(value: object) -> str | None:
    """``number``, ``boolean`` or ``string``; ``None`` for what a fingerprint cannot hold."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    try:
        return "number" if isinstance(value, (int, float)) and isfinite(value) else None
    except OverflowError:  # an integer beyond the largest float
        return None
