"""The lock of a folder: who holds it is named, and nobody is locked out by what is left behind."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from nnrules.errors import RunError

from nnrules_runtime.lock import locked

Hold = Callable[[Path, str], AbstractContextManager["subprocess.Popen[str]"]]
NAME = "some.lock"


def take(folder: Path) -> AbstractContextManager[None]:
    return locked(folder, NAME, what="somebody works here", fix="Wait.")


def test_another_process_is_named_and_may_end_in_any_way(tmp_path: Path, held_elsewhere: Hold) -> None:
    with held_elsewhere(tmp_path, NAME) as process, pytest.raises(RunError) as caught, take(tmp_path):
        pass
    (problem,) = caught.value.problems
    assert (problem.where, problem.what, problem.fix) == (str(tmp_path), "somebody works here", "Wait.")
    assert problem.got is not None
    assert problem.got.startswith(f"process {process.pid} on {socket.gethostname()}, since 2")
    assert process.returncode == -9
    with take(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_a_second_thread_is_kept_out_and_takes_nothing_away(tmp_path: Path, held_elsewhere: Hold) -> None:
    """The system's lock alone would let it in, and be lost when it leaves."""
    said: list[str] = []

    def try_it() -> None:
        try:
            with take(tmp_path / "." / "link"):
                said.append("taken")
        except RunError as exc:
            said.append(str(exc))

    (tmp_path / "link").symlink_to(tmp_path)
    with take(tmp_path):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        with pytest.raises(AssertionError), held_elsewhere(tmp_path, NAME):
            pass
    (text,) = said
    assert f"process {os.getpid()} on" in text
    try_it()
    assert said[1:] == ["taken"]


def test_nothing_is_left_of_a_holder_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), take(tmp_path):
        raise ZeroDivisionError
    assert (tmp_path / NAME).read_bytes() == b""
    with take(tmp_path):
        pass


def test_a_file_that_says_nothing_of_its_holder(tmp_path: Path, held_elsewhere: Hold) -> None:
    with held_elsewhere(tmp_path, NAME):
        (tmp_path / NAME).write_text("{")
        with pytest.raises(RunError, match="a process that has not said its name yet"), take(tmp_path):
            pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(RunError, match="this cannot be written"), take(tmp_path):
        pass
