"""Tables of commands."""

import logging

import pytest

from nnrules_runtime.cli.output import aligned, set_log_level

ROWS = [("name", "count", "note"), ("a", "1", ""), ("longer", "12345", "x")]


@pytest.mark.parametrize(
    ("numbers", "lines"),
    [
        (None, ["name    count  note", "a       1", "longer  12345  x"]),
        (slice(1, -1), ["name    count  note", "a           1", "longer  12345  x"]),
        (slice(1, None), ["name    count  note", "a           1", "longer  12345     x"]),
    ],
)
def test_columns(numbers: slice | None, lines: list[str]) -> None:
    assert aligned(ROWS, numbers=numbers).splitlines() == lines


def test_machines_are_told_of_what_is_wrong_only() -> None:
    logger = logging.getLogger("nnrules_runtime")
    before = logger.level
    try:
        set_log_level(as_json=True)
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
        set_log_level(as_json=False)
        assert logger.isEnabledFor(logging.INFO)
    finally:
        logger.setLevel(before)
