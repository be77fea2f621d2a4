"""Real trainings of the hippocampus set, run by hand: ``python tests/benchmarks/training_run.py --work FOLDER``.

(a) 300 iterations (6 epochs of 50) of 3d_fullres, fold 0, one run a seed; (b) one run with a time budget. Each run
preprocesses, trains and validates on the fold's 52 cases with the commands of a user. What is finished is kept: the
same command goes on where it was interrupted, and the page is written anew after each run. The set itself is expected
in ../shared/data/hippocampus.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
DATASET = CHECKOUT.parent / "shared" / "data" / "hippocampus"
PAGE = CHECKOUT / "docs" / "benchmarks" / "step2-training.md"
RULES, CONFIGURATION, FOLD = "nnunet@2.8.0", "3d_fullres", 0
SHORT = ("training.epochs=6", "training.num_iterations_per_epoch=50")
QUICK = (
    "training.epochs=2",
    "training.num_iterations_per_epoch=2",
    "training.num_validation_iterations_per_epoch=1",
)
# nnunetv2 2.8.1 on two cores: 300 iterations, fold 0, and the Dice of its 52 validation cases.
PEER_MINUTES, PEER_SECONDS_PER_ITERATION, PEER_DICE = 47.0, "6.2–8.5", 0.490
MIN_RATIO, MAX_DICE_LOSS, DICE_OF_BUDGET = 4, 0.02, 0.80


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        name: its folder.
        kind: ``short`` or ``budget``.
        options: of ``nnrules run train``, besides plan, dataset, configuration, fold and work folder.
    """

    name: str
    kind: str
    options: tuple[str, ...]

    def commands(self) -> tuple[tuple[str, list[str]], ...]:
        """Names and arguments of the commands; PLAN, DATASET and WORK stand for paths."""
        chosen = ["-c", CONFIGURATION]
        return (
            ("preprocess", ["run", "preprocess", "PLAN", "DATASET", *chosen, "--work", "WORK"]),
            (
                "train",
                [
                    "run",
                    "train",
                    "PLAN",
                    "DATASET",
                    *chosen,
                    "--fold",
                    str(FOLD),
                    "--work",
                    "WORK",
                    *self.options,
                ],
            ),
        )


def runs_of(arguments: argparse.Namespace) -> list[Run]:
    """The runs that were asked for."""
    short = [part for change in (QUICK if arguments.quick else SHORT) for part in ("--set", change)]
    runs = []
    for seed in arguments.seeds:
        # Given to the command, a seed also makes it repeatable to the bit; on a CPU that costs no speed.
        drawn = () if arguments.draw_seeds else ("--seed", str(seed))
        prefix = "run" if arguments.draw_seeds else "seed"
        runs.append(Run(name=f"{prefix}{seed}", kind="short", options=(*short, *drawn)))
    if arguments.budget_minutes > 0:
        minutes = f"{arguments.budget_minutes:g}"
        runs.append(Run(name=f"budget{minutes}", kind="budget", options=("--time-budget-minutes", minutes)))
    if arguments.quick:
        runs = [replace(run, name=f"quick-{run.name}") for run in runs]
    return [run for run in runs if arguments.only in (None, run.kind)]


# -- running -----------------------------------------------------------------------------------------------------------


def execute(run: Run, folder: Path, dataset: Path) -> dict[str, Any]:
    """Do what is missing of a run.

    Returns:
        What there is to say about it, also in ``result.json`` of its folder.

    Raises:
        RuntimeError: a command failed.
    """
    made = folder / run.name
    result_file = made / "result.json"
    if result_file.is_file():
        _say(f"{run.name}: finished before")
        kept: dict[str, Any] = json.loads(result_file.read_text())
        if kept["commands"] != _shown(run):
            raise RuntimeError(f"{made} was made by other commands: choose another --work, or remove it")
        return kept
    made.mkdir(parents=True, exist_ok=True)
    paths = {"PLAN": str(folder / "plan.json"), "DATASET": str(dataset), "WORK": str(made / "work")}
    for name, command in run.commands():
        if not _is_done(made, name):
            _session(made, name, [paths.get(word, word) for word in command])
    result = _result(run, made)
    _write(result_file, json.dumps(result, indent=1) + "\n")
    return result


def _session(made: Path, name: str, arguments: Sequence[str]) -> None:
    """Run a command and note when it began and ended, for one that is interrupted as well."""
    sessions = [*_sessions(made, name), {"start": time.time(), "end": None, "code": None}]
    _write(made / f"{name}.sessions.json", json.dumps(sessions))
    _say(f"{made.name}: {name} …")
    with (made / f"{name}.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "nnrules", *arguments],
            check=False,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    sessions[-1] |= {"end": time.time(), "code": done.returncode}
    _write(made / f"{name}.sessions.json", json.dumps(sessions))
    if done.returncode:
        tail = (made / f"{name}.log").read_text()[-2000:]
        raise RuntimeError(f"{made.name}: {name} ended with code {done.returncode}:\n{tail}")


def _sessions(made: Path, name: str) -> list[dict[str, Any]]:
    path = made / f"{name}.sessions.json"
    sessions: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    for session in sessions:
        if session["end"] is None:  # this program was killed: the last line of the log tells about when
            session["end"] = max(session["start"], (made / f"{name}.log").stat().st_mtime)
    return sessions


def _is_done(made: Path, name: str) -> bool:
    return any(session["code"] == 0 for session in _sessions(made, name))


def _seconds(made: Path, name: str) -> float:
    return float(sum(session["end"] - session["start"] for session in _sessions(made, name)))


def _shown(run: Run) -> list[str]:
    return [" ".join(["nnrules", *command]) for _, command in run.commands()]


# -- results -----------------------------------------------------------------------------------------------------------


def _result(run: Run, made: Path) -> dict[str, Any]:
    trained = made / "work" / "models" / CONFIGURATION / f"fold_{FOLD}"
    facts = json.loads((trained / "training.json").read_text())
    del facts["plan_fields"]
    epochs = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((trained / "validation" / "summary.json").read_text())
    iterations = sum(epoch["num_iterations"] for epoch in epochs)
    training_s = sum(epoch["num_iterations"] * epoch["seconds_per_iteration"] for epoch in epochs)
    waiting_s = sum(
        epoch["num_iterations"] * epoch["seconds_per_iteration"] * epoch["share_waiting"] for epoch in epochs
    )
    return {
        "name": run.name,
        "kind": run.kind,
        "commands": _shown(run),
        "sessions": len(_sessions(made, "train")),
        "preprocess_s": _seconds(made, "preprocess"),
        "train_s": _seconds(made, "train"),
        "iterations": iterations,
        "seconds_per_iteration": training_s / iterations,
        "share_waiting": waiting_s / training_s,
        "dice": summary["foreground_mean"]["dice"],
        "dice_by_class": {name: metrics["dice"] for name, metrics in summary["mean"].items()},
        "num_cases": len(summary["cases"]),
        "training": facts,
        "epochs": epochs,
    }


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": named[0] if named else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": version("torch"),
        "day": time.strftime("%Y-%m-%d"),
    }


def page(results: list[dict[str, Any]], machine: dict[str, Any], *, quick: bool) -> str:
    """The page of the runs that are finished."""
    lines = [
        "# Real training: hippocampus, 3d_fullres, fold 0",
        "",
        "Written by `python tests/benchmarks/training_run.py`, which is run by hand; "
        + ", ".join(f"{name} {value}" for name, value in machine.items())
        + f". Rules {RULES}. Each run has a work folder of its own; PLAN, DATASET and WORK stand for paths.",
        "",
    ]
    if quick:
        lines += ["**A quick run, to see whether everything runs: the numbers mean nothing.**", ""]
    lines += [
        (
            f"The peer is nnunetv2 2.8.1 on two cores of such a machine: {PEER_MINUTES:g} minutes for 300 iterations, "
            f"{PEER_SECONDS_PER_ITERATION} s an iteration, mean Dice of the 52 validation cases {PEER_DICE:.3f}. The "
            "time of a run is that of the whole `train` command, with validation; preprocessing is a command before it."
        ),
        "",
        "| run | seed | iterations | preprocessing | training | s an iteration | waiting | Dice | cases | sessions |",
        "|" + "---|" * 10,
    ]
    lines += [_row(result) for result in results]
    lines += ["", *([] if quick else [*_verdicts(results), ""])]
    for result in results:
        lines += [f"## {result['name']}", "", "```console"]
        lines += [f"$ {command}" for command in result["commands"]]
        lines += ["```", "", "Profile: " + _profile(result["training"]["profile"]) + ".", ""]
        lines += ["| epoch | iterations | rate | loss | validation loss | pseudo Dice | seconds | waiting |"]
        lines += ["|" + "---|" * 8, *map(_epoch, result["epochs"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(result: dict[str, Any]) -> str:
    cells = [
        result["name"],
        str(result["training"]["seed"]),
        str(result["iterations"]),
        f"{result['preprocess_s']:.1f} s",
        f"{result['train_s'] / 60:.2f} min",
        f"{result['seconds_per_iteration']:.2f}",
        f"{result['share_waiting']:.1%}",
        _number(result["dice"]),
        str(result["num_cases"]),
        str(result["sessions"]),
    ]
    return "| " + " | ".join(cells) + " |"


def _verdicts(results: list[dict[str, Any]]) -> list[str]:
    lines = []
    if short := [result for result in results if result["kind"] == "short"]:
        slowest = PEER_MINUTES * 60 / max(result["train_s"] for result in short)
        lines.append(
            f"- 300 iterations, {len(short)} runs: the slowest {slowest:.2f} times faster than the peer "
            f"(wanted: {MIN_RATIO}; {_met(slowest >= MIN_RATIO)})."
        )
        if all(result["dice"] is not None for result in short):
            dice, least = statistics.fmean(result["dice"] for result in short), PEER_DICE - MAX_DICE_LOSS
            lines.append(
                f"- Their mean Dice {dice:.4f}, the peer's {PEER_DICE:.3f} "
                f"(wanted: at least {least:.3f}; {_met(dice >= least)})."
            )
    for result in results:
        if result["kind"] == "budget" and result["dice"] is not None:
            minutes = result["training"]["time_budget_seconds"] / 60
            met = _met(result["dice"] >= DICE_OF_BUDGET)
            lines.append(
                f"- A budget of {minutes:g} minutes: {result['train_s'] / 60:.2f} minutes with validation, mean Dice "
                f"{result['dice']:.4f} (aim: {DICE_OF_BUDGET:.2f}; {met})."
            )
    return lines


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _profile(profile: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in profile.items())


def _epoch(epoch: dict[str, Any]) -> str:
    cells = [
        str(epoch["epoch"]),
        str(epoch["num_iterations"]),
        f"{epoch['learning_rate']:.4g}",
        _number(epoch["loss"]),
        _number(epoch["validation_loss"]),
        _number(epoch["mean_dice"]),
        f"{epoch['seconds']:.0f}",
        f"{epoch['share_waiting']:.1%}",
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def publish(results: list[dict[str, Any]], output: Path, folder: Path, dataset: Path, *, quick: bool) -> None:
    """Write the page, the same as JSON, and the logs without this machine's paths."""
    machine = _machine()
    output.parent.mkdir(parents=True, exist_ok=True)
    peer = {"minutes": PEER_MINUTES, "seconds_per_iteration": PEER_SECONDS_PER_ITERATION, "dice": PEER_DICE}
    document = {"machine": machine, "peer": peer, "runs": results}
    _write(output.with_suffix(".json"), json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    _write(output, page(results, machine, quick=quick))
    logs = output.with_suffix("")
    logs.mkdir(exist_ok=True)
    for result in results:
        text = (folder / result["name"] / "train.log").read_text(errors="replace")
        for path, name in (
            (folder / result["name"] / "work", "WORK"),
            (folder, "FOLDER"),
            (dataset, "DATASET"),
            (CHECKOUT, "CHECKOUT"),
        ):
            text = text.replace(str(path), name)
        _write(logs / f"{result['name']}.log", text)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _write(path: Path, text: str) -> None:
    """Replace a file at once, as this program may be killed at any time."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the runs; kept between invocations"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[1, 2, 3], help="one short run each (default: 1 2 3)"
    )
    parser.add_argument(
        "--draw-seeds", action="store_true", help="let each run draw its seed; --seeds number them"
    )
    parser.add_argument(
        "--budget-minutes", type=float, default=30, help="of the second kind; 0: none (default: 30)"
    )
    parser.add_argument("--only", choices=("short", "budget"), help="one kind alone")
    parser.add_argument("--quick", action="store_true", help="4 iterations, to see whether everything runs")
    parser.add_argument("--dataset", type=Path, default=DATASET, help="default: ../shared/data/hippocampus")
    parser.add_argument("--output", type=Path, help="the page (default: docs/benchmarks/step2-training.md)")
    arguments = parser.parse_args()
    dataset, folder = arguments.dataset.resolve(), arguments.work.resolve()
    if not (dataset / "dataset.json").is_file():
        raise SystemExit(f"{dataset} has no dataset.json: the set is absent, nothing is measured")
    output = arguments.output or (folder / "quick.md" if arguments.quick else PAGE)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "plan.json").is_file():
        command = ["plan", str(dataset), "--rules", RULES, "-o", str(folder / "plan.json")]
        subprocess.run([sys.executable, "-m", "nnrules", *command], check=True, cwd=CHECKOUT)
    results = []
    for run in runs_of(arguments):
        results.append(execute(run, folder, dataset))
        publish(results, output, folder, dataset, quick=arguments.quick)
    _say(f"written to {output}")


if __name__ == "__main__":
    main()
