"""Processes that make batches in memory which they share with their parent.

Each worker has a pipe of its own: whatever happens to it, its end of the pipe closes, and the parent knows at once
which worker, which batch and which case. Another one then makes the batch again, which is the same, as each draw is a
function of batch and sample; a batch that ends two workers is an error.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import signal
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

import torch
from nnrules.errors import NnrulesError, Problem, RunError
from torch import Tensor

from nnrules_runtime.train.batches import Batch, BatchKey, BatchSource
from nnrules_runtime.train.sampling import Phase

__all__ = ["Slots", "WorkerPool", "make_batch"]

_LOGGER = logging.getLogger(__name__)

# Forking takes milliseconds and shares what is already read; elsewhere it is unsafe or does not exist.
_START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_SECONDS_BETWEEN_LOOKS_AT_PARENT = 5.0
_SECONDS_TO_END = 2.0


def make_batch(
    sources: Mapping[Phase, BatchSource],
    key: BatchKey,
    *,
    on_sample: Callable[[int, int], None] | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> Batch:
    """A batch; whatever goes wrong is an error that names batch and case.

    Raises:
        StoreError: a case is damaged.
        RunError: anything else.
    """
    at = [0, -1]

    def note(sample: int, case: int) -> None:
        at[:] = sample, case
        if on_sample is not None:
            on_sample(sample, case)

    source = sources[key.phase]
    try:
        return source.batch(key.epoch, key.iteration, on_sample=note, out=out)
    except NnrulesError:
        raise
    except Exception as exc:
        _LOGGER.debug("%s", key, exc_info=True)
        memory = isinstance(exc, MemoryError)
        raise RunError(
            Problem(
                where=_place(source, key, *at),
                what="this batch cannot be prepared",
                got=f"{type(exc).__name__}: {exc}",
                fix="Use fewer --workers, each needs memory of its own." if memory else None,
            )
        ) from exc


class Slots:
    """Room for batches of one shape, shared with processes that are started later.

    Args:
        images: ``(slots, B, C, *patch)``.
        targets: ``(slots, B, *patch)``.
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images = images
        self.targets = targets

    @classmethod
    def like(cls, batch: Batch, number: int) -> Self:
        """Room for some batches like this one."""
        return cls(_shared(batch.image, number), _shared(batch.target, number))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, slot: int) -> tuple[Tensor, Tensor]:
        return self.images[slot], self.targets[slot]


@dataclass(slots=True)
class _Worker:
    """A process and the batches that it has still to make: their number, slot and key, in order."""

    number: int
    process: BaseProcess
    pipe: Connection
    tasks: deque[tuple[int, int, BatchKey]] = field(default_factory=deque)


class WorkerPool:
    """Workers, the batches that they make, and the order of these.

    Args:
        sources: what makes the batches of each phase.
        slots: where to; at most so many batches are under way.
        num_workers: how many processes.
    """

    def __init__(self, sources: Mapping[Phase, BatchSource], slots: Slots, num_workers: int) -> None:
        self._sources = sources
        self._slots = slots
        self._free = list(range(len(slots)))
        self._num_submitted = 0
        self._num_taken = 0
        self._taken_slot: int | None = None
        self._done: dict[int, tuple[int, BatchKey, tuple[str, ...] | NnrulesError]] = {}
        # Batches that a worker did not survive, by number; negative where it had none.
        self._fatal: set[int] = set()
        # Sample and case that each worker is at.
        self._at = _shared(torch.full((2,), -1, dtype=torch.int64), num_workers)
        self._at.fill_(-1)
        self._workers: list[_Worker] = []
        # At exit multiprocessing would wait for them for ever: they ignore its SIGTERM.
        self._end = weakref.finalize(self, _end, self._workers, os.getpid())
        for number in range(num_workers):
            self._workers.append(self._start(number))

    def submit(self, key: BatchKey) -> None:
        """Have a batch made; there must be a free slot."""
        slot = self._free.pop()
        worker = min(self._workers, key=lambda one: len(one.tasks))
        task = (self._num_submitted, slot, key)
        self._num_submitted += 1
        worker.tasks.append(task)
        try:
            worker.pipe.send(task)
        except OSError:
            self._replace(worker)

    def take(self, timeout_s: float) -> Batch | None:
        """The next batch in the order of :meth:`submit`, in its slot; ``None`` if no more are under way.

        Raises:
            RunError, StoreError: it could not be made, a worker died, or it took too long.
        """
        if self._num_taken == self._num_submitted:
            return None
        # Look at all workers even if the batch is there: one that has died is noticed now, not when it is needed.
        self._receive(0.0)
        end = time.monotonic() + timeout_s
        while self._num_taken not in self._done:
            if not self._receive(end - time.monotonic()):
                raise self._too_slow()
        slot, key, made = self._done.pop(self._num_taken)
        self._num_taken += 1
        if isinstance(made, NnrulesError):
            raise made
        self._taken_slot = slot
        image, target = self._slots[slot]
        return Batch(image=image, target=target, key=key, case_ids=made)

    def release(self) -> None:
        """Let the slot of the batch that was taken last be filled again."""
        if self._taken_slot is not None:
            self._free.append(self._taken_slot)
            self._taken_slot = None

    def close(self) -> None:
        """End all workers at once: they own nothing that could be left half-done."""
        self._end()

    def _start(self, number: int) -> _Worker:
        context: Any = multiprocessing.get_context(_START_METHOD)
        ours, theirs = context.Pipe()
        # A forked worker must not keep the parent's ends open, else others would not notice that it is gone.
        inherited = [*(worker.pipe for worker in self._workers), ours] if _START_METHOD == "fork" else []
        process = context.Process(
            target=_work,
            args=(theirs,),
            kwargs={
                "inherited": inherited,
                "sources": self._sources,
                "slots": self._slots,
                "at": self._at[number],
                "parent": os.getpid(),
            },
            name=f"nnrules-batches-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Worker(number, process, ours)

    def _receive(self, timeout_s: float) -> bool:
        """Take what workers have finished; wait until at least one has, and tell whether that was so."""
        ready = wait([worker.pipe for worker in self._workers], max(0.0, timeout_s))
        for worker in tuple(self._workers):
            while worker.pipe in ready and worker.pipe.poll():
                try:
                    made = worker.pipe.recv()
                except (EOFError, OSError):
                    self._replace(worker)
                    break
                number, slot, key = worker.tasks.popleft()
                self._done[number] = (slot, key, made)
        return bool(ready)

    def _replace(self, worker: _Worker) -> None:
        """Have another worker make what one that has ended had still to make.

        Raises:
            RunError: the batch that it was at has ended one before.
        """
        died = self._died(worker)
        batch = worker.tasks[0][0] if worker.tasks else -1 - self._num_submitted
        if batch in self._fatal:
            raise died
        self._fatal.add(batch)
        _LOGGER.warning("%s Another process goes on.", died.problems[0])
        worker.pipe.close()
        other = self._start(worker.number)
        other.tasks.extend(worker.tasks)
        self._workers[worker.number] = other
        for task in worker.tasks:
            other.pipe.send(task)

    def _worker_of(self, number: int) -> _Worker:
        return next(worker for worker in self._workers if any(task[0] == number for task in worker.tasks))

    def _describe(self, worker: _Worker) -> str:
        if not worker.tasks:
            return "preparing batches"
        _, _, key = worker.tasks[0]
        sample, case = (int(value) for value in self._at[worker.number])
        return _place(self._sources[key.phase], key, sample, case)

    def _died(self, worker: _Worker) -> RunError:
        worker.process.join(_SECONDS_TO_END)
        code = worker.process.exitcode
        got = f"exit code {code}"
        if code is not None and code < 0:
            got = signal.Signals(-code).name
        return RunError(
            Problem(
                where=self._describe(worker),
                what="the process that prepared this batch has ended",
                got=got,
                fix="SIGKILL as a rule means that memory ran out: use fewer --workers. The training can be resumed.",
            )
        )

    def _too_slow(self) -> RunError:
        worker = self._worker_of(self._num_taken)
        return RunError(
            Problem(
                where=self._describe(worker),
                what="this batch takes too long",
                fix="See whether the disk with the preprocessed cases answers. The training can be resumed.",
            )
        )


def _end(workers: list[_Worker], parent: int) -> None:
    if os.getpid() != parent:  # a copy in a forked process
        return
    for worker in workers:
        worker.pipe.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join(_SECONDS_TO_END)
    workers.clear()


def _work(
    pipe: Connection,
    *,
    inherited: Sequence[Connection],
    sources: Mapping[Phase, BatchSource],
    slots: Slots,
    at: Tensor,
    parent: int,
) -> None:
    """A worker: makes what it is told to until its parent is gone."""
    # The parent decides what an interruption means and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    position = at.numpy()

    def note(sample: int, case: int) -> None:
        position[:] = sample, case

    try:
        while True:
            while not pipe.poll(_SECONDS_BETWEEN_LOOKS_AT_PARENT):
                if os.getppid() != parent:
                    return
            _, slot, key = pipe.recv()
            position[:] = -1
            try:
                made: tuple[str, ...] | NnrulesError
                made = make_batch(sources, key, on_sample=note, out=slots[slot]).case_ids
            except NnrulesError as exc:
                made = exc
            pipe.send(made)
    except (EOFError, OSError):
        return


def _place(source: BatchSource, key: BatchKey, sample: int, case: int) -> str:
    if case < 0:
        return str(key)
    return f"case {source.case_ids[case]} (sample {sample} of {key})"


def _shared(like: Tensor, number: int) -> Tensor:
    """Uninitialised tensor ``(number, *like)`` that processes which are started later share.

    Forked processes share anonymous memory; unlike files in ``/dev/shm`` nothing but the machine limits its size.
    """
    if _START_METHOD != "fork":
        room = torch.empty((number, *like.shape), dtype=like.dtype)
        room.share_memory_()  # type: ignore[no-untyped-call]
        return room
    memory = mmap.mmap(-1, max(1, number * like.numel() * like.element_size()))
    return torch.frombuffer(memory, dtype=like.dtype, count=number * like.numel()).view(number, *like.shape)
