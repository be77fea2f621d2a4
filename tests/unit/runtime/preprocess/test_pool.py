"""Work in processes: memory, failures, processes that are killed."""

import os
import signal
import time
from pathlib import Path

import pytest
from nnrules.errors import ImageError, Problem

from nnrules_runtime.preprocess.pool import Failure, Job, run_in_processes


def work(task):
    kind, value = task
    if kind == "fail":
        raise ImageError(Problem(where="file", what=f"{value} is wrong"))
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        raise MemoryError
    if kind == "bug":
        raise ZeroDivisionError("oops")
    if kind == "log":
        path = Path(value)
        with path.open("a") as stream:
            stream.write("+")
        time.sleep(0.1)
        running = path.read_text().count("+") - path.read_text().count("-")
        with path.open("a") as stream:
            stream.write("-")
        return running
    return value


def results(tasks, **options):
    jobs = [Job(f"case{index}", task, options.pop("num_bytes", 1)) for index, task in enumerate(tasks)]
    found = run_in_processes(work, jobs, **{"num_workers": 2, "limit_bytes": None, **options})
    return {job.case_id: result for job, result in found}


def test_results_and_failures():
    found = results([("ok", 3), ("fail", "mask"), ("memory", None), ("ok", 4)])
    assert (found["case0"], found["case3"]) == (3, 4)
    (problem,) = found["case1"].problems
    assert (problem.where, problem.what) == ("case1: file", "mask is wrong")
    assert "memory" in found["case2"].problems[0].what


def test_killed_process_is_noticed_and_its_case_tried_again(tmp_path):
    started = time.monotonic()
    found = results([("kill once", str(tmp_path / "flag")), *[("ok", number) for number in range(6)]])
    assert time.monotonic() - started < 30
    assert found.pop("case0") == str(tmp_path / "flag")
    assert set(found.values()) == {0, 1, 2, 3, 4, 5}


def test_case_that_kills_its_process_again_is_named_and_the_others_are_done():
    found = results([("ok", 0), ("kill", None), *[("ok", number) for number in range(2, 7)]])
    killed = found.pop("case1")
    assert isinstance(killed, Failure)
    assert killed.is_killed
    assert "case1: the memory does not suffice" in str(killed.problems[0])
    assert "ended by the system, also when it ran alone" in str(killed.problems[0])
    assert found == {f"case{number}": number for number in (0, 2, 3, 4, 5, 6)}


def test_mistake_in_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError, match="oops") as caught:
        results([("bug", None)])
    assert caught.value.__notes__ == ["while working on case case0"]


def test_cases_that_do_not_fit_together_wait(tmp_path):
    log = tmp_path / "log"
    log.touch()
    jobs = [Job(str(index), ("log", str(log)), 60) for index in range(4)]
    found = [result for _, result in run_in_processes(work, jobs, num_workers=2, limit_bytes=100)]
    assert found == [1, 1, 1, 1]
