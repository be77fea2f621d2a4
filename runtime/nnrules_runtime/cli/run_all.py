"""``nnrules run all`` and ``nnrules run status``."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnrules_runtime.cli.train import STOPPED

if TYPE_CHECKING:
    from nnrules_runtime.workflow.ledger import Standing
    from nnrules_runtime.workflow.run import Outcome, StepResult
    from nnrules_runtime.workflow.settings import Settings
    from nnrules_runtime.workflow.step import Step

__all__ = ["run_all", "status"]

_FAILED = 2

_Plan = Annotated[Path, typer.Argument(help="A plan file.")]
_Dataset = Annotated[Path, typer.Argument(help="dataset.json or its folder.")]
_Work = Annotated[Path, typer.Option("--work", help="The work folder; everything is written there.")]
_Configurations = Annotated[
    str | None,
    typer.Option("--configurations", help="Those to train, such as 2d,3d_fullres. Default: all of the plan."),
]
_Folds = Annotated[
    str | None,
    typer.Option(
        "--folds",
        help="Those to train, such as 0 or 0,1. Default: all. The first stage of a cascade always has all.",
    ),
]
_Splits = Annotated[
    Path | None,
    typer.Option("--splits", help="Folds of your own, as nnU-Net's splits_final.json. Default: the plan's."),
]
_Refit = Annotated[
    str | None,
    typer.Option(
        "--refit",
        help="What predicts in the end. cv: all folds of what was chosen; all: one model of it on all cases. "
        "Default: the folds that were trained.",
    ),
]
_Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="Also write the result to this file, which predicts anywhere.")
]
_Licence = Annotated[
    str | None, typer.Option("--licence", help="Licence of the bundle: an SPDX identifier, or a text file.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="training.FIELD=VALUE",
        help="Set a field of the plan's training for this run, such as training.epochs=50; may be repeated.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]


def run_all(
    plan: _Plan,
    dataset: _Dataset,
    *,
    work: _Work = Path("work"),
    configurations: _Configurations = None,
    folds: _Folds = None,
    splits: _Splits = None,
    refit: _Refit = None,
    bundle: _Bundle = None,
    licence: _Licence = None,
    set_: _Set = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Seed of all draws; the run can be repeated to the bit."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="float32, bfloat16 or float16. Default: what suits the machine."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Threads of the network on the CPU. Default: all cores."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that prepare batches. Default: as needed."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be done, and what it would take: tries each for seconds."
        ),
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Begin trainings anew whose plan or data has changed.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """From images to a chosen model: every configuration and fold, the best of them, postprocessing, a bundle.

    What is done is skipped; the same command goes on where it was interrupted.
    """
    from nnrules_runtime.workflow.run import run_all as run

    logging.getLogger("nnrules_runtime").setLevel(logging.WARNING if as_json else logging.INFO)
    profile = {"device": device, "precision": precision, "num_threads": threads, "num_workers": workers}
    settings = _settings(
        plan,
        dataset,
        work=work,
        texts=set_,
        seed=seed,
        configurations=configurations,
        folds=folds,
        splits=splits,
        refit=refit,
        bundle=bundle,
        licence=licence,
        profile=profile,
    )
    if dry_run:
        _show_costs(settings, as_json=as_json)
        return
    outcome = run(settings, redo=redo, tell=_quiet if as_json else _tell, told=_quiet if as_json else _told)
    typer.echo(
        json.dumps(_document(outcome), indent=1, sort_keys=True) if as_json else _text(outcome, settings)
    )
    for problem in outcome.problems:
        typer.echo(str(problem), err=True)
    if outcome.stopped is not None:
        raise typer.Exit(STOPPED)
    if not outcome.is_finished:
        raise typer.Exit(_FAILED)


def status(
    plan: _Plan,
    dataset: _Dataset,
    *,
    work: _Work = Path("work"),
    configurations: _Configurations = None,
    folds: _Folds = None,
    splits: _Splits = None,
    refit: _Refit = None,
    bundle: _Bundle = None,
    licence: _Licence = None,
    set_: _Set = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="As for `run all`.")] = None,
    as_json: _Json = False,
) -> None:
    """How far `run all` has come; the options are those of the run."""
    from nnrules_runtime.workflow.graph import select
    from nnrules_runtime.workflow.ledger import Ledger
    from nnrules_runtime.workflow.run import current_graph

    settings = _settings(
        plan,
        dataset,
        work=work,
        texts=set_,
        seed=seed,
        configurations=configurations,
        folds=folds,
        splits=splits,
        refit=refit,
        bundle=bundle,
        licence=licence,
    )
    selection = select(settings)
    graph = current_graph(settings, selection)
    ledger = Ledger(settings)
    rows = [(step, ledger.standing(step, graph), ledger.record(step)) for step in graph]
    if as_json:
        document = [
            {
                "step": step.name,
                "status": standing.status.value,
                "reason": standing.reason,
                "seconds": record.seconds if record else None,
                "peak_bytes": record.peak_bytes if record else None,
            }
            for step, standing, record in rows
        ]
        typer.echo(json.dumps(document, indent=1, sort_keys=True))
        return
    cells = [("step", "status", "time", "memory", "")]
    cells += [
        (
            step.title,
            standing.status.value,
            _time(record.seconds) if record else "",
            _bytes(record.peak_bytes) if record else "",
            standing.reason or "",
        )
        for step, standing, record in rows
    ]
    typer.echo(_table(cells))


def _settings(
    plan: Path, dataset: Path, *, texts: list[str] | None, seed: int | None, work: Path, **options: Any
) -> Settings:
    """What was asked for; options are those of the commands, by their names."""
    from nnrules.dataset import load_dataset
    from nnrules.errors import Problem, UsageError

    from nnrules_runtime.cli.plan_of_run import plan_of_run
    from nnrules_runtime.workflow.settings import Settings
    from nnrules_runtime.workspace import Workspace

    configurations, folds, refit = options.pop("configurations"), options.pop("folds"), options.pop("refit")
    if refit not in (None, "cv", "all"):
        raise UsageError(Problem(where="--refit", what="no such choice", got=refit, expected="cv or all"))
    changed, changes = plan_of_run(plan, texts or [], seed)
    return Settings(
        plan=changed,
        dataset=load_dataset(dataset),
        workspace=Workspace(work),
        configurations=None if configurations is None else tuple(_parts(configurations)),
        folds=None if folds is None else tuple(_number(part) for part in _parts(folds)),
        refit=refit,
        overrides=changes,
        **options,
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> int:
    from nnrules.errors import Problem, UsageError

    if text.isdecimal():
        return int(text)
    raise UsageError(
        Problem(where="--folds", what="no such fold", got=text, expected="numbers from 0, such as 0,1")
    )


def _quiet(*_: object) -> None:
    """For machines."""


def _tell(step: Step, standing: Standing, number: int, total: int) -> None:
    reason = f" (again: {standing.reason})" if standing.reason else ""
    typer.echo(f"[{number}/{total}] {step.title}{reason}")


def _told(result: StepResult) -> None:
    if result.how == "skipped":
        typer.echo(f"{result.step.title}: done before")
    elif result.how == "done":
        memory = f", {_bytes(result.peak_bytes)} of memory" if result.peak_bytes else ""
        typer.echo(f"{result.step.title}: done in {_time(result.seconds)}{memory}")
    else:
        typer.echo(f"{result.step.title}: {result.how}")


def _text(outcome: Outcome, settings: Settings) -> str:
    counts: dict[str, int] = {}
    for result in outcome.results:
        counts[result.how] = counts.get(result.how, 0) + 1
    summary = ", ".join(f"{number} {how}" for how, number in counts.items())
    if outcome.stopped is not None:
        return f"{summary}; stopped by {outcome.stopped}; the same command continues"
    if not outcome.is_finished:
        return summary
    lines = [f"{summary}; the choice: {settings.workspace.empirical}"]
    if settings.bundle is not None:
        lines.append(f"bundle: {settings.bundle}")
    return "\n".join(lines)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "finished": outcome.is_finished,
        "stopped_by": outcome.stopped,
        "steps": [
            {
                "step": result.step.name,
                "how": result.how,
                "seconds": round(result.seconds, 2),
                "peak_bytes": result.peak_bytes,
                "problems": [problem.to_json() for problem in result.problems],
            }
            for result in outcome.results
        ],
    }


def _show_costs(settings: Settings, *, as_json: bool) -> None:
    """The graph with what each step takes, next to what those took that are done."""
    from nnrules_runtime.workflow.estimate import estimate
    from nnrules_runtime.workflow.graph import select
    from nnrules_runtime.workflow.ledger import Ledger
    from nnrules_runtime.workflow.run import current_graph

    selection = select(settings)
    graph = current_graph(settings, selection)
    ledger = Ledger(settings)
    estimates = estimate(settings, selection)
    rows = [(step, ledger.standing(step, graph), estimates.of(step), ledger.record(step)) for step in graph]
    if as_json:
        document = [
            {
                "step": step.name,
                "status": standing.status.value,
                "seconds": cost.seconds,
                "memory_bytes": cost.memory_bytes,
                "disk_bytes": cost.disk_bytes,
                "gpu_bytes": cost.gpu_bytes,
                "measured_seconds": record.seconds if record else None,
                "measured_bytes": record.peak_bytes if record else None,
            }
            for step, standing, cost, record in rows
        ]
        typer.echo(json.dumps(document, indent=1, sort_keys=True))
        return
    cells = [("step", "status", "time", "took", "memory", "took", "disk", "GPU memory")]
    cells += [
        (
            step.title,
            standing.status.value,
            _time(cost.seconds),
            _time(record.seconds) if record else "",
            _bytes(cost.memory_bytes),
            _bytes(record.peak_bytes) if record else "",
            _bytes(cost.disk_bytes),
            _bytes(cost.gpu_bytes),
        )
        for step, standing, cost, record in rows
    ]
    typer.echo(_table(cells))
    left = [cost for _, standing, cost, _ in rows if standing.status.value != "done"]
    seconds = sum(cost.seconds or 0.0 for cost in left)
    memory = max((cost.memory_bytes or 0 for cost in left), default=0)
    disk = sum(cost.disk_bytes for cost in left)
    typer.echo(
        f"to be done: {len(left)} of {len(rows)} steps; about {_time(seconds)}, {_bytes(memory)} of memory, "
        f"{_bytes(disk)} of disk"
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
