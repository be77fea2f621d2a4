"""Scoring many cases, in processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from nnrules.errors import NnrulesError, Problem, RunError
from nnrules.image_io import read_geometry
from nnrules.memory import available_bytes
from nnrules.plan import Plan

from nnrules_runtime.evaluate.case import CaseTask, EvaluationCase, score_case
from nnrules_runtime.evaluate.conventions import Evaluation
from nnrules_runtime.evaluate.summary import Summary, sorted_by_id
from nnrules_runtime.evaluate.surface import DEFAULT_TOLERANCE_MM
from nnrules_runtime.preprocess.pool import Failure, Job, attempt, run_in_processes
from nnrules_runtime.progress import track
from nnrules_runtime.values import reading

__all__ = ["evaluate_cases", "num_voxels", "over_cases"]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

# Two label maps as stored and as 32-bit numbers, a mask, and two distance maps.
_BYTES_PER_VOXEL = 32
_MEMORY_SHARE = 0.8
# Starting processes takes a second or two: as long as scoring 30 million voxels in one.
_FEW_BYTES = 30_000_000 * _BYTES_PER_VOXEL


def evaluate_cases(
    evaluation: Evaluation | Plan,
    cases: Sequence[EvaluationCase],
    *,
    surface_tolerance_mm: float | None = DEFAULT_TOLERANCE_MM,
    num_workers: int | None = None,
    plan_hash: str | None = None,
) -> Summary:
    """Score predictions.

    Args:
        evaluation: the conventions; a plan stands for its own.
        cases: at least one.
        surface_tolerance_mm: tolerance of the surface Dice in mm; ``None``: surfaces are not measured, which saves
            most of the time.
        num_workers: processes; 1 works in the calling process. By default one a core, and none for few small cases.
        plan_hash: noted in the result; default: that of the plan, where one was given.

    Returns:
        Scores and means.

    Raises:
        RunError: everything that is wrong with any case.
        PlanError: the plan has values that the runtime does not know.
        ValueError: there are no cases.
    """
    if not cases:
        raise ValueError("evaluate_cases needs at least one case")
    if isinstance(evaluation, Plan):
        plan_hash = plan_hash or evaluation.hash
        with reading(evaluation) as root:
            evaluation = Evaluation.from_plan(root)
    jobs = [
        Job(case.id, CaseTask(case, evaluation, surface_tolerance_mm), num_voxels(case) * _BYTES_PER_VOXEL)
        for case in cases
    ]
    scores = over_cases(score_case, jobs, title="evaluating", num_workers=num_workers)
    return Summary(
        evaluation=evaluation,
        cases=sorted_by_id(scores),
        tolerance_mm=surface_tolerance_mm,
        plan_hash=plan_hash,
    )


def over_cases(
    function: Callable[[_Task], _Result],
    jobs: Sequence[Job[_Task]],
    *,
    title: str,
    num_workers: int | None = None,
) -> list[_Result]:
    """Call a function for each case, in processes where there is enough to do.

    Args:
        function: importable by its name.
        jobs: the cases.
        title: what is being done.
        num_workers: processes; 1 works in the calling process. By default one a core, and none for few small cases.

    Returns:
        The results in the order of the jobs.

    Raises:
        RunError: everything that is wrong with any case.
    """
    if num_workers is None:
        num_workers = 1 if sum(job.num_bytes for job in jobs) <= _FEW_BYTES else _num_cores()
    num_workers = min(num_workers, len(jobs))
    results: Iterator[tuple[Job[_Task], _Result | Failure]]
    if num_workers <= 1:
        results = ((job, attempt(function, job)) for job in jobs)
    else:
        available = available_bytes()
        limit = None if available is None else int(available * _MEMORY_SHARE)
        results = run_in_processes(function, jobs, num_workers=num_workers, limit_bytes=limit)
    found: dict[int, _Result] = {}  # by object: ids of cases may stand twice
    problems: list[Problem] = []
    for job, result in track(results, total=len(jobs), title=title):
        if isinstance(result, Failure):
            problems += result.problems
        else:
            found[id(job)] = result
    if problems:
        raise RunError(sorted(problems, key=lambda problem: problem.where))
    return [found[id(job)] for job in jobs]


def num_voxels(case: EvaluationCase) -> int:
    """Voxels of a case; 0 for a file that cannot be read, which is said when it is scored."""
    with suppress(NnrulesError):
        depth, height, width = read_geometry(case.prediction).shape
        return depth * height * width
    return 0


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
