"""What ``nnrules demo`` does: the paper planned again, every pack scored, phantoms from images to plan."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from nnrules.dataset import load_dataset
from nnrules.demo.paper import (
    dataset_ids,
    fingerprint_name,
    published_parity,
    published_plans,
    refined_ids,
    shipped_fingerprint,
    write_shipped_fingerprints,
)
from nnrules.demo.parity import Cell, score
from nnrules.demo.phantom import PHANTOM_KINDS, write_phantom
from nnrules.demo.scores import (
    PAPER_PACK,
    PackScore,
    paper_fingerprints,
    plan_paper,
    score_packs,
    score_pool_late,
)
from nnrules.demo.tables import cells_view, differences_view, scores_view
from nnrules.documents import write_json
from nnrules.engine.explain import explain
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import NnrulesError, Problem, UsageError
from nnrules.extract import extract_fingerprint
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from nnrules.report.terminal import explanation_view, plan_view

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DemoResult", "run_demo"]

logger = logging.getLogger(__name__)

_RESULT = "demo.json"
_ROUNDS_EXAMPLE = "D2"
_NUM_TEST_CASES = 2
_EXPLAINED = ("brain_mr", "channels[0].normalization.use_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo found and wrote.

    Attributes:
        output: the folder with datasets, fingerprints, plans and demo.json.
        cells: the paper's cells under the planner of its time, inputs as printed.
        scores: every pack against those cells; last the paper's own mixture of two planners.
        phantoms: kind of phantom to its plan.
    """

    output: Path
    cells: tuple[Cell, ...]
    scores: tuple[PackScore, ...]
    phantoms: Mapping[str, Plan]

    def to_json(self) -> dict[str, Any]:
        """The scores and every cell as a JSON object."""
        return {
            "scores": [entry.to_json() for entry in self.scores],
            "cells": [
                {
                    "dataset": cell.dataset,
                    "configuration": cell.configuration,
                    "cell": cell.cell,
                    "published": cell.published,
                    "planned": cell.planned,
                    "equal": cell.equal,
                }
                for cell in self.cells
            ],
        }


def run_demo(output: Path, console: Console) -> DemoResult:
    """Run the whole demo; the folder appears, or is brought up to date, only after everything went well.

    Args:
        output: folder for the files; new, empty, or of an earlier demo.
        console: where the tables go.

    Returns:
        What was found; the same on every run.

    Raises:
        UsageError: the folder holds something else.
        NnrulesError: something could not be planned or written.
    """
    _check_output(output)
    target = output.resolve()  # "." has no name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as exc:
        raise _not_written(output, exc) from None
    try:
        part = temporary / target.name
        for name in ("datasets", "fingerprints", "plans"):
            (part / name).mkdir(parents=True)
        cells = _paper(part, console)
        scores = _scores(console)
        phantoms = _phantoms(part, output, console)
        result = DemoResult(output=output, cells=cells, scores=scores, phantoms=phantoms)
        write_json(part / _RESULT, result.to_json())
        _move(part, target)
    except OSError as exc:
        raise _not_written(output, exc) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("demo written to %s", output)
    _files(output, console)
    return result


# -- the three parts -----------------------------------------------------------------------------------------


def _paper(folder: Path, console: Console) -> tuple[Cell, ...]:
    fingerprints = {dataset: Fingerprint.load(shipped_fingerprint(dataset)) for dataset in dataset_ids()}
    plans, without_plan = plan_paper(fingerprints, load_pack(PAPER_PACK), check=True)
    if without_plan:
        raise NnrulesError([Problem(where=name, what=reason) for name, reason in without_plan.items()])
    write_shipped_fingerprints(folder / "fingerprints")
    for dataset, plan in plans.items():
        name = f"{fingerprint_name(dataset)}.json"
        plan.save(folder / "plans" / name)
    cells = tuple(score(plans, published_plans()))
    num_equal = sum(cell.equal for cell in cells)
    _headline(
        console, f"1. The paper's {len(plans)} datasets, planned with {PAPER_PACK}: published and planned"
    )
    console.print(cells_view(published_plans()["datasets"], cells))
    _headline(
        console, f"{num_equal} of {len(cells)} published cells are equal; the other {len(cells) - num_equal}"
    )
    console.print(differences_view(cells, published_parity()["misses"]["nnunet_1_0_as_printed"]))
    return cells


def _scores(console: Console) -> tuple[PackScore, ...]:
    scores = score_packs(paper_fingerprints(), paper_fingerprints(refined=True))
    mixed = score_pool_late(scores)
    if mixed is not None:
        scores.append(mixed)
    _headline(console, f"2. Every rule pack against the paper's {scores[0].num_cells} cells")
    console.print(scores_view(scores))
    names = refined_ids()
    console.print(
        Text(
            f"refined: the printed inputs of {', '.join(names)} lack digits (D18: a misprint); refined ones "
            "replace them.",
            style="dim",
        )
    )
    return tuple(scores)


def _phantoms(folder: Path, output: Path, console: Console) -> dict[str, Plan]:
    plans = {}
    _headline(console, "3. Phantom datasets, from images to plan")
    for kind, recipe in PHANTOM_KINDS.items():
        name = recipe.dataset_name
        dataset = load_dataset(
            write_phantom(folder / "datasets" / name, kind, num_test_cases=_NUM_TEST_CASES)
        )
        fingerprint = extract_fingerprint(dataset)
        fingerprint.save(folder / "fingerprints" / f"{name}.json")
        plan = make_plan(fingerprint)
        plan.save(folder / "plans" / f"{name}.json")
        plans[kind] = plan
        console.print(Text.assemble((kind, "bold"), f": {recipe.description}"))
        console.print(Text(f"nnrules plan {output / 'datasets' / name}", style="dim"))
        console.print(Padding(plan_view(plan), (0, 0, 1, 2)))
    kind, path = _EXPLAINED
    plan_file = output / "plans" / f"{PHANTOM_KINDS[kind].dataset_name}.json"
    _headline(console, "4. Why is a value what it is?")
    console.print(Text(f"nnrules explain {plan_file} '{path}'", style="dim"))
    console.print(explanation_view(explain(plans[kind], path)))
    paper_plan = output / "plans" / f"{fingerprint_name(_ROUNDS_EXAMPLE)}.json"
    console.print()
    console.print(Text("Each round in which a patch was shrunk until it fitted the memory:"))
    console.print(Text(f"nnrules explain {paper_plan} configurations.3d_fullres.patch_size", style="dim"))
    return plans


def _headline(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(Text(text, style="bold"), align="left"))


def _files(output: Path, console: Console) -> None:
    _headline(console, f"Written to {output}")
    for line in (
        "datasets/      the phantoms: images, labels, dataset.json; imagesTs and labelsTs are not trained on",
        "fingerprints/  of the paper's datasets and the phantoms; change one, and plan it again",
        f"plans/         the paper's datasets under {PAPER_PACK}, the phantoms under the default pack",
        f"{_RESULT}      every cell and score",
    ):
        console.print(Text(line))


# -- the folder ----------------------------------------------------------------------------------------------


def _check_output(output: Path) -> None:
    """Only a new or empty folder, or that of an earlier demo: files of others are not overwritten."""
    if not output.exists():
        return
    if output.is_dir() and ((output / _RESULT).is_file() or not any(output.iterdir())):
        return
    raise UsageError(
        Problem(
            where=str(output),
            what="the demo does not write here" if output.is_dir() else "this is a file",
            got="a folder with other files" if output.is_dir() else None,
            expected="a new or empty folder, or that of an earlier demo",
            fix="Choose another folder with -o.",
        )
    )


def _move(part: Path, output: Path) -> None:
    """Put the finished files in place, over those of an earlier demo; nothing is removed."""
    if not output.exists():
        part.replace(output)
        return
    for path in sorted(part.rglob("*")):
        target = output / path.relative_to(part)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            path.replace(target)


def _not_written(output: Path, exc: OSError) -> NnrulesError:
    return NnrulesError(
        Problem(
            where=str(output),
            what="the demo cannot write here",
            got=exc.strerror or str(exc),
            fix="Choose another folder with -o.",
        )
    )
