"""``nnrules run find-best``: what it prints, what it writes, what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.cli import run
from nnrules.plan import Plan
from nnrules.schema import validate

from nnrules_runtime.cli.choice import choice_lines
from nnrules_runtime.evaluate import EvaluationCase, evaluate_cases
from nnrules_runtime.select import Empirical
from nnrules_runtime.workspace import Workspace

NUM_CASES = 5


def labels(shift: int = 0, *, island: bool = False) -> np.ndarray:
    array = np.zeros((6, 12, 10), np.uint8)
    array[1:5, 3:9, 2 + shift : 6 + shift] = 1
    if island:
        array[0, 0, 9] = 1
    return array


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    for number in range(NUM_CASES):
        image = random.normal(0, 0.3, labels().shape).astype(np.float32) + labels()
        for array, place in (
            (image, f"imagesTr/c{number}_0000.nii.gz"),
            (labels(), f"labelsTr/c{number}.nii.gz"),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / place))
    document = {
        "name": "Made", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1},
        "numTraining": NUM_CASES, "file_ending": ".nii.gz",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def plan(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    assert run(["plan", str(dataset), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def validated(dataset: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2d is one voxel off, 3d_fullres has islands."""
    work = tmp_path_factory.mktemp("work")
    for configuration, made in (("2d", labels(1)), ("3d_fullres", labels(island=True))):
        for fold in range(NUM_CASES):
            folder = Workspace(work).validation(configuration, fold)
            folder.mkdir(parents=True)
            path = folder / f"c{fold}.nii.gz"
            sitk.WriteImage(sitk.GetImageFromArray(made), str(path))
            reference = dataset / "labelsTr" / path.name
            case = EvaluationCase(id=f"c{fold}", prediction=path, reference=reference)
            summary = evaluate_cases(Plan.load(plan), [case], surface_tolerance_mm=None, num_workers=1)
            summary.save(folder / "summary.json")
    return work


@pytest.fixture
def work(validated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(validated, tmp_path / "work"))


def command(plan: Path, dataset: Path, work: Path, *more: str) -> list[str]:
    return ["run", "find-best", str(plan), str(dataset), "--work", str(work), *more]


def test_a_table_and_what_postprocessing_gained(
    plan: Path,
    dataset: Path,
    work: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run(command(plan, dataset, work)) == 0
    out, _ = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    # 96 voxels; off by one of four columns: 2 x 72 / 192. An island: 192 / 193.
    assert rows[0] == ["candidate", "organ", "mean", "Dice"]
    assert rows[1] == ["2d", "0.7500", "0.7500"]
    assert rows[2] == ["3d_fullres", "0.9948", "0.9948", "chosen"]
    assert "all foreground  0.9948  1.0000  accepted" in out
    assert "mean Dice 0.9948, with the accepted steps 1.0000" in out
    assert "chosen: 3d_fullres (highest score), folds 0, 1, 2, 3, 4; 5 cases scored" in out
    assert out.splitlines()[-1] == f"written to {work / 'empirical.json'}"
    assert "2d + 3d_fullres does not compete: no probabilities" in caplog.text
    document = json.loads((work / "empirical.json").read_text())
    validate(document, "empirical", where="written", error=Exception)  # type: ignore[arg-type]
    assert document["members"] == ["3d_fullres"]


def test_a_document_for_machines(
    plan: Path, dataset: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "choice.json"
    assert run(command(plan, dataset, work, "--json", "--folds", "1,2", "-o", str(other))) == 0
    out, _ = capsys.readouterr()
    assert json.loads(out) == json.loads(other.read_text())
    assert json.loads(out)["validation"]["cases"] == ["c1", "c2"]
    assert not (work / "empirical.json").exists()


def test_the_same_bytes_each_time(plan: Path, dataset: Path, work: Path) -> None:
    contents = set()
    for workers in ("1", "1", "2"):
        assert run(command(plan, dataset, work, "--workers", workers)) == 0
        contents.add((work / "empirical.json").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "9"], "nothing of fold 9"),
        (["--folds", "all"], "says nothing about others"),
        (["--folds", "x"], "--folds"),
        (["--configurations", "4d"], "the plan has no such configuration"),
        (["--configurations", ""], "none is named"),
    ],
)
def test_refused(
    plan: Path,
    dataset: Path,
    work: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(work.rglob("*"))
    assert run(command(plan, dataset, work, *more)) == 2
    _, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert sorted(work.rglob("*")) == before


def test_an_empty_work_folder(
    plan: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(plan, dataset, tmp_path)) == 2
    _, err = capsys.readouterr()
    assert "not all folds have been trained and validated" in err
    assert "-c 2d --fold 0" in err
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_that_is_none(
    plan: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(plan, dataset, tmp_path / "none")) == 2
    _, err = capsys.readouterr()
    assert "none" in err


@pytest.mark.parametrize(
    ("chosen_by", "text"),
    [
        ("score", "chosen: 3d_fullres (highest score)"),
        ("only_candidate", "chosen: 3d_fullres (there was no other candidate)"),
        ("plan", "chosen: 3d_fullres (no case was held out to compare on)"),
        ("hand", "chosen: 3d_fullres (by hand)"),
    ],
)
def test_each_way_of_choosing_has_its_words(
    validated: Path, dataset: Path, plan: Path, tmp_path: Path, chosen_by: str, text: str
) -> None:
    """Of the schema's; a choice by hand is in bundles."""
    path = tmp_path / "empirical.json"
    assert run(command(plan, dataset, validated, "-o", str(path), "--json")) == 0
    document = json.loads(path.read_text())
    document["chosen_by"] = chosen_by
    assert text in "\n".join(choice_lines(Empirical.from_json(document), Plan.load(plan)))
