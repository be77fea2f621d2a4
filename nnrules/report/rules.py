"""Rule packs and their tests as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrules.authoring.listing import PackInfo
from nnrules.authoring.rule_tests import TestReport
from nnrules.authoring.show import ShownPack

__all__ = ["pack_view", "packs_view", "tests_view"]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def packs_view(packs: Iterable[PackInfo]) -> RenderableType:
    """What ``nnrules rules list`` prints."""
    table = _table("pack", "what it is", "memory", "presets")
    for pack in packs:
        for version in pack.versions:
            basis = f"reproduces {version.reproduces}" if version.reproduces else ""
            basis = basis or (f"extends {version.extends}" if version.extends else "")
            presets = ", ".join(f"{p.name}{' (default)' if p.is_default else ''}" for p in version.presets)
            name = Text(version.spec, style="bold")
            name.append("\ndefault" if version.is_default else "", style="dim")
            table.add_row(name, f"{version.title}\n{basis}".strip(), f"{version.gpu_memory_gb:g} GB", presets)
    return table


def pack_view(pack: ShownPack) -> RenderableType:
    """What ``nnrules rules show`` prints."""
    basis = [f"reproduces {pack.reproduces}"] if pack.reproduces else []
    basis += [f"extends {pack.extends}"] if pack.extends else []
    basis += [f"preset {pack.preset}"] if pack.preset else []
    parts: list[RenderableType] = [Text.assemble((pack.spec, "bold"), f" · {pack.title}")]
    parts += [Text("; ".join(basis))] if basis else []
    parts += [Text(f"warning: {text}", style="yellow") for text in pack.warnings]
    for kind in dict.fromkeys(entry.kind for entry in pack.entries):
        table = _table(kind, "", "where", "what")
        for entry in (entry for entry in pack.entries if entry.kind == kind):
            value = entry.details.get("value") if kind == "param" else None
            text = entry.title if value is None else f"{value} · {entry.title}"
            status = entry.status if entry.replaced is None else f"{entry.status} {entry.replaced.where}"
            table.add_row(entry.name, status, entry.origin.where.rpartition(":")[0], text)
        parts.append(Padding(table, (1, 0, 0, 0)))
    return Group(*parts)


def tests_view(report: TestReport) -> RenderableType:
    """What ``nnrules rules test`` prints for one pack."""
    parts: list[RenderableType] = []
    for result in report.results:
        if result.status in ("failed", "passes unexpectedly"):
            parts.append(Text(f"{result.status}: {result.name} ({result.where}, {result.subject})", style="red"))
            parts += [Text(f"  {problem}") for problem in result.problems]
    coverage = report.coverage
    if coverage is not None:
        for target in coverage.missing:
            parts.append(Text(f"not covered: {target}", style="yellow"))
    passed = len(report.results) - report.num_failed
    line = f"{report.pack}: {passed} passed, {report.num_failed} failed"
    if coverage is not None:
        line += f", coverage {coverage.percent:.1f} % ({coverage.num_covered} of {coverage.num_targets} cases and outcomes)"
    parts.append(Text(line, style="bold green" if report.ok else "bold red"))
    return Group(*parts)
