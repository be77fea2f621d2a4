"""Scoring one case: reading, checking, counting, measuring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.axes import direction_angle_degrees
from nnrules.errors import ImageError, Problem
from nnrules.image_io import Geometry, read_label
from scipy import ndimage  # type: ignore[import-untyped]

from nnrules_runtime.evaluate.conventions import EvaluatedClass, Evaluation
from nnrules_runtime.evaluate.counts import LabelMatrix, mask_of, unknown_labels
from nnrules_runtime.evaluate.metrics import METRICS, Counts, Empty, overlap_of_empty
from nnrules_runtime.evaluate.surface import surface_scores

__all__ = [
    "CaseScores",
    "CaseTask",
    "EvaluationCase",
    "count_classes",
    "overlap_scores",
    "read_pair",
    "score_case",
]

# As the dataset checker judges them: a tenth of a voxel or of a degree comes from rounding, not from another place.
_MAX_RELATIVE_SPACING = 1e-3
_MAX_ORIGIN_VOXELS = 0.1
_MAX_DEGREES = 0.1

_CUBIC_MM_PER_ML = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCase:
    """One case to score.

    Attributes:
        id: name of the case.
        prediction: label map.
        reference: label map on the same grid.
    """

    id: str
    prediction: Path
    reference: Path


@dataclass(frozen=True, slots=True)
class CaseTask:
    """A case and how to score it.

    Attributes:
        case: its files.
        evaluation: the conventions.
        tolerance_mm: of the surface Dice; ``None``: surfaces are not measured.
    """

    case: EvaluationCase
    evaluation: Evaluation
    tolerance_mm: float | None


@dataclass(frozen=True, slots=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        case: its files.
        values: metric by class name and metric name; NaN where undefined.
        in_prediction: names of the classes that are predicted.
        in_reference: names of the classes that are in the reference.
    """

    case: EvaluationCase
    values: dict[str, dict[str, float]]
    in_prediction: tuple[str, ...]
    in_reference: tuple[str, ...]


def score_case(task: CaseTask) -> CaseScores:
    """Read both label maps, check that they belong together, and score them.

    Raises:
        ImageError: a file cannot be read, the grids differ, or there are labels that the plan does not know.
    """
    evaluation, case = task.evaluation, task.case
    prediction, reference, geometry = read_pair(case)
    counts = count_classes(evaluation, case, prediction, reference)
    scores = overlap_scores(evaluation, case, counts)
    if task.tolerance_mm is not None:
        if evaluation.leaves_out_ignored and evaluation.ignore_label is not None:
            is_out = reference == evaluation.ignore_label
            prediction, reference = np.where(is_out, 0, prediction), np.where(is_out, 0, reference)
        pair = _Pair(prediction, reference, geometry)
        for entry in evaluation.classes:
            by_convention = overlap_of_empty(counts[entry.name], _empty(evaluation))
            scores.values[entry.name] |= pair.surface_metrics(entry, by_convention, task.tolerance_mm)
    if geometry.dimension == 3:  # an area has no volume
        volume_ml = math.prod(geometry.spacing) / _CUBIC_MM_PER_ML
        for name, number in counts.items():
            scores.values[name]["volume_predicted_ml"] = number.num_predicted * volume_ml
            scores.values[name]["volume_reference_ml"] = number.num_reference * volume_ml
    return scores


def count_classes(
    evaluation: Evaluation,
    case: EvaluationCase,
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
) -> dict[str, Counts]:
    """Count the voxels of each class.

    Args:
        evaluation: the conventions.
        case: names the files in errors.
        prediction: labels ``(Z, Y, X)``.
        reference: of the same shape.

    Raises:
        ImageError: there are labels that the plan does not know.
    """
    labels, ignore = evaluation.predicted_labels, evaluation.ignore_label
    matrix = LabelMatrix(
        reference, prediction, labels, ignore=ignore, leaves_out=evaluation.leaves_out_ignored
    )
    if matrix.has_unknown:
        known = labels if ignore is None else (*labels, ignore)
        raise ImageError(
            [*_unknown(case.prediction, prediction, labels), *_unknown(case.reference, reference, known)]
        )
    return {entry.name: matrix.counts(entry.labels) for entry in evaluation.classes}


def overlap_scores(evaluation: Evaluation, case: EvaluationCase, counts: Mapping[str, Counts]) -> CaseScores:
    """The plan's metrics of a case, from counts of each class."""
    empty = _empty(evaluation)
    return CaseScores(
        case=case,
        values={
            name: {metric: METRICS[metric](number, empty) for metric in evaluation.metrics}
            for name, number in counts.items()
        },
        in_prediction=tuple(name for name, number in counts.items() if number.num_predicted),
        in_reference=tuple(name for name, number in counts.items() if number.num_reference),
    )


def _empty(evaluation: Evaluation) -> Empty:
    return Empty(both=evaluation.both_empty, one=evaluation.one_empty)


def read_pair(case: EvaluationCase) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Geometry]:
    """Prediction, reference, and the reference's geometry.

    Raises:
        ImageError: a file cannot be read, or the grids differ.
    """
    read = []
    problems: list[Problem] = []
    for path in (case.prediction, case.reference):
        try:
            read.append(read_label(path))
        except ImageError as exc:
            problems += exc.problems
    if problems:
        raise ImageError(problems)
    (prediction, geometry), (reference, expected) = read
    problems += _grid_problems(case, geometry, expected)
    if problems:
        raise ImageError(problems)
    return prediction, reference, expected


def _grid_problems(case: EvaluationCase, found: Geometry, expected: Geometry) -> Iterator[Problem]:
    def differs(what: str, got: object, wanted: object) -> Problem:
        return Problem(
            where=str(case.prediction),
            what=f"the prediction has another {what} than its reference",
            got=str(got),
            expected=f"{wanted} as in {case.reference}",
            fix="Predict from the image whose grid the reference has, or export to that grid.",
        )

    if found.shape != expected.shape:
        yield differs("shape (z, y, x)", found.shape, expected.shape)
        return  # nothing else can be compared
    if found.dimension != expected.dimension:
        yield differs("dimension", f"{found.dimension}D", f"{expected.dimension}D")
        return
    pairs = list(zip(found.spacing, expected.spacing, strict=True))
    if any(abs(ours - theirs) > _MAX_RELATIVE_SPACING * theirs for ours, theirs in pairs):
        yield differs("spacing (z, y, x in mm)", found.spacing, expected.spacing)
    if math.dist(found.origin_xyz, expected.origin_xyz) > _MAX_ORIGIN_VOXELS * min(expected.spacing):
        yield differs("origin (x, y, z in mm)", found.origin_xyz, expected.origin_xyz)
    if direction_angle_degrees(found.direction_xyz, expected.direction_xyz) > _MAX_DEGREES:
        yield differs("direction", found.direction_xyz, expected.direction_xyz)


def _unknown(path: Path, labels: npt.NDArray[Any], known: Sequence[int]) -> list[Problem]:
    values = unknown_labels(labels, known)
    if not values:
        return []
    return [
        Problem(
            where=str(path),
            what="labels that the plan does not know",
            got=", ".join(map(str, values)),
            expected="one of " + ", ".join(map(str, known)),
            fix="Evaluate with the plan that the prediction was made with, or correct the labels.",
        )
    ]


class _Pair:
    """Prediction and reference, with a box around each label."""

    def __init__(self, prediction: npt.NDArray[Any], reference: npt.NDArray[Any], geometry: Geometry) -> None:
        self._arrays = (prediction, reference)
        self._boxes = [ndimage.find_objects(array.astype(np.int32)) for array in self._arrays]
        self._spacing = geometry.spacing
        self._flat_axes = [axis for axis, edge in enumerate(geometry.shape) if edge == 1]

    def surface_metrics(
        self, entry: EvaluatedClass, by_convention: float | None, tolerance_mm: float
    ) -> dict[str, float]:
        """Surface metrics of a class; an empty one has no surface, so that its distance is undefined."""
        if by_convention is not None:
            return {"surface_dice": by_convention, "hausdorff_95_mm": math.nan}
        box = _union(
            [found[value - 1] for found in self._boxes for value in entry.labels if value <= len(found)]
        )
        prediction, reference = (mask_of(array[box], entry.labels) for array in self._arrays)
        scores = surface_scores(
            prediction, reference, self._spacing, tolerance_mm=tolerance_mm, flat_axes=self._flat_axes
        )
        return scores._asdict()


def _union(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    present = [box for box in boxes if box is not None]
    return tuple(
        slice(min(box[axis].start for box in present), max(box[axis].stop for box in present))
        for axis in range(len(present[0]))
    )
