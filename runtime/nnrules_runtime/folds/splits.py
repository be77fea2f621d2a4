"""Folds of a file of the user's own, as in nnU-Net's ``splits_final.json``.

The file is a list, ``[{"train": ["case_1", "case_2"], "val": ["case_3"]}, …]``, with an entry for each fold.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nnrules.documents import read_json
from nnrules.errors import Problem, RunError

from nnrules_runtime.folds.policy import Fold, Groups

__all__ = ["read_splits"]

_LOGGER = logging.getLogger(__name__)
_SHOWN = 5
_FORM = '[{"train": ["case", …], "val": ["case", …]}, …]'
_NAMES = ("train", "val")


def read_splits(path: Path, case_ids: Sequence[str], groups: Groups, *, by_group: bool) -> tuple[Fold, ...]:
    """Read the folds of a file; the first one is fold 0.

    A case may be in no fold at all, which is said. Groups that straddle a fold are refused where the plan keeps groups
    together, and said where it does not.

    Args:
        path: the file.
        case_ids: the training cases of the dataset.
        groups: their groups.
        by_group: whether the plan keeps groups together.

    Raises:
        RunError: the file is missing or has another form; or with all that is wrong in it: cases that the dataset
            does not have, that stand twice, or that a fold both trains on and validates; a fold without training or
            validation cases.
    """
    entries = _entries(path)
    problems = [
        problem
        for number, entry in enumerate(entries)
        for problem in _problems(f"{path}: [{number}]", entry, frozenset(case_ids))
    ]
    straddling = [
        problem
        for number, entry in enumerate(entries)
        for problem in _straddling(f"{path}: [{number}]", entry, groups)
    ]
    if by_group:
        problems += straddling
    if problems:
        raise RunError(problems)
    for problem in straddling:
        _LOGGER.warning("%s: %s: %s", problem.where, problem.what, problem.got)
    _say_unused(path, entries, case_ids)
    return tuple(
        Fold(name=number, train=tuple(sorted(entry["train"])), validation=tuple(sorted(entry["val"])))
        for number, entry in enumerate(entries)
    )


def _entries(path: Path) -> list[dict[str, list[str]]]:
    """The folds of the file, with their lists."""
    document = read_json(path, RunError)
    if not isinstance(document, list) or not document:
        got = "an empty list" if document == [] else type(document).__name__
        raise RunError(
            Problem(
                where=str(path),
                what="this is no list of folds",
                got=got,
                expected=_FORM,
                fix="Write it like nnU-Net's splits_final.json.",
            )
        )
    problems = [
        Problem(
            where=f"{path}: [{number}].{name}",
            what="not a list of case ids",
            got=_short(entry.get(name) if isinstance(entry, dict) else entry),
            expected=_FORM,
            fix="Name the cases as their label maps are called, without the ending.",
        )
        for number, entry in enumerate(document)
        for name in _NAMES
        if not (isinstance(entry, dict) and _is_list_of_text(entry.get(name)))
    ]
    if problems:
        raise RunError(problems)
    return document


def _problems(where: str, entry: dict[str, list[str]], known: frozenset[str]) -> Iterator[Problem]:
    for name in _NAMES:
        ids = entry[name]
        if not ids:
            yield Problem(
                where=f"{where}.{name}",
                what="a fold needs training cases" if name == "train" else "a fold needs validation cases",
                got="an empty list",
                fix="Name cases, or remove the fold. A model of all cases is trained with --fold all.",
            )
        if unknown := set(ids) - known:
            yield Problem(
                where=f"{where}.{name}",
                what="the dataset has no such case with a label map",
                got=_listed(unknown),
                fix="Correct the ids, or remove them; `nnrules check` names files that belong to no case.",
            )
        if twice := [case_id for case_id, count in Counter(ids).items() if count > 1]:
            yield Problem(
                where=f"{where}.{name}",
                what="cases stand twice",
                got=_listed(twice),
                fix="Name every case once.",
            )
    if both := set(entry["train"]) & set(entry["val"]):
        yield Problem(
            where=where,
            what="cases are in both train and val, so that their scores would say nothing",
            got=_listed(both),
            fix="Remove them from one of the lists. A model of all cases is trained with --fold all.",
        )


def _straddling(where: str, entry: dict[str, list[str]], groups: Groups) -> Iterator[Problem]:
    trained, validated = (
        {group for case_id in entry[name] if (group := groups.get(case_id)) is not None} for name in _NAMES
    )
    if straddling := trained & validated:
        yield Problem(
            where=where,
            what="groups have cases in both train and val",
            got=_listed(straddling),
            fix="Keep the cases of a group together, or plan again with --set folds.unit=case.",
        )


def _say_unused(path: Path, entries: Sequence[dict[str, list[str]]], case_ids: Sequence[str]) -> None:
    used = {case_id for entry in entries for name in _NAMES for case_id in entry[name]}
    if unused := set(case_ids) - used:
        _LOGGER.warning(
            "%s: %d of %d cases are in no fold: %s", path, len(unused), len(case_ids), _listed(unused)
        )


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f", … ({len(ordered)} in all)" if more > 0 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
