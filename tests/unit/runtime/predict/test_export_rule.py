"""Outputs to labels and probabilities."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export_rule import OutputRule, argmax_first
from nnrules_runtime.values import Section

REGIONS = OutputRule(activation="sigmoid", regions=True, values=(3, 1, 2), threshold=0.5, background=None)
LABELS = OutputRule(activation="softmax", regions=False, values=(0, 1, 2), threshold=0.5, background=0)


@given(st.integers(1, 9), st.integers(0, 99))
def test_argmax_first_is_numpys(number: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (number, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(argmax_first(values), values.argmax(axis=0))


def test_later_regions_overwrite() -> None:
    logits = np.array([[1, 1, 1, -1], [-1, 1, 1, -1], [-1, -1, 0, 1]], np.float32)[:, None]
    np.testing.assert_array_equal(REGIONS.labels(logits, activated=False), [[3, 1, 1, 2]])


@pytest.mark.parametrize(
    ("threshold", "activated", "cut"), [(0.5, False, 0), (0.5, True, 0.5), (0.8, False, np.log(4))]
)
def test_the_cut(threshold: float, activated: bool, cut: float) -> None:
    rule = OutputRule(activation="sigmoid", regions=True, values=(1,), threshold=threshold, background=None)
    assert rule.cut(activated=activated) == pytest.approx(cut)


def test_thresholds_of_zero_and_one() -> None:
    logits = np.array([[-50.0, 0, 50]])
    for threshold, expected in ((0.0, [1, 1, 1]), (1.0, [0, 0, 0])):
        rule = OutputRule(
            activation="sigmoid", regions=True, values=(1,), threshold=threshold, background=None
        )
        np.testing.assert_array_equal(rule.labels(logits, activated=False), expected)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[200.0, -200], [-200, -100], [0, 0]], np.float32)
    np.testing.assert_allclose(LABELS.probabilities(logits), [[1, 0], [0, 0], [0, 1]], atol=1e-30)
    np.testing.assert_allclose(REGIONS.probabilities(logits), [[1, 0], [0, 0], [0.5, 0.5]], atol=1e-30)


def test_regions_without_an_order_are_refused() -> None:
    labels = LabelSet(
        heads=((1, 2), (2,)),
        head_names=("whole", "core"),
        has_regions=True,
        regions_class_order=None,
        ignore_label=None,
        foreground_labels=(1, 2),
    )
    export = {"activation": "sigmoid", "label_rule": "regions_in_order", "region_threshold": 0.5}
    problems: list[Any] = []
    OutputRule.from_plan(Section(export, "export", problems), labels)
    assert len(problems) == 1
    assert "regions_class_order" in str(problems[0])
