"""``--set training.…=VALUE``: small changes of a plan's training for one run.

Everything that other decisions depend on is set when planning, where what depends on it follows; leaves of
``training`` stand for themselves.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from nnrules.errors import Problem, UsageError
from nnrules.plan import Plan, leaves

__all__ = ["parse_changes", "with_training"]

_SECTION = "training"


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Fields that ``--set`` options set.

    Args:
        texts: each ``training.FIELD=VALUE``, the value as JSON or a bare word.

    Raises:
        UsageError: one is no assignment, or sets what another one has set.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        path, sign, written = (part.strip() for part in text.partition("="))
        if not sign or not path or path in changes:
            what = "the field is set twice" if path in changes else "not an assignment"
            raise UsageError(
                Problem(where=f"--set {text}", what=what, fix="For example --set training.epochs=100.")
            )
        try:
            changes[path] = json.loads(written)
        except ValueError:
            changes[path] = written
    return changes


def with_training(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """A plan with other leaves of ``training``; its provenance says that they were set.

    Args:
        plan: the plan; unchanged.
        changes: path such as ``training.epochs`` → value.

    Raises:
        UsageError: a path that is no leaf of ``training``.
        PlanError: a value that the schema of plans does not admit.
    """
    if not changes:
        return plan
    known = dict(leaves(plan.document[_SECTION], _SECTION))
    problems = [_unknown(path, list(known)) for path in changes if path not in known]
    if problems:
        raise UsageError(problems)
    document = copy.deepcopy(dict(plan.document))
    for path, value in changes.items():
        *sections, name = path.split(".")
        place = document
        for section in sections:
            place = place[section]
        place[name] = value
    document["provenance"]["overrides"] = {**document["provenance"].get("overrides", {}), **changes}
    return Plan.from_document(document, where="--set")


def _unknown(path: str, known: list[str]) -> Problem:
    if path.split(".", maxsplit=1)[0] != _SECTION:
        return Problem(
            where=f"--set {path}",
            what="only fields of training can be changed for a run",
            fix="Plan again with `nnrules plan --set`: what depends on the field follows there.",
        )
    near = difflib.get_close_matches(path, known, n=3)
    return Problem(
        where=f"--set {path}",
        what="the plan's training has no such field",
        expected=", ".join(near or known),
    )
