"""The commands of the runtime, mounted as ``nnrules run …`` through the entry points ``nnrules.commands``."""

from __future__ import annotations

import gc
import os
from importlib.util import find_spec

import typer
from nnrules.errors import Problem, UsageError

from nnrules_runtime.cli.bundle import bundle, show
from nnrules_runtime.cli.evaluate import evaluate
from nnrules_runtime.cli.find_best import find_best
from nnrules_runtime.cli.import_model import import_model
from nnrules_runtime.cli.predict import predict
from nnrules_runtime.cli.preprocess import preprocess
from nnrules_runtime.cli.run_all import run_all, status
from nnrules_runtime.cli.train import train

__all__ = ["app"]

app = typer.Typer(
    help="Execute a plan: `all` does everything; or step by step: train (which also preprocesses), predict, evaluate.",
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
    # `nnrules` looks for garbage in cycles next to never, as a plan is made in a blink. Trainings run for days.
    gc.set_threshold(700, 10, 10)
    # Activations of a CPU training are tens of megabytes each: huge pages save their page faults. Read by torch
    # when it is imported.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Threads of libgomp wait for each other by spinning, up to 300,000 rounds. Where several programs do so, each
    # spins away the time in which another's threads could go on: beside other trainings, a step that takes 37 ms alone
    # took 4.6 s, and 0.15 s with fewer rounds; alone these make no difference. Read when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


for _verb in (preprocess, train, find_best, predict, evaluate, bundle, show):
    app.command()(_verb)
app.command("import")(import_model)
app.command("all")(run_all)
app.command()(status)
