"""The steps of a run as a table: how far they are, and what they take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from nnrules_runtime.cli.output import aligned
from nnrules_runtime.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nnrules_runtime.workflow.graph import Selection
    from nnrules_runtime.workflow.ledger import Record, Standing
    from nnrules_runtime.workflow.settings import Settings
    from nnrules_runtime.workflow.step import Step

__all__ = ["show_costs", "show_standings"]


def show_standings(settings: Settings, *, as_json: bool) -> None:
    """Print where each step stands, with what those took that are done."""
    from nnrules_runtime.workflow.graph import select

    rows = _steps(settings, select(settings))
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
        (step.title, standing.status.value, *_measured(record), standing.reason or "")
        for step, standing, record in rows
    ]
    typer.echo(aligned(cells))
    _say_of_refit(settings, [step for step, _, _ in rows])


def show_costs(settings: Settings, *, as_json: bool) -> None:
    """Try for some seconds what each step takes, and print it next to what those took that are done."""
    from nnrules_runtime.workflow.estimate import estimate
    from nnrules_runtime.workflow.graph import select

    selection = select(settings)
    steps = _steps(settings, selection)
    estimates = estimate(settings, selection)
    rows = [(step, standing, estimates.of(step), record) for step, standing, record in steps]
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
    for step, standing, cost, record in rows:
        time_taken, memory_taken = _measured(record)
        cells.append(
            (
                step.title,
                standing.status.value,
                _time(cost.seconds),
                time_taken,
                _size(cost.memory_bytes),
                memory_taken,
                size(cost.disk_bytes),
                _size(cost.gpu_bytes),
            )
        )
    typer.echo(aligned(cells))
    left = [cost for _, standing, cost, _ in rows if standing.status.value != "done"]
    seconds = sum(cost.seconds or 0.0 for cost in left)
    memory = max((cost.memory_bytes or 0 for cost in left), default=0)
    disk = sum(cost.disk_bytes for cost in left)
    typer.echo(
        f"to be done: {len(left)} of {len(rows)} steps; about {duration(seconds)}, {size(memory)} of memory, "
        f"{size(disk)} of disk"
    )
    _say_of_refit(settings, [step for step, *_ in rows])


def _say_of_refit(settings: Settings, steps: Sequence[Step]) -> None:
    """Steps that are not in the table, as they depend on a choice that has not been made."""
    if settings.refit is None or any(step.kind.value == "refit" for step in steps):
        return
    what = "one model of all cases" if settings.refit == "all" else "the folds that are missing"
    typer.echo(f"then, for what is chosen: {what} (--refit {settings.refit})")


def _steps(settings: Settings, selection: Selection) -> list[tuple[Step, Standing, Record | None]]:
    """The steps in their order, where each stands, and what is noted about it."""
    from nnrules_runtime.workflow.ledger import Ledger
    from nnrules_runtime.workflow.run import current_graph

    graph = current_graph(settings, selection)
    ledger = Ledger(settings)
    return [(step, ledger.standing(step, graph), ledger.record(step)) for step in graph]


def _measured(record: Record | None) -> tuple[str, str]:
    """Time and memory of a step that is done."""
    return ("", "") if record is None else (duration(record.seconds), _size(record.peak_bytes))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _size(num_bytes: int | None) -> str:
    return "" if num_bytes is None else size(num_bytes)
