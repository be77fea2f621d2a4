"""Scores of all cases and their means, as JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.documents import write_json, write_text

from nnrules_runtime.evaluate.case import CaseScores
from nnrules_runtime.evaluate.conventions import Evaluation

__all__ = ["SUMMARY_SCHEMA_VERSION", "Summary"]

SUMMARY_SCHEMA_VERSION = "1.0"
"""Version of the document that this module writes."""


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of an evaluation.

    Attributes:
        evaluation: the conventions.
        cases: scores, in the order of the case ids.
        tolerance_mm: of the surface Dice; ``None`` where surfaces were not measured.
        plan_hash: hash of the plan.
    """

    evaluation: Evaluation
    cases: tuple[CaseScores, ...]
    tolerance_mm: float | None
    plan_hash: str | None = None

    def metrics(self) -> list[str]:
        """Names of the metrics that any case has."""
        return list(
            dict.fromkeys(
                metric for case in self.cases for values in case.values.values() for metric in values
            )
        )

    def means(self) -> dict[str, dict[str, float]]:
        """Mean over cases by class and metric, undefined ones left out; NaN where no case defines it."""
        metrics = self.metrics()
        return {
            entry.name: {
                metric: _mean(
                    [
                        value
                        for case in self.cases
                        if not math.isnan(value := case.values[entry.name].get(metric, math.nan))
                    ]
                )
                for metric in metrics
            }
            for entry in self.evaluation.classes
        }

    def foreground_mean(self) -> dict[str, float]:
        """Mean over classes of :meth:`means` by metric, undefined classes as the plan says."""
        means = self.means()
        result = {}
        for metric in self.metrics():
            values = [by_metric[metric] for by_metric in means.values()]
            if not self.evaluation.mean_is_plain:
                values = [value for value in values if not math.isnan(value)]
            result[metric] = _mean(values)
        return result

    def to_json(self) -> dict[str, Any]:
        """The document of ``schemas/summary.schema.json``."""
        return {
            "schema_version": SUMMARY_SCHEMA_VERSION,
            "plan_hash": self.plan_hash,
            "num_cases": len(self.cases),
            "conventions": self.evaluation.to_json(),
            "surface_tolerance_mm": self.tolerance_mm,
            "classes": [
                {"name": entry.name, "labels": list(entry.labels)} for entry in self.evaluation.classes
            ],
            "foreground_mean": _document(self.foreground_mean()),
            "mean": {name: _document(values) for name, values in self.means().items()},
            "absent": self.absent(),
            "cases": [
                {
                    "id": case.case.id,
                    "prediction": case.case.prediction.name,
                    "reference": case.case.reference.name,
                    "metrics": {name: _document(values) for name, values in case.values.items()},
                }
                for case in self.cases
            ],
        }

    def absent(self) -> dict[str, dict[str, list[str]]]:
        """Ids of the cases that lack a class, by where they lack it; a class that no case lacks is left out."""
        found = {}
        for entry in self.evaluation.classes:
            lists: dict[str, list[str]] = {"both": [], "prediction": [], "reference": []}
            for case in self.cases:
                predicted, present = entry.name in case.in_prediction, entry.name in case.in_reference
                if not (predicted and present):
                    place = "prediction" if present else "reference" if predicted else "both"
                    lists[place].append(case.case.id)
            if any(lists.values()):
                found[entry.name] = lists
        return found

    def save(self, path: Path) -> None:
        """Write the JSON atomically.

        Raises:
            NnrulesError: it cannot be written.
        """
        write_json(path, self.to_json())

    def save_csv(self, path: Path) -> None:
        """Write a table atomically: one row a case and class, empty where undefined.

        Raises:
            NnrulesError: it cannot be written.
        """
        metrics = self.metrics()
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case", "class", "labels", *metrics])
        for case in self.cases:
            for entry in self.evaluation.classes:
                values = case.values[entry.name]
                row = [_defined(values.get(metric, math.nan)) for metric in metrics]
                writer.writerow([case.case.id, entry.name, " ".join(map(str, entry.labels)), *row])
        write_text(path, stream.getvalue())


def _document(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _defined(value) for name, value in values.items()}


def sorted_by_id(cases: Iterable[CaseScores]) -> tuple[CaseScores, ...]:
    """Scores in the order of the case ids."""
    return tuple(sorted(cases, key=lambda scores: scores.case.id))
