"""When a training ends before its last epoch: at a checkpoint from which the same command continues.

Three things end it: a file named ``STOP`` in the fold's folder, the signals SIGTERM and SIGINT, and a wall-clock
limit. All of them are looked at between two iterations, so that what is being computed is never torn apart; a second
signal interrupts at once.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

__all__ = ["STOP_FILE", "Stop"]

_LOGGER = logging.getLogger(__name__)
STOP_FILE = "STOP"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Asking a network disk for a file costs about a millisecond: once a second is often enough.
_SECONDS_BETWEEN_LOOKS = 1.0


class Stop:
    """Whether to stop, and why. A context manager: signals are caught inside it only.

    Args:
        folder: where the stop file may appear. One that lies there already is from before, and removed.
        max_seconds: wall-clock limit, counted from now; ``None``: none.
        clock: seconds that never go backwards.
    """

    def __init__(
        self, folder: Path, *, max_seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = folder / STOP_FILE
        self._clock = clock
        self._deadline = None if max_seconds is None else clock() + max_seconds
        self._reason: str | None = None
        self._looked = -float("inf")
        self._replaced: dict[signal.Signals, Any] = {}
        if self._file.exists():
            self._file.unlink()
            _LOGGER.info("removed %s, which was left from before", self._file)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python admits no handlers
            for number in _SIGNALS:
                self._replaced[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        while self._replaced:
            number, handler = self._replaced.popitem()
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._reason = f"signal {signal.Signals(number).name}"
        self._restore_handlers()

    def reason(self, *, seconds_needed: float = 0.0) -> str | None:
        """Why to stop now, in words; ``None``: go on.

        Args:
            seconds_needed: what the next step and writing the checkpoint take. Where less is left, the limit
                counts as reached.
        """
        if self._reason is not None:
            return self._reason
        now = self._clock()
        if self._deadline is not None and now + seconds_needed >= self._deadline:
            return "the time limit"
        if now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            if self._file.exists():
                # It is taken away, so that the same command continues.
                self._file.unlink(missing_ok=True)
                self._reason = f"the file {self._file}"
        return self._reason
