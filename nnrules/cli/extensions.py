"""Commands that other packages add through the entry points ``nnrules.commands``: a name and a typer application."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points

import typer

__all__ = ["mount_extensions"]

GROUP = "nnrules.commands"


def mount_extensions(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the commands of other packages to ``app``, unless the command that is called is one of its own.

    Reading the entry points takes some milliseconds, which `nnrules plan` need not spend.

    Args:
        app: the application.
        arguments: what stands after ``nnrules``.
    """
    own = {command.name or _name_of(command.callback) for command in app.registered_commands}
    own |= {str(group.name) for group in app.registered_groups}
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    if called in own:
        return
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name not in own:
            app.add_typer(entry.load(), name=entry.name)


def _name_of(callback: object) -> str:
    return getattr(callback, "__name__", "").replace("_", "-")
