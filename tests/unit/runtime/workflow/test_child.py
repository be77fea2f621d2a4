"""Functions in processes of their own: how they end is known."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from nnrules.errors import Problem, RunError

from nnrules_runtime.workflow.child import Stopped, in_child
from nnrules_runtime.workflow.memory_meter import tree_bytes


def add(a: int, b: int) -> int:
    return a + b


def refuse() -> None:
    raise RunError([Problem(where="here", what="wrong"), Problem(where="there", what="wrong, too")])


def stop() -> Stopped:
    return Stopped("a limit")


def break_down() -> None:
    raise ZeroDivisionError("no reason of a user")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def hold(megabytes: int) -> None:
    block = bytearray(megabytes << 20)
    block[::4096] = b"x" * len(block[::4096])
    time.sleep(1.0)


def say(text: str) -> None:
    import logging

    logging.getLogger("nnrules_runtime").warning(text)


def test_value() -> None:
    ended = in_child(add, 2, 3)
    assert (ended.how, ended.value, ended.problems, ended.is_interrupted) == ("done", 5, (), False)
    assert ended.seconds > 0


def test_errors_of_a_user_come_back_whole() -> None:
    ended = in_child(refuse)
    assert ended.how == "failed"
    assert [problem.where for problem in ended.problems] == ["here", "there"]


def test_stopped() -> None:
    ended = in_child(stop)
    assert (ended.how, ended.value, ended.is_interrupted) == ("stopped", "a limit", True)


def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="no reason"):
        in_child(break_down)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_is_noticed_within_seconds() -> None:
    started = time.monotonic()
    ended = in_child(die, title="train 2d fold 0")
    assert ended.how == "killed"
    assert "SIGKILL" in str(ended.problems[0])
    assert "train 2d fold 0" in str(ended.problems[0])
    assert (
        time.monotonic() - started < 20
    )  # with the start of the first process; the kill itself is seen at once


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(number: signal.Signals) -> None:
    in_child(add, 1, 1)  # from here processes start at once
    threading.Timer(1.0, lambda: os.kill(os.getpid(), number)).start()
    started = time.monotonic()
    if number is signal.SIGINT:  # a terminal sends it to both
        ended = in_child(sleep, 3.0)
        assert ended.is_interrupted
    else:
        ended = in_child(sleep, 60.0)
        assert ended.how == "stopped"
        assert time.monotonic() - started < 20


def test_log(tmp_path: Path) -> None:
    in_child(say, "a word", log=tmp_path / "logs" / "step.log")
    assert "WARNING: a word" in (tmp_path / "logs" / "step.log").read_text()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
def test_memory() -> None:
    small, large = in_child(hold, 1).peak_bytes, in_child(hold, 301).peak_bytes
    assert small is not None
    assert large is not None
    # The block itself; the rest of the two processes is alike to a few megabytes.
    assert large - small == pytest.approx(300 << 20, rel=0.1)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
def test_memory_of_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree_bytes(process.pid) is None
