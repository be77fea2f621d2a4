"""What a cache of cases will hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnrules_runtime.train.case_cache import case_bytes, expected_bytes


@pytest.mark.parametrize(("num_cases", "num_draws"), [(1, 1), (5, 3), (20, 40), (200, 1000)])
def test_expected_bytes_are_those_of_draws(num_cases: int, num_draws: int) -> None:
    rng = np.random.default_rng(1)
    seen = [len(set(rng.integers(num_cases, size=num_draws).tolist())) for _ in range(2000)]
    # The standard error of 2000 repetitions is below 0.1 cases.
    assert expected_bytes(num_cases, 10, num_draws, 10**9) / 10 == pytest.approx(np.mean(seen), abs=0.4)


@given(st.floats(0, 500), st.floats(1, 1e9), st.floats(0, 1e6), st.integers(0, 2**31))
def test_never_more_than_the_limit_or_all_cases(
    num_cases: float, mean: float, num_draws: float, limit: int
) -> None:
    assert 0 <= expected_bytes(num_cases, mean, num_draws, limit) <= min(limit, num_cases * mean * (1 + 1e-9))


def test_bytes_of_a_case() -> None:
    assert case_bytes(1000, 2) == 1000 * (2 * np.dtype(np.float32).itemsize + np.dtype(np.int16).itemsize)
