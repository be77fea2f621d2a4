"""The commands of the runtime, mounted as ``nnrules run …`` through the entry points ``nnrules.commands``."""

from __future__ import annotations

import os
from importlib.util import find_spec

import typer
from nnrules.errors import Problem, UsageError

from nnrules_runtime.cli.evaluate import evaluate
from nnrules_runtime.cli.predict import predict
from nnrules_runtime.cli.preprocess import preprocess
from nnrules_runtime.cli.train import train

__all__ = ["app"]

app = typer.Typer(
    help="Execute a plan. The usual order: train (which also preprocesses), predict, evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_NEEDED = ("torch", "blosc2", "safetensors", "scipy")


@app.callback()
def _run() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            Problem(
                where="nnrules run",
                what="executing plans needs packages that are not installed",
                got=f"no {', '.join(missing)}",
                fix='Run `pip install "nnrules[runtime]"`; pytorch.org has the builds of torch for each device.',
            )
        )
    # Activations of a CPU training are tens of megabytes each: huge pages save their page faults. Read by torch
    # when it is imported.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


for _verb in (preprocess, train, predict, evaluate):
    app.command()(_verb)
