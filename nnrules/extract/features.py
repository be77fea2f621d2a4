"""Tables of per-case features: ``nnrules fingerprint --features FILE.csv``.

The first column is ``case``; each other column becomes ``extra.columns.<name>``. A header ``fat [%]``
names the unit. Types follow from the values: all numbers, all ``true``/``false``, or text.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nnrules.errors import FingerprintError, Problem

__all__ = ["read_features"]

logger = logging.getLogger(__name__)

_HEADER = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:\[([^\]]*)\])?\s*")
# float() also takes "1_000" and "infinity"; a table means neither as a number.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,15}")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity|na|n/a|null|none)", re.IGNORECASE)
_BOOLEANS = {"true": True, "false": False}


def read_features(path: Path, case_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read a table of features.

    Args:
        path: CSV in UTF-8 with commas, a header, and one row a case in any order.
        case_ids: the cases of the dataset; the table must hold each once, and no other.

    Returns:
        Entries of ``extra.columns``: name to type, unit and values in the order of ``case_ids``.

    Raises:
        FingerprintError: with every problem of the table and its line.
    """
    rows = _rows(path)
    names = _header(path, rows[0])
    table: dict[str, tuple[int, list[str]]] = {}
    problems: list[Problem] = []
    known = frozenset(case_ids)
    for line, raw_cells in rows[1:]:
        cells = [cell.strip() for cell in raw_cells]
        if len(cells) != len(names) + 1:
            problems.append(
                Problem(
                    where=f"{path}:{line}",
                    what="wrong number of cells",
                    got=str(len(cells)),
                    expected=f"{len(names) + 1}, as in the header",
                )
            )
            continue
        problems += _row_problems(f"{path}:{line}", cells, names, known, table)
        table.setdefault(cells[0], (line, cells[1:]))
    problems += _absent(path, [case for case in case_ids if case not in table])
    if problems:
        raise FingerprintError(problems)
    ordered = [table[case] for case in case_ids]
    return {
        name: _column(path, name, unit, [(line, cells[position]) for line, cells in ordered])
        for position, (name, unit) in enumerate(names)
    }


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except FileNotFoundError:
        raise FingerprintError(Problem(where=str(path), what="no such file", fix="Check the path.")) from None
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise FingerprintError(
            Problem(
                where=str(path),
                what="cannot be read as a table",
                got=getattr(exc, "strerror", None) or str(exc),
                expected="CSV in UTF-8, separated by commas",
            )
        ) from None
    if not rows:
        raise FingerprintError(
            Problem(where=str(path), what="the table is empty", expected="a header and one row a case")
        )
    return rows


def _header(path: Path, row: tuple[int, list[str]]) -> list[tuple[str, str | None]]:
    """Name and unit of each column but the first."""
    line, cells = row
    where = f"{path}:{line}"
    problems = []
    if cells[0].strip() != "case":
        text = cells[0].strip()
        fix = "Separate the columns by commas." if re.match(r"case\s*[;\t]", text) else None
        problems.append(
            Problem(where=where, what="the first column is not the case", got=text, expected="case", fix=fix)
        )
    names: list[tuple[str, str | None]] = []
    for cell in cells[1:]:
        match = _HEADER.fullmatch(cell)
        if match is None:
            problems.append(
                Problem(
                    where=where,
                    what="not a name for a column",
                    got=repr(cell),
                    expected="letters, digits and underscores, then the unit in brackets: fat_fraction [1]",
                )
            )
            continue
        if match[1] in [name for name, _ in names]:
            problems.append(
                Problem(where=where, what="a column stands twice", got=match[1], fix="Rename one.")
            )
        names.append((match[1], match[2].strip() or None if match[2] is not None else None))
    if len(cells) == 1 and not problems:
        problems.append(Problem(where=where, what="no column besides the case", fix="Add a column."))
    if problems:
        raise FingerprintError(problems)
    return names


def _row_problems(
    where: str,
    cells: list[str],
    names: list[tuple[str, str | None]],
    case_ids: Collection[str],
    table: dict[str, tuple[int, list[str]]],
) -> list[Problem]:
    case = cells[0]
    problems = []
    if case in table:
        problems.append(
            Problem(where=where, what="a case stands twice", got=case, expected=f"only line {table[case][0]}")
        )
    elif case not in case_ids:
        problems.append(
            Problem(
                where=where,
                what="a case that is not in the dataset",
                got=repr(case),
                fix="Remove the row, or correct the name.",
            )
        )
    problems += [
        Problem(
            where=where,
            what=f"{name} is not known for {case}",
            got=repr(cell),
            expected="a finite number, true, false or text",
            fix="Fill in the value, or remove the column.",
        )
        for cell, (name, _) in zip(cells[1:], names, strict=True)
        if not cell or _NOT_FINITE.fullmatch(cell)
    ]
    return problems


def _absent(path: Path, cases: list[str]) -> list[Problem]:
    if not cases:
        return []
    shown = ", ".join(cases[:10]) + (", …" if len(cases) > 10 else "")
    return [
        Problem(
            where=str(path),
            what="cases of the dataset are not in the table",
            got=f"{len(cases)}: {shown}",
            fix="Add a row for each.",
        )
    ]


def _column(path: Path, name: str, unit: str | None, cells: list[tuple[int, str]]) -> dict[str, Any]:
    texts = [text for _, text in cells]
    if all(text.lower() in _BOOLEANS for text in texts):
        return {"type": "boolean", "unit": unit, "values": [_BOOLEANS[text.lower()] for text in texts]}
    no_numbers = [(line, text) for line, text in cells if not _NUMBER.fullmatch(text)]
    if no_numbers:
        if len(no_numbers) < len(cells):
            line, text = no_numbers[0]
            logger.warning("%s:%d: the column %s is taken as text because of %r", path, line, name, text)
        return {"type": "string", "unit": unit, "values": texts}
    values = [int(text) if _INTEGER.fullmatch(text) else float(text) for text in texts]
    too_large = [place for place, value in zip(cells, values, strict=True) if not math.isfinite(value)]
    if too_large:
        fix = "Correct the value, or remove the column."
        raise FingerprintError(
            [
                Problem(where=f"{path}:{line}", what=f"{name} is not finite", got=text, fix=fix)
                for line, text in too_large
            ]
        )
    return {"type": "number", "unit": unit, "values": values}
