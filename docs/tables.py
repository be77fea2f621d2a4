"""Keep the generated tables in docs/ up to date: ``python docs/tables.py [--check]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->``. With ``--check`` nothing is
written and the exit code is 1 when a page is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from nnrules.engine.inputs import BUDGET_INPUTS, CHANNEL_INPUTS, FINGERPRINT_INPUTS
from nnrules.functions import BUILTINS

DOCS = Path(__file__).resolve().parent
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def _rows(header: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", r"\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def builtins_table() -> str:
    """Every builtin with its text."""
    rows = ((f"`{entry.signature}`", entry.doc.replace("``", "`")) for entry in BUILTINS.values())
    return _rows("builtin | gives", rows)


def inputs_table() -> str:
    """Every name under which rules read the fingerprint and the budget."""
    inputs = [*FINGERPRINT_INPUTS.values(), *CHANNEL_INPUTS.values()]
    rows = [(f"`{entry.name}`", str(entry.type), entry.doc) for entry in inputs]
    rows += [(f"`{name}`", str(kind), doc) for name, (kind, doc) in BUDGET_INPUTS.items()]
    return _rows("name | type | is", rows)


TABLES: dict[str, Callable[[], str]] = {"builtins": builtins_table, "inputs": inputs_table}


def updated(text: str) -> str:
    """A page with its tables made anew."""
    return _TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main() -> int:
    """Update or check every page; returns the exit code."""
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := updated(text)) != text:
            stale.append(page.name)
            if "--check" not in sys.argv[1:]:
                page.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv[1:]:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run: python docs/tables.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
