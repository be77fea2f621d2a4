"""What a plan says about choosing: which configurations compete, by which score, and who wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from nnrules.errors import Problem, RunError

from nnrules_runtime.values import Section

__all__ = ["ChoiceRules"]

_T = TypeVar("_T")
Members = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRules:
    """``empirical`` of a plan.

    Attributes:
        order: configurations that compete, in the order in which they are tried.
        skips_not_planned: whether one that the plan does not have is left out; else it is an error.
        skips_not_trained: whether one without results is left out; else it is an error.
        with_pairs: whether pairs compete.
        dtype: in which saved probabilities are averaged.
        score: ``class_means_first``: mean over cases of each class, then over classes; ``all_pairs``: mean over all
            defined pairs of case and class.
        is_postprocessed: whether candidates are compared after postprocessing.
        last_wins: which of several with the same score.
        singles_first: whether single configurations stand before pairs in the order of candidates.
    """

    order: tuple[str, ...]
    skips_not_planned: bool
    skips_not_trained: bool
    with_pairs: bool
    dtype: np.dtype[Any]
    score: Literal["class_means_first", "all_pairs"]
    is_postprocessed: bool
    last_wins: bool
    singles_first: bool

    @classmethod
    def from_plan(cls, root: Section) -> ChoiceRules:
        """Read ``empirical``."""
        section = root.section("empirical")
        candidates, ensembles = section.section("candidates"), section.section("ensembles")
        score, choice = section.section("score"), section.section("choice")
        ensembles.require("members", "all_pairs")
        ensembles.require("average", "probabilities")
        score.require("metric", "dice")
        score.require("cases", "all_folds_pooled")
        choice.require("best", "highest_score")
        return cls(
            order=tuple(candidates.value("order") or ()),
            skips_not_planned=candidates.choice("not_planned", {"skip": True, "refuse": False}),
            skips_not_trained=candidates.choice("not_trained", {"skip": True, "refuse": False}),
            with_pairs=ensembles.choice("size", {1: False, 2: True}),
            dtype=np.dtype(ensembles.require("dtype", "float32", "float16")),
            score=score.require("average", "class_means_first", "all_pairs"),
            is_postprocessed=bool(score.require("postprocessed", False, True)),
            last_wins=choice.choice("tie", {"first": False, "last": True}),
            singles_first=bool(choice.require("singles_before_ensembles", True, False)),
        )

    def pairs(self, configurations: Sequence[str]) -> list[Members]:
        """Pairs that compete, in candidate order."""
        return list(combinations(configurations, 2)) if self.with_pairs else []

    def in_order(self, singles: Sequence[_T], pairs: Sequence[_T]) -> list[_T]:
        """All candidates in the order by which ties are resolved."""
        return [*singles, *pairs] if self.singles_first else [*pairs, *singles]

    def best(self, scores: Mapping[Members, float]) -> tuple[Members, tuple[Members, ...]]:
        """Who wins.

        Args:
            scores: of the candidates, in their order; NaN where undefined. A score that is undefined wins only
                where there is no other candidate.

        Returns:
            The winner, and all that share its score, in order.

        Raises:
            RunError: there are several candidates and no score is defined.
        """
        if len(scores) == 1:
            (only,) = scores
            return only, (only,)
        defined = [score for score in scores.values() if not math.isnan(score)]
        if not defined:
            raise RunError(
                Problem(
                    where="find-best",
                    what="the candidates cannot be compared, as the mean Dice of each is undefined",
                    got="a class that no validation case has, neither in the reference nor predicted",
                    fix="Plan again with --set evaluation.conventions.mean_over_classes=without_undefined and choose "
                    "again (no model is trained anew), or name one configuration with --configurations.",
                )
            )
        highest = max(defined)
        tied = tuple(members for members, score in scores.items() if score == highest)
        return tied[-1 if self.last_wins else 0], tied
