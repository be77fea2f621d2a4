"""Work on many cases in processes: within the memory that there is, and whatever happens to a single case.

A process that the system kills (mostly for memory) is noticed at once. What was being worked on is then tried again,
each case alone, and a case that ends its process once more is an error like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from nnrules.errors import NnrulesError, Problem

from nnrules_runtime.preprocess.worker_start import start_worker, worker_context

__all__ = ["Failure", "Job", "attempt", "run_in_processes"]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Job(Generic[_Task]):
    """One case.

    Attributes:
        case_id: the case.
        task: what the function is called with; travels to another process.
        num_bytes: memory that it is expected to take at its peak.
    """

    case_id: str
    task: _Task
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that could not be done.

    Attributes:
        problems: why; each names the case.
        is_killed: whether its process was ended from outside.
    """

    problems: tuple[Problem, ...]
    is_killed: bool = False


def attempt(function: Callable[[_Task], _Result], job: Job[_Task]) -> _Result | Failure:
    """Call the function in this process; what a user can put right comes back as a failure."""
    try:
        return function(job.task)
    except NnrulesError as exc:
        return Failure(tuple(_of_case(job.case_id, problem) for problem in exc.problems))
    except MemoryError as exc:
        return Failure((_memory_problem(job, str(exc) or "out of memory"),))
    except OSError as exc:
        reason = f"{exc.filename}: {exc.strerror}" if exc.filename and exc.strerror else str(exc)
        return Failure((Problem(where=job.case_id, what="a file cannot be read or written", got=reason),))


def run_in_processes(
    function: Callable[[_Task], _Result],
    jobs: Sequence[Job[_Task]],
    *,
    num_workers: int,
    limit_bytes: int | None,
) -> Iterator[tuple[Job[_Task], _Result | Failure]]:
    """Do all jobs and yield each with its result, in the order in which they end.

    Closing the iterator drops what has not begun and waits for what has.

    Args:
        function: importable by its name.
        jobs: the cases, in the order in which they shall begin.
        num_workers: processes at most.
        limit_bytes: memory that cases may take together; one that needs more runs alone.

    Raises:
        Exception: whatever the function raises that is not an error of the user's, with the case in a note.
    """
    waiting = deque(jobs)
    suspects: list[Job[_Task]] = []
    while waiting:
        yield from _until_killed(function, waiting, suspects, num_workers, limit_bytes)
    for job in suspects:
        again: list[Job[_Task]] = []
        yield from _until_killed(function, deque([job]), again, 1, None)
        if again:
            problem = _memory_problem(job, "its process was ended by the system, also when it ran alone")
            yield job, Failure((problem,), is_killed=True)


def _until_killed(
    function: Callable[[_Task], _Result],
    waiting: deque[Job[_Task]],
    suspects: list[Job[_Task]],
    num_workers: int,
    limit_bytes: int | None,
) -> Iterator[tuple[Job[_Task], _Result | Failure]]:
    """Work until nothing is left or a process was killed; then what was running is added to the suspects."""
    executor = ProcessPoolExecutor(num_workers, mp_context=worker_context(), initializer=start_worker)
    running: dict[Future[_Result | Failure], Job[_Task]] = {}
    is_broken = False
    try:
        while running or (waiting and not is_broken):
            # One more than there are workers, so that none waits for the next.
            while waiting and not is_broken and len(running) <= num_workers:
                used = sum(job.num_bytes for job in running.values())
                if running and limit_bytes is not None and used + waiting[0].num_bytes > limit_bytes:
                    break
                try:
                    running[executor.submit(attempt, function, waiting[0])] = waiting[0]
                except BrokenProcessPool:
                    is_broken = True
                    break
                waiting.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    is_broken = True
                    suspects.append(job)
                    continue
                except Exception as exc:
                    exc.add_note(f"while working on case {job.case_id}")
                    raise
                yield job, result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _of_case(case_id: str, problem: Problem) -> Problem:
    """The problem with the case's id in front, unless it is there."""
    if problem.where.startswith(case_id):
        return problem
    return Problem(
        where=f"{case_id}: {problem.where}",
        what=problem.what,
        got=problem.got,
        expected=problem.expected,
        fix=problem.fix,
    )


def _memory_problem(job: Job[_Task], got: str) -> Problem:
    return Problem(
        where=job.case_id,
        what="the memory does not suffice for this case",
        got=f"{got}; about {job.num_bytes / 1e6:.0f} MB were expected",
        fix="Use fewer workers, close other programs, or take a machine with more memory.",
    )
