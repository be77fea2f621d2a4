"""One step in a process of its own: what it took is given back, and a crash is an error like any other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from nnrules.errors import NnrulesError, Problem

from nnrules_runtime.workflow.memory_meter import MemoryMeter

__all__ = ["Ended", "Stopped", "in_child"]

How = Literal["done", "stopped", "failed", "killed"]
_PRELOADED = ("nnrules_runtime.workflow.actions",)
# Twenty trainings would say twenty times on which device; their logs do.
_SHOWN = frozenset(f"nnrules_runtime.{name}" for name in ("progress", "train.loop", "train.validation"))
_LOG_FORMAT = "%(levelname)s: %(message)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the process of a step ended.

    Attributes:
        how: ``done``; ``stopped`` at a point from which it continues; ``failed`` for a reason that a user can put
            right; ``killed`` from outside.
        value: what the function returned; why it stopped.
        problems: why it failed.
        seconds: that it took.
        peak_bytes: memory of all its processes together; ``None`` where it cannot be measured.
        is_interrupted: whether a signal asked for an end meanwhile.
    """

    how: How
    value: Any = None
    problems: tuple[Problem, ...] = ()
    seconds: float
    peak_bytes: int | None
    is_interrupted: bool = False


def in_child(
    function: Callable[..., Any], *arguments: Any, log: Path | None = None, title: str = "this step"
) -> Ended:
    """Call a function in a process of its own, and wait for its end.

    SIGTERM and SIGINT are passed on: a training ends at a checkpoint then. When this process is killed, the other
    one ends, too.

    Args:
        function: importable by its name. It may return ``Stopped``.
        arguments: picklable.
        log: a file to which what is logged is added.
        title: what is being done, for errors.

    Raises:
        Exception: whatever the function raises that is not an error of the user's.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_main, args=(sender, function, arguments, log, _level()), name=f"nnrules {title}"
    )
    started = time.monotonic()
    process.start()
    sender.close()
    assert process.pid is not None
    with _Forwarding(process.pid) as forwarding, MemoryMeter(process.pid) as meter:
        message = _answer(receiver, process.sentinel)
        process.join()
    how, value = message or ("killed", (_killed(title, process.exitcode),))
    if isinstance(value, BaseException):
        raise value
    is_problem = how in ("failed", "killed")
    return Ended(
        how=how,
        value=None if is_problem else value,
        problems=value if is_problem else (),
        seconds=time.monotonic() - started,
        peak_bytes=meter.peak_bytes,
        is_interrupted=forwarding.is_interrupted or how == "stopped",
    )


@dataclass(frozen=True, slots=True)
class Stopped:
    """Returned by a function that ended before its end, at a point from which it continues.

    Attributes:
        reason: why.
    """

    reason: str


def _answer(receiver: Connection, sentinel: int) -> tuple[How, Any] | None:
    """What the process says at its end; ``None`` if it ended without a word."""
    while True:
        ready = wait([receiver, sentinel])
        if receiver in ready:
            try:
                message: tuple[How, Any] = receiver.recv()
            except EOFError:
                return None
            return message
        if sentinel in ready and not receiver.poll():
            return None


def _context() -> ForkServerContext | SpawnContext:
    """Processes are forked from a server that has imported torch and done nothing else: they start at once."""
    if sys.platform == "win32" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


def _level() -> int:
    return logging.getLogger("nnrules_runtime").getEffectiveLevel()


def _main(
    sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], log: Path | None, level: int
) -> None:
    """What runs in the process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _set_up_logging(log, level)
    # As for Ctrl-C; a training puts its own handlers in place, and ends at a checkpoint.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        value = function(*arguments)
    except NnrulesError as exc:
        sender.send(("failed", exc.problems))
    except KeyboardInterrupt:
        sender.send(("stopped", "an interrupt"))
    except BaseException as exc:
        sender.send(("failed", exc))
    else:
        sender.send(("stopped", value.reason) if isinstance(value, Stopped) else ("done", value))
    sender.close()


def _set_up_logging(log: Path | None, level: int) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log is not None:
        handlers[0].addFilter(_is_shown)
        log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, encoding="utf-8")
        file.setFormatter(logging.Formatter(f"%(asctime)s {_LOG_FORMAT}"))
        handlers.append(file)
    logging.basicConfig(format=_LOG_FORMAT, handlers=handlers, level=logging.WARNING)
    logging.getLogger("nnrules_runtime").setLevel(level)


def _is_shown(record: logging.LogRecord) -> bool:
    """Whether the terminal shows what the log of the step holds: how it goes on, and what is wrong."""
    return record.levelno >= logging.WARNING or record.name in _SHOWN


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class _Forwarding:
    """Passes SIGTERM on to a process while it runs.

    Attributes:
        is_interrupted: whether SIGTERM or SIGINT came.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: dict[int, Any] = {}
        self.is_interrupted = False

    def __enter__(self) -> _Forwarding:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._pass_on)
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._wait)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self.is_interrupted = True
        os.kill(self._pid, number)

    def _wait(self, _number: int, _frame: FrameType | None) -> None:
        """The terminal has sent it to the step, too, which ends at a point from which it continues."""
        self.is_interrupted = True


def _killed(title: str, exitcode: int | None) -> Problem:
    name = f"exit code {exitcode}"
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
    return Problem(
        where=title,
        what="its process was ended by the system",
        got=name,
        fix="Mostly the memory did not suffice: `--dry-run` says how much is needed. Close other programs, use fewer "
        "--workers, or plan again with a smaller --gpu-memory-gb.",
    )
