"""What there is to predict: cases, where their results go, and what they take, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnrules.errors import ImageError, Problem
from nnrules.image_io import Geometry, file_ending_of
from nnrules.memory import available_bytes

from nnrules_runtime.predict.case_predictor import CasePredictor
from nnrules_runtime.predict.inputs import InputCase, problems_of, read_grid
from nnrules_runtime.predict.memory import CaseMemory
from nnrules_runtime.predict.predictor import Predictor

__all__ = ["Job", "Target", "Workload", "plan_jobs"]

# Images that are averaged lie on one grid: within a hundredth of a voxel, which is far more than headers round.
_SAME_GRID_VOXELS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A case, and where its results go.

    Attributes:
        case: its files.
        output: where the segmentation goes.
        probabilities: where probabilities go, or ``None``.
    """

    case: InputCase
    output: Path
    probabilities: Path | None

    @property
    def is_done(self) -> bool:
        """Whether its results are there."""
        return self.output.is_file() and (self.probabilities is None or self.probabilities.is_file())


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One case, or several whose probabilities are averaged, and what their headers say.

    Attributes:
        targets: the cases; each gets the result.
        memory: what they take.
        num_passes: patches that the networks see, at most.
    """

    targets: tuple[Target, ...]
    memory: CaseMemory
    num_passes: int

    @property
    def id(self) -> str:
        """The names of the cases."""
        return " + ".join(target.case.id for target in self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What there is to do.

    Attributes:
        jobs: cases to predict.
        kept: ids of cases whose results are there already.
        problems: why other cases cannot be predicted.
    """

    jobs: tuple[Job, ...]
    kept: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def num_passes(self) -> int:
        """Patches of all cases."""
        return sum(job.num_passes for job in self.jobs)

    @property
    def num_cases(self) -> int:
        """Cases that are predicted."""
        return sum(len(job.targets) for job in self.jobs)

    def to_text(self) -> str:
        """One line."""
        kept = f", {len(self.kept)} are there already" if self.kept else ""
        if not self.jobs:
            return f"nothing to predict{kept}"
        largest = max(self.jobs, key=lambda job: job.memory.peak)
        return (
            f"{self.num_cases} {'case' if self.num_cases == 1 else 'cases'} to predict{kept}; "
            f"up to {self.num_passes} patches; "
            f"up to {largest.memory.peak / 1e9:.2f} GB of memory a case ({largest.id})"
        )


def plan_jobs(
    predictor: Predictor | CasePredictor,
    cases: Sequence[InputCase | tuple[InputCase, ...]],
    output: Path,
    *,
    probabilities: bool = False,
    keep: bool = False,
) -> Workload:
    """Read the headers of all cases and decide what is to be done.

    Args:
        predictor: what predicts.
        cases: what there is; those in a tuple are averaged.
        output: a folder; or a file, for a single case.
        probabilities: whether to write probabilities beside the segmentations, as ``CASE.npz``.
        keep: whether cases whose results are there are left alone.

    Raises:
        RunError: the network needs more than an image.
    """
    predictor = CasePredictor.of(predictor)
    predictor.check_takes_images()
    available = available_bytes()
    jobs: list[Job] = []
    kept: list[str] = []
    problems: list[Problem] = []
    groups = [(entry,) if isinstance(entry, InputCase) else entry for entry in cases]
    is_single = len(groups) == 1 and len(groups[0]) == 1
    for group in groups:
        targets = tuple(_target(case, output, probabilities, is_single=is_single) for case in group)
        if keep and all(target.is_done for target in targets):
            kept.extend(case.id for case in group)
            continue
        try:
            job = _job(predictor, targets, probabilities=probabilities)
        except ImageError as exc:
            problems.extend(exc.problems)
            continue
        if available is not None and job.memory.peak > available:
            problems.append(_too_large(job, available, read_grid(group[0], predictor.num_channels).shape))
            continue
        jobs.append(job)
    return Workload(jobs=tuple(jobs), kept=tuple(kept), problems=tuple(problems))


def _target(case: InputCase, output: Path, probabilities: bool, *, is_single: bool) -> Target:
    path = output if is_single and file_ending_of(output) else output / f"{case.id}{case.ending}"
    beside = path.with_name(_stem(path) + ".npz") if probabilities else None
    return Target(case=case, output=path, probabilities=beside)


def _job(predictor: CasePredictor, targets: tuple[Target, ...], *, probabilities: bool) -> Job:
    problems: list[Problem] = []
    grids: list[Geometry] = []
    for target in targets:
        try:
            _check_overwrites(target)
            grids.append(read_grid(target.case, predictor.num_channels))
        except ImageError as exc:
            problems.extend(problems_of(target.case.id, exc))
    if not problems:
        problems += [
            problem
            for target, grid in zip(targets[1:], grids[1:], strict=True)
            if (problem := _other_grid(target, grid, targets[0], grids[0])) is not None
        ]
    if problems:
        raise ImageError(problems)
    shape, spacing = predictor.reader.grid(grids[0])
    memory = predictor.memory(shape, spacing, probabilities=probabilities, num_images=len(targets))
    passes = len(targets) * predictor.num_passes(shape, spacing)
    return Job(targets=targets, memory=memory, num_passes=passes)


def _check_overwrites(target: Target) -> None:
    if target.output.exists() and any(target.output.samefile(path) for path in target.case.paths):
        raise ImageError(
            Problem(
                where=str(target.output),
                what="the segmentation would replace the image",
                fix="Choose another output folder.",
            )
        )


def _other_grid(target: Target, grid: Geometry, first: Target, wanted: Geometry) -> Problem | None:
    """Whether the voxels of two images lie in other places."""
    tolerance = _SAME_GRID_VOXELS * min(wanted.spacing)
    is_same = grid.shape == wanted.shape and grid.dimension == wanted.dimension
    if is_same:
        size = max(edge * step for edge, step in zip(wanted.shape, wanted.spacing, strict=True))
        is_same = (
            np.allclose(grid.origin_xyz, wanted.origin_xyz, rtol=0, atol=tolerance)
            and np.allclose(grid.spacing, wanted.spacing, rtol=0, atol=tolerance / max(wanted.shape))
            and np.allclose(grid.direction_xyz, wanted.direction_xyz, rtol=0, atol=tolerance / size)
        )
    if is_same:
        return None
    return Problem(
        where=target.case.id,
        what=f"this image lies on another grid than {first.case.id}, with which it is to be averaged",
        got=_grid_text(grid),
        expected=_grid_text(wanted),
        fix="Resample one onto the grid of the other, or predict them apart.",
    )


def _grid_text(grid: Geometry) -> str:
    shape = " x ".join(str(edge) for edge in grid.shape)
    spacing = " x ".join(f"{edge:.6g}" for edge in grid.spacing)
    origin = ", ".join(f"{value:.6g}" for value in grid.origin_xyz)
    direction = ", ".join(f"{value:.4g}" for value in grid.direction_xyz)
    return f"{shape} voxels of {spacing} mm, origin ({origin}), direction ({direction})"


def _too_large(job: Job, available: int, shape: Sequence[int]) -> Problem:
    return Problem(
        where=job.id,
        what="this case does not fit into memory",
        got=f"{job.memory.peak:,} bytes for an image of {' x '.join(str(edge) for edge in shape)} voxels",
        expected=f"at most {available:,} bytes, which are free",
        fix="Close other programs or use a machine with more memory.",
    )


def _stem(path: Path) -> str:
    return path.name[: -len(file_ending_of(path) or "")] or path.name
