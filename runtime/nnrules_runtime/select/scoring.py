"""Dice of a candidate over validation cases, as it predicted them and after postprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from nnrules.image_io import Geometry

from nnrules_runtime.evaluate.case import (
    CaseScores,
    EvaluationCase,
    count_classes,
    overlap_scores,
    read_pair,
)
from nnrules_runtime.evaluate.conventions import EvaluatedClass, Evaluation
from nnrules_runtime.evaluate.run import num_voxels, over_cases
from nnrules_runtime.evaluate.summary import Summary, sorted_by_id
from nnrules_runtime.files import atomic_file
from nnrules_runtime.postprocess import BYTES_PER_VOXEL as POSTPROCESS_BYTES
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.preprocess.pool import Job
from nnrules_runtime.select.averaging import BYTES_PER_VOXEL as AVERAGE_BYTES
from nnrules_runtime.select.averaging import Averaging

__all__ = [
    "CasePrediction",
    "Scorer",
    "Scores",
    "job_bytes",
    "nan_for_null",
    "null_for_nan",
    "read_prediction",
]

Array = npt.NDArray[Any]
# Both label maps, and what counting takes.
_LABEL_BYTES = 8
_DICE = "dice"


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePrediction:
    """How a candidate segmented a case that its models had not seen.

    Attributes:
        case: the label map and its reference. Of a pair, the label map is its first member's, which gives the grid.
        probabilities: of a pair: ``CASE.npz`` of each member.
        averaging: of a pair: how they become labels.
        kept: of a pair: where these labels are kept once they are made; ``None``: they are made each time.
    """

    case: EvaluationCase
    probabilities: tuple[Path, ...] = ()
    averaging: Averaging | None = None
    kept: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Dice over the validation cases; NaN where undefined.

    Attributes:
        dice: mean over cases of each class or region.
        mean: mean of these over the classes that the plan evaluates.
        score: by which candidates are compared.
    """

    dice: Mapping[str, float]
    mean: float
    score: float

    def to_json(self) -> dict[str, Any]:
        """Undefined values are null."""
        return {
            "dice": {name: null_for_nan(value) for name, value in self.dice.items()},
            "mean": null_for_nan(self.mean),
            "score": null_for_nan(self.score),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Scores:
        """The scores of a document that was checked against the schema."""
        return cls(
            dice={name: nan_for_null(value) for name, value in document["dice"].items()},
            mean=nan_for_null(document["mean"]),
            score=nan_for_null(document["score"]),
        )


@dataclass(frozen=True, slots=True)
class _Task:
    prediction: CasePrediction
    evaluation: Evaluation
    variants: tuple[Postprocessing, ...]


class Scorer:
    """Scores predictions as a plan says.

    Args:
        evaluation: the plan's conventions.
        tried: classes for which postprocessing is tried; those that are not evaluated get a Dice as well, which
            does not count in means.
        score: how candidates are compared, see :class:`~nnrules_runtime.select.rules.ChoiceRules`.
        num_workers: processes; ``None``: as it pays.

    Attributes:
        evaluated: names of the classes that the plan evaluates.
        tried: the classes that postprocessing is tried for, by the names that they have in scores.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        tried: Sequence[EvaluatedClass] = (),
        *,
        score: Literal["class_means_first", "all_pairs"] = "class_means_first",
        num_workers: int | None = None,
    ) -> None:
        # The others cost as much and decide nothing.
        self._evaluation = replace(evaluation, metrics=(_DICE,))
        self._score = score
        self._num_workers = num_workers
        self.evaluated = tuple(entry.name for entry in evaluation.classes)
        by_labels = {frozenset(entry.labels): entry for entry in evaluation.classes}
        named = []
        for entry in tried:
            name = entry.name
            if name in self.evaluated:  # of other labels, or it is the same class
                name = f"{name} (labels {', '.join(map(str, entry.labels))})"
            named.append(by_labels.get(frozenset(entry.labels)) or EvaluatedClass(name, entry.labels))
        self.tried = tuple(named)
        more = tuple(entry for entry in self.tried if entry.name not in self.evaluated)
        self._with_tried = replace(self._evaluation, classes=(*evaluation.classes, *more))

    def scores(
        self, predictions: Sequence[CasePrediction], variants: Sequence[Postprocessing], *, title: str
    ) -> list[Scores]:
        """Score predictions after each of some postprocessings.

        Args:
            predictions: one a case.
            variants: what is done to them, each by itself.
            title: what is being done.

        Returns:
            An entry a variant.

        Raises:
            RunError: everything that is wrong with any case.
        """
        jobs = [
            Job(
                prediction.case.id,
                _Task(prediction, self._with_tried, tuple(variants)),
                job_bytes(prediction),
            )
            for prediction in predictions
        ]
        results = over_cases(_score_variants, jobs, title=title, num_workers=self._num_workers)
        return [
            self._pooled([by_variant[number] for by_variant in results]) for number in range(len(variants))
        ]

    def _pooled(self, scores: Sequence[CaseScores]) -> Scores:
        cases = sorted_by_id(scores)
        means = Summary(evaluation=self._with_tried, cases=cases, tolerance_mm=None).means()
        counted = Summary(evaluation=self._evaluation, cases=cases, tolerance_mm=None)
        mean = counted.foreground_mean()[_DICE]
        return Scores(
            dice={name: values[_DICE] for name, values in means.items()},
            mean=mean,
            score=mean if self._score == "class_means_first" else self._mean_of_pairs(cases),
        )

    def _mean_of_pairs(self, cases: Sequence[CaseScores]) -> float:
        values = [case.values[name][_DICE] for case in cases for name in self.evaluated]
        defined = [value for value in values if not math.isnan(value)]
        return math.fsum(defined) / len(defined) if defined else math.nan


def job_bytes(prediction: CasePrediction) -> int:
    """Most memory that scoring or postprocessing a prediction takes."""
    most = max(POSTPROCESS_BYTES, AVERAGE_BYTES if prediction.probabilities else 0)
    return num_voxels(prediction.case) * (_LABEL_BYTES + most)


def read_prediction(prediction: CasePrediction) -> tuple[Array, Array, Geometry]:
    """Labels of the prediction and of the reference, ``(Z, Y, X)``, and their grid.

    Raises:
        ImageError: a file cannot be read, or the grids differ.
        RunError: probabilities are missing or damaged.
    """
    labels, reference, geometry = read_pair(prediction.case)
    if prediction.averaging is not None:
        del labels
        labels = _averaged(prediction, prediction.averaging, reference.shape)
    return labels, reference, geometry


def _averaged(prediction: CasePrediction, averaging: Averaging, shape: tuple[int, ...]) -> Array:
    kept = prediction.kept
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            stored: Array = file["labels"]
        return stored
    labels = averaging.labels(prediction.probabilities, shape)
    if kept is not None:
        with atomic_file(kept) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, labels=labels)
    return labels


def _score_variants(task: _Task) -> tuple[CaseScores, ...]:
    labels, reference, geometry = read_prediction(task.prediction)
    case, evaluation = task.prediction.case, task.evaluation
    scores = []
    for variant in task.variants:
        processed = variant.apply(labels, geometry.spacing) if variant.steps else labels
        scores.append(overlap_scores(evaluation, case, count_classes(evaluation, case, processed, reference)))
    return tuple(scores)


def null_for_nan(value: float) -> float | None:
    """What JSON holds for a number."""
    return None if math.isnan(value) else value


def nan_for_null(value: float | None) -> float:
    """The number that JSON holds."""
    return math.nan if value is None else float(value)
