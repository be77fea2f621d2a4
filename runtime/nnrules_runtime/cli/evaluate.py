"""``nnrules run evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnrules_runtime.cli.options import JsonOption, PlanArgument, ProcessesOption
from nnrules_runtime.cli.output import aligned, set_log_level
from nnrules_runtime.quantities import metric

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
    plan: PlanArgument,
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
    workers: ProcessesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score predictions against references: Dice, the plan's metrics, surfaces and volumes."""
    from nnrules.documents import canonical_json, check_writable
    from nnrules.plan import Plan

    from nnrules_runtime.evaluate import Evaluation, evaluate_cases, find_pairs
    from nnrules_runtime.values import reading

    set_log_level(as_json=as_json)
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
    metrics = [name for name in _SHOWN_METRICS if name in summary.metrics()]
    means = {**summary.means(), "mean": summary.foreground_mean()}
    rows = [["class", *metrics]]
    rows += [[name, *(metric(values[shown]) for shown in metrics)] for name, values in means.items()]
    return aligned(rows, numbers=slice(1, None))


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
