"""What verbs print: views, lines, JSON, a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["ProgressBar", "say", "say_json", "show"]


def show(view: RenderableType) -> None:
    """Print a view."""
    from nnrules.report.terminal import console

    console().print(view)


def say(text: str) -> None:
    """Print a line."""
    typer.echo(text)


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True))


class ProgressBar:
    """A progress bar on a terminal; silent elsewhere and with ``--json``."""

    def __init__(self, text: str, *, quiet: bool) -> None:
        self.text = text
        self.bar: Any = None
        self.quiet = quiet or not sys.stderr.isatty()

    def __enter__(self) -> Callable[[int, int], None] | None:
        if self.quiet:
            return None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        task = self.bar.add_task(self.text, total=None)

        def update(done: int, total: int) -> None:
            self.bar.update(task, completed=done, total=total)

        return update

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
