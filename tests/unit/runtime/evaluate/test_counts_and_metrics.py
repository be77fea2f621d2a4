"""Counting voxels, and metrics from counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnrules_runtime.evaluate import counts as counts_module
from nnrules_runtime.evaluate.counts import LabelMatrix, unknown_labels
from nnrules_runtime.evaluate.metrics import METRICS, Counts, Empty

UNDEFINED = Empty(both=math.nan, one=0.0)


@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int64]),
    leave_out=st.booleans(),
    chunk=st.sampled_from([1, 7, 1 << 20]),
)
def test_counts_are_those_of_masks(seed: int, dtype: type, leave_out: bool, chunk: int) -> None:
    draw = np.random.default_rng(seed)
    known = (0, 2, 3, 7, 9)
    reference = draw.choice(known, (3, 4, 5)).astype(dtype)
    prediction = draw.choice(known[:-1], (3, 4, 5)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts_module, "_CHUNK_VOXELS", chunk)
        matrix = LabelMatrix(reference, prediction, known[:-1], ignore=9, leaves_out=leave_out)
    assert not matrix.has_unknown
    is_in = reference != 9 if leave_out else np.ones_like(reference, bool)
    for labels in ((2,), (3, 7), (2, 3, 7)):
        truth, says = np.isin(reference, labels), np.isin(prediction, labels)
        assert matrix.counts(labels) == (
            (truth & says & is_in).sum(),
            (~truth & says & is_in).sum(),
            (truth & ~says & is_in).sum(),
            (~truth & ~says & is_in).sum(),
        )


def test_unknown_labels() -> None:
    labels = np.array([[[0, 1, 1], [5, -3, 200]]], np.int16)
    assert unknown_labels(labels, (0, 1, 5)) == [-3, 200]
    assert unknown_labels(labels, (0, 1)) == [-3, 5, 200]
    assert unknown_labels(labels, (-3 + 3, 1, 5, 200)) == [-3]
    assert unknown_labels(np.zeros((0, 3, 3), np.uint8), (0, 1)) == []
    assert unknown_labels(np.arange(100, dtype=np.uint8), (0, 1)) == list(range(2, 12))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(value, dtype) for dtype in (np.int16, np.int64) for value in (-1, 1, 3, 4, 255, 300, 30000)]
    + [(value, np.uint8) for value in (1, 3, 4, 255)],
)
@pytest.mark.parametrize("in_reference", [False, True])
def test_unknown_labels_are_noticed(value: int, dtype: type, in_reference: bool) -> None:
    """4 is the ignore label, which no prediction may have."""
    clean, other = np.zeros((2, 3, 4, 5), dtype)
    other[1, 2, 3] = value
    pair = (other, clean) if in_reference else (clean, other)
    matrix = LabelMatrix(*pair, (0, 2), ignore=4, leaves_out=True)
    assert matrix.has_unknown == (not in_reference or value != 4)


def test_many_labels() -> None:
    labels = tuple(range(400))
    reference = np.arange(400, dtype=np.uint16).reshape(4, 10, 10)
    matrix = LabelMatrix(reference, reference.copy(), labels)
    assert {matrix.counts((label,)) for label in labels} == {(1, 0, 0, 399)}


def test_metrics_are_their_formulas() -> None:
    counts = Counts(tp=6, fp=2, fn=4, tn=88)
    found = {name: metric(counts, UNDEFINED) for name, metric in METRICS.items()}
    assert found == {
        "dice": 12 / 18,
        "iou": 6 / 12,
        "precision": 6 / 8,
        "recall": 6 / 10,
        "accuracy": 94 / 100,
        "tp": 6,
        "fp": 2,
        "fn": 4,
        "tn": 88,
        "num_predicted": 8,
        "num_reference": 10,
    }


@pytest.mark.parametrize("name", ["dice", "iou"])
def test_overlap_of_empty_classes_is_the_plans(name: str) -> None:
    metric = METRICS[name]
    neither, predicted_only, missed = Counts(0, 0, 0, 9), Counts(0, 3, 0, 6), Counts(0, 0, 3, 6)
    assert math.isnan(metric(neither, UNDEFINED))
    assert metric(neither, Empty(both=1.0, one=0.25)) == 1
    for counts in (predicted_only, missed):
        assert metric(counts, UNDEFINED) == 0
        assert metric(counts, Empty(both=1.0, one=0.25)) == 0.25
    # Both are there but nowhere together: that is no convention.
    assert metric(Counts(0, 1, 1, 7), Empty(both=1.0, one=0.25)) == 0


def test_ratios_without_denominator_are_undefined() -> None:
    assert math.isnan(METRICS["precision"](Counts(0, 0, 3, 6), UNDEFINED))
    assert math.isnan(METRICS["recall"](Counts(0, 3, 0, 6), UNDEFINED))
    assert math.isnan(METRICS["accuracy"](Counts(0, 0, 0, 0), UNDEFINED))


@given(st.tuples(*[st.integers(0, 1000)] * 4))
def test_dice_and_iou_agree(numbers: tuple[int, int, int, int]) -> None:
    counts = Counts(*numbers)
    dice, iou = METRICS["dice"](counts, UNDEFINED), METRICS["iou"](counts, UNDEFINED)
    if not math.isnan(dice):
        assert iou == pytest.approx(dice / (2 - dice))
        assert 0 <= iou <= dice <= 1
