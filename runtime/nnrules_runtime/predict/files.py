"""Prediction of files: while the network works on a case, the next is read and the previous is written."""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.axes import canonical_axes
from nnrules.errors import ImageError, NnrulesError, Problem
from nnrules.image_io import Geometry, file_ending_of, write_image
from nnrules.memory import available_bytes
from torch import Tensor

from nnrules_runtime.files import atomic_file, make_folder
from nnrules_runtime.predict.inputs import InputCase, problems_of, read_grid
from nnrules_runtime.predict.memory import CaseMemory
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.progress import track

__all__ = ["Done", "Job", "Workload", "plan_jobs", "predict_jobs"]

_LOGGER = logging.getLogger(__name__)
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One case, and what its headers say about it.

    Attributes:
        case: its files.
        output: where the segmentation goes.
        probabilities: where probabilities go, or ``None``.
        memory: what it takes.
        num_passes: patches that the networks see, at most.
    """

    case: InputCase
    output: Path
    probabilities: Path | None
    memory: CaseMemory
    num_passes: int


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

    def to_text(self) -> str:
        """One line."""
        kept = f", {len(self.kept)} are there already" if self.kept else ""
        if not self.jobs:
            return f"nothing to predict{kept}"
        largest = max(self.jobs, key=lambda job: job.memory.peak)
        return (
            f"{len(self.jobs)} {'case' if len(self.jobs) == 1 else 'cases'} to predict{kept}; "
            f"up to {self.num_passes} patches; "
            f"up to {largest.memory.peak / 1e9:.2f} GB of memory a case ({largest.case.id})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A case that was worked on.

    Attributes:
        id: the case.
        output: its segmentation; ``None`` where it failed.
        probabilities: its probabilities, if asked for.
        seconds: from its first byte to its last.
        problems: why it failed.
    """

    id: str
    output: Path | None = None
    probabilities: Path | None = None
    seconds: float = 0.0
    problems: tuple[Problem, ...] = ()


def plan_jobs(
    predictor: Predictor,
    cases: Sequence[InputCase],
    output: Path,
    *,
    probabilities: bool = False,
    keep: bool = False,
) -> Workload:
    """Read the headers of all cases and decide what is to be done.

    Args:
        predictor: what predicts.
        cases: what there is.
        output: a folder; or a file, for a single case.
        probabilities: whether to write probabilities beside the segmentations, as ``CASE.npz``.
        keep: whether cases whose results are there are left alone.

    Raises:
        RunError: the network needs more than an image.
    """
    predictor.check_single_stage()
    available = available_bytes()
    jobs: list[Job] = []
    kept: list[str] = []
    problems: list[Problem] = []
    for case in cases:
        target = output if len(cases) == 1 and file_ending_of(output) else output / f"{case.id}{case.ending}"
        beside = target.with_name(_stem(target) + ".npz") if probabilities else None
        if keep and target.is_file() and (beside is None or beside.is_file()):
            kept.append(case.id)
            continue
        try:
            _check_overwrites(case, target)
            shape, spacing = predictor.reader.grid(read_grid(case, predictor.num_channels))
        except ImageError as exc:
            problems.extend(problems_of(case.id, exc))
            continue
        memory = predictor.memory(shape, spacing, probabilities=probabilities)
        if available is not None and memory.peak > available:
            problems.append(_too_large(case.id, shape, memory, available))
            continue
        passes = predictor.num_passes(shape, spacing)
        jobs.append(Job(case=case, output=target, probabilities=beside, memory=memory, num_passes=passes))
    return Workload(jobs=tuple(jobs), kept=tuple(kept), problems=tuple(problems))


def predict_jobs(predictor: Predictor, jobs: Sequence[Job]) -> Iterator[Done]:
    """Predict cases; each result is written whole or not at all.

    A case that fails for a reason that a user can put right is reported, and the next one follows.

    Args:
        predictor: what predicts.
        jobs: what to do, in order.

    Yields:
        Each case when it is written, or has failed.
    """
    for folder in {job.output.parent for job in jobs}:
        make_folder(folder)
    work = _Pipeline(predictor, overlap=_fit_together(jobs))
    yield from track(work.run(jobs), total=len(jobs), title="prediction")


@dataclass(frozen=True, slots=True)
class _Read:
    """A case that waits for the network."""

    image: npt.NDArray[np.float32]
    geometry: CaseGeometry
    in_file: Geometry
    started: float


class _Pipeline:
    """Reading, predicting and writing, one case at each.

    Args:
        predictor: what predicts.
        overlap: whether memory is enough for a case at each stage.
    """

    def __init__(self, predictor: Predictor, *, overlap: bool) -> None:
        self._predictor = predictor
        self._overlap = overlap

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
            coming: Future[_Read] | None = None
            going: tuple[Job, Future[Done]] | None = None
            try:
                for number, job in enumerate(jobs):
                    current = coming or reader.submit(self._read, job)
                    coming = None
                    try:
                        read = current.result()
                        if self._overlap and number + 1 < len(jobs):
                            coming = reader.submit(self._read, jobs[number + 1])
                        logits = self._predictor.logits(read.image, where=job.case.id)
                    except Exception as exc:
                        failed = _failure(job, exc)
                        if self._overlap and coming is None and number + 1 < len(jobs):
                            coming = reader.submit(self._read, jobs[number + 1])
                        yield failed
                        continue
                    if going is not None:
                        yield _result(*going)
                    # The image is no longer needed: only what writing needs goes on.
                    going = (
                        job,
                        writer.submit(self._write, job, logits, read.geometry, read.in_file, read.started),
                    )
                    del logits, read, current
                    if not self._overlap:
                        yield _result(*going)
                        going = None
                if going is not None:
                    yield _result(*going)
            finally:
                for future in (coming, going[1] if going else None):
                    if future is not None:
                        future.cancel()

    def _read(self, job: Job) -> _Read:
        started = time.perf_counter()
        image, spacing, in_file = self._predictor.reader.image(job.case.paths)
        prepared, geometry = self._predictor.prepare(image, spacing)
        return _Read(prepared, geometry, in_file, started)

    def _write(
        self, job: Job, logits: Tensor, geometry: CaseGeometry, in_file: Geometry, started: float
    ) -> Done:
        predictor, reader = self._predictor, self._predictor.reader
        target = replace(in_file, num_channels=1)
        if job.probabilities is not None:
            values = predictor.export_probabilities(logits, geometry, where=job.case.id)
            arrays = {"probabilities": reader.as_in_file(values, in_file)}
            if not predictor.exporter.whole_image:
                arrays["box"] = _box_in_file(geometry, in_file, is_canonical=reader.is_canonical)
            _write_arrays(job.probabilities, arrays)
        labels = reader.as_in_file(predictor.export(logits, geometry, where=job.case.id), in_file)
        # The segmentation last: where it is, all is.
        write_image(job.output, labels, target)
        return Done(
            id=job.case.id,
            output=job.output,
            probabilities=job.probabilities,
            seconds=time.perf_counter() - started,
        )


def _result(job: Job, future: Future[Done]) -> Done:
    try:
        return future.result()
    except Exception as exc:
        return _failure(job, exc)


def _failure(job: Job, exc: Exception) -> Done:
    """What a user can put right, as a result; anything else is raised."""
    if isinstance(exc, NnrulesError):
        problems = problems_of(job.case.id, exc)
    elif isinstance(exc, MemoryError):
        problems = [
            Problem(
                where=job.case.id,
                what="not enough memory",
                got=str(exc) or "an allocation failed",
                expected=f"about {job.memory.peak:,} bytes",
                fix="Close other programs, or use a machine with more memory.",
            )
        ]
    elif isinstance(exc, OSError):
        problems = [
            Problem(
                where=job.case.id,
                what="a file cannot be read or written",
                got=f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc),
                fix="Check permissions and free space.",
            )
        ]
    else:
        exc.add_note(f"while predicting {job.case.id}")
        raise exc
    return Done(id=job.case.id, problems=tuple(problems))


def _fit_together(jobs: Sequence[Job]) -> bool:
    """Whether three of the largest cases may meet, one at each stage."""
    available = available_bytes()
    needed = max((job.memory.overlapping for job in jobs), default=0)
    if available is None or needed <= available:
        return True
    _LOGGER.warning(
        "one case after the other: a case at each stage takes up to %.1f GB, %.1f GB are free",
        needed / 1e9, available / 1e9,
    )  # fmt: skip
    return False


def _check_overwrites(case: InputCase, target: Path) -> None:
    if target.exists() and any(target.samefile(path) for path in case.paths):
        raise ImageError(
            Problem(
                where=str(target),
                what="the segmentation would replace the image",
                fix="Choose another output folder.",
            )
        )


def _too_large(case_id: str, shape: Sequence[int], memory: CaseMemory, available: int) -> Problem:
    return Problem(
        where=case_id,
        what="this case does not fit into memory",
        got=f"{memory.peak:,} bytes for an image of {' x '.join(str(edge) for edge in shape)} voxels",
        expected=f"at most {available:,} bytes, which are free",
        fix="Close other programs or use a machine with more memory.",
    )


def _stem(path: Path) -> str:
    return path.name[: -len(file_ending_of(path) or "")] or path.name


def _box_in_file(geometry: CaseGeometry, in_file: Geometry, *, is_canonical: bool) -> npt.NDArray[np.int64]:
    """First voxel and one past the last of the crop, ``(3, 2)``, in the file's axes z, y, x."""
    back = geometry.transpose_backward
    box = [(geometry.crop_start[axis], geometry.crop_stop[axis]) for axis in back]
    if is_canonical and in_file.dimension == 3:
        mapping = canonical_axes(in_file.direction_xyz)
        turned = list(box)
        for axis, (start, stop) in enumerate(box):
            size = geometry.original_shape[axis]
            flipped = (size - stop, size - start) if mapping.flips[axis] else (start, stop)
            turned[mapping.order[axis]] = flipped
        box = turned
    return np.array(box, np.int64)


def _write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """A compressed ``.npz``; the fastest level, as probabilities are mostly 0 and 1."""
    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
