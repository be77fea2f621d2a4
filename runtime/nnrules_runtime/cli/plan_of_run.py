"""The plan of a run: the file, with what options set for this run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnrules.plan import Plan

__all__ = ["plan_of_run"]

_LOGGER = logging.getLogger(__name__)


def plan_of_run(path: Path, texts: list[str], seed: int | None) -> tuple[Plan, dict[str, Any]]:
    """Load a plan and change it.

    Args:
        path: the plan file.
        texts: values of ``--set``.
        seed: value of ``--seed``.

    Returns:
        The plan with what was set, and what that is: path → value.

    Raises:
        UsageError: a text that sets no field of the plan's training.
        PlanError: the plan, or a value, is not valid.
    """
    from nnrules.plan import Plan

    from nnrules_runtime.train.overrides import parse_changes, with_training

    changes = parse_changes(texts)
    if seed is not None:
        changes["training.seed"] = seed
    if changes:
        shown = ", ".join(f"{name} = {json.dumps(value)}" for name, value in changes.items())
        _LOGGER.info("set for this run: %s", shown)
    return with_training(Plan.load(path), changes), changes
