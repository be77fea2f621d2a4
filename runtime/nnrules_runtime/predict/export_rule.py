"""From the outputs of a network to labels and probabilities, voxel by voxel.

Shapes: K outputs (labels, background first; or regions), then any axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

__all__ = ["OutputRule", "argmax_first"]

Array = NDArray[Any]


def argmax_first(values: Array) -> Array:
    """The index of the largest output; ties go to the smaller index.

    Args:
        values: (K, ...) floats.

    Returns:
        (...) uint8, or uint16 for more than 256 outputs.
    """
    dtype = np.dtype(np.uint8 if len(values) <= 256 else np.uint16)
    best = values[0].copy()
    index = np.zeros(best.shape, dtype)
    for number in range(1, len(values)):
        larger = values[number] > best
        # The numbers ascend, so that a maximum writes the newest.
        np.maximum(index, larger * dtype.type(number), out=index)
        np.maximum(best, values[number], out=best)
    return index


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRule:
    """How a plan turns outputs into labels and probabilities.

    Attributes:
        activation: ``softmax`` over the outputs, or ``sigmoid`` of each.
        regions: whether outputs are regions, which may overlap.
        values: the label to write for each output: of the label, or of the region in its order.
        threshold: the probability that a region must exceed.
        background: the output that stands for background; ``None`` with regions.
    """

    activation: Literal["softmax", "sigmoid"]
    regions: bool
    values: tuple[int, ...]
    threshold: float
    background: int | None

    @classmethod
    def from_plan(cls, export: Section, labels: LabelSet) -> OutputRule:
        """Read ``inference.export`` of a configuration."""
        regions = export.choice("label_rule", {"argmax": False, "regions_in_order": True})
        if regions != labels.has_regions:
            export.refuse(
                "label_rule",
                "the rule does not suit the labels of the dataset",
                got=repr(export.value("label_rule")),
                expected="'regions_in_order'" if labels.has_regions else "'argmax'",
            )
        values = tuple(head[0] for head in labels.heads)
        if labels.has_regions:
            if labels.regions_class_order is None or len(labels.regions_class_order) != labels.num_heads:
                export.refuse(
                    "label_rule",
                    "regions need dataset.regions_class_order with one label for each region",
                    got=repr(labels.regions_class_order),
                    expected=f"{labels.num_heads} labels",
                )
            values = labels.regions_class_order or values
        threshold = export.value("region_threshold")
        return cls(
            activation=export.require("activation", "softmax", "sigmoid"),
            regions=labels.has_regions,
            values=values,
            threshold=0.5 if threshold is None else float(threshold),
            background=None
            if labels.has_regions
            else labels.heads.index((0,))
            if (0,) in labels.heads
            else None,
        )

    def cut(self, *, activated: bool) -> float:
        """What the value of a region must exceed: the threshold itself, or its logit."""
        if activated or not 0 < self.threshold < 1:
            return self.threshold if activated else math.copysign(math.inf, self.threshold - 0.5)
        return math.log(self.threshold / (1 - self.threshold))

    def probabilities(self, logits: Array) -> Array:
        """Activate.

        Args:
            logits: (K, ...) float32 or float64.

        Returns:
            A new array of the same shape.
        """
        if self.activation == "softmax":
            result = np.exp(logits - logits.max(axis=0))
            result /= result.sum(axis=0)
            return np.asarray(result)
        # exp of a large negative logit's opposite overflows to infinity, and 1 / infinity is the 0 that is meant.
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-logits)))

    def labels(self, values: Array, *, activated: bool, dtype: Any = np.int16) -> Array:
        """Apply the rule.

        Args:
            values: (K, ...) logits or probabilities.
            activated: whether they are probabilities.
            dtype: of the labels.

        Returns:
            (...) labels. A region later in the order overwrites an earlier one.
        """
        if not self.regions:
            return np.asarray(self.values, dtype)[argmax_first(values)]
        result = np.zeros(values.shape[1:], dtype)
        cut = self.cut(activated=activated)
        for value, region in zip(self.values, values, strict=True):
            result[region > cut] = value
        return result
