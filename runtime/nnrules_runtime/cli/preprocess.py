"""``nnrules run preprocess``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnrules_runtime.cli.options import DatasetArgument, JsonOption, PlanArgument, WorkOption
from nnrules_runtime.cli.output import aligned, set_log_level

if TYPE_CHECKING:
    from nnrules_runtime.preprocess.dataset import Summary

__all__ = ["preprocess"]


def preprocess(
    plan: PlanArgument,
    dataset: DatasetArgument,
    *,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            "-c", "--configuration", help="A configuration of the plan; may be repeated. Default: all."
        ),
    ] = None,
    work: WorkOption = Path("work"),
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes; 0: none. Default: one a core, if memory allows."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prepare the training cases.

    A second run does only what changed. `train` does this by itself; on its own it shows time, memory and disk.
    """
    from nnrules_runtime.preprocess.worker_start import WORKER_MODULES, start_server

    if workers != 0 and not (work / "preprocessed").exists():
        start_server(WORKER_MODULES)  # it gets ready while plan and dataset are read

    from nnrules.dataset import load_dataset
    from nnrules.plan import Plan

    from nnrules_runtime.preprocess.dataset import preprocess_configurations
    from nnrules_runtime.workspace import Workspace

    set_log_level(as_json=as_json)
    loaded = Plan.load(plan)
    names = list(dict.fromkeys(configuration or loaded.configurations))
    summaries = preprocess_configurations(
        loaded, load_dataset(dataset), names, Workspace(work), num_workers=workers
    )
    if as_json:
        typer.echo(json.dumps([_as_json(summary) for summary in summaries], indent=1, sort_keys=True))
    else:
        typer.echo(_table(summaries))


def _as_json(summary: Summary) -> dict[str, object]:
    return {
        "configurations": list(summary.configurations),
        "folder": str(summary.folder),
        "done": summary.num_done,
        "unchanged": summary.num_unchanged,
        "bytes": summary.num_bytes,
        "seconds": round(summary.seconds, 3),
    }


def _table(summaries: list[Summary]) -> str:
    rows = [("configurations", "done", "unchanged", "MB", "folder")]
    rows += [
        (
            ", ".join(summary.configurations),
            str(summary.num_done),
            str(summary.num_unchanged),
            f"{summary.num_bytes / 1e6:.1f}",
            str(summary.folder),
        )
        for summary in summaries
    ]
    seconds = max((summary.seconds for summary in summaries), default=0.0)
    return f"{aligned(rows, numbers=slice(1, -1))}\n{seconds:.1f} s"
