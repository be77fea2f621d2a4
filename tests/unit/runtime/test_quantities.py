"""Times, sizes and metrics as people read them."""

import math

import pytest

from nnrules_runtime.quantities import duration, metric, rough_duration, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (2.04, "2.0 s"),
        (89.9, "89.9 s"),
        (90, "1.5 min"),
        (5399, "90.0 min"),
        (5400, "1.5 h"),
        (7200, "2.0 h"),
        (360_000, "100.0 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "60 min"), (3600, "1.0 h"), (9000, "2.5 h")],
)
def test_rough_durations(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0.0 MB"), (12_500_000, "12.5 MB"), (99_900_000, "99.9 MB"), (1e8, "0.10 GB"), (1.25e9, "1.25 GB")],
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


def test_metrics() -> None:
    assert [metric(value) for value in (0.83123, 1, math.nan)] == ["0.8312", "1.0000", "undefined"]
