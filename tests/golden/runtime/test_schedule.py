"""The learning rates of nnunetv2 2.8.1's recorded training."""

import json
from pathlib import Path

import pytest

from nnrules_runtime.train.schedule import LearningRate

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "runtime" / "g_training" / "trace.json"


@pytest.mark.shared
@pytest.mark.skipif(
    not RECORDED.is_file(), reason="../shared/golden/runtime/g_training is not beside the checkout"
)
def test_rates_are_equal_to_the_bit() -> None:
    steps = json.loads(RECORDED.read_text())["steps"]
    rate = LearningRate(initial=0.01, exponent=0.9, epochs=4)
    assert len(steps) == 20
    assert [rate(step["epoch"]) for step in steps] == [step["lr"] for step in steps]
