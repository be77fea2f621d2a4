"""Groups and subjects of cases, as the block ``nnrules`` of dataset.json states them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nnrules.errors import Problem

__all__ = ["assign"]

_SHOWN = 5


def assign(stated: Any, case_ids: Sequence[str], where: str, problems: list[Problem]) -> dict[str, str]:
    """The name (of a group or subject) of each case that has one.

    Args:
        stated: one of the three forms in ``schemas/dataset.schema.json`` (already checked against it): a
            mapping from case id to name, lists of case ids, or ``{"pattern": …}``; ``None`` for nothing.
        case_ids: the ids of all cases.
        where: path of the block in its document, for messages.
        problems: gets one entry for everything that is wrong.
    """
    if stated is None:
        return {}
    if isinstance(stated, dict) and set(stated) == {"pattern"}:
        return _by_pattern(stated["pattern"], case_ids, f"{where}.pattern", problems)
    if isinstance(stated, dict):
        pairs = [(case_id, name, f"{where}.{case_id}") for case_id, name in stated.items()]
    else:
        pairs = [
            (case_id, ids[0], f"{where}[{row}][{column}]")
            for row, ids in enumerate(stated)
            for column, case_id in enumerate(ids)
        ]
    known = set(case_ids)
    names: dict[str, str] = {}
    for case_id, name, place in pairs:
        if case_id not in known:
            fix = "Correct the id, or remove it; ids are file names without channel number and ending."
            problems.append(Problem(where=place, what="unknown case", got=repr(case_id), fix=fix))
        elif case_id in names:
            fix = "List every case once."
            problems.append(
                Problem(where=place, what="the case stands in two lists", got=repr(case_id), fix=fix)
            )
        else:
            names[case_id] = name
    return names


def _by_pattern(text: str, case_ids: Sequence[str], where: str, problems: list[Problem]) -> dict[str, str]:
    expected = "a regular expression with one group, or one group named 'group', such as ^(patient[0-9]+)_"
    try:
        pattern = re.compile(text)
    except re.error as exc:
        problems.append(
            Problem(where=where, what=f"not a regular expression: {exc}", got=repr(text), expected=expected)
        )
        return {}
    if "group" not in pattern.groupindex and pattern.groups != 1:
        problems.append(
            Problem(
                where=where,
                what=f"the pattern has {pattern.groups} groups",
                got=repr(text),
                expected=expected,
                fix="Put round brackets around the part of the case id that is the name.",
            )
        )
        return {}
    group: str | int = "group" if "group" in pattern.groupindex else 1
    names: dict[str, str] = {}
    unmatched: list[str] = []
    for case_id in case_ids:
        found = pattern.search(case_id)
        name = found.group(group) if found else None
        if name:
            names[case_id] = name
        else:
            unmatched.append(case_id)
    if unmatched:
        shown = ", ".join(unmatched[:_SHOWN]) + (
            f" and {len(unmatched) - _SHOWN} more" if unmatched[_SHOWN:] else ""
        )
        problems.append(
            Problem(
                where=where,
                what=f"the pattern {text!r} finds no name in {len(unmatched)} of {len(case_ids)} cases",
                got=shown,
                expected="a match in every case id",
                fix="Widen the pattern, or list the cases in place of it.",
            )
        )
    return names
