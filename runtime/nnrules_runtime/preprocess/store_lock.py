"""One process at a time writes to a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nnrules_runtime.lock import locked as hold

__all__ = ["LOCK_FILE", "locked"]

LOCK_FILE = ".lock"


@contextmanager
def locked(folders: Sequence[Path]) -> Iterator[None]:
    """Hold stores for this process, while it preprocesses into them.

    Args:
        folders: existing folders.

    Raises:
        RunError: another process holds one of them, or one is not writable.
    """
    with ExitStack() as held:
        for folder in sorted(folders):
            held.enter_context(
                hold(
                    folder,
                    LOCK_FILE,
                    what="another process is preprocessing into this folder",
                    fix="Wait for it, or use another work folder.",
                )
            )
        yield
