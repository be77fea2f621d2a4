"""The shipped packs pass their own tests, which cover every case, and lint."""

from functools import cache

import pytest
from nnrules.authoring.lint import lint_pack
from nnrules.authoring.rule_test_report import RuleTestReport
from nnrules.authoring.rule_tests import run_rule_tests
from nnrules.engine.packs import available_packs

VERSIONS = [f"{pack}@{version}" for pack, versions in available_packs().items() for version in versions]


@cache
def report_of(spec: str) -> RuleTestReport:
    return run_rule_tests(spec, coverage=True)


@pytest.mark.parametrize("spec", VERSIONS)
def test_rule_tests_pass_and_cover_everything(spec: str) -> None:
    report = report_of(spec)
    assert [
        f"{result.where} {result.name}: {'; '.join(str(problem) for problem in result.problems)}"
        for result in report.results
        if result.status in ("failed", "passes unexpectedly")
    ] == []
    assert report.coverage is not None
    assert [str(target) for target in report.coverage.missing] == []
    assert report.ok


@pytest.mark.parametrize("spec", VERSIONS)
def test_every_rule_has_a_test_that_checks_what_it_decides(spec: str) -> None:
    report = report_of(spec)
    assert report.coverage is not None
    assert report.coverage.unchecked == ()


@pytest.mark.parametrize("spec", VERSIONS)
def test_shipped_packs_lint_without_errors(spec: str) -> None:
    report = lint_pack(spec)
    assert [str(finding.problem) for finding in report.findings if finding.severity == "error"] == []
