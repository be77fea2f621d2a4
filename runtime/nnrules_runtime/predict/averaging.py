"""What is averaged in a prediction, logits or probabilities: over mirrored copies, over windows, over folds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnrules_runtime.values import Section

__all__ = ["Activation", "Averaging"]

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_IS_SOFTMAX = {"logits": False, "softmax": True}
Activation = Callable[[Tensor], Tensor]


def _softmax(values: Tensor) -> Tensor:
    return values.softmax(0)


def _sigmoid(values: Tensor) -> Tensor:
    return values.sigmoid()


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """What is averaged: over mirrored copies, over windows, over folds.

    Once a value is a probability it stays one, so that ``logits`` after ``softmax`` is refused.

    Attributes:
        activation: from logits ``(K, ...)`` to probabilities.
        copies: whether copies are activated before they are averaged.
        windows: whether windows are.
        folds: whether the prediction of each fold is.
        window_dtype: type in which the weighted windows are summed up.
        fold_dtype: type in which the folds are.
        refuses_infinity: whether a result that is not finite is an error.
    """

    activation: Activation
    copies: bool
    windows: bool
    folds: bool
    window_dtype: torch.dtype
    fold_dtype: torch.dtype
    refuses_infinity: bool

    @classmethod
    def from_plan(cls, configuration: Section, *, mirrors: bool) -> Averaging:
        """Read ``inference``.

        Args:
            configuration: of a plan.
            mirrors: whether there are mirrored copies.
        """
        inference = configuration.section("inference")
        accumulation, folds = inference.section("accumulation"), inference.section("folds")
        mirroring = inference.section("mirroring")
        mirroring.require("combinations", "all")
        # The nonlinearity is that of the heads: for regions "softmax" in the fields below means their sigmoid.
        chain = [
            (mirroring, "average", mirroring.choice("average", _IS_SOFTMAX) and mirrors),
            (accumulation, "values", accumulation.choice("values", _IS_SOFTMAX)),
            (folds, "average", folds.choice("average", _IS_SOFTMAX)),
        ]
        for (_, _, before), (section, key, after) in itertools.pairwise(chain):
            if before and not after:
                section.refuse(
                    key,
                    "probabilities that were averaged before cannot become logits again",
                    got="'logits'",
                    expected="'softmax'",
                )
        return cls(
            activation=inference.section("export").choice(
                "activation", {"softmax": _softmax, "sigmoid": _sigmoid}
            ),
            copies=chain[0][2],
            windows=chain[1][2],
            folds=chain[2][2],
            window_dtype=accumulation.choice("dtype", _DTYPES),
            fold_dtype=folds.choice("dtype", _DTYPES),
            refuses_infinity=accumulation.choice("infinity", {"refuse": True, "allow": False}),
        )

    @property
    def is_linear_after_windows(self) -> bool:
        """Whether the sum over windows and folds is one sum."""
        return self.windows == self.folds or self.copies
