"""Threads for work on parts of an array; NumPy releases the interpreter's lock while it works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["each", "thread_count"]

_T = TypeVar("_T")


def thread_count() -> int:
    """As many threads as torch uses; one where torch is not loaded, as in a light worker process."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else 1


def each(action: Callable[[_T], object], items: Iterable[_T], num_threads: int) -> None:
    """Call ``action`` on every item, in several threads where asked; the first error is raised."""
    if num_threads <= 1:
        for item in items:
            action(item)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(action, items):
            pass
