"""``nnrules run bundle`` and ``nnrules run show``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnrules_runtime.cli.options import JsonOption, checkpoint_option, folds_option
from nnrules_runtime.cli.output import set_log_level

if TYPE_CHECKING:
    from nnrules_runtime.bundle import Bundle

__all__ = ["bundle", "show"]

_LOGGER = logging.getLogger(__name__)


def bundle(
    work: Annotated[Path, typer.Argument(metavar="WORK", help="The work folder with the trained networks.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT.nnrules", help="The file to write; one that is there is replaced.")
    ],
    *,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            "-c",
            "--configuration",
            help="What predicts, in place of what find-best chose; several are averaged. The first stage of a "
            "cascade comes along by itself.",
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            help="Numbers such as 0,1, or all. Default: those of the choice, else all that are trained.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="final|best", help="Which weights. Default: the plan's."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="The plan that decides. Default: the one beside the networks."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="FILE|SPDX",
            help="A text file, or an identifier such as CC-BY-4.0.",
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", help="Markdown to add to the card: purpose, limits, whom to ask, how to cite."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="For people. Default: the dataset's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a trained model into one file, with which `nnrules run predict` works anywhere."""
    from nnrules.plan import Plan

    from nnrules_runtime.bundle import write_bundle
    from nnrules_runtime.select.empirical import Empirical
    from nnrules_runtime.workspace import Workspace

    set_log_level(as_json=as_json)
    workspace = Workspace(work)
    empirical = None
    if workspace.empirical.is_file():
        empirical = Empirical.load(workspace.empirical)
        if configuration and set(configuration) != set(empirical.members):
            _LOGGER.info("chosen by hand, in place of %s", " + ".join(empirical.members))
    written = write_bundle(
        workspace,
        output,
        plan=None if plan is None else Plan.load(plan),
        empirical=empirical,
        configurations=configuration,
        folds=folds_option(folds),
        checkpoint=checkpoint_option(checkpoint),
        licence=licence,
        card=card,
        name=name,
    )
    if as_json:
        typer.echo(json.dumps(_document(written), ensure_ascii=False, indent=1, sort_keys=True))
        return
    typer.echo(f"written: {output} ({_megabytes(written)})")
    typer.echo(_content(written))


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.nnrules", help="A bundle.")],
    *,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Compare everything with its digest, weights as well."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle is and check that it is whole. Nothing in it is executed or extracted."""
    from nnrules_runtime.bundle import open_bundle
    from nnrules_runtime.bundle.texts import printable

    opened = open_bundle(file)
    num_verified = sum(1 for _ in opened.verify()) if verify else 0
    if as_json:
        document = _document(opened) | {"verified": verify, "card": opened.card}
        typer.echo(json.dumps(document, ensure_ascii=True, indent=1, sort_keys=True))
        return
    typer.echo(printable(opened.card))
    typer.echo(printable(_content(opened)))
    if verify:
        typer.echo(f"{num_verified} files of {_megabytes(opened)}: all as they were put in")


def _document(opened: Bundle) -> dict[str, Any]:
    manifest = opened.manifest.to_json()
    return {
        "file": str(opened.path),
        "bytes": opened.path.stat().st_size,
        "manifest": manifest,
        "empirical": None if opened.empirical is None else opened.empirical.to_json(),
    }


def _content(opened: Bundle) -> str:
    """A line a configuration."""
    lines = []
    for name, entry in opened.manifest.configurations.items():
        role = "" if name in opened.members else ", the first stage"
        numbers = ", ".join(map(str, entry.folds))
        what = "fold" if len(entry.folds) == 1 else "folds"
        lines.append(f"{name}{role}: {what} {numbers} ({entry.checkpoint})")
    steps = opened.empirical.postprocessing.steps if opened.empirical is not None else ()
    lines += [f"postprocessing: {step.to_text()}" for step in steps]
    lines.append(
        f"licence: {opened.manifest.licence or ('see LICENSE' if opened.licence_text else 'none stated')}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(opened.manifest.created_by.items()))
    lines.append(f"made with {versions}; plan {opened.plan.hash}")
    return "\n".join(lines)


def _megabytes(opened: Bundle) -> str:
    return f"{opened.path.stat().st_size / 1e6:.1f} MB"
