"""Options that several commands share, read from their text."""

from __future__ import annotations

from typing import Literal, cast

from nnrules.errors import Problem, UsageError

__all__ = ["checkpoint_option", "folds_option"]


def folds_option(text: str | None) -> list[int | str] | None:
    """``--folds``: numbers, or ``all``; each once.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    if all(entry.isdecimal() or entry == "all" for entry in entries):
        return list(dict.fromkeys(int(entry) if entry.isdecimal() else entry for entry in entries))
    raise UsageError(
        Problem(
            where="--folds", what="these are no folds", got=text, expected="numbers such as 0,1,2, or all"
        )
    )


def checkpoint_option(name: str | None) -> Literal["final", "best"] | None:
    """``--checkpoint``.

    Raises:
        UsageError: it is neither ``final`` nor ``best``.
    """
    if name in (None, "final", "best"):
        return cast(Literal["final", "best"] | None, name)
    raise UsageError(
        Problem(where="--checkpoint", what="there is no such checkpoint", got=name, expected="final or best")
    )
