"""The Dice of validation patches."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnrules.errors import Problem

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.pseudo_dice import MovingAverage, PseudoDice
from nnrules_runtime.values import Section

PROGRESS = {
    "metric": "pseudo_dice",
    "aggregation": "sum_over_batches",
    "undefined_classes": "left_out",
    "region_threshold": 0.5,
    "average_decay": 0.9,
}


def label_set(*, regions: bool = False, ignore: int | None = None) -> LabelSet:
    return LabelSet(
        heads=((1, 3), (3,)) if regions else ((0,), (1,), (2,), (3,)),
        head_names=("whole", "core") if regions else ("background", "a", "b", "c"),
        has_regions=regions,
        regions_class_order=(1, 3) if regions else None,
        ignore_label=ignore,
        foreground_labels=(1, 3) if regions else (1, 2, 3),
    )


def logits_of(predicted: torch.Tensor, num_heads: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(predicted, num_heads).movedim(-1, 1).float()


def test_counts_are_summed_over_batches() -> None:
    labels = label_set()
    pseudo = PseudoDice(labels, region_threshold=0.5)
    target = torch.tensor([[[0, 1, 1, 2]], [[2, 2, 0, 0]]], dtype=torch.int16)
    predicted = torch.tensor([[[1, 1, 0, 2]], [[2, 0, 0, 2]]])
    for sample in (0, 1):
        pseudo.update(logits_of(predicted[sample : sample + 1], 4), target[sample : sample + 1])
    assert pseudo.counts().tolist() == [[1, 1, 1], [2, 1, 1], [0, 0, 0]]
    result = pseudo.result()
    assert result.by_head == {"a": 2 / 4, "b": 4 / 6, "c": None}
    assert result.mean == pytest.approx((2 / 4 + 4 / 6) / 2)
    pseudo.reset()
    assert pseudo.result().mean is None


@given(seed=st.integers(0, 2**31), has_ignore=st.booleans(), regions=st.booleans())
def test_dice_is_counted_in_numpy(seed: int, has_ignore: bool, regions: bool) -> None:
    draw = np.random.default_rng(seed)
    labels = label_set(regions=regions, ignore=4 if has_ignore else None)
    target = draw.integers(0, 5 if has_ignore else 4, (2, 3, 4, 5)).astype(np.int16)
    logits = draw.normal(size=(2, labels.num_heads, 3, 4, 5)).astype(np.float32)
    pseudo = PseudoDice(labels, region_threshold=0.5)
    pseudo.update(torch.from_numpy(logits), torch.from_numpy(target))
    is_valid = target != 4
    for head, found in zip(labels.foreground_heads, pseudo.counts().tolist(), strict=True):
        truth = np.isin(target, labels.heads[head]) & is_valid
        says = ((logits[:, head] > 0) if regions else (logits.argmax(1) == head)) & is_valid
        assert found == [(truth & says).sum(), (~truth & says).sum(), (truth & ~says).sum()]


def test_counts_of_all_batches_fit() -> None:
    """More voxels than float32 can count."""
    pseudo = PseudoDice(label_set(), region_threshold=0.5)
    target = torch.ones((1, 1, 1, 1), dtype=torch.int16).expand(1, 1, 2**12, 2**12)
    predicted = logits_of(torch.ones((1, 1, 1, 1), dtype=torch.int64), 4).expand(1, 4, 1, 2**12, 2**12)
    pseudo.update(predicted, target)
    pseudo.update(predicted, target)
    assert pseudo.counts()[0].tolist() == [2**25, 0, 0]


def test_from_plan() -> None:
    problems: list[Problem] = []
    progress: dict[str, Any] = PROGRESS | {"metric": "loss", "aggregation": "mean"}
    PseudoDice.from_plan(Section({"progress": progress}, "training", problems), label_set())
    assert [problem.where for problem in problems] == [
        "plan: training.progress.metric",
        "plan: training.progress.aggregation",
    ]
    assert MovingAverage.from_plan(Section({"progress": PROGRESS}, "training", [])) == MovingAverage(0.9)


def test_moving_average() -> None:
    average = MovingAverage(0.9)
    assert average(None, None) is None
    assert average(None, 0.5) == 0.5
    assert average(0.5, 1.0) == pytest.approx(0.9 * 0.5 + 0.1)
    assert average(0.5, None) == 0.5
