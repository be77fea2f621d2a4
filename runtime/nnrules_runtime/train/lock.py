"""One process a training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from nnrules_runtime.lock import locked as hold

__all__ = ["LOCK_FILE", "locked"]

LOCK_FILE = "training.lock"


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder of a fold for this process, while it trains, validates or predicts for a next stage.

    Args:
        folder: an existing folder.

    Raises:
        RunError: another process holds it, or the folder is not writable.
    """
    return hold(
        folder,
        LOCK_FILE,
        what="another process is training here",
        fix="Wait for it, end it by a file named STOP in the folder, or choose another fold or --work.",
    )
