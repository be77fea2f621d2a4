"""``nnrules run evaluate``."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nnrules_runtime.evaluate.summary import Summary

__all__ = ["evaluate"]

_SHOWN_METRICS = ("dice", "iou", "surface_dice", "hausdorff_95_mm")
_SHOWN_CASES = 5
_PLACES = {
    "both": "neither predicted nor in the reference",
    "prediction": "in the reference but not predicted",
    "reference": "predicted but not in the reference",
}


def evaluate(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted label maps.")],
    references: Annotated[
        Path, typer.Argument(help="Folder of reference label maps, or a dataset.json with labels.")
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="JSON to write. Default: summary.json beside the predictions."),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="CSV to write: one row a case and class.")] = None,
    surface_tolerance_mm: Annotated[
        float, typer.Option("--surface-tolerance-mm", min=0, help="Tolerance of the surface Dice, mm.")
    ] = 1.0,
    surfaces: Annotated[
        bool, typer.Option("--surfaces/--no-surfaces", help="Whether surfaces are measured.")
    ] = True,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score the predictions that there are; others may be missing.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. Default: one a core, if memory allows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")] = False,
) -> None:
    """Score predictions against references: Dice, the plan's metrics, surfaces and volumes."""
    from nnrules.documents import canonical_json, check_writable
    from nnrules.plan import Plan

    from nnrules_runtime.evaluate import Evaluation, evaluate_cases, find_pairs
    from nnrules_runtime.values import reading

    logging.getLogger("nnrules_runtime").setLevel(logging.WARNING if as_json else logging.INFO)
    loaded = Plan.load(plan)
    with reading(loaded) as root:
        evaluation = Evaluation.from_plan(root)
        file_ending = root.section("dataset").value("file_ending")
    cases = find_pairs(predictions, references, file_ending, partial=partial)
    output = output or predictions / "summary.json"
    for path in (output, csv):
        if path is not None:
            check_writable(path)
    summary = evaluate_cases(
        evaluation,
        cases,
        surface_tolerance_mm=surface_tolerance_mm if surfaces else None,
        num_workers=workers,
        plan_hash=loaded.hash,
    )
    summary.save(output)
    if csv is not None:
        summary.save_csv(csv)
    if as_json:
        typer.echo(canonical_json(summary.to_json()), nl=False)
        return
    typer.echo(_table(summary))
    for line in _absent(summary):
        typer.echo(line)
    typer.echo(
        f"{len(cases)} {'case' if len(cases) == 1 else 'cases'}, written to {output}"
        + (f" and {csv}" if csv is not None else "")
    )


def _table(summary: Summary) -> str:
    metrics = [metric for metric in _SHOWN_METRICS if metric in summary.metrics()]
    means = {**summary.means(), "mean": summary.foreground_mean()}
    rows = [["class", *metrics]]
    rows += [[name, *(_number(values[metric]) for metric in metrics)] for name, values in means.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _absent(summary: Summary) -> list[str]:
    """One line for each class and place where it is lacking."""
    lines = []
    for name, places in summary.absent().items():
        for place, case_ids in places.items():
            if case_ids:
                shown = ", ".join(case_ids[:_SHOWN_CASES]) + (", …" if case_ids[_SHOWN_CASES:] else "")
                lines.append(
                    f"{name}: {_PLACES[place]} in {len(case_ids)} of {len(summary.cases)} cases: {shown}"
                )
    return lines
