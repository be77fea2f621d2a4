"""What a plan says about scoring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnrules_runtime.evaluate.metrics import METRICS
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

__all__ = ["EvaluatedClass", "Evaluation", "labels_or_regions", "single_labels"]


@dataclass(frozen=True, slots=True)
class EvaluatedClass:
    """A class or region that is scored.

    Attributes:
        name: as in dataset.json; the value, for a label that has no name of its own there.
        labels: the label values that it is made of.
    """

    name: str
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """``evaluation`` of a plan; picklable.

    Attributes:
        classes: what is scored.
        predicted_labels: label values that a prediction may hold.
        ignore_label: the value in references of voxels without annotation, or ``None``.
        leaves_out_ignored: whether such voxels are left out; else they count as any other label that is no class.
        metrics: names of the metrics of a case and class.
        both_empty: Dice and IoU where neither reference nor prediction has the class; NaN: undefined.
        one_empty: Dice and IoU where one of them has it.
        mean_is_plain: whether a class that is undefined makes the mean over classes undefined; else it is left out.
    """

    classes: tuple[EvaluatedClass, ...]
    predicted_labels: tuple[int, ...]
    ignore_label: int | None
    leaves_out_ignored: bool
    metrics: tuple[str, ...]
    both_empty: float
    one_empty: float
    mean_is_plain: bool

    @classmethod
    def from_plan(cls, root: Section) -> Evaluation:
        """Read ``evaluation`` and the labels of a plan."""
        labels = LabelSet.from_plan(root)
        section = root.section("evaluation")
        conventions = section.section("conventions")
        conventions.require("mean_over_cases", "without_undefined")
        conventions.require("space", "original_image")
        metrics = list(section.value("metrics") or ())
        for name in metrics:
            if name not in METRICS:
                section.refuse(
                    "metrics", "the runtime does not know this metric", got=name, expected=", ".join(METRICS)
                )
        return cls(
            classes=conventions.choice(
                "evaluated",
                {
                    "foreground_labels_or_regions": labels_or_regions(labels),
                    "foreground_labels": single_labels(labels),
                },
            ),
            predicted_labels=(0, *labels.foreground_labels),
            ignore_label=labels.ignore_label,
            leaves_out_ignored=conventions.choice("ignored_voxels", {"left_out": True, "counted": False}),
            metrics=tuple(name for name in metrics if name in METRICS),
            both_empty=conventions.choice("both_empty", {"not_a_number": math.nan, 1: 1.0, 0: 0.0}),
            one_empty=float(conventions.value("one_empty") or 0),
            mean_is_plain=conventions.choice(
                "mean_over_classes", {"plain": True, "without_undefined": False}
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """What a reader of the scores must know of the conventions."""
        return {
            "both_empty": None if math.isnan(self.both_empty) else self.both_empty,
            "one_empty": self.one_empty,
            "ignored_voxels": "left_out" if self.leaves_out_ignored else "counted",
            "mean_over_cases": "without_undefined",
            "mean_over_classes": "plain" if self.mean_is_plain else "without_undefined",
        }


def labels_or_regions(labels: LabelSet) -> tuple[EvaluatedClass, ...]:
    """Regions where the dataset has any, else its foreground labels."""
    return tuple(
        EvaluatedClass(labels.head_names[head], labels.heads[head]) for head in labels.foreground_heads
    )


def single_labels(labels: LabelSet) -> tuple[EvaluatedClass, ...]:
    """The foreground labels, also where the dataset has regions."""
    names = {
        entry[0]: name for entry, name in zip(labels.heads, labels.head_names, strict=True) if len(entry) == 1
    }
    return tuple(EvaluatedClass(names.get(value, str(value)), (value,)) for value in labels.foreground_labels)
