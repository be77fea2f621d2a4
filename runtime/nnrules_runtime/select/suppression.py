"""Which steps of postprocessing help: removal of all but the largest component, decided on validation cases.

First all foreground together, then class by class on the outcome; each step is kept where the plan's condition holds
(Methods, Postprocessing; the exact condition differs between releases and is a field of the plan).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nnrules_runtime.evaluate.conventions import EvaluatedClass, labels_or_regions, single_labels
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.select.scoring import Scores, nan_for_null, null_for_nan
from nnrules_runtime.values import Section

__all__ = ["Determined", "Suppression", "Trial"]

ScoreVariants = Callable[[Sequence[Postprocessing]], list[Scores]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One step that was tried.

    Attributes:
        step: the step.
        before: Dice of the classes that decide, without it; NaN where undefined. All evaluated classes for the step
            on all foreground, the class itself for another one.
        after: the same with it.
        mean_before: mean over the evaluated classes without it; NaN where undefined, and for a class by itself.
        mean_after: the same with it.
        accepted: whether it is kept.
    """

    step: Step
    before: Mapping[str, float]
    after: Mapping[str, float]
    mean_before: float
    mean_after: float
    accepted: bool

    def to_json(self) -> dict[str, Any]:
        """As in ``schemas/empirical.schema.json``; undefined values are null."""
        return {
            "step": self.step.to_json(),
            "before": {name: null_for_nan(value) for name, value in self.before.items()},
            "after": {name: null_for_nan(value) for name, value in self.after.items()},
            "mean_before": null_for_nan(self.mean_before),
            "mean_after": null_for_nan(self.mean_after),
            "accepted": self.accepted,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Trial:
        """The trial of a document that was checked against the schema."""
        return cls(
            step=Step.from_json(document["step"]),
            before={name: nan_for_null(value) for name, value in document["before"].items()},
            after={name: nan_for_null(value) for name, value in document["after"].items()},
            mean_before=nan_for_null(document["mean_before"]),
            mean_after=nan_for_null(document["mean_after"]),
            accepted=document["accepted"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Determined:
    """What was tried for a candidate, and what is kept.

    Attributes:
        trials: in order.
        postprocessing: the accepted steps.
        scores: with them.
    """

    trials: tuple[Trial, ...]
    postprocessing: Postprocessing
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """``postprocessing`` of a plan.

    Attributes:
        for_every_candidate: whether it is determined for each candidate; else for the chosen one.
        components: what a component is and which stay.
        foreground: the labels that are foreground.
        accept_if: ``mean_rises`` or ``any_class_rises``, for the step on all foreground.
        no_class_falls: whether each class must keep its Dice in it.
        undefined: what a class without Dice does to it.
        tried: classes or regions of the second step, in declared order.
        min_num_classes: fewest of them for which it is tried.
        is_cumulative: whether each is tried on the outcome of those accepted before.
        threshold: the Dice of a class must rise by more than this.
    """

    for_every_candidate: bool
    components: Components
    foreground: tuple[int, ...]
    accept_if: Literal["mean_rises", "any_class_rises"]
    no_class_falls: bool
    undefined: Literal["never_accept", "compare_false", "left_out"]
    tried: tuple[EvaluatedClass, ...]
    min_num_classes: int
    is_cumulative: bool
    threshold: float

    @classmethod
    def from_plan(cls, root: Section, labels: LabelSet) -> Suppression:
        """Read ``postprocessing``."""
        section = root.section("postprocessing")
        section.require("applied", "automatically", "on_request")  # prediction reads it
        every, each = section.section("all_foreground"), section.section("each_class")
        every.require("on", "labels")
        each.require("accept_if", "own_dice_rises")
        threshold = each.value("threshold")
        return cls(
            for_every_candidate=section.choice("determined_for", {"chosen": False, "every_candidate": True}),
            components=Components.from_plan(section),
            foreground=labels.foreground_labels,
            accept_if=every.require("accept_if", "mean_rises", "any_class_rises"),
            no_class_falls=bool(every.require("no_class_falls", True, False)),
            undefined=every.require("undefined_classes", "never_accept", "compare_false", "left_out"),
            tried=each.choice(
                "on", {"labels": single_labels(labels), "labels_or_regions": labels_or_regions(labels)}
            ),
            min_num_classes=int(each.value("min_num_classes") or 1),
            is_cumulative=each.choice("order", {"parallel": False, "cumulative": True}),
            threshold=float(threshold or 0),
        )

    def determine(
        self,
        raw: Scores,
        score: ScoreVariants,
        *,
        evaluated: Sequence[str],
        tried: Sequence[EvaluatedClass],
    ) -> Determined:
        """Try the steps one after the other.

        Args:
            raw: scores without postprocessing.
            score: scores of the same cases after each of some postprocessings.
            evaluated: names of the classes that the plan evaluates.
            tried: :attr:`tried`, by the names that they have in scores.
        """
        trials: list[Trial] = []
        kept, scores = Postprocessing.none(), raw
        if self.foreground:
            step = Step(name="all foreground", labels=self.foreground, components=self.components)
            (after,) = score([Postprocessing((step,))])
            trials.append(self._trial_of_all(step, scores, after, evaluated))
            if trials[0].accepted:
                kept, scores = kept.then(step), after
        steps = [Step(name=entry.name, labels=entry.labels, components=self.components) for entry in tried]
        if len(steps) >= self.min_num_classes:
            if self.is_cumulative and not _are_disjoint(tried):
                more, kept, scores = self._one_by_one(kept, scores, steps, score)
            else:
                more, kept, scores = self._side_by_side(kept, scores, steps, score)
            trials += more
        return Determined(trials=tuple(trials), postprocessing=kept, scores=scores)

    def _trial_of_all(self, step: Step, before: Scores, after: Scores, evaluated: Sequence[str]) -> Trial:
        """The step on all foreground."""
        old = {name: before.dice[name] for name in evaluated}
        new = {name: after.dice[name] for name in evaluated}
        means = before.mean, after.mean
        undefined = {name for name in evaluated if math.isnan(old[name]) or math.isnan(new[name])}
        compared = list(evaluated)
        if self.undefined == "left_out":
            compared = [name for name in evaluated if name not in undefined]
            means = _mean([old[name] for name in compared]), _mean([new[name] for name in compared])
        if self.accept_if == "mean_rises":
            accepted = means[1] > means[0]
        else:
            accepted = any(new[name] > old[name] for name in compared)
        if self.no_class_falls:
            accepted = accepted and not any(new[name] < old[name] for name in compared)
        if self.undefined == "never_accept" and undefined:
            accepted = False
        return Trial(
            step=step,
            before=old,
            after=new,
            mean_before=means[0],
            mean_after=means[1],
            accepted=accepted,
        )

    def _trial_of_class(self, step: Step, before: Scores, after: Scores) -> Trial:
        old, new = before.dice[step.name], after.dice[step.name]
        return Trial(
            step=step,
            before={step.name: old},
            after={step.name: new},
            mean_before=math.nan,
            mean_after=math.nan,
            accepted=new > old + self.threshold,
        )

    def _one_by_one(
        self, kept: Postprocessing, scores: Scores, steps: Sequence[Step], score: ScoreVariants
    ) -> tuple[list[Trial], Postprocessing, Scores]:
        """Each step on the outcome of those accepted before."""
        trials = []
        for step in steps:
            (after,) = score([kept.then(step)])
            trials.append(self._trial_of_class(step, scores, after))
            if trials[-1].accepted:
                kept, scores = kept.then(step), after
        return trials, kept, scores

    def _side_by_side(
        self, kept: Postprocessing, scores: Scores, steps: Sequence[Step], score: ScoreVariants
    ) -> tuple[list[Trial], Postprocessing, Scores]:
        """Each step on the same outcome.

        What is removed of one class changes no voxel of a class that shares no label with it. Such classes are tried
        all at once, as 1.0 and 1.7.1 do; cumulative trials give the same for them.
        """
        if _are_disjoint(steps):
            together = kept.then(*steps)
            variants = [together]
            (after,) = score(variants)
            trials = [self._trial_of_class(step, scores, after) for step in steps]
        else:
            variants = [kept.then(step) for step in steps]
            outcomes = score(variants)
            trials = [
                self._trial_of_class(step, scores, after) for step, after in zip(steps, outcomes, strict=True)
            ]
            after = outcomes[-1]
        accepted = [trial.step for trial in trials if trial.accepted]
        if not accepted:
            return trials, kept, scores
        kept = kept.then(*accepted)
        # Often all steps help, and then their outcome has been scored.
        scores = after if kept == variants[-1] else score([kept])[0]
        return trials, kept, scores


def _are_disjoint(entries: Sequence[EvaluatedClass] | Sequence[Step]) -> bool:
    labels = [value for entry in entries for value in entry.labels]
    return len(labels) == len(set(labels))


def _mean(values: Sequence[float]) -> float:
    """NaN for none, so that no comparison with it holds."""
    return math.fsum(values) / len(values) if values else math.nan
