"""Options that several commands share: how they are called, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from nnrules.errors import Problem, UsageError

__all__ = [
    "DatasetArgument",
    "DeviceOption",
    "JsonOption",
    "PlanArgument",
    "PrecisionOption",
    "ProcessesOption",
    "SeedOption",
    "SetOption",
    "ThreadsOption",
    "WorkOption",
    "checkpoint_option",
    "folds_option",
    "names_option",
]

PlanArgument = Annotated[Path, typer.Argument(help="A plan file.")]
DatasetArgument = Annotated[Path, typer.Argument(help="dataset.json or its folder.")]
WorkOption = Annotated[Path, typer.Option("--work", help="The work folder; everything is written there.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="training.FIELD=VALUE",
        help="Set a field of the plan's training for this run, such as training.epochs=50; may be repeated.",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of all draws; the run can be repeated to the bit.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")
]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="float32, bfloat16 or float16. Default: what suits the machine."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of the network on the CPU. Default: all cores."),
]
ProcessesOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes. Default: one a core, if memory allows.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]


def names_option(text: str | None) -> list[str] | None:
    """Names with commas between them, such as ``--configurations``."""
    if text is None:
        return None
    return [name for part in text.split(",") if (name := part.strip())]


def folds_option(text: str | None) -> list[int | str] | None:
    """``--folds``: numbers, or ``all``; each once.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    if all(entry.isdecimal() or entry == "all" for entry in entries):
        return list(dict.fromkeys(int(entry) if entry.isdecimal() else entry for entry in entries))
    raise UsageError(
        Problem(
            where="--folds", what="these are no folds", got=text, expected="numbers such as 0,1,2, or all"
        )
    )


def checkpoint_option(name: str | None) -> Literal["final", "best"] | None:
    """``--checkpoint``.

    Raises:
        UsageError: it is neither ``final`` nor ``best``.
    """
    if name in (None, "final", "best"):
        return cast(Literal["final", "best"] | None, name)
    raise UsageError(
        Problem(where="--checkpoint", what="there is no such checkpoint", got=name, expected="final or best")
    )
