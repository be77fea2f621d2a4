"""The whole method on real data, run by hand: ``python tests/benchmarks/whole_method.py --work FOLDER [--only NAME]``.

Each run plans a dataset, estimates what it will take (``run all --dry-run``), does all of it (``run all``), and writes
its page ``docs/benchmarks/step3-NAME.md``: the Dice of every candidate and class in the shape of Table F.26 of the
paper, folds and groups, what was chosen, what postprocessing did, and the estimates next to what was measured. What is
finished is kept: the same command goes on where it was interrupted. The data is expected in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = CHECKOUT.parent / "shared" / "data"
PAGES = CHECKOUT / "docs" / "benchmarks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One dataset.

    Attributes:
        name: of the page.
        dataset: below ../shared/data.
        plan: options of ``nnrules plan``.
        train: options of ``nnrules run all``.
        num_cases: how many cases, evenly spread over the sorted ids; ``None``: all.
        why: what is looked at.
    """

    name: str
    dataset: str
    plan: tuple[str, ...]
    train: tuple[str, ...]
    num_cases: int | None
    why: str


def short(epochs: int, iterations: int, validation: int) -> tuple[str, ...]:
    """Short trainings, as options."""
    fields = {
        "epochs": epochs,
        "num_iterations_per_epoch": iterations,
        "num_validation_iterations_per_epoch": validation,
    }
    return tuple(part for name, value in fields.items() for part in ("--set", f"training.{name}={value}"))


RUNS = (
    Run(
        name="acdc",
        dataset="acdc",
        plan=("--gpu-memory-gb", "1"),
        train=short(6, 20, 4),
        num_cases=None,
        why="26 cases of 13 patients: patients never straddle folds.",
    ),
    Run(
        name="hippocampus",
        dataset="hippocampus",
        plan=("--gpu-memory-gb", "1"),
        train=short(12, 25, 4),
        num_cases=60,
        why="a subset, trained long enough for a mean Dice above 0.7.",
    ),
    Run(
        name="head_neck_ct",
        dataset="head_neck_ct",
        plan=("--gpu-memory-gb", "1"),
        train=short(4, 10, 2),
        num_cases=None,
        why="a budget of 1 GB, which triggers the cascade: both stages are trained and predict.",
    ),
)


def command(*arguments: str) -> str:
    """Run ``nnrules`` and return what it prints."""
    print("$ nnrules", *arguments, flush=True)  # noqa: T201 - a script
    done = subprocess.run(
        [sys.executable, "-m", "nnrules", *arguments],
        check=True,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def subset(dataset: Path, number: int, folder: Path) -> Path:
    """A dataset folder with some of the cases, as links."""
    if (folder / "dataset.json").is_file():
        return folder
    document = json.loads((dataset / "dataset.json").read_text())
    labels = sorted((dataset / "labelsTr").glob("*.nii.gz"))
    chosen = [labels[index * len(labels) // number] for index in range(number)]
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for label in chosen:
        (folder / "labelsTr" / label.name).symlink_to(label)
        case = label.name.removesuffix(".nii.gz")
        for image in (dataset / "imagesTr").glob(f"{case}_*.nii.gz"):
            (folder / "imagesTr" / image.name).symlink_to(image)
    document["numTraining"] = number
    document.pop("training", None)
    (folder / "dataset.json").write_text(json.dumps(document, indent=1))
    return folder


def carry_out(run: Run, work: Path) -> None:
    """Plan, estimate, run, and write the page."""
    folder = work / run.name
    folder.mkdir(parents=True, exist_ok=True)
    dataset = DATA / run.dataset
    if run.num_cases is not None:
        dataset = subset(dataset, run.num_cases, folder / "data")
    plan, place = folder / "plan.json", folder / "work"
    if not plan.is_file():
        command("plan", str(dataset), *run.plan, "-o", str(plan))
    common = (str(plan), str(dataset), "--work", str(place), *run.train)
    costs = folder / "estimate.json"
    if not costs.is_file():
        costs.write_text(command("run", "all", *common, "--dry-run", "--json"))
    started = time.monotonic()
    command("run", "all", *common, "--bundle", str(folder / f"{run.name}.nnrules"), "--licence", "CC-BY-4.0")
    times = folder / "seconds.json"
    sessions = [*json.loads(times.read_text())] if times.is_file() else []
    times.write_text(json.dumps([*sessions, time.monotonic() - started]))
    status = json.loads(command("run", "status", *common, "--json"))
    page = PAGES / f"step3-{run.name}.md"
    page.write_text(text_of(run, json.loads(costs.read_text()), status, place, json.loads(times.read_text())))
    print("written to", page)  # noqa: T201 - a script


def text_of(run: Run, costs: list[Any], status: list[Any], place: Path, sessions: list[float]) -> str:
    """The page."""
    empirical = json.loads((place / "empirical.json").read_text())
    summary = json.loads((place / "cross_validation" / "summary.json").read_text())
    machine = f"python {platform.python_version()}, torch {version('torch')}"
    lines = [
        f"# The whole method: {run.name}",
        "",
        f"Written by `python tests/benchmarks/whole_method.py`, which is run by hand; two cores, {machine}. {run.why}",
        f"Sessions: {', '.join(f'{seconds / 60:.1f} min' for seconds in sessions)}.",
        "",
        "```console",
        f"$ nnrules plan {run.dataset} {' '.join(run.plan)} -o plan.json",
        f"$ nnrules run all plan.json {run.dataset} {' '.join(run.train)} --bundle {run.name}.nnrules",
        "```",
        "",
        "## Dice of cross-validation",
        "",
        *dice_table(empirical),
        "",
        f"Chosen: {' + '.join(empirical['members'])}.",
        f"Cross-validated, with postprocessing: mean Dice {summary['foreground_mean']['dice']:.4f}.",
        "",
        "## Postprocessing",
        "",
        *postprocessing_lines(empirical),
        "",
        "## What it took",
        "",
        *cost_table(costs, status),
        "",
    ]
    return "\n".join(lines)


def dice_table(empirical: dict[str, Any]) -> list[str]:
    """Candidates and classes, as Table F.26."""
    scored = [candidate for candidate in empirical["candidates"] if candidate["scores"] is not None]
    classes = list(scored[0]["scores"]["dice"])
    rows = ["| | " + " | ".join(classes) + " | mean |", "|---" * (len(classes) + 2) + "|"]
    for candidate in scored:
        scores = candidate["scores"]
        values = [scores["dice"][name] for name in classes] + [scores["mean"]]
        cells = ["–" if value is None else f"{value:.4f}" for value in values]
        rows.append(f"| {' + '.join(candidate['members'])} | " + " | ".join(cells) + " |")
    return rows


def postprocessing_lines(empirical: dict[str, Any]) -> list[str]:
    """What was tried for the choice, and what was kept."""
    chosen = next(entry for entry in empirical["candidates"] if entry["members"] == empirical["members"])
    return ["```json", json.dumps(chosen["trials"], indent=1), "```"]


def cost_table(costs: list[Any], status: list[Any]) -> list[str]:
    """Estimates next to what was measured."""
    took = {entry["step"]: entry for entry in status}
    rows = ["| step | estimated | took | ratio | memory estimated | measured | ratio |", "|---" * 7 + "|"]
    totals = [0.0, 0.0]
    for cost in costs:
        measured = took.get(cost["step"])
        if measured is None or measured["seconds"] is None:
            continue
        totals[0] += cost["seconds"] or 0.0
        totals[1] += measured["seconds"]
        rows.append(
            f"| {cost['step']} | {number(cost['seconds'], 1)} s | {number(measured['seconds'], 1)} s | "
            f"{ratio(cost['seconds'], measured['seconds'])} | {gigabytes(cost['memory_bytes'])} | "
            f"{gigabytes(measured['peak_bytes'])} | {ratio(cost['memory_bytes'], measured['peak_bytes'])} |"
        )
    peaks = [
        max((entry[key] or 0 for entry in entries), default=0)
        for entries, key in ((costs, "memory_bytes"), (status, "peak_bytes"))
    ]
    rows.append(
        f"| **all** | {totals[0]:.0f} s | {totals[1]:.0f} s | {ratio(*totals)} | {gigabytes(peaks[0])} | "
        f"{gigabytes(peaks[1])} | {ratio(*peaks)} |"
    )
    return rows


def number(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def gigabytes(value: int | None) -> str:
    """Bytes."""
    return "–" if value is None else f"{value / 1e9:.2f} GB"


def ratio(first: float | None, second: float | None) -> str:
    """The first by the second."""
    return "–" if not first or not second else f"{first / second:.2f}"


def main() -> None:
    """Carry out the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--only", choices=[run.name for run in RUNS], help="one of them")
    options = parser.parse_args()
    for run in RUNS:
        if options.only in (None, run.name):
            carry_out(run, options.work.resolve())


if __name__ == "__main__":
    main()
