"""Cards: what a stranger reads."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.bundle import write_bundle
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.workspace import Workspace

Make = Callable[..., Workspace]
THREE = "3d_fullres"


@pytest.fixture(autouse=True)
def _without_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "nnrules_runtime")


def lines_with(card: str, text: str) -> list[str]:
    return [line for line in card.splitlines() if text in line]


def test_what_the_plan_and_the_choice_say(
    tmp_path: Path, plan: Plan, make_work: Make, make_choice: Callable[..., Empirical]
) -> None:
    work = make_work(tmp_path / "work", plan, {"2d": (0, 1), THREE: (0, 1)})
    words = tmp_path / "words.md"
    words.write_text("For research.\n\n### Cite\n\nUs.\n")
    choice = make_choice(plan, ("2d", THREE), (0, 1))
    card = write_bundle(
        work, tmp_path / "two lobes.nnrules", empirical=choice, licence="CC-BY-4.0", card=words, name="Lobes"
    ).card
    assert card.startswith("# Lobes\n")
    assert "Segments T1, T2 images. The probabilities of 2d and 3d_fullres are averaged." in card
    assert "nnrules run predict 'two lobes.nnrules' path/to/images predictions" in card
    assert lines_with(card, "CASE_0001") == ["| `CASE_0001` | T2 | zscore | -80 to 210 |"]
    assert "| tumour | 2 |" in card
    assert lines_with(card, "| spacing, mm | 1") == ["| spacing, mm | 1 × 1 × 1 | 1 × 1 × 1 | 1 × 1 × 1 |"]
    assert "**Orientation matters.**" in card
    assert lines_with(card, "| 3d_fullres | ")[0].endswith("| 0, 1 | 3 | not recorded |")
    assert "nnunet@2.8.0" in card
    assert plan.hash in card
    assert lines_with(card, "3d_other") == ["| 3d_other | 0.5000 | 0.5000 | undefined |"]
    assert "| 2d + 3d_fullres (chosen) | 0.7500 | 0.7500 | undefined |" in card
    assert "| 2d + 3d_fullres, postprocessed | 0.8125 | 0.8125 | undefined |" in card
    assert "6 validation cases of 2 folds" in card
    assert "- only the largest component of all foreground stays" in card
    assert "## Licence\n\nCC-BY-4.0\n" in card
    assert card.endswith("## From the authors\n\nFor research.\n\n### Cite\n\nUs.\n")
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "\n\n\n" not in card


def test_a_choice_by_hand_and_imported_networks(tmp_path: Path, cascade_plan: Plan, make_work: Make) -> None:
    first, second = "3d_lowres", "3d_cascade_fullres"
    work = make_work(tmp_path / "work", cascade_plan, {first: (0,), second: (0,)})
    (work.fold(first, 0) / "training.json").write_text("not JSON")
    card = write_bundle(work, tmp_path / "c.nnrules", configurations=[second]).card
    assert "A cascade: 3d_lowres first, then 3d_cascade_fullres." in card
    assert "| 3d_lowres (first stage) |" in card
    assert "chosen by hand" in card
    assert "There is no postprocessing." in card
    assert "None is stated." in card


def test_nothing_was_held_out(
    tmp_path: Path, plan: Plan, make_work: Make, make_choice: Callable[..., Empirical]
) -> None:
    work = make_work(tmp_path / "work", plan, {THREE: (0,)})
    made = make_choice(plan, (THREE,), (0,))
    candidate = dataclasses.replace(made.chosen, scores=None, trials=None, postprocessed=None)
    choice = dataclasses.replace(
        made, candidates=(candidate,), chosen_by="plan", scored_folds={}, num_cases=0, case_ids=()
    )
    card = write_bundle(work, tmp_path / "b.nnrules", empirical=choice).card
    assert "No cases were held out" in card
    assert "Mean Dice" not in card


def test_names_stay_names(
    tmp_path: Path,
    make_fingerprint: Callable[..., Fingerprint],
    narrow: Callable[[Plan], Plan],
    make_work: Make,
) -> None:
    """Names of labels and channels come from files of others: they make no table, link or code."""
    labels = {"background": 0, "a|b": 1, "[x](http://y)": [1, 2], "`code`": 2}
    fingerprint = make_fingerprint(
        [(20, 24, 22)] * 6, [(1.0, 1.0, 1.0)] * 6, channels=("T1 <b>\n# T",), labels=labels
    )
    document = json.loads(json.dumps(fingerprint.document))
    document["dataset"]["regions_class_order"] = [1, 2, 2]
    planned = narrow(make_plan(Fingerprint.from_document(document), "nnunet@2.8.0"))
    work = make_work(tmp_path / "work", planned, {THREE: (0,)})
    card = write_bundle(work, tmp_path / "b.nnrules").card
    assert r"| a\|b | 1 |" in card
    assert r"| \[x\](http://y) | 1, 2 |" in card
    assert r"| \`code\` | 2 |" in card
    assert r"Segments T1 \<b\> # T images." in card
    assert "A name with several values is a region" in card


@pytest.mark.parametrize(
    ("seconds", "text"),
    [((1.2, 0.84), "2.0 s"), ((1500, 300), "30.0 min"), ((3600, 5400), "2.5 h"), ((60, None), None)],
)
def test_the_time_of_all_folds(
    *, tmp_path: Path, plan: Plan, make_work: Make, seconds: tuple[float | None, ...], text: str | None
) -> None:
    """Not said where a fold does not know its own."""
    work = make_work(tmp_path / "work", plan, {THREE: (0, 1)})
    for fold, value in enumerate(seconds):
        facts = {"seconds": value, "iterations": 250, "profile": {"device": "cpu"}}
        (work.fold(THREE, fold) / "training.json").write_text(json.dumps(facts))
    (line,) = lines_with(write_bundle(work, tmp_path / "b.nnrules").card, "| 3d_fullres |")
    assert line.endswith(
        "| cpu; 250 iterations |" if text is None else f"| cpu; 250 iterations; {text} in all |"
    )
