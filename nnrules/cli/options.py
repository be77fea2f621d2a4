"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RulesOption = Annotated[
    str | None, typer.Option("--rules", metavar="NAME@VERSION|FILE", help="The rule pack.")
]
PresetOption = Annotated[str | None, typer.Option("--preset", help="A preset of the pack, e.g. L.")]
MemoryOption = Annotated[
    float | None, typer.Option("--gpu-memory-gb", help="GPU memory to plan for, GB. Default: the pack's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a field; what depends on it follows."),
]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Threads. Default: all cores.")]
