"""The memory that a process takes together with all that it has started."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

__all__ = ["MemoryMeter", "tree_bytes"]

_PROC = Path("/proc")
_SECONDS = 0.25


def tree_bytes(pid: int) -> int | None:
    """Memory of a process and its descendants; what they share counts once.

    Returns:
        Bytes; ``None`` where the system does not tell (it is not Linux) or the process is gone.
    """
    own = _proportional_bytes(pid)
    if own is None:
        return None
    return own + sum(tree_bytes(child) or 0 for child in _children(pid))


class MemoryMeter:
    """Looks at a process several times a second; a context manager.

    Args:
        pid: the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory meter", daemon=True)

    @property
    def peak_bytes(self) -> int | None:
        """The most that was seen; ``None`` where nothing was."""
        return self._peak

    def __enter__(self) -> MemoryMeter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            seen = tree_bytes(self._pid)
            if seen is None:
                return
            self._peak = max(self._peak or 0, seen)


def _proportional_bytes(pid: int) -> int | None:
    """PSS: pages that several processes share are divided among them."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in (_PROC / str(pid) / "task").iterdir():
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    except OSError:  # it has just ended
        pass
    return found
