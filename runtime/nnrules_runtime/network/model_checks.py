"""Whether a plan and weights are those that ``model.json`` was written for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan

from nnrules_runtime.files import digest_of_file
from nnrules_runtime.network.identity import differences, network_digest, network_fields

__all__ = ["check_plan", "check_weights_file", "missing_configuration"]


def check_plan(plan: Plan, document: Mapping[str, Any], stored: Plan | None, place: str) -> None:
    """Refuse a plan whose networks are others than the one that was trained.

    Args:
        plan: the plan to use.
        document: ``model.json``.
        stored: the plan that lies beside the model, to name the fields that differ.
        place: what the document is called.

    Raises:
        ModelError: the plan is of other networks.
    """
    name = document["configuration"]
    if name not in plan.configurations:
        raise ModelError(missing_configuration(place, name, plan))
    digest = network_digest(plan, name)
    if digest == document["network_digest"]:
        return
    problems = []
    if stored is not None and plan is not stored:
        problems = differences(network_fields(stored, name), network_fields(plan, name), place)
    raise ModelError(
        problems
        or Problem(
            where=place,
            what="these weights are of another plan",
            got=f"a plan with the network digest {digest}",
            expected=document["network_digest"],
            fix=f"Use the plan that they were trained with; its hash is {document['plan_hash']}.",
        )
    )


def missing_configuration(where: str, configuration: str, plan: Plan) -> Problem:
    """What is said of a plan without the configuration of a model."""
    return Problem(
        where=where,
        what="the plan has no such configuration",
        got=configuration,
        expected="one of " + ", ".join(plan.configurations),
        fix="Use the plan that the weights were trained with.",
    )


def check_weights_file(path: Path, expected: str) -> None:
    """Compare a file's SHA-256 with what ``model.json`` says.

    Raises:
        ModelError: the file is missing or another one.
    """
    try:
        digest = digest_of_file(path)
    except OSError as exc:
        raise ModelError(
            Problem(
                where=str(path),
                what="the weights are missing",
                got=exc.strerror or str(exc),
                fix="Copy the whole folder again, or train again.",
            )
        ) from None
    if digest != expected:
        raise ModelError(
            Problem(
                where=str(path),
                what="these are not the weights that model.json describes",
                got=f"SHA-256 {digest}",
                expected=expected,
                fix="The file is damaged or was exchanged: copy the whole folder again.",
            )
        )
