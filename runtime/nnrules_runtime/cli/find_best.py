"""``nnrules run find-best``."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nnrules.plan import Plan

    from nnrules_runtime.select.empirical import Candidate, Empirical
    from nnrules_runtime.select.suppression import Trial

__all__ = ["find_best"]

# More columns than this do not fit beside each other.
_SHOWN_CLASSES = 8


def find_best(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    dataset: Annotated[Path, typer.Argument(help="dataset.json or its folder.")],
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
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. Default: one a core, if memory allows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")] = False,
) -> None:
    """Choose the best configuration or pair by cross-validation, and the postprocessing that helps it.

    Pairs compete where validation has saved probabilities: `nnrules run train … --probabilities`.
    """
    from nnrules.dataset import load_dataset
    from nnrules.documents import canonical_json, check_writable
    from nnrules.plan import Plan

    from nnrules_runtime.cli.options import folds_option
    from nnrules_runtime.select import find_best as choose
    from nnrules_runtime.workspace import Workspace

    logging.getLogger("nnrules_runtime").setLevel(logging.WARNING if as_json else logging.INFO)
    loaded, workspace = Plan.load(plan), Workspace(work)
    output = output or workspace.empirical
    check_writable(output)
    empirical = choose(
        loaded,
        load_dataset(dataset),
        workspace,
        configurations=None if configurations is None else _names(configurations),
        folds=folds_option(folds),
        num_workers=workers,
    )
    empirical.save(output)
    if as_json:
        typer.echo(canonical_json(empirical.to_json()), nl=False)
        return
    for line in _lines(empirical, loaded):
        typer.echo(line)
    typer.echo(f"written to {output}")


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _lines(empirical: Empirical, plan: Plan) -> Iterator[str]:
    """All that is said about a choice."""
    yield _table(empirical)
    for candidate in empirical.candidates:
        yield from _postprocessing(candidate)
    yield ""
    yield _verdict(empirical)
    if empirical.postprocessing.steps:
        applied = plan.document["postprocessing"]["applied"]
        yield {
            "automatically": "predictions are postprocessed in this way",
            "on_request": "predictions are postprocessed in this way on request: "
            "`nnrules run predict … --postprocessing`",
        }[applied]


def _table(empirical: Empirical) -> str:
    scores = [entry.scores for entry in empirical.candidates if entry.scores is not None]
    classes = list(scores[0].dice) if scores else []
    shown = classes if len(classes) <= _SHOWN_CLASSES else []
    # NaN differs from itself, and is shown as undefined in both columns.
    has_score = any(f"{entry.score}" != f"{entry.mean}" for entry in scores)
    rows = [["candidate", *shown, "mean Dice", *(["score"] if has_score else []), ""]]
    for entry in empirical.candidates:
        mark = "chosen" if entry.members == empirical.members else ""
        if entry.scores is None:
            rows.append([entry.name, *("-" for _ in rows[0][1:-1]), mark])
        else:
            values = [*(entry.scores.dice[name] for name in shown), entry.scores.mean]
            values += [entry.scores.score] if has_score else []
            rows.append([entry.name, *map(_number, values), mark])
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < column < last else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _postprocessing(candidate: Candidate) -> Iterator[str]:
    """What was tried for a candidate, and what it gained."""
    if candidate.trials is None or candidate.scores is None or candidate.postprocessed is None:
        return
    yield ""
    yield f"postprocessing of {candidate.name}: only the largest component stays"
    yield _aligned(
        [["of", "before", "after", ""], *(_trial(trial) for trial in candidate.trials)]
        if candidate.trials
        else [["of nothing: it is not tried for so few classes"]]
    )
    if candidate.postprocessing.steps:
        before, after = candidate.scores.mean, candidate.postprocessed.mean
        yield f"mean Dice {_number(before)}, with the accepted steps {_number(after)}"
    else:
        yield "no step is accepted"


def _trial(trial: Trial) -> list[str]:
    verdict = "accepted" if trial.accepted else "not accepted"
    if len(trial.before) == 1 and trial.step.name in trial.before:
        (before,), (after,) = trial.before.values(), trial.after.values()
        return [trial.step.name, _number(before), _number(after), verdict]
    fallen = [name for name, value in trial.after.items() if value < trial.before[name]]
    if not trial.accepted and fallen:
        verdict += f": {', '.join(fallen)} fell"
    return [trial.step.name, _number(trial.mean_before), _number(trial.mean_after), verdict]


def _verdict(empirical: Empirical) -> str:
    names = {
        "score": "highest score",
        "only_candidate": "there was no other candidate",
        "plan": "as the plan says, since no case was held out to compare on",
    }
    text = f"chosen: {empirical.chosen.name} ({names[empirical.chosen_by]}"
    if empirical.tied:
        others = [members for members in empirical.tied if members != empirical.members]
        text += ", shared with " + ", ".join(" + ".join(members) for members in others)
    text += ")"
    folds = set(empirical.folds.values())
    if len(folds) == 1:
        (shared,) = folds
        text += f", fold{'s' if shared[1:] else ''} {', '.join(map(str, shared))}"
    if empirical.num_cases:
        text += f"; {empirical.num_cases} case{'s' if empirical.num_cases > 1 else ''} scored"
    return text


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
