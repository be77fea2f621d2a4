"""``nnrules run all`` with few cases, rare classes and missing files: each trains, or is told why not."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.cli import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHORT = (
    "--set training.epochs=1 --set training.num_iterations_per_epoch=2 "
    "--set training.num_validation_iterations_per_epoch=1 --seed 5 --threads 1 --workers 0 --precision float32"
)
Make = Callable[..., Path]


def run_all(folder: Path, extra: str = "") -> int:
    text = f"run all {folder}/plan.json {folder}/data --work {folder}/work {SHORT} {extra}"
    return run(text.split())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_too_few_cases_are_refused_and_every_way_out_works(
    number: int, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make([(1, 2)] * number)
    assert run_all(folder) == 2
    message = capfd.readouterr().err
    assert f"got {number} cases; expected at least 5" in message
    assert not (folder / "work" / "models").exists()
    policies = re.findall(r"=(all_cases|fewer_folds|hold_out)", message)
    assert policies == (["all_cases"] if number == 1 else ["all_cases", "fewer_folds", "hold_out"])
    folds = {"all_cases": 1, "fewer_folds": number, "hold_out": 1}
    plan = json.loads((folder / "plan.json").read_text())
    for policy in policies:
        plan["folds"]["too_few"]["policy"] = policy
        (folder / "plan.json").write_text(json.dumps(plan))
        work = folder / policy
        text = f"run all {folder}/plan.json {folder}/data --work {work} {SHORT} --bundle {work}.nnrules"
        assert run([*text.split(), "--configurations", "3d_fullres"]) == 0
        trained = sorted(path.name for path in (work / "models" / "3d_fullres").glob("fold_*"))
        assert trained == [f"fold_{fold}" for fold in range(folds[policy])]
        assert Path(f"{work}.nnrules").is_file()
        # Nothing is scored on cases that were trained on.
        chosen = json.loads((work / "empirical.json").read_text())
        assert chosen["chosen_by"] == ("plan" if policy == "all_cases" else "only_candidate")
        assert (work / "cross_validation").exists() == (policy != "all_cases")


def test_nothing_to_choose_by_is_said_before_training(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make([(1, 2)], options="--set folds.too_few.policy=all_cases")
    assert run_all(folder) == 2
    message = capfd.readouterr().err
    assert "nothing tells which configuration is best" in message
    assert "expected one of 2d, 3d_fullres" in message
    assert not (folder / "work" / "models").exists()


def test_a_class_in_one_case_only(make: Make) -> None:
    """Whichever fold holds it out trains without it, which is said; the choice counts it where it is."""
    folder = make([(1, 2), (1,), (1,), (1,)], options="--set folds.num_folds=2")
    assert run_all(folder) == 0
    said = "".join(path.read_text() for path in (folder / "work" / "logs").glob("train-*.log"))
    assert "no training case shows b (only c0): the network cannot learn it" in said
    chosen = json.loads((folder / "work" / "empirical.json").read_text())
    scored = [entry for entry in chosen["candidates"] if entry["scores"] is not None]
    assert scored
    # Not undefined: the case that shows it is one of those held out.
    assert all(entry["scores"]["dice"]["b"] is not None for entry in scored)


def test_a_missing_channel_is_named_before_anything_is_done(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make([(1, 2)] * 5, channels=2, options="--set folds.num_folds=2")
    gone = folder / "data" / "imagesTr" / "c3_0001.nii.gz"
    content = gone.read_bytes()
    gone.unlink()
    capfd.readouterr()
    assert run(f"plan {folder}/data -o {folder}/other.json".split()) == 2
    assert "c3_0001.nii.gz" in capfd.readouterr().err
    assert not (folder / "other.json").exists()
    assert run_all(folder, "--configurations 3d_fullres") == 2
    assert "c3_0001.nii.gz" in capfd.readouterr().err
    assert not (folder / "work" / "models").exists()
    gone.write_bytes(content)
    assert run_all(folder, "--configurations 3d_fullres") == 0
