"""What commands print: tables, and how much they log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

__all__ = ["aligned", "set_log_level"]


def set_log_level(*, as_json: bool) -> None:
    """Log what is done, for people; with ``--json`` only what is wrong."""
    logging.getLogger("nnrules_runtime").setLevel(logging.WARNING if as_json else logging.INFO)


def aligned(rows: Sequence[Sequence[str]], *, numbers: slice | None = None) -> str:
    """Rows as columns.

    Args:
        rows: cells; all rows have as many.
        numbers: the columns that are aligned to the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right: Sequence[int] = () if numbers is None else range(len(widths))[numbers]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
