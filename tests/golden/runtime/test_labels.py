"""Labels and regions as nnunetv2 2.8.1's LabelManager reads them, and the targets that it makes of regions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.loss_targets import TargetMaker
from nnrules_runtime.values import Section

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "runtime" / "j_labels"
REASON = "the recorded labels are not beside the checkout (../shared/golden/runtime/j_labels)"


def cases() -> dict[str, Any]:
    if not RECORDED.is_dir():
        return {}
    recorded: dict[str, Any] = json.loads((RECORDED / "labels.json").read_text())["cases"]
    return recorded


CASES = cases()
NAMES = list(CASES) or [pytest.param(None, marks=pytest.mark.skip(reason=REASON))]
WITH_TARGET = [name for name, case in CASES.items() if case["has_regions"]]
pytestmark = pytest.mark.shared


def label_set(case: dict[str, Any]) -> LabelSet:
    dataset = {
        "labels": case["labels"],
        "label_order": list(case["labels"]),
        "ignore_label": case["labels"].get("ignore"),
        "regions_class_order": case["regions_class_order"],
    }
    problems: list[Any] = []
    found = LabelSet.from_plan(Section({"dataset": dataset}, "", problems))
    assert problems == []
    return found


@pytest.mark.parametrize("name", NAMES)
def test_label_set(name: str) -> None:
    case = CASES[name]
    labels = label_set(case)
    assert labels.num_heads == case["num_segmentation_heads"]
    assert labels.has_regions == case["has_regions"]
    assert labels.ignore_label == case["ignore_label"]
    assert list(labels.foreground_labels) == case["foreground_labels"]
    heads = [list(entry) if len(entry) > 1 else entry[0] for entry in labels.heads]
    if case["has_regions"]:
        regions = [
            entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
            for entry in case["all_regions"]
        ]
        assert heads == regions
        assert list(labels.regions_class_order or ()) == case["regions_class_order"]
    else:
        assert heads == case["all_labels"]


@pytest.mark.parametrize("name", WITH_TARGET or NAMES)
def test_region_targets(name: str) -> None:
    labels = label_set(CASES[name])
    with np.load(RECORDED / "labels.npz") as file:
        label_map = torch.from_numpy(file[f"{name}__labelmap"])
        expected = torch.from_numpy(file[f"{name}__region_target"])
    target = TargetMaker(labels, by_head=True)(label_map, label_map.shape[1:])
    assert target.members is not None
    found = target.members[:, target.labels[0]].view(labels.num_heads, *label_map.shape[1:])
    if labels.ignore_label is None:
        assert target.valid is None
        assert torch.equal(found, expected)
    else:
        assert target.valid is not None
        valid = target.valid.view(label_map.shape[1:])
        assert torch.equal(valid, ~expected[-1])
        assert torch.equal(found & valid, expected[:-1] & valid)
        assert bool((~valid).any())
