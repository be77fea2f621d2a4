"""A training ends between two iterations, and a folder belongs to one process."""

import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from nnrules.errors import RunError

from nnrules_runtime.train.lock import LOCK_FILE, locked
from nnrules_runtime.train.stopping import STOP_FILE, Stop


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_stops_a_training_by_itself(tmp_path: Path) -> None:
    assert Stop(tmp_path).reason() is None


def test_a_stop_file_stops_it_once(tmp_path: Path) -> None:
    clock = Clock()
    stop = Stop(tmp_path, clock=clock)
    assert stop.reason() is None
    (tmp_path / STOP_FILE).touch()
    assert stop.reason() is None  # looked a moment ago
    clock.now += 1.5
    reason = stop.reason()
    assert reason is not None
    assert STOP_FILE in reason
    assert stop.reason() == reason
    assert not (tmp_path / STOP_FILE).exists()  # so that the same command continues
    assert Stop(tmp_path).reason() is None


def test_a_stop_file_from_before_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / STOP_FILE).touch()
    with caplog.at_level(logging.INFO):
        assert Stop(tmp_path).reason() is None
    assert "left from before" in caplog.text


def test_a_time_limit_leaves_time_for_what_is_needed(tmp_path: Path) -> None:
    clock = Clock()
    stop = Stop(tmp_path, max_seconds=60, clock=clock)
    clock.now += 50
    assert stop.reason() is None
    assert stop.reason(seconds_needed=9) is None
    assert stop.reason(seconds_needed=10) == "the time limit"
    clock.now += 10
    assert stop.reason() == "the time limit"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_a_second_one_interrupts(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop(tmp_path) as stop:
        assert signal.getsignal(number) != before
        os.kill(os.getpid(), number)
        assert stop.reason() == f"signal {number.name}"
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_handlers_are_given_back_after_an_error(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Stop(tmp_path):
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_are_left_alone_outside_of_the_main_thread(tmp_path: Path) -> None:
    found: list[str | None] = []

    def work() -> None:
        with Stop(tmp_path) as stop:
            found.append(stop.reason())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


def test_a_folder_belongs_to_one_process_which_is_named(
    tmp_path: Path, held_elsewhere: Callable[[Path, str], AbstractContextManager[subprocess.Popen[str]]]
) -> None:
    with (
        held_elsewhere(tmp_path, LOCK_FILE) as holder,
        pytest.raises(RunError, match=rf"another process is training.*process {holder.pid} on"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
