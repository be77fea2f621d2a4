"""What the dataset checker reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from nnrules.errors import Problem

__all__ = ["SEVERITIES", "CheckReport", "Finding", "Severity"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From worst to mildest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the checker found.

    Attributes:
        severity: ``error``: the dataset cannot be used so, or would train on wrong data. ``warning``:
            probably a mistake. ``note``: worth knowing, nothing to do.
        code: stable id of the kind of finding, such as ``geometry.spacing``.
        case: id of the case; ``None`` for the dataset as a whole.
        where: the file.
        what: what is wrong, in one clause.
        got: what was found, as text, with counts.
        expected: what would have been right.
        fix: one sentence that says what to do.
    """

    severity: Severity
    code: str
    case: str | None
    where: str
    what: str
    got: str | None
    expected: str | None
    fix: str | None

    @classmethod
    def of_problem(cls, problem: Problem, *, code: str, case: str) -> Finding:
        """An error from a file that could not be read."""
        return cls(
            severity="error",
            code=code,
            case=case,
            where=problem.where,
            what=problem.what,
            got=problem.got,
            expected=problem.expected,
            fix=problem.fix,
        )

    def __str__(self) -> str:
        """One line: severity, code, case, and the rest as an error reads."""
        place = f"{self.case}: {self.where}" if self.case is not None else self.where
        text = Problem(where=place, what=self.what, got=self.got, expected=self.expected, fix=self.fix)
        return f"{self.severity} [{self.code}] {text}"

    def to_json(self) -> dict[str, str | None]:
        """The finding as a JSON object; all fields are always there."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def sort_key(self) -> tuple[int, str, str, str]:
        """Worst first, then by case; findings of the dataset as a whole before those of cases."""
        return SEVERITIES.index(self.severity), self.case or "", self.code, self.where


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """All findings of a check.

    Attributes:
        dataset: path of the dataset.json.
        num_cases: number of cases that were checked.
        has_read_voxels: whether intensities and labels were read, or headers only.
        findings: worst first, then by case.
    """

    dataset: str
    num_cases: int
    has_read_voxels: bool
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """Number of findings of one severity."""
        return Counter(finding.severity for finding in self.findings)[severity]

    @property
    def summary(self) -> str:
        """One line with the counts."""
        depth = "" if self.has_read_voxels else ", headers only"
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in SEVERITIES)
        return f"{self.dataset}: {self.num_cases} cases checked{depth}: {counts}."

    def to_text(self) -> str:
        """One line per finding, then the summary; no newline at the end."""
        return "\n".join([*map(str, self.findings), self.summary])

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "schema_version": "1.0",
            "dataset": self.dataset,
            "num_cases": self.num_cases,
            "has_read_voxels": self.has_read_voxels,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [finding.to_json() for finding in self.findings],
        }
