"""Whether a plan was made for a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from nnrules.dataset import Dataset
from nnrules.errors import Problem, UsageError
from nnrules.plan import Plan

__all__ = ["check_plan_fits"]


def check_plan_fits(plan: Plan, dataset: Dataset, configurations: Sequence[str]) -> None:
    """Compare what preprocessing needs a dataset to be like.

    Raises:
        UsageError: other channels or labels, or configurations that the plan does not have.
    """
    problems = [
        Problem(
            where="configuration",
            what="the plan has no such configuration",
            got=name,
            expected=", ".join(plan.configurations),
        )
        for name in configurations
        if name not in plan.configurations
    ]
    compared = {
        "channel names": (list(dataset.channel_names), list(plan.document["dataset"]["channel_names"])),
        "label values": (sorted(dataset.label_values), _label_values(plan)),
    }
    problems += [
        Problem(
            where=str(dataset.path),
            what=f"the plan was made for a dataset with other {what}",
            got=str(got),
            expected=str(expected),
            fix="Name the dataset that the plan was made for, or plan again.",
        )
        for what, (got, expected) in compared.items()
        if got != expected
    ]
    if problems:
        raise UsageError(problems)


def _label_values(plan: Plan) -> list[int]:
    planned = plan.document["dataset"]
    values: set[int] = set()
    for entry in planned["labels"].values():
        values.update(entry if isinstance(entry, list) else [entry])
    if planned.get("ignore_label") is not None:
        values.add(planned["ignore_label"])
    return sorted(values)
