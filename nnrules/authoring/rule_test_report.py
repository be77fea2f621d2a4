"""How the tests of a rule pack went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nnrules.authoring.coverage import CoverageReport
from nnrules.errors import Problem

__all__ = ["RuleTestReport", "RuleTestResult", "Status"]

Status = Literal["passed", "failed", "todo", "passes unexpectedly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTestResult:
    """How one test went.

    Attributes:
        name: its name.
        where: file:line:column.
        subject: ``rule ID``, ``function NAME`` or ``plan``.
        status: ``todo`` is a failure that was announced, ``passes unexpectedly`` a ``todo`` that no
            longer fails.
        problems: what differed, or why it could not run.
        todo: the announced reason.
    """

    name: str
    where: str
    subject: str
    status: Status
    problems: tuple[Problem, ...]
    todo: str | None

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "name": self.name,
            "where": self.where,
            "subject": self.subject,
            "status": self.status,
            "problems": [problem.to_json() for problem in self.problems],
            "todo": self.todo,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTestReport:
    """All tests of one pack.

    Attributes:
        pack: the pack.
        files: the files that were read.
        results: one entry a test, in file order.
        coverage: what the tests exercised; None when it was not asked for.
    """

    pack: str
    files: tuple[str, ...]
    results: tuple[RuleTestResult, ...]
    coverage: CoverageReport | None

    @property
    def num_failed(self) -> int:
        """Tests that must be looked at: failures, and ``todo`` tests that pass."""
        return sum(result.status in ("failed", "passes unexpectedly") for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be; with coverage, whether nothing is left out, too."""
        return self.num_failed == 0 and (self.coverage is None or self.coverage.complete)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "pack": self.pack,
            "ok": self.ok,
            "files": list(self.files),
            "num_tests": len(self.results),
            "num_failed": self.num_failed,
            "results": [result.to_json() for result in self.results],
            "coverage": None if self.coverage is None else self.coverage.to_json(),
        }
