"""Files and folders that appear whole or not at all: a temporary name, sync, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnrules.errors import Problem, RunError

__all__ = ["atomic_file", "atomic_folder", "digest_of_file", "make_folder", "sync_folder"]

_CHUNK_BYTES = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open a folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _not_written(path: Path, exc: OSError) -> RunError:
    return RunError(
        Problem(
            where=str(path),
            what="this cannot be written",
            got=exc.strerror or str(exc),
            fix="Free space on the disk or choose another folder. What was there before is unchanged.",
        )
    )


def make_folder(folder: Path) -> Path:
    """Create a folder with its parents.

    Raises:
        RunError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise _not_written(folder, exc) from None
    return folder


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; what is written there replaces ``path`` when the block ends well.

    Raises:
        RunError: the disk is full or the folder not writable; nothing is left behind and ``path`` is unchanged.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
        os.close(handle)
    except OSError as exc:
        raise _not_written(path, exc) from None
    temporary = Path(name)
    try:
        yield temporary
        _sync_file(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise _not_written(path, exc) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``; it replaces ``folder`` when the block ends well.

    Between taking the old folder away and renaming the new one there is a moment without either: whoever reads
    must take a missing folder as "not done yet".

    Raises:
        RunError: as :func:`atomic_file`.
    """
    try:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:100]}.", suffix=".tmp"))
    except OSError as exc:
        raise _not_written(folder, exc) from None
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _sync_file(path)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if folder.exists():
            old = folder.with_name(f".{folder.name[:100]}.{os.getpid()}.old")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as exc:
        raise _not_written(folder, exc) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
