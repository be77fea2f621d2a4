import numpy as np
import pytest
from nnrules.extract import sampled
from nnrules.extract.intensity import ValueSummary
from nnrules.extract.sampled import SampledPool


def reference(cases, num_draws):
    """nnU-Net v2's computation written down plainly: lists of draws, joined, numpy's statistics."""
    statistics = []
    drawn = []
    for channels in cases:
        generator = np.random.RandomState(1234)
        drawn.append(
            [generator.choice(values, num_draws, replace=True) if len(values) else [] for values in channels]
        )
    for channel in range(len(cases[0])):
        joined = np.concatenate([case[channel] for case in drawn])
        low, median, high = np.percentile(joined, np.array((0.5, 50.0, 99.5)))
        statistics.append(
            {
                "mean": float(np.mean(joined)),
                "std": float(np.std(joined)),
                "min": float(np.min(joined)),
                "median": float(median),
                "max": float(np.max(joined)),
                "percentile_00_5": float(low),
                "percentile_99_5": float(high),
            }
        )
    return statistics


def pooled(cases, **options):
    with SampledPool(num_cases=len(cases), num_channels=len(cases[0]), **options) as pool:
        for channels in cases:
            pool.add([ValueSummary(values=values, counts=None) for values in channels])
        return pool.statistics()


@pytest.mark.parametrize("with_empty", [False, True])
@pytest.mark.parametrize("limit", [2**30, 16])
def test_equals_the_plain_computation_to_the_bit(monkeypatch, with_empty, limit):
    monkeypatch.setattr(sampled, "_NUM_DRAWS", 40_007)
    rng = np.random.default_rng(3)
    cases = [
        [(rng.normal(300, 90, size) * scale).astype(np.float32) for scale in (1, 1000)]
        for size in (1, 50, 70_000)
    ]
    if with_empty:
        cases.insert(1, [np.zeros(0, np.float32)] * 2)
    expected = reference(cases, 40_007 // len(cases))
    assert pooled(cases, float_limit_bytes=limit) == expected


def test_an_empty_case_turns_the_sums_into_float64(monkeypatch):
    monkeypatch.setattr(sampled, "_NUM_DRAWS", 20_000)
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    full = pooled([[values]])
    assert float(np.float32(full[0]["mean"])) == full[0]["mean"]
    half = pooled([[values], [values[:0]]])
    assert float(np.float32(half[0]["mean"])) != half[0]["mean"]


def test_no_foreground_at_all(monkeypatch):
    monkeypatch.setattr(sampled, "_NUM_DRAWS", 100)
    nothing = np.zeros(0, np.float32)
    assert pooled([[nothing, nothing]]) == [None, None]
