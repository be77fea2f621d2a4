"""``nnrules run all`` and ``nnrules run status``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnrules_runtime.cli.options import DeviceOption, JsonOption, PrecisionOption, SeedOption, ThreadsOption
from nnrules_runtime.cli.output import set_log_level
from nnrules_runtime.cli.run_options import Asked, asks
from nnrules_runtime.cli.train import STOPPED
from nnrules_runtime.quantities import duration, size

if TYPE_CHECKING:
    from nnrules_runtime.workflow.ledger import Standing
    from nnrules_runtime.workflow.run import Outcome, StepResult
    from nnrules_runtime.workflow.settings import Settings
    from nnrules_runtime.workflow.step import Step

__all__ = ["run_all", "status"]

_FAILED = 2


@asks
def run_all(
    asked: Asked,
    *,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
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
    as_json: JsonOption = False,
) -> None:
    """From images to a chosen model: every configuration and fold, the best of them, postprocessing, a bundle.

    What is done is skipped; the same command goes on where it was interrupted.
    """
    from nnrules_runtime.cli.run_tables import show_costs
    from nnrules_runtime.workflow.run import run_all as run

    set_log_level(as_json=as_json)
    profile = {"device": device, "precision": precision, "num_threads": threads, "num_workers": workers}
    settings = asked.settings(seed=seed, profile=profile)
    if dry_run:
        show_costs(settings, as_json=as_json)
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


@asks
def status(
    asked: Asked,
    *,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="As for `run all`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How far `run all` has come; the options are those of the run."""
    from nnrules_runtime.cli.run_tables import show_standings

    show_standings(asked.settings(seed=seed), as_json=as_json)


def _quiet(*_: object) -> None:
    """For machines."""


def _tell(step: Step, standing: Standing, number: int, total: int) -> None:
    reason = f" (again: {standing.reason})" if standing.reason else ""
    typer.echo(f"[{number}/{total}] {step.title}{reason}")


def _told(result: StepResult) -> None:
    if result.how == "skipped":
        typer.echo(f"{result.step.title}: done before")
    elif result.how == "done":
        memory = f", {size(result.peak_bytes)} of memory" if result.peak_bytes else ""
        typer.echo(f"{result.step.title}: done in {duration(result.seconds)}{memory}")
    else:
        typer.echo(f"{result.step.title}: {result.how}")


def _text(outcome: Outcome, settings: Settings) -> str:
    from nnrules_runtime.cli.choice import choice_lines
    from nnrules_runtime.select import Empirical

    counts: dict[str, int] = {}
    for result in outcome.results:
        counts[result.how] = counts.get(result.how, 0) + 1
    summary = ", ".join(f"{number} {how}" for how, number in counts.items())
    if outcome.stopped is not None:
        return f"{summary}; stopped by {outcome.stopped}; the same command continues"
    if not outcome.is_finished:
        return f"{summary}; logs: {settings.workspace.logs}"
    empirical = Empirical.load(settings.workspace.empirical)
    lines = [
        *choice_lines(empirical, settings.plan),
        "",
        f"{summary}; the choice: {settings.workspace.empirical}",
    ]
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
