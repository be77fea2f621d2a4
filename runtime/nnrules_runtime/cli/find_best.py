"""``nnrules run find-best``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnrules_runtime.cli.options import (
    DatasetArgument,
    JsonOption,
    PlanArgument,
    ProcessesOption,
    folds_option,
    names_option,
)
from nnrules_runtime.cli.output import set_log_level

__all__ = ["find_best"]


def find_best(
    plan: PlanArgument,
    dataset: DatasetArgument,
    *,
    work: Annotated[
        Path,
        typer.Option("--work", help="The work folder, with validated folds; the choice is written there."),
    ] = Path("work"),
    configurations: Annotated[
        str | None,
        typer.Option(
            "--configurations",
            metavar="A,B",
            help="Those that compete. Default: all that the plan lets compete.",
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            metavar="0,1",
            help="Choose on the validation cases of these folds; 0: on one split. Default: on all cases.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="JSON to write. Default: empirical.json in the work folder."),
    ] = None,
    workers: ProcessesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the best configuration or pair by cross-validation, and the postprocessing that helps it.

    Pairs compete where validation has saved probabilities: `nnrules run train … --probabilities`.
    """
    from nnrules.dataset import load_dataset
    from nnrules.documents import canonical_json, check_writable
    from nnrules.plan import Plan

    from nnrules_runtime.cli.choice import choice_lines
    from nnrules_runtime.select import find_best as choose
    from nnrules_runtime.workspace import Workspace

    set_log_level(as_json=as_json)
    loaded, workspace = Plan.load(plan), Workspace(work)
    output = output or workspace.empirical
    check_writable(output)
    empirical = choose(
        loaded,
        load_dataset(dataset),
        workspace,
        configurations=names_option(configurations),
        folds=folds_option(folds),
        num_workers=workers,
    )
    empirical.save(output)
    if as_json:
        typer.echo(canonical_json(empirical.to_json()), nl=False)
        return
    for line in choice_lines(empirical, loaded):
        typer.echo(line)
    typer.echo(f"written to {output}")
