"""Checks of a whole fingerprint document: columns, schema, and what no schema can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import numpy as np

from nnrules.errors import FingerprintError, Problem
from nnrules.fingerprint_columns import check_columns, without_long_columns
from nnrules.schema import json_path, validate

__all__ = ["check_document"]

_NUM_SHOWN = 20


def check_document(document: Any, where: str) -> None:
    """Check a parsed fingerprint document.

    Args:
        document: the parsed JSON, of any form.
        where: name of the document in messages.

    Raises:
        FingerprintError: with everything that is wrong.
    """
    problems = check_columns(document, where)
    short = without_long_columns(document)
    # A JSON file cannot hold them, but a document that a program made can, and no schema refuses them.
    problems += [
        Problem(where=f"{where}: {json_path(place)}", what="not a finite number", got=str(value))
        for place, value in _not_finite(short, ())
    ]
    try:
        validate(short, "fingerprint", where=where, error=FingerprintError)
    except FingerprintError as exc:
        problems += exc.problems
    if not problems:
        problems = _contradictions(document, where)
    if problems:
        raise FingerprintError(problems)


def _not_finite(value: Any, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, (*place, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite(item, (*place, index))
    elif isinstance(value, float) and not isfinite(value):
        yield place, value


def _contradictions(document: Mapping[str, Any], where: str) -> list[Problem]:
    """What no schema can say: parts of a well-formed document that do not fit each other."""
    dataset, cases = document["dataset"], document["cases"]
    problems: list[Problem] = []
    order = dataset.get("label_order")
    if order is not None and set(order) != set(dataset["labels"]):
        problems.append(
            Problem(
                where=f"{where}: dataset.label_order",
                what="does not name the labels",
                got=", ".join(order),
                expected=", ".join(sorted(dataset["labels"])),
            )
        )
    num_channels = len(dataset["channel_names"])
    intensity = document.get("intensity")
    if intensity is not None and len(intensity["channels"]) != num_channels:
        problems.append(
            Problem(
                where=f"{where}: intensity.channels",
                what="not one entry a channel",
                got=f"{len(intensity['channels'])} entries",
                expected=f"{num_channels}, as in dataset.channel_names",
            )
        )
    declared = {
        str(value)
        for values in dataset["labels"].values()
        for value in (values if isinstance(values, list) else [values])
    }
    unknown = sorted(set(cases.get("class_voxels", {})) - declared)
    if unknown:
        problems.append(
            Problem(
                where=f"{where}: cases.class_voxels",
                what="counts of labels that dataset.labels does not declare",
                got=", ".join(unknown),
                expected=", ".join(sorted(declared)),
            )
        )
    if "shape_before_crop" in cases:
        larger = np.array(cases["shape"]) > np.array(cases["shape_before_crop"])
        problems += [
            Problem(
                where=f"{where}: cases.shape[{row}] (case {cases['id'][row]})",
                what="larger than shape_before_crop",
                got=str(cases["shape"][row]),
                expected=f"at most {cases['shape_before_crop'][row]}",
            )
            for row in np.flatnonzero(larger.any(axis=1))[:_NUM_SHOWN]
        ]
    return problems
