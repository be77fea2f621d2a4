"""How worker processes begin: with one thread each, and no life after their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext

__all__ = ["WORKER_MODULES", "start_server", "start_worker", "worker_context"]

WORKER_MODULES = ("nnrules_runtime.preprocess.worker", "SimpleITK", "blosc2")
"""What the server of preprocessing imports."""

_SINGLE_THREADED = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    ),
    "1",
)


def start_server(modules: Sequence[str]) -> None:
    """Begin to start the process that workers are forked from, and return at once.

    A server that has imported ``modules``, and nothing that the parent did to itself, gives workers in milliseconds
    without the deadlocks of forking a process that has threads. Where there are no such servers (Windows), or where
    one is running already, workers start all the same, but slower.
    """
    if sys.platform == "win32" or "forkserver" not in multiprocessing.get_all_start_methods():
        return
    from multiprocessing import forkserver  # noqa: PLC0415 - not on Windows

    # Children run the main module again; for the command line that is this import.
    main = ["nnrules.cli"] if "nnrules.cli" in sys.modules else []
    multiprocessing.get_context("forkserver").set_forkserver_preload([*modules, *main])
    with _environment():
        forkserver.ensure_running()


def worker_context() -> BaseContext:
    """How worker processes are started."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


@contextmanager
def _environment() -> Iterator[None]:
    """Numbers of threads, which libraries read when they are loaded, for processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in _SINGLE_THREADED}
    os.environ.update(_SINGLE_THREADED)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_worker() -> None:
    """First function of a worker: leave Ctrl-C to the parent, and end when the parent is killed."""
    os.environ.update(_SINGLE_THREADED)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
