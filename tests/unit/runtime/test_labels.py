"""What heads stand for."""

from typing import Any

import pytest
from nnrules.errors import Problem

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section


def read(
    labels: dict[str, Any], problems: list[Problem] | None = None, class_order: list[int] | None = None
) -> LabelSet:
    dataset = {
        "labels": dict(sorted(labels.items())),  # a plan sorts its keys
        "label_order": list(labels),
        "ignore_label": labels.get("ignore"),
        "regions_class_order": class_order,
    }
    found: list[Problem] = [] if problems is None else problems
    label_set = LabelSet.from_plan(Section({"dataset": dataset}, "", found))
    assert found == [] or problems is not None
    return label_set


def test_labels_are_sorted_by_value() -> None:
    labels = read({"tumour": 2, "ignore": 3, "background": 0, "kidney": 1})
    assert labels.heads == ((0,), (1,), (2,))
    assert labels.head_names == ("background", "kidney", "tumour")
    assert not labels.has_regions
    assert labels.regions_class_order is None
    assert labels.ignore_label == 3
    assert labels.foreground_labels == (1, 2)
    assert labels.num_heads == 3
    assert labels.foreground_heads == (1, 2)


def test_regions_keep_their_order() -> None:
    labels = read(
        {"background": 0, "whole": [2, 1, 3], "enhancing": 3, "core": [2, 3], "ignore": 4}, None, [1, 2, 3]
    )
    assert labels.heads == ((2, 1, 3), (3,), (2, 3))
    assert labels.head_names == ("whole", "enhancing", "core")
    assert labels.has_regions
    assert labels.regions_class_order == (1, 2, 3)
    assert labels.foreground_labels == (1, 2, 3)
    assert labels.foreground_heads == (0, 1, 2)


def test_lists_of_one_are_labels() -> None:
    labels = read({"background": [0], "b": [2], "a": [1]})
    assert not labels.has_regions
    assert labels.head_names == ("background", "a", "b")
    assert labels.foreground_heads == (1, 2)


@pytest.mark.parametrize("class_order", [None, [1]])
def test_regions_need_a_label_each(class_order: list[int] | None) -> None:
    problems: list[Problem] = []
    read({"background": 0, "whole": [1, 2], "core": 2}, problems, class_order)
    (problem,) = problems
    assert problem.where == "plan: dataset.regions_class_order"
    assert problem.expected == "2 labels, for whole, core"
