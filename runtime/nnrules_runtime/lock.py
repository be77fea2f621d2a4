"""One process at a time works on a folder: a lock that names its holder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from nnrules.errors import Problem, RunError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, name: str, *, what: str, fix: str) -> Iterator[None]:
    """Hold a folder for this process.

    The system releases the lock when the process ends, however it ends: a file left behind locks nobody out.

    Args:
        folder: an existing folder.
        name: the file in it that is locked.
        what: what another process is doing, for the error.
        fix: what to do then.

    Raises:
        RunError: another process holds it, or the folder is not writable.
    """
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:  # Windows: without a lock that the system releases, a stale one would do more harm
        yield
        return
    path = folder / name
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as exc:
        raise RunError(
            Problem(where=str(path), what="this cannot be written", got=exc.strerror or str(exc))
        ) from None
    try:
        try:
            # A lock of the process: not inherited by workers, who may outlive it for a moment.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(os.read(handle, 1000).decode(errors="replace"))
            raise RunError(Problem(where=str(folder), what=what, got=holder, fix=fix)) from None
        since = datetime.now(tz=UTC).isoformat(timespec="seconds")
        entry = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        with suppress(OSError):  # the lock holds without the name, which a full disk has no room for
            os.ftruncate(handle, 0)
            os.write(handle, entry.encode())
        yield
        with suppress(OSError):
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _holder(text: str) -> str:
    try:
        entry = json.loads(text)
        return f"process {entry['pid']} on {entry['host']}, since {entry['since']}"
    except (ValueError, KeyError, TypeError):  # taken this very moment
        return "a process that has not said its name yet"
