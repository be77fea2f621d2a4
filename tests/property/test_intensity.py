"""Laws of the exact intensity statistics: they are numpy's on the pooled values, however the values come."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nnrules.extract import intensity
from nnrules.extract.intensity import IntensityPool, summarise
from nnrules.extract.order_statistics import order_statistics

_DTYPES = st.sampled_from(
    [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64, np.bool_]
)


def _values(dtype: np.dtype) -> st.SearchStrategy[np.ndarray]:
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        wild = st.floats(-1e6, 1e6, width=32)
        elements = st.one_of(wild, st.integers(-1000, 3000).map(float), st.sampled_from([0.0, -0.0, 0.5]))
    elif dtype.kind == "b":
        elements = st.booleans()
    else:
        info = np.iinfo(dtype)
        elements = st.integers(max(info.min, -(2**40)), min(info.max, 2**40))
    return hnp.arrays(dtype, st.integers(0, 30), elements=elements)


CASES = st.lists(_DTYPES.flatmap(_values), min_size=1, max_size=6)


def pooled(cases, limit=2**30):
    with IntensityPool(float_limit_bytes=limit) as pool:
        for values in cases:
            pool.add(summarise(values))
        return pool.statistics()


@given(cases=CASES, limit=st.sampled_from([1, 100, 2**30]))
def test_equals_numpy_on_the_pooled_values(cases, limit):
    found = pooled(cases, limit)
    values = np.concatenate([case.astype(np.float64) for case in cases])
    if not len(values):
        assert found is None
        return
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    assert (found["percentile_00_5"], found["median"], found["percentile_99_5"]) == (low, median, high)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    # Sums in another order: a few units in the last place of the largest summand.
    scale = np.abs(values).max()
    assert math.isclose(found["mean"], values.mean(), rel_tol=1e-13, abs_tol=1e-14 * scale)
    assert math.isclose(found["std"], values.std(), rel_tol=1e-12, abs_tol=1e-14 * scale)


@given(cases=CASES)
def test_spilling_changes_nothing(cases):
    assert pooled(cases, 1) == pooled(cases)


@given(values=_DTYPES.flatmap(_values), data=st.data())
def test_percentiles_do_not_depend_on_the_split_into_cases(values, data):
    cut = data.draw(st.integers(0, len(values)))
    whole, parts = pooled([values]), pooled([values[:cut], values[cut:]])
    for name in ("min", "median", "max", "percentile_00_5", "percentile_99_5"):
        assert (whole or {}).get(name) == (parts or {}).get(name)


@given(
    values=hnp.arrays(
        np.float64, st.integers(1, 200), elements=st.floats(-1e300, 1e300).map(lambda x: x + 0.0)
    ),
    gathered=st.sampled_from([1, 3, 2**22]),
    data=st.data(),
)
def test_order_statistics_are_those_of_sorting(values, gathered, data):
    ranks = data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=6))
    blocks = [(values[:50], None), (values[50:], None)]
    found = order_statistics(lambda: blocks, ranks, gathered_values=gathered)
    assert found == {rank: np.sort(values)[rank] for rank in ranks}


@given(
    values=hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(-50, 50), unique=True),
    data=st.data(),
    gathered=st.sampled_from([1, 2**22]),
)
def test_counted_values_are_repeated_values(values, data, gathered):
    counts = np.array([data.draw(st.integers(1, 9)) for _ in values])
    repeated = np.sort(np.repeat(values, counts))
    ranks = data.draw(st.sets(st.integers(0, len(repeated) - 1), min_size=1))
    blocks = [(values.astype(np.float64), counts)]
    found = order_statistics(lambda: blocks, ranks, gathered_values=gathered)
    assert found == {rank: repeated[rank] for rank in ranks}


@settings(max_examples=25)
@given(cases=st.lists(hnp.arrays(np.int16, st.integers(0, 50)), min_size=2, max_size=12))
def test_merging_often_changes_nothing(cases):
    expected = pooled(cases)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intensity, "_MAX_PENDING", 3)
        patch.setattr(intensity, "_BLOCK_VALUES", 7)
        assert pooled(cases) == expected


def test_large_values_go_to_disk_and_the_file_is_gone_afterwards(tmp_path):
    values = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    with IntensityPool(float_limit_bytes=2**20, spill_directory=tmp_path) as pool:
        for part in np.array_split(values, 2):
            pool.add(summarise(part))
        assert pool.has_spilled
        found = pool.statistics()
    assert found["median"] == np.percentile(values.astype(np.float64), 50)
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_negative_zero_in_a_fingerprint():
    found = pooled([np.array([-0.0, -0.0, 0.5], np.float32)])
    assert [repr(found[name]) for name in ("min", "median", "percentile_00_5")] == ["0.0"] * 3


def test_whole_floats_are_counted_and_others_are_not():
    whole = summarise(np.array([3.0, -1000.0, 3.0], np.float32))
    assert whole.values.tolist() == [-1000, 3]
    assert whole.counts.tolist() == [1, 2]
    late = np.zeros(2_000_000, np.float32)
    late[-1] = 0.5
    assert summarise(late).counts is None
    assert summarise(np.array([0.0, 2.0**30])).counts is None, "far apart: counting would cost more"
