"""Compact fingerprints for tests of whole plans: a few rows that stand for a training set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnrules.engine.source import Json
from nnrules.errors import FingerprintError, Problem
from nnrules.fingerprint import SCHEMA_VERSION, Fingerprint

__all__ = ["FIXTURE_KEYS", "fixture_fingerprint"]

FIXTURE_KEYS = (
    "name",
    "spacing",
    "shape",
    "shape_before_crop",
    "size_ratio",
    "median_size_ratio",
    "cases",
    "num_training",
    "channels",
    "labels",
    "regions_class_order",
    "orientation_policy",
    "groups",
    "subjects",
    "intensity",
    "rarest_share",
    "extra",
)
_ROWS = ("spacing", "shape", "shape_before_crop", "size_ratio")


def fixture_fingerprint(fixture: Mapping[str, Json], *, where: str = "fingerprint") -> Fingerprint:
    """Expand a compact fixture into a checked fingerprint.

    Args:
        fixture: what differs from the defaults. ``spacing`` (mm, zyx), ``shape`` (voxels, zyx),
            ``shape_before_crop`` and ``size_ratio`` are lists of rows, repeated in turn up to ``cases``
            (default: the longest of them). ``channels`` names the channels (``[MRI]``); ``labels`` is the
            number of foreground labels (1) or a mapping as in dataset.json, where ``ignore`` is the
            ignore label; ``groups`` and ``subjects`` are numbers of groups that the cases are dealt to in
            turn; ``intensity`` is one mapping of statistics for every channel, or a list of them;
            ``extra`` maps a column to one value or to a list of values.
        where: what the fixture is called in messages.

    Returns:
        The fingerprint.

    Raises:
        FingerprintError: unknown or impossible fields, all at once.
    """
    problems = [
        Problem(where=f"{where}: {key}", what="unknown field of a fixture", expected=", ".join(FIXTURE_KEYS))
        for key in fixture
        if key not in FIXTURE_KEYS
    ]
    rows = {key: _rows(fixture, key, where, problems) for key in _ROWS if key in fixture}
    problems += [
        Problem(where=where, what=f"a fixture needs '{key}'", expected="e.g. [[1, 1, 1]]")
        for key in ("spacing", "shape")
        if key not in fixture
    ]
    names = fixture.get("channels", ["MRI"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(
            Problem(where=f"{where}: channels", what="not a list of names", expected="e.g. [MRI]")
        )
    num_cases = _whole(fixture, "cases", max((len(row) for row in rows.values()), default=1), where, problems)
    dealt = {key: _whole(fixture, key, 0, where, problems) for key in ("groups", "subjects")}
    if problems:
        raise FingerprintError(problems)
    document = _document(fixture, rows, num_cases)
    for key, number in dealt.items():
        if number:
            document["cases"][key.removesuffix("s")] = [
                f"{key[:-1]}_{case % number}" for case in range(num_cases)
            ]
    return Fingerprint.from_document(document, where=where)


def _rows(fixture: Mapping[str, Json], key: str, where: str, problems: list[Problem]) -> list[Json]:
    value = fixture[key]
    if (
        isinstance(value, list)
        and value
        and (key == "size_ratio" or all(isinstance(row, list) for row in value))
    ):
        return value
    expected = "e.g. [0.5, 0.7]" if key == "size_ratio" else "e.g. [[1, 1, 1]]"
    problems.append(
        Problem(where=f"{where}: {key}", what="not a list of rows", got=str(value), expected=expected)
    )
    return []


def _whole(fixture: Mapping[str, Json], key: str, default: int, where: str, problems: list[Problem]) -> int:
    value = fixture.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool) and value >= (1 if key == "cases" else 0):
        return value
    problems.append(
        Problem(where=f"{where}: {key}", what="not a number of something", got=str(value), expected="1, 2, …")
    )
    return default


def _document(fixture: Mapping[str, Json], rows: Mapping[str, list[Json]], num_cases: int) -> dict[str, Any]:
    def repeated(values: list[Any]) -> list[Any]:
        return [values[case % len(values)] for case in range(num_cases)]

    channels: Any = fixture.get("channels", ["MRI"])
    labels = _labels(fixture.get("labels", 1))
    ratios: Any = rows.get("size_ratio", [1.0])
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": "a rule test",
        "dataset": {
            "name": fixture.get("name", "Test"),
            "channel_names": channels,
            "labels": labels,
            "label_order": list(labels) if isinstance(labels, dict) else labels,
            "regions_class_order": fixture.get("regions_class_order"),
            "ignore_label": labels.get("ignore") if isinstance(labels, dict) else None,
            "num_training": fixture.get("num_training", num_cases),
            "file_ending": ".nii.gz",
            "orientation_policy": fixture.get("orientation_policy", "as_stored"),
        },
        "extractors": {"fixture": 1},
        "cases": {
            "id": [f"case_{case:04d}" for case in range(num_cases)],
            **{key: repeated(values) for key, values in rows.items()},
        },
        "crop": {"median_size_ratio": fixture.get("median_size_ratio", float(np.median(ratios)))},
    }
    if "rarest_share" in fixture:
        document["classes"] = {"rarest_share": fixture["rarest_share"]}
    statistics: Any = fixture.get("intensity")
    if statistics is not None:
        each = statistics if isinstance(statistics, list) else [statistics] * len(channels)
        document["intensity"] = {"method": "published", "channels": each}
    extra: Any = fixture.get("extra")
    if isinstance(extra, dict):
        document["extra"] = {
            "columns": {
                name: _column(repeated(value if isinstance(value, list) else [value]))
                for name, value in extra.items()
            }
        }
    return document


def _labels(labels: Json) -> Any:
    if isinstance(labels, int) and not isinstance(labels, bool):
        return {"background": 0} | {f"label_{value}": value for value in range(1, labels + 1)}
    return labels


def _column(values: list[Any]) -> dict[str, Any]:
    kinds = {bool: "boolean", str: "string"}
    return {"type": kinds.get(type(values[0]), "number"), "values": values}
