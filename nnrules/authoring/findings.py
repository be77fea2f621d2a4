"""What lint found in a rule pack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from nnrules.engine.source import Place
from nnrules.errors import Problem

__all__ = ["Finding", "LintReport", "Severity"]

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        severity: ``error`` (the pack cannot be used, or does not do what it says), ``warning`` (should be
            put right), ``note`` (worth knowing).
        check: short name of the check, e.g. ``unused-param``.
        problem: place, text and fix.
    """

    severity: Severity
    check: str
    problem: Problem

    def to_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return {"severity": self.severity, "check": self.check, **self.problem.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """All findings in one pack, the worst first.

    Attributes:
        spec: the pack.
        findings: what was found.
    """

    spec: str
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return self.count("error") == 0

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "spec": self.spec,
            "ok": self.ok,
            "counts": {severity: self.count(severity) for severity in _ORDER},
            "findings": [finding.to_json() for finding in self.findings],
        }


def finding(
    severity: Severity,
    check: str,
    place: Place,
    what: str,
    *,
    got: str | None = None,
    expected: str | None = None,
    fix: str | None = None,
) -> Finding:
    """A finding at a place in a rule file."""
    return Finding(
        severity=severity, check=check, problem=place.problem(what, got=got, expected=expected, fix=fix)
    )


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first, then as they were found; none twice."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda entry: _ORDER.index(entry.severity)))
