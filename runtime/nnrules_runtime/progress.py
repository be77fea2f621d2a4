"""Progress that suits where it is read: a bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["track"]

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
_SECONDS_BETWEEN_LINES = 60.0


def track(items: Iterable[_T], *, total: int, title: str) -> Iterator[_T]:
    """Pass items on and show how far it is.

    Args:
        items: what is worked through; an item counts as done when the next one is asked for.
        total: how many items there will be.
        title: what is being done, such as ``"preprocessing 3d_fullres"``.
    """
    if sys.stderr.isatty():
        yield from _bar(items, total, title)
    else:
        yield from _lines(items, total, title)


def _bar(items: Iterable[_T], total: int, title: str) -> Iterator[_T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[_T], total: int, title: str) -> Iterator[_T]:
    started = said = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            remaining = (now - started) / number * (total - number)
            _LOGGER.info("%s: %d of %d, about %.0f s left", title, number, total, remaining)
        yield item
