"""Batches, prepared ahead by worker processes, in the order of the training.

A batch is a function of its key (see :mod:`nnrules_runtime.train.batches`), so that it does not matter which worker
makes it, or when: the next key goes to the worker with the least to do, and batches are handed out in order. They
travel through memory that parent and workers share from the start; what is handed out is a copy, which nobody
overwrites. torch's DataLoader was not taken: it finds a dead worker only after seconds, or raises from a signal
handler in the midst of a step, and it needs room in ``/dev/shm``, of which containers have 64 MB.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from nnrules_runtime.train.batches import Batch, BatchKey, BatchSource
from nnrules_runtime.train.loader_workers import Slots, WorkerPool, make_batch
from nnrules_runtime.train.sampling import Phase

__all__ = ["BatchLoader", "batch_keys", "cache_bytes_per_process"]

_CACHE_BYTES = 2**30
_BATCHES_AHEAD = 2


def cache_bytes_per_process(num_workers: int) -> int:
    """Memory for decompressed cases of each phase in each process: 1 GiB in all.

    Small cases are read much faster then: a 2D batch of 366 Hippocampus patches took 21 ms instead of 210 ms.
    """
    return _CACHE_BYTES // (len(Phase) * max(1, num_workers))


def batch_keys(
    num_train: int,
    num_validation: int,
    *,
    epoch: int = 0,
    iteration: int = 0,
    num_epochs: int | None = None,
) -> Iterator[BatchKey]:
    """The batches of a training in their order: in each epoch those for training, then those for validation.

    Args:
        num_train: training iterations of an epoch.
        num_validation: validation iterations of an epoch.
        epoch: the first one.
        iteration: the first training iteration of the first epoch: where a training goes on.
        num_epochs: the epoch to end before; ``None``: there is no end.
    """
    epochs = itertools.count(epoch) if num_epochs is None else range(epoch, num_epochs)
    for number in epochs:
        for index in range(iteration if number == epoch else 0, num_train):
            yield BatchKey(Phase.TRAIN, number, index)
        for index in range(num_validation):
            yield BatchKey(Phase.VALIDATION, number, index)


class BatchLoader(Iterator[Batch]):
    """Hands out batches in order; a context manager, as it owns processes.

    Args:
        sources: what makes the batches of each phase.
        keys: the batches; see :func:`batch_keys`.
        num_workers: processes that prepare batches; 0 prepares each when it is asked for.
        pin_memory: whether batches lie in page-locked memory, from where CUDA copies in the background.
        batches_ahead: batches that each worker may be ahead.
        timeout_s: how long a batch may take. The first one of a worker includes opening files.

    Attributes:
        wait_s: seconds that the caller has waited for batches since :meth:`take_wait_s`.
    """

    def __init__(
        self,
        sources: Mapping[Phase, BatchSource],
        keys: Iterable[BatchKey],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        batches_ahead: int = _BATCHES_AHEAD,
        timeout_s: float = 600.0,
    ) -> None:
        self.wait_s = 0.0
        self._sources = dict(sources)
        self._keys = iter(keys)
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._ahead = max(1, num_workers * batches_ahead)
        self._timeout_s = timeout_s
        self._pool: WorkerPool | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> Batch:
        """The next batch; its tensors belong to the caller.

        Raises:
            RunError: it could not be made, with the case that was being read; or a worker has died.
            StoreError: a case is damaged.
        """
        if self._is_closed:
            raise StopIteration
        started = time.perf_counter()
        try:
            return self._next_in_process() if self._num_workers == 0 else self._next_of_workers()
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_s += time.perf_counter() - started

    def take_wait_s(self) -> float:
        """Seconds that the caller has waited since this was last asked: 0 if all batches were ready."""
        waited, self.wait_s = self.wait_s, 0.0
        return waited

    def close(self) -> None:
        """End the workers, whatever they are doing. Batches that were handed out stay."""
        self._is_closed = True
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _next_in_process(self) -> Batch:
        key = next(self._keys)
        return self._owned(make_batch(self._sources, key), is_shared=False)

    def _next_of_workers(self) -> Batch:
        if self._pool is None:
            # The first batch tells how large the others are.
            first = self._next_in_process()
            self._start(first)
            return first
        batch = self._pool.take(self._timeout_s)
        if batch is None:
            raise StopIteration
        owned = self._owned(batch, is_shared=True)
        self._pool.release()
        self._submit()
        return owned

    def _start(self, like: Batch) -> None:
        slots = Slots.like(like, self._ahead)
        self._pool = WorkerPool(self._sources, slots, self._num_workers)
        for _ in range(self._ahead):
            self._submit()

    def _submit(self) -> None:
        key = next(self._keys, None)
        if key is not None and self._pool is not None:
            self._pool.submit(key)

    def _owned(self, batch: Batch, *, is_shared: bool) -> Batch:
        if not self._pin_memory and not is_shared:
            return batch
        image, target = (_copy(tensor, pinned=self._pin_memory) for tensor in (batch.image, batch.target))
        return Batch(image=image, target=target, key=batch.key, case_ids=batch.case_ids)


def _copy(tensor: Tensor, *, pinned: bool) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned).copy_(tensor)
