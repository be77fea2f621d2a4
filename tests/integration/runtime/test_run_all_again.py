"""``nnrules run all`` a second time with other options: what is still good is kept, and nothing is lost unasked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.cli import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHORT = (
    "--set training.epochs=1 --set training.num_iterations_per_epoch=2 "
    "--set training.num_validation_iterations_per_epoch=1 --seed 5 --threads 1 --workers 0 --precision float32"
)
TWO_FOLDS = "--set folds.num_folds=2"
FOUR = [(1, 2)] * 4
Make = Callable[..., Path]


def run_all(folder: Path, extra: str = "") -> int:
    text = f"run all {folder}/plan.json {folder}/data --work {folder}/work {SHORT} {extra}"
    return run(text.split())


def empirical(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "work" / "empirical.json").read_text())
    return document


def trained(folder: Path) -> dict[str, int]:
    """When each training was written."""
    paths = (folder / "work" / "models").glob("*/fold_*/training.json")
    return {f"{path.parent.parent.name} {path.parent.name}": path.stat().st_mtime_ns for path in paths}


def test_another_configuration_is_added_and_taken_away(make: Make) -> None:
    folder = make(FOUR, options=TWO_FOLDS)
    assert run_all(folder, "--configurations 2d") == 0
    before = trained(folder)
    assert not list((folder / "work").rglob("validation/*.npz"))
    assert run_all(folder) == 0
    after = trained(folder)
    assert len(after) == 4
    assert before.items() <= after.items()
    # The fold that was validated alone has what pairs are averaged from.
    assert len(list((folder / "work").rglob("validation/*.npz"))) == 8
    assert ["2d", "3d_fullres"] in [entry["members"] for entry in empirical(folder)["candidates"]]
    assert run_all(folder, "--configurations 3d_fullres") == 0
    assert empirical(folder)["members"] == ["3d_fullres"]
    assert trained(folder) == after


def test_folds_are_added_and_refitted_without_repeating_any(make: Make) -> None:
    folder = make(FOUR, options=TWO_FOLDS)
    only = "--configurations 3d_fullres"
    bundle = f"--bundle {folder}/model.nnrules --licence MIT"
    assert run_all(folder, f"{only} --folds 0") == 0
    first = trained(folder)
    assert empirical(folder)["folds"] == {"3d_fullres": [0]}
    assert run_all(folder, f"{only} --folds 0 --refit all {bundle}") == 0
    assert empirical(folder)["folds"] == {"3d_fullres": ["all"]}
    # Without the refit its model does not predict any more.
    assert run_all(folder, f"{only} --folds 0") == 0
    assert empirical(folder)["folds"] == {"3d_fullres": [0]}
    assert run_all(folder, f"{only} --folds 0 --refit cv {bundle}") == 0
    assert empirical(folder)["folds"] == {"3d_fullres": [0, 1]}
    refitted = trained(folder)
    assert first.items() <= refitted.items()
    # The whole cross-validation takes over what was trained after the choice.
    assert run_all(folder, only) == 0
    assert trained(folder) == refitted
    assert empirical(folder)["validation"]["num_cases"] == 4


def test_another_network_replaces_all_folds_or_none(
    make: Make, narrow: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make(FOUR, options=TWO_FOLDS)
    only = "--configurations 3d_fullres"
    assert run_all(folder, only) == 0
    before = trained(folder)
    narrow(folder / "plan.json", features=(6,))
    assert run_all(folder, only) == 2
    assert "would have to be done again" in capfd.readouterr().err
    assert trained(folder) == before
    # By hand, one fold after the other cannot work, and nothing is removed before that is said.
    text = f"run train {folder}/plan.json {folder}/data -c 3d_fullres --fold 0 --work {folder}/work {SHORT} --restart"
    assert run(text.split()) == 2
    assert trained(folder) == before
    assert run_all(folder, f"{only} --redo") == 0
    assert not set(trained(folder).values()) & set(before.values())
    plan = json.loads((folder / "work/models/3d_fullres/plan.json").read_text())
    assert set(plan["configurations"]["3d_fullres"]["architecture"]["features_per_stage"]) == {6}


def test_folds_of_ones_own(make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make([(1, 2)] * 3, options="--set folds.too_few.policy=all_cases")
    splits = tmp_path / "splits.json"
    only = f"--configurations 3d_fullres --splits {splits}"
    twice = [{"train": ["c0"], "val": ["c1", "c2"]}, {"train": ["c1"], "val": ["c2"]}]
    splits.write_text(json.dumps(twice))
    assert run_all(folder, only) == 2
    assert "count twice" in capfd.readouterr().err
    assert not trained(folder)
    # They hold cases out although the plan would train on all of so few, and need not hold out each.
    splits.write_text(json.dumps([{"train": ["c0"], "val": ["c1"]}, {"train": ["c1"], "val": ["c2"]}]))
    assert run_all(folder, only) == 0
    assert empirical(folder)["validation"]["cases"] == ["c1", "c2"]
    assert empirical(folder)["chosen_by"] == "only_candidate"


def test_one_model_of_all_cases(make: Make) -> None:
    """The smallest run (Supplement G.1): one training and no choice, even of a single case."""
    folder = make([(1, 2)])
    text = f"--configurations 3d_fullres --folds all --bundle {folder}/model.nnrules --licence MIT"
    assert run_all(folder, text) == 0
    assert list(trained(folder)) == ["3d_fullres fold_all"]
    assert empirical(folder)["folds"] == {"3d_fullres": ["all"]}
    assert run(f"run predict {folder}/model.nnrules {folder}/data/imagesTr {folder}/out".split()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--bundle missing/folder/model.nnrules", "missing"),
        ("--licence MIT", "there is no bundle"),
        ("--bundle model.nnrules --licence not/there.txt", "neither a file nor an SPDX"),
        ("--folds 0,all", "cannot be compared"),
        ("--folds all", "nothing tells which configuration is best"),
        ("--folds all --configurations 2d --refit all", "no choice"),
        ("--folds 7", "no such fold"),
    ],
)
def test_what_cannot_end_well_does_not_begin(
    make: Make, options: str, message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(FOUR, options=TWO_FOLDS)
    monkeypatch.chdir(folder)
    assert run_all(folder, options) == 2
    assert message in capfd.readouterr().err
    assert not (folder / "work" / "models").exists()
