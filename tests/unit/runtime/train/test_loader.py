"""Batches that workers prepare ahead: the same ones, in order, and nothing hangs when something goes wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.errors import Problem, RunError, StoreError

from nnrules_runtime.train.batches import Batch, BatchKey
from nnrules_runtime.train.loader import BatchLoader, batch_keys, cache_bytes_per_process
from nnrules_runtime.train.sampling import Phase

CASES = ("case a", "case b", "case c")


class Source:
    """In place of ``BatchSource``: a batch holds its key; some batches go wrong."""

    def __init__(
        self, phase: Phase, trouble: dict[tuple[int, int], str] | None = None, seconds: float = 0.0
    ) -> None:
        self.phase = phase
        self.case_ids = CASES
        self.trouble = trouble or {}
        self.seconds = seconds
        self.parent = os.getpid()
        self.flag = Path()

    def batch(self, epoch: int, iteration: int, *, on_sample: Any = None, out: Any = None) -> Batch:
        on_sample(0, 0)
        on_sample(1, 1)
        time.sleep(self.seconds)
        self._fail(self.trouble.get((epoch, iteration)))
        image, target = out or (torch.empty(2, 1, 4, 4, 4), torch.empty(2, 4, 4, 4, dtype=torch.int16))
        image.copy_(torch.full_like(image, 1000 * epoch + iteration + 0.5 * self.phase))
        target.fill_(iteration)
        key = BatchKey(self.phase, epoch, iteration)
        return Batch(image=image, target=target, key=key, case_ids=CASES[:2])

    def _fail(self, trouble: str | None) -> None:
        if trouble == "bug":
            raise KeyError("thing")
        if trouble == "memory":
            raise MemoryError("1 GiB")
        if trouble == "store":
            raise StoreError([Problem(where="case b", what="damaged"), Problem(where="case b", what="very")])
        if trouble == "killed" and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "killed once" and os.getpid() != self.parent and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "exit" and os.getpid() != self.parent:
            os._exit(3)
        if trouble == "slow" and os.getpid() != self.parent:
            time.sleep(60)


def sources(trouble: dict[tuple[int, int], str] | None = None, seconds: float = 0.0) -> dict[Phase, Any]:
    return {phase: Source(phase, trouble if phase == Phase.TRAIN else None, seconds) for phase in Phase}


def described(batch: Batch) -> tuple[BatchKey, float, int]:
    assert (batch.image == batch.image.flatten()[0]).all()
    assert (batch.target == batch.target.flatten()[0]).all()
    return batch.key, float(batch.image.flatten()[0]), int(batch.target.flatten()[0])


def expected(keys: list[BatchKey]) -> list[tuple[BatchKey, float, int]]:
    return [(key, 1000 * key.epoch + key.iteration + 0.5 * key.phase, key.iteration) for key in keys]


def workers_of(loader: BatchLoader) -> list[Any]:
    assert loader._pool is not None
    return [worker.process for worker in loader._pool._workers]


# -- order ---------------------------------------------------------------------------------------------------


def test_an_epoch_trains_and_then_validates() -> None:
    train, validation = Phase.TRAIN, Phase.VALIDATION
    assert list(batch_keys(2, 1, num_epochs=2)) == [
        (train, 0, 0), (train, 0, 1), (validation, 0, 0), (train, 1, 0), (train, 1, 1), (validation, 1, 0),
    ]  # fmt: skip
    endless = batch_keys(2, 1, epoch=7)
    assert [next(endless) for _ in range(4)][-1] == (train, 8, 0)


def test_a_training_goes_on_where_it_stopped() -> None:
    whole = list(batch_keys(5, 2, num_epochs=4))
    for epoch in range(4):
        for iteration in range(6):  # 5: all of the epoch's training is done
            rest = list(batch_keys(5, 2, epoch=epoch, iteration=iteration, num_epochs=4))
            assert rest == whole[7 * epoch + iteration :]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
@pytest.mark.parametrize("num_keys", [0, 1, 2, 40])
def test_any_number_of_workers_hands_out_the_same_batches(num_workers: int, num_keys: int) -> None:
    keys = list(batch_keys(10, 4, num_epochs=3))[:num_keys]
    with BatchLoader(sources(), keys, num_workers=num_workers) as loader:
        batches = list(loader)
    # Compared when all are there: what was handed out is not overwritten later.
    assert [described(batch) for batch in batches] == expected(keys)
    assert all(batch.case_ids == ("case a", "case b") for batch in batches)


def test_uneven_batches_keep_their_order() -> None:
    class Uneven(Source):
        def batch(self, epoch: int, iteration: int, **options: Any) -> Batch:
            time.sleep(0.05 if iteration % 3 == 0 else 0.0)
            return super().batch(epoch, iteration, **options)

    keys = list(batch_keys(20, 0, num_epochs=1))
    with BatchLoader({Phase.TRAIN: Uneven(Phase.TRAIN)}, keys, num_workers=3) as loader:
        assert [described(batch) for batch in loader] == expected(keys)


def test_workers_are_ahead_and_waiting_is_measured() -> None:
    with BatchLoader(sources(seconds=0.05), batch_keys(100, 0), num_workers=2) as loader:
        next(loader)
        assert loader.take_wait_s() >= 0.05, "the first batch cannot be ready"
        for _ in range(5):
            time.sleep(0.1)
            next(loader)
        assert loader.take_wait_s() < 0.1
        assert loader.wait_s == 0.0
    with BatchLoader(sources(seconds=0.05), batch_keys(3, 0, num_epochs=1)) as loader:
        assert len(list(loader)) == 3
        assert loader.wait_s >= 0.15


def test_the_cache_is_shared_out() -> None:
    assert [cache_bytes_per_process(number) for number in (0, 1, 4)] == [2**29, 2**29, 2**27]


# -- trouble -------------------------------------------------------------------------------------------------


def run(trouble: str, num_workers: int, **options: Any) -> tuple[list[Batch], Any]:
    """The batches before the first error, and that error."""
    taken: list[Batch] = []
    started = time.monotonic()
    with BatchLoader(
        sources({(0, 3): trouble}), batch_keys(10, 2), num_workers=num_workers, **options
    ) as loader:
        with pytest.raises((RunError, StoreError)) as caught:
            taken.extend(loader)
        with pytest.raises(StopIteration):
            next(loader)
    assert time.monotonic() - started < 5
    return taken, caught.value


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_failing_batch_ends_the_iteration_and_is_named(num_workers: int) -> None:
    taken, error = run("bug", num_workers)
    assert len(taken) == 3
    assert type(error) is RunError
    assert str(error) == (
        "case case b (sample 1 of train batch 3 of epoch 0): this batch cannot be prepared; got KeyError: 'thing'."
    )
    assert "Use fewer --workers" in str(run("memory", num_workers)[1])


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_errors_of_the_store_arrive_as_they_are(num_workers: int) -> None:
    taken, error = run("store", num_workers)
    assert len(taken) == 3
    assert type(error) is StoreError
    assert [problem.what for problem in error.problems] == ["damaged", "very"]


@pytest.mark.parametrize(("trouble", "got"), [("killed", "SIGKILL"), ("exit", "exit code 3")])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_worker_that_ends_is_noticed_and_its_case_named(trouble: str, got: str, num_workers: int) -> None:
    _, error = run(trouble, num_workers)
    assert str(error).startswith("case case b (sample 1 of train batch 3 of epoch 0): the process")
    assert f"has ended; got {got}." in str(error)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_worker_that_is_killed_once_is_replaced_and_its_batches_are_the_same(
    num_workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = sources({(0, 3): "killed once"})
    made[Phase.TRAIN].flag = tmp_path / "killed"
    keys = list(batch_keys(10, 2, num_epochs=1))
    with BatchLoader(made, keys, num_workers=num_workers) as loader:
        taken = [described(batch) for batch in loader]
    assert taken == expected(keys)
    assert (tmp_path / "killed").exists()
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("case case b (sample 1 of train batch 3 of epoch 0): the process")
    assert "got SIGKILL" in message


def test_an_idle_worker_that_is_killed_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    keys = list(batch_keys(10, 2, num_epochs=1))
    with BatchLoader(sources(), keys, num_workers=2) as loader:
        taken = [described(next(loader))]
        time.sleep(0.2)
        os.kill(workers_of(loader)[1].pid, signal.SIGKILL)
        time.sleep(0.2)
        taken += [described(batch) for batch in loader]
    assert taken == expected(keys)
    assert "preparing batches: the process that prepared this batch has ended" in caplog.text


def test_a_batch_that_takes_too_long_is_named() -> None:
    _, error = run("slow", 1, timeout_s=0.5)
    assert "sample 1 of train batch 3 of epoch 0): this batch takes too long" in str(error)


# -- processes -----------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_workers_end_with_the_loader() -> None:
    with BatchLoader(sources({(0, 3): "slow"}), batch_keys(10, 2), num_workers=2) as loader:
        next(loader)
        pids = [process.pid for process in workers_of(loader)]
        assert all(is_alive(pid) for pid in pids)
    assert wait_until_gone(pids, 1), "also in the midst of a batch"


def test_interruptions_are_for_the_parent_to_handle() -> None:
    """A batch system sends SIGTERM to all processes of a job, a terminal SIGINT; the training ends at a checkpoint."""
    keys = list(batch_keys(10, 2, num_epochs=1))
    with BatchLoader(sources(), keys, num_workers=2) as loader:
        batches = [next(loader)]
        time.sleep(0.2)
        for process in workers_of(loader):
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGINT)
        batches.extend(loader)
    assert [batch.key for batch in batches] == keys


ORPHANS = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("tests_of_loader", {path!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
loader = tests.BatchLoader(tests.sources(seconds=0.01), tests.batch_keys(10, 2), num_workers=3)
next(loader)
print(*[process.pid for process in tests.workers_of(loader)], flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def parent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    script = ORPHANS.format(path=__file__)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(request.param)], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("parent", [600], indirect=True)
def test_workers_end_when_their_parent_is_killed(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert all(is_alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    assert wait_until_gone(pids, 8)


@pytest.mark.parametrize("parent", [0], indirect=True)
def test_a_program_that_forgets_to_close_the_loader_ends(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert parent.wait(8) == 0
    assert wait_until_gone(pids, 8)
