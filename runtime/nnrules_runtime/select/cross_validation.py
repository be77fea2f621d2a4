"""The predictions of all validation cases by what was chosen, with its postprocessing."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnrules.dataset import Dataset
from nnrules.errors import ModelError, Problem
from nnrules.image_io import file_ending_of, write_image
from nnrules.plan import Plan

from nnrules_runtime.evaluate.case import EvaluationCase
from nnrules_runtime.evaluate.run import evaluate_cases, over_cases
from nnrules_runtime.evaluate.summary import Summary
from nnrules_runtime.files import atomic_folder, make_folder
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.preprocess.pool import Job
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.select.held_out import HeldOut, Validated
from nnrules_runtime.select.predictions import predictions_of
from nnrules_runtime.select.rules import ChoiceRules
from nnrules_runtime.select.scoring import CasePrediction, job_bytes, read_prediction
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

__all__ = ["write_cross_validation"]

# Files of other kinds need another one beside them, for spacing or voxels.
_WHOLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")


def write_cross_validation(
    plan: Plan,
    dataset: Dataset,
    workspace: Workspace,
    empirical: Empirical,
    *,
    num_workers: int | None = None,
) -> Summary:
    """Write the segmentation of each validation case by the chosen model or pair, postprocessed, and their scores.

    They lie in :attr:`Workspace.cross_validation`; the folder appears whole or not at all. A file that equals that of
    the fold is a hard link to it where the disk has such links.

    Args:
        plan: the plan.
        dataset: its dataset.
        workspace: the work folder.
        empirical: the choice.
        num_workers: processes; ``None``: as it pays.

    Returns:
        The scores, which are in ``summary.json`` as well; surfaces are not measured.

    Raises:
        RunError: a prediction is missing or damaged, or the folder cannot be written.
        ModelError: models are of another plan, or nothing was held out.
    """
    with reading(plan) as root:
        rules = ChoiceRules.from_plan(root)
    predictions = predictions_of(
        plan, dataset, _members(plan, dataset, workspace, empirical), dtype=rules.dtype
    )
    make_folder(workspace.root)
    with atomic_folder(workspace.cross_validation) as folder:
        jobs = [
            Job(
                prediction.case.id,
                _Task(prediction, empirical.postprocessing, folder / prediction.case.prediction.name),
                job_bytes(prediction),
            )
            for prediction in predictions
        ]
        over_cases(_write, jobs, title="writing predictions", num_workers=num_workers)
        written = [
            EvaluationCase(
                id=prediction.case.id,
                prediction=folder / prediction.case.prediction.name,
                reference=prediction.case.reference,
            )
            for prediction in predictions
        ]
        summary = evaluate_cases(plan, written, surface_tolerance_mm=None, num_workers=num_workers)
        summary.save(folder / "summary.json")
    return summary


@dataclass(frozen=True, slots=True)
class _Task:
    prediction: CasePrediction
    postprocessing: Postprocessing
    output: Path


def _write(task: _Task) -> None:
    source = task.prediction.case.prediction
    is_same = task.prediction.averaging is None and not task.postprocessing.steps
    if is_same and file_ending_of(source) in _WHOLE:
        _link(source, task.output)
        return
    labels, _, geometry = read_prediction(task.prediction)
    write_image(task.output, task.postprocessing.apply(labels, geometry.spacing), geometry)


def _link(source: Path, target: Path) -> None:
    """The same file in another place."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _members(plan: Plan, dataset: Dataset, workspace: Workspace, empirical: Empirical) -> list[Validated]:
    """The predictions of the chosen configurations, on the folds that were scored."""
    if not empirical.scored_folds:
        raise ModelError(
            Problem(
                where=str(workspace.empirical),
                what="no case was held out, so that there are no predictions to write",
            )
        )
    num_folds = max(map(len, empirical.scored_folds.values()))
    held_out = HeldOut(plan=plan, dataset=dataset, workspace=workspace, num_folds=num_folds)
    found: list[Validated] = []
    problems: list[Problem] = []
    for name in empirical.members:
        result = held_out.pooled(name, empirical.scored_folds[name])
        if isinstance(result, Validated):
            found.append(result)
        else:
            problems += result
    if problems:
        raise ModelError(problems)
    return found
