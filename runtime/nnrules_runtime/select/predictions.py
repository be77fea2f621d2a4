"""The predictions of a candidate: label maps of a configuration, or averaged probabilities of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.evaluate.case import EvaluationCase
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.select.averaging import Averaging
from nnrules_runtime.select.held_out import Validated
from nnrules_runtime.select.scoring import CasePrediction
from nnrules_runtime.values import reading

__all__ = ["predictions_of"]


def predictions_of(
    plan: Plan,
    dataset: Dataset,
    members: Sequence[Validated],
    *,
    dtype: np.dtype[Any],
    kept_in: Path | None = None,
) -> list[CasePrediction]:
    """How a configuration or pair predicted the cases that were held out.

    Args:
        plan: the plan.
        dataset: gives references.
        members: one configuration, or several with the same cases.
        dtype: in which probabilities are averaged.
        kept_in: a folder for labels of averaged probabilities, so that they are made once; ``None``: each time.

    Returns:
        One entry a case, by ascending id.
    """
    references = {case.id: case.label_path for case in dataset.cases}
    first = members[0]
    cases = [
        EvaluationCase(id=case_id, prediction=path, reference=references[case_id])
        for case_id, path in first.predictions.items()
    ]
    if len(members) == 1:
        return [CasePrediction(case=case) for case in cases]
    with reading(plan) as root:
        averaging = Averaging.from_plan(root, first.configuration, LabelSet.from_plan(root), dtype)
    folder = None
    if kept_in is not None:
        folder = kept_in / "+".join(member.configuration for member in members)
        folder.mkdir()
    return [
        CasePrediction(
            case=case,
            probabilities=tuple(member.probabilities(case.id) for member in members),
            averaging=averaging,
            kept=None if folder is None else folder / f"{case.id}.npz",
        )
        for case in cases
    ]
