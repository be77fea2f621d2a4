"""One process at a time works on a folder: a lock that names its holder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from nnrules.errors import Problem, RunError

__all__ = ["locked"]

# Files that this process has locked, and what it wrote into each. The system's lock belongs to the process: it lets
# a second thread in, and is lost as soon as any thread closes the file.
_HELD: dict[Path, str] = {}
_Refusal = Callable[[str], RunError]


@contextmanager
def locked(folder: Path, name: str, *, what: str, fix: str) -> Iterator[None]:
    """Hold a folder for this process and for the calling thread.

    The system releases the lock when the process ends, however it ends: a file left behind locks nobody out.

    Args:
        folder: an existing folder.
        name: the file in it that is locked.
        what: what another process is doing, for the error.
        fix: what to do then.

    Raises:
        RunError: it is held already, by another process or in this one; or the folder is not writable.
    """

    def refused(holder: str) -> RunError:
        return RunError(Problem(where=str(folder), what=what, got=_shown(holder), fix=fix))

    since = datetime.now(tz=UTC).isoformat(timespec="seconds")
    entry = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    with _held_in_process(folder / name, entry, refused), _held_in_system(folder / name, entry, refused):
        yield


@contextmanager
def _held_in_process(path: Path, entry: str, refused: _Refusal) -> Iterator[None]:
    key = path.resolve()
    holder = _HELD.setdefault(key, entry)  # atomic
    if holder is not entry:
        raise refused(holder)
    try:
        yield
    finally:
        del _HELD[key]


@contextmanager
def _held_in_system(path: Path, entry: str, refused: _Refusal) -> Iterator[None]:
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:  # Windows: without a lock that the system releases, a stale one would do more harm
        yield
        return
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
            raise refused(os.read(handle, 1000).decode(errors="replace")) from None
        with suppress(OSError):  # the lock holds without the name, which a full disk has no room for
            os.ftruncate(handle, 0)
            os.write(handle, entry.encode())
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _shown(holder: str) -> str:
    try:
        entry = json.loads(holder)
        return f"process {entry['pid']} on {entry['host']}, since {entry['since']}"
    except (ValueError, KeyError, TypeError):  # taken this very moment
        return "a process that has not said its name yet"
