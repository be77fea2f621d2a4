"""Prediction of files: while the network works on a case, the next is read and the previous is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from nnrules.errors import NnrulesError, Problem
from nnrules.image_io import Geometry, write_image
from nnrules.memory import available_bytes

from nnrules_runtime.files import make_folder
from nnrules_runtime.predict.case_predictor import CasePredictor
from nnrules_runtime.predict.inputs import problems_of
from nnrules_runtime.predict.jobs import Job
from nnrules_runtime.predict.members import Part, Prepared
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.predict.probabilities import write_probabilities
from nnrules_runtime.progress import track

__all__ = ["Done", "predict_jobs"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A case that was worked on.

    Attributes:
        id: the case.
        output: its segmentation; ``None`` where it failed.
        probabilities: its probabilities, if asked for.
        seconds: from its first byte to its last, with the cases that it was averaged with.
        problems: why it failed.
    """

    id: str
    output: Path | None = None
    probabilities: Path | None = None
    seconds: float = 0.0
    problems: tuple[Problem, ...] = ()


def predict_jobs(predictor: Predictor | CasePredictor, jobs: Sequence[Job]) -> Iterator[Done]:
    """Predict cases; each result is written whole or not at all.

    A case that fails for a reason that a user can put right is reported, and the next one follows.

    Args:
        predictor: what predicts.
        jobs: what to do, in order.

    Yields:
        Each case when it is written, or has failed.
    """
    for folder in {target.output.parent for job in jobs for target in job.targets}:
        make_folder(folder)
    work = _Pipeline(CasePredictor.of(predictor), overlap=_fit_together(jobs))
    for done in track(work.run(jobs), total=len(jobs), title="prediction"):
        yield from done


@dataclass(frozen=True, slots=True)
class _Read:
    """What waits for the network: the images of a job."""

    images: tuple[Prepared, ...]
    in_files: tuple[Geometry, ...]
    started: float


class _Pipeline:
    """Reading, predicting and writing, one case at each.

    Args:
        predictor: what predicts.
        overlap: whether memory is enough for a case at each stage.
    """

    def __init__(self, predictor: CasePredictor, *, overlap: bool) -> None:
        self._predictor = predictor
        self._overlap = overlap

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Done, ...]]:
        with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
            coming: Future[_Read] | None = None
            going: tuple[Job, Future[tuple[Done, ...]]] | None = None
            try:
                for number, job in enumerate(jobs):
                    current = coming or reader.submit(self._read, job)
                    coming = None
                    try:
                        read = current.result()
                        if self._overlap and number + 1 < len(jobs):
                            coming = reader.submit(self._read, jobs[number + 1])
                        parts = self._predict(job, read)
                    except Exception as exc:
                        failed = _failure(job, exc)
                        if self._overlap and coming is None and number + 1 < len(jobs):
                            coming = reader.submit(self._read, jobs[number + 1])
                        yield failed
                        continue
                    if going is not None:
                        yield _result(*going)
                    # The image is no longer needed: only what writing needs goes on.
                    going = (job, writer.submit(self._write, job, parts, read.in_files, read.started))
                    del parts, read, current
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
        images, in_files = [], []
        for target in job.targets:
            image, spacing, in_file = self._predictor.reader.image(target.case.paths)
            images.append(self._predictor.prepare(image, spacing))
            in_files.append(in_file)
        return _Read(tuple(images), tuple(in_files), started)

    def _predict(self, job: Job, read: _Read) -> tuple[Part, ...]:
        return tuple(
            part
            for target, image in zip(job.targets, read.images, strict=True)
            for part in self._predictor.logits(image, where=target.case.id)
        )

    def _write(
        self, job: Job, parts: tuple[Part, ...], in_files: tuple[Geometry, ...], started: float
    ) -> tuple[Done, ...]:
        predictor, reader = self._predictor, self._predictor.reader
        targets = list(zip(job.targets, in_files, strict=True))
        if any(target.probabilities is not None for target in job.targets):
            values, box = predictor.export_probabilities(parts, where=job.id)
            for target, in_file in targets:
                if target.probabilities is not None:
                    write_probabilities(target.probabilities, values, box, reader=reader, in_file=in_file)
            del values
        labels = predictor.export(parts, where=job.id)
        # The segmentation last: where it is, all is.
        for target, in_file in targets:
            write_image(target.output, reader.as_in_file(labels, in_file), replace(in_file, num_channels=1))
        seconds = time.perf_counter() - started
        return tuple(
            Done(id=target.case.id, output=target.output, probabilities=target.probabilities, seconds=seconds)
            for target in job.targets
        )


def _result(job: Job, future: Future[tuple[Done, ...]]) -> tuple[Done, ...]:
    try:
        return future.result()
    except Exception as exc:
        return _failure(job, exc)


def _failure(job: Job, exc: Exception) -> tuple[Done, ...]:
    """What a user can put right, as a result; anything else is raised."""
    if isinstance(exc, NnrulesError):
        problems = problems_of(job.id, exc)
    elif isinstance(exc, MemoryError):
        problems = [
            Problem(
                where=job.id,
                what="not enough memory",
                got=str(exc) or "an allocation failed",
                expected=f"about {job.memory.peak:,} bytes",
                fix="Close other programs, or use a machine with more memory.",
            )
        ]
    elif isinstance(exc, OSError):
        problems = [
            Problem(
                where=job.id,
                what="a file cannot be read or written",
                got=f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc),
                fix="Check permissions and free space.",
            )
        ]
    else:
        exc.add_note(f"while predicting {job.id}")
        raise exc
    return (Done(id=job.id, problems=tuple(problems)),)


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
