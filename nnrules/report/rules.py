"""Rule packs and their tests as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from nnrules.authoring.listing import PackInfo
from nnrules.authoring.rule_test_report import RuleTestReport
from nnrules.authoring.show import ShownPack

__all__ = ["pack_view", "packs_view", "tests_view"]


def packs_view(packs: Iterable[PackInfo]) -> RenderableType:
    """What ``nnrules rules list`` prints."""
    parts: list[RenderableType] = []
    for pack in packs:
        for version in pack.versions:
            default = " (default)" if version.is_default else ""
            parts.append(Text.assemble((version.spec, "bold"), (default, "green"), f"  {version.title}"))
            notes = [f"reproduces {version.reproduces}"] if version.reproduces else []
            notes += [f"extends {version.extends}"] if version.extends else []
            notes.append(f"plans for {version.gpu_memory_gb:g} GB")
            presets = [f"{p.name} (default)" if p.is_default else p.name for p in version.presets]
            notes += [f"presets {', '.join(presets)}"] if presets else []
            parts.append(Text("  " + "; ".join(notes), style="dim"))
    return Group(*parts)


def pack_view(pack: ShownPack) -> RenderableType:
    """What ``nnrules rules show`` prints."""
    basis = [f"reproduces {pack.reproduces}"] if pack.reproduces else []
    basis += [f"extends {pack.extends}"] if pack.extends else []
    basis += [f"preset {pack.preset}"] if pack.preset else []
    parts: list[RenderableType] = [Text.assemble((pack.spec, "bold"), f" · {pack.title}")]
    parts += [Text("; ".join(basis))] if basis else []
    parts += [Text(f"warning: {text}", style="yellow") for text in pack.warnings]
    for kind in dict.fromkeys(entry.kind for entry in pack.entries):
        entries = [entry for entry in pack.entries if entry.kind == kind]
        parts += [Text(""), Text(f"{kind}s ({len(entries)})", style="bold underline")]
        for entry in entries:
            value = f" = {entry.details['value']}" if kind == "param" else ""
            parts.append(Text.assemble((entry.name, "bold"), f"{value}  {entry.title}"))
            where = _line(entry.origin.where)
            if entry.replaced is not None:
                where += f" replaces {_line(entry.replaced.where)}"
            parts.append(
                Text(
                    f"  {where}" + ("" if entry.status in ("own", "replaces") else f" ({entry.status})"),
                    style="dim",
                )
            )
    return Group(*parts)


def _line(where: str) -> str:
    """``file:line`` of ``file:line:column``."""
    return where.rpartition(":")[0]


def tests_view(report: RuleTestReport) -> RenderableType:
    """What ``nnrules rules test`` prints for one pack."""
    parts: list[RenderableType] = []
    for result in report.results:
        if result.status in ("failed", "passes unexpectedly"):
            parts.append(
                Text(f"{result.status}: {result.name} ({result.where}, {result.subject})", style="red")
            )
            parts += [Text(f"  {problem}") for problem in result.problems]
    coverage = report.coverage
    if coverage is not None:
        for target in coverage.missing:
            parts.append(Text(f"not covered: {target}", style="yellow"))
    passed = len(report.results) - report.num_failed
    line = f"{report.pack}: {passed} passed, {report.num_failed} failed"
    if coverage is not None:
        counts = f"{coverage.num_covered} of {coverage.num_targets} cases and outcomes"
        line += f", coverage {coverage.percent:.1f} % ({counts})"
    parts.append(Text(line, style="bold green" if report.ok else "bold red"))
    return Group(*parts)
