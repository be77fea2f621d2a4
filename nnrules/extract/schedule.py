"""Runs a function over all cases on several threads and gives the results in case order.

Threads and not processes: SimpleITK, zlib and numpy release Python's lock, so that two threads read 520
small NIfTI files in half the time of one (0.64 s against 1.2 s), as fast as two forked processes and
without the 0.3 s that a spawned one takes to import SimpleITK. And no thread can be killed on its own and
leave the others waiting.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from nnrules.dataset import Case
from nnrules.errors import FingerprintError, ImageError, NnrulesError, Problem

__all__ = ["default_workers", "in_case_order"]

_Result = TypeVar("_Result")

_AHEAD = 8  # cases a worker may be ahead of the slowest one, so that results cannot pile up


def default_workers() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_case_order(
    work: Callable[[Case], _Result],
    cases: Sequence[Case],
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[_Result]:
    """Do ``work`` for every case and yield the results in the order of ``cases``.

    A case that fails does not stop the others. When the iterator is closed or the program interrupted,
    cases that have not begun are dropped and those that run are waited for.

    Args:
        work: called on worker threads.
        cases: the cases.
        workers: number of threads.
        progress: called with the number of cases done and their total, on the calling thread.

    Raises:
        ImageError: after the last case, with the problems of all that failed.
        FingerprintError: likewise, when an extractor failed.
    """
    problems: list[Problem] = []
    kind: type[NnrulesError] = ImageError
    executor = ThreadPoolExecutor(workers, thread_name_prefix="fingerprint")
    waiting: deque[tuple[Case, Future[_Result]]] = deque()
    remaining = iter(cases)
    try:
        for number in range(len(cases)):
            while len(waiting) < workers * _AHEAD and (case := next(remaining, None)) is not None:
                waiting.append((case, executor.submit(work, case)))
            case, future = waiting.popleft()
            try:
                result = future.result()
            except NnrulesError as exc:
                problems += [_of_case(case, problem) for problem in exc.problems]
                kind = FingerprintError if isinstance(exc, FingerprintError) else kind
            except (MemoryError, OSError) as exc:
                problems.append(_resource_problem(case, exc))
            else:
                if not problems:  # after a failure there will be no fingerprint
                    yield result
                del result
            del future
            if progress is not None:
                progress(number + 1, len(cases))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    if problems:
        raise kind(problems)


def _of_case(case: Case, problem: Problem) -> Problem:
    """The problem with the case's id in front, unless it is there."""
    if problem.where.startswith(case.id):
        return problem
    return Problem(
        where=f"{case.id}: {problem.where}",
        what=problem.what,
        got=problem.got,
        expected=problem.expected,
        fix=problem.fix,
    )


def _resource_problem(case: Case, error: MemoryError | OSError) -> Problem:
    if isinstance(error, MemoryError):
        num_bytes = sum(path.stat().st_size for path in (*case.image_paths, case.label_path))
        return Problem(
            where=case.id,
            what="the memory does not suffice for this case",
            got=f"files of {num_bytes / 1e6:.0f} MB (packed); {error}",
            fix="Use fewer workers, or a machine with more memory; finished cases are not read again.",
        )
    return Problem(where=case.id, what="a file cannot be read", got=str(error))
