"""The whole method on real data, run by hand: ``python tests/benchmarks/whole_method.py --work FOLDER [--only NAME]``.

Each run plans a dataset, estimates what it will take (``run all --dry-run``), does all of it (``run all``), and writes
its page ``docs/benchmarks/step3-NAME.md``: the Dice of every candidate and class in the shape of Table F.26 of the
paper, folds and groups, what was chosen, what postprocessing did, and the estimates next to what was measured; of a
cascade also how its labels compare with those of nnunetv2 with the same weights. What is finished is kept: the same
command goes on where it was interrupted. The data is expected in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cascade_labels import compare_labels
from nnrules.dataset import Dataset, load_dataset
from nnrules.plan import Plan

from nnrules_runtime.folds import Division, FoldPolicy
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = CHECKOUT.parent / "shared" / "data"
PAGES = CHECKOUT / "docs" / "benchmarks"
NUM_COMPARED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One dataset.

    Attributes:
        name: of the page.
        dataset: below ../shared/data.
        plan: options of ``nnrules plan``.
        train: options of ``nnrules run all``.
        why: what is looked at.
        num_cases: how many cases, evenly spread over the sorted ids; ``None``: all.
        declared: what a user adds to dataset.json.
        cascade: its two stages, whose labels are compared with those of nnunetv2.
    """

    name: str
    dataset: str
    plan: tuple[str, ...]
    train: tuple[str, ...]
    why: str
    num_cases: int | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    cascade: tuple[str, str] | None = None


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
        why="26 cases of 13 patients: patients never straddle folds.",
        declared={"nnrules": {"groups": {"pattern": "^(patient[0-9]+)_"}}},
    ),
    Run(
        name="hippocampus",
        dataset="hippocampus",
        plan=("--gpu-memory-gb", "1"),
        train=short(12, 25, 4),
        why="A subset, trained long enough for a mean Dice above 0.7.",
        num_cases=60,
    ),
    Run(
        name="head_neck_ct",
        dataset="head_neck_ct",
        plan=("--gpu-memory-gb", "1"),
        train=short(4, 10, 2),
        why="A budget of 1 GB, which triggers the cascade: both stages are trained and predict.",
        cascade=("3d_lowres", "3d_cascade_fullres"),
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


def dataset_of(run: Run, folder: Path) -> Path:
    """The dataset: as it is, or its images as links beside a dataset.json that says more, or of fewer cases."""
    source = DATA / run.dataset
    if run.num_cases is None and not run.declared:
        return source
    document = {**json.loads((source / "dataset.json").read_text()), **run.declared}
    ending = document["file_ending"]
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))
    number = run.num_cases or len(labels)
    document["numTraining"] = number
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for label in (labels[index * len(labels) // number] for index in range(number)):
        case = label.name.removesuffix(ending)
        for path in (label, *(source / "imagesTr").glob(f"{case}_????{ending}")):
            link = folder / path.parent.name / path.name
            if not link.is_symlink():
                link.symlink_to(path)
    (folder / "dataset.json").write_text(json.dumps(document, indent=1))
    return folder


def carry_out(run: Run, work: Path) -> None:
    """Plan, estimate, run, and write the page."""
    folder = work / run.name
    folder.mkdir(parents=True, exist_ok=True)
    dataset = dataset_of(run, folder / "data")
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
    agreement = folder / "agreement.json"
    if run.cascade is not None and not agreement.is_file():
        loaded = load_dataset(dataset)
        images = [case.image_paths[0] for case in loaded.cases[:: len(loaded.cases) // NUM_COMPARED]]
        found = compare_labels(
            Plan.load(plan),
            json.loads((dataset / "dataset.json").read_text()),
            place,
            run.cascade,
            images[:NUM_COMPARED],
        )
        agreement.write_text(json.dumps([asdict(entry) for entry in found], indent=1))
    page = PAGES / f"step3-{run.name}.md"
    page.write_text(
        "\n".join(
            [
                *method_lines(run, place, json.loads(times.read_text())),
                *fold_lines(Plan.load(plan), load_dataset(dataset)),
                *cost_lines(json.loads(costs.read_text()), status),
                *(agreement_lines(json.loads(agreement.read_text())) if run.cascade else ()),
            ]
        )
    )
    print("written to", page)  # noqa: T201 - a script


def method_lines(run: Run, place: Path, sessions: list[float]) -> Iterator[str]:
    """What was run, the Dice of all candidates, the choice and its postprocessing."""
    empirical = json.loads((place / "empirical.json").read_text())
    summary = json.loads((place / "cross_validation" / "summary.json").read_text())
    machine = f"two cores, Python {platform.python_version()}, torch {version('torch')}"
    yield f"# The whole method: {run.name}"
    yield ""
    yield f"Written by `python tests/benchmarks/whole_method.py`, which is run by hand; {machine}. {run.why}"
    yield f"`run all` took {' and '.join(f'{seconds / 60:.1f}' for seconds in sessions)} minutes."
    if run.declared:
        yield f"Added to dataset.json: `{json.dumps(run.declared)}`."
    if run.num_cases is not None:
        yield f"{run.num_cases} cases, evenly spread over the sorted ids."
    yield ""
    yield "```console"
    yield f"$ nnrules plan {run.dataset} {' '.join(run.plan)} -o plan.json"
    yield f"$ nnrules run all plan.json {run.dataset} {' '.join(run.train)} --bundle {run.name}.nnrules"
    yield "```"
    yield ""
    yield "## Dice of cross-validation"
    yield ""
    yield "Cases of all folds, each predicted by the network that did not see it, before postprocessing."
    yield ""
    yield from dice_table(empirical)
    yield ""
    yield f"Chosen: **{' + '.join(empirical['members'])}**."
    mean = summary["foreground_mean"]["dice"]
    yield f"Cross-validated once more as new images are predicted, with postprocessing: mean Dice {mean:.4f}."
    yield ""
    yield "## Postprocessing of the chosen one"
    yield ""
    yield from postprocessing_table(empirical)
    yield ""


def fold_lines(plan: Plan, dataset: Dataset) -> Iterator[str]:
    """Cases and groups of each fold, and whether a group lies in more than one."""
    with reading(plan) as root:
        folds = Division.of(FoldPolicy.from_plan(root), dataset).folds()
    groups = {case.id: case.group or case.id for case in dataset.cases}
    held_out = [{groups[case] for case in fold.validation} for fold in folds]
    yield "## Folds"
    yield ""
    yield "| fold | cases held out | groups held out |"
    yield "|---|---|---|"
    for fold, names in zip(folds, held_out, strict=True):
        yield f"| {fold.name} | {len(fold.validation)} | {len(names)} |"
    straddling = [
        fold.name
        for fold, names in zip(folds, held_out, strict=True)
        if names & {groups[case] for case in fold.train}
    ]
    yield ""
    yield f"Folds with a group on both sides: {', '.join(map(str, straddling)) or 'none'}."
    yield ""


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


def postprocessing_table(empirical: dict[str, Any]) -> Iterator[str]:
    """What was tried, and what was kept."""
    chosen = next(entry for entry in empirical["candidates"] if entry["members"] == empirical["members"])
    if not chosen["trials"]:
        yield "Nothing was tried."
        return
    yield "| only the largest component of | mean Dice before | after | |"
    yield "|---|---|---|---|"
    for trial in chosen["trials"]:
        verdict = "accepted" if trial["accepted"] else "not accepted"
        name = trial["step"]["name"]
        yield f"| {name} | {mean_of(trial['before'])} | {mean_of(trial['after'])} | {verdict} |"


def mean_of(scores: Mapping[str, float | None]) -> str:
    """The mean of what is defined."""
    values = [value for value in scores.values() if value is not None]
    return number(sum(values) / len(values) if values else None, 4)


def agreement_lines(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Labels beside those of nnunetv2 with the same weights."""
    yield "## The same weights in nnunetv2"
    yield ""
    yield "The trained weights of fold 0 of both stages, loaded into nnunetv2 2.8.1's own networks and written as its"
    yield "checkpoints, which were imported here again. Whole images from the file to the labels, mirrored; nnunetv2"
    yield "sums windows in float16, here both run in float32."
    yield ""
    yield "| case | stage | voxels | of them foreground | different | equal |"
    yield "|---|---|---|---|---|---|"
    for entry in entries:
        share = 1 - entry["num_different"] / entry["num_voxels"]
        yield (
            f"| {entry['case']} | {entry['stage']} | {entry['num_voxels']} | {entry['num_labelled']} | "
            f"{entry['num_different']} | {share:.4%} |"
        )
    yield ""


def cost_lines(costs: list[Any], status: list[Any]) -> list[str]:
    """Estimates next to what was measured."""
    took = {entry["step"]: entry for entry in status}
    rows = [
        "## What it took",
        "",
        "Estimates are those of `run all --dry-run` before the run.",
        "",
        "| step | estimated | took | ratio | memory estimated | measured | ratio |",
        "|---" * 7 + "|",
    ]
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
    return [*rows, ""]


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
