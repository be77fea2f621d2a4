"""The verbs on rule packs."""

from __future__ import annotations

from typing import Annotated

import typer

from nnrules.cli.options import JsonOption, PresetOption
from nnrules.cli.output import say, say_json, show

__all__ = ["rules_app"]

rules_app = typer.Typer(
    help="Rule packs: list, show, check, test.", no_args_is_help=True, rich_markup_mode=None
)

PacksArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME@VERSION|FILE]...", help="Packs. Default: all shipped ones."),
]


def _specs(packs: list[str] | None) -> list[str]:
    from nnrules.engine.packs import available_packs

    return packs or [
        f"{name}@{version}" for name, versions in available_packs().items() for version in versions
    ]


@rules_app.command("list")
def list_(*, as_json: JsonOption = False) -> None:
    """List the shipped packs, their versions and presets."""
    from nnrules.authoring.listing import list_packs
    from nnrules.report.rules import packs_view

    packs = list_packs()
    if as_json:
        say_json([pack.to_json() for pack in packs])
    else:
        show(packs_view(packs))


@rules_app.command("show")
def show_(
    pack: Annotated[str, typer.Argument(metavar="NAME@VERSION|FILE", help="A pack.")],
    *,
    resolved: Annotated[bool, typer.Option("--resolved", help="Also what is inherited unchanged.")] = False,
    preset: PresetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a pack decides, and where each rule comes from."""
    from nnrules.authoring.show import show_pack
    from nnrules.report.rules import pack_view

    shown = show_pack(pack, resolved=resolved, preset=preset)
    if as_json:
        say_json(shown.to_json())
    else:
        show(pack_view(shown))


@rules_app.command()
def lint(packs: PacksArgument = None, *, as_json: JsonOption = False) -> None:
    """Check packs: syntax, names, types, circles, unused names, missing reasons."""
    from nnrules.authoring.lint import lint_pack

    reports = [lint_pack(spec) for spec in _specs(packs)]
    if as_json:
        say_json([report.to_json() for report in reports])
    else:
        for report in reports:
            for finding in report.findings:
                say(f"{finding.severity} ({finding.check}): {finding.problem}")
            counts = ", ".join(f"{report.count(level)} {level}s" for level in ("error", "warning", "note"))
            say(f"{report.spec}: {counts}")
    if not all(report.ok for report in reports):
        raise typer.Exit(2)


@rules_app.command()
def test(
    packs: PacksArgument = None,
    *,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Demand every case taken and every condition seen both ways.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the tests that lie beside the rules."""
    from nnrules.authoring.rule_tests import run_rule_tests
    from nnrules.report.rules import tests_view

    reports = [run_rule_tests(spec, coverage=coverage) for spec in _specs(packs)]
    if as_json:
        say_json([report.to_json() for report in reports])
    else:
        for report in reports:
            show(tests_view(report))
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@rules_app.command()
def lock(
    packs: PacksArgument = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Only compare; write nothing.")] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Take over changed versions; only right before a release."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Freeze released versions: record the hash of each, or compare with the record."""
    from nnrules.authoring.lock import check_locks, lock_packs

    reports = check_locks(packs) if check else lock_packs(packs, accept_changes=accept_changes)
    if as_json:
        say_json([report.to_json() for report in reports])
    else:
        for report in reports:
            for problem in report.problems() if check else ():
                say(str(problem))
            done = "as released" if report.ok else "not as released" if check else "locked"
            say(f"{report.pack}: {done}")
    if check and not all(report.ok for report in reports):
        raise typer.Exit(1)
