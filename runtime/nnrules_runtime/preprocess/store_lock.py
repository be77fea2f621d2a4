"""One process at a time writes to a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnrules.errors import Problem, RunError

__all__ = ["locked"]


@contextmanager
def locked(folders: Sequence[Path]) -> Iterator[None]:
    """Keep other processes out of stores; the system gives the locks back however this process ends.

    Args:
        folders: existing folders.

    Raises:
        RunError: another process is at work in one of them.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        yield
        return
    streams = []
    try:
        for folder in sorted(folders):
            stream = (folder / ".lock").open("a")
            streams.append(stream)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    Problem(
                        where=str(folder),
                        what="another process is preprocessing into this folder",
                        fix="Wait for it, or use another work folder.",
                    )
                ) from None
        yield
    finally:
        for stream in streams:
            stream.close()
