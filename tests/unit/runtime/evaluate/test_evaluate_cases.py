"""Scoring files: conventions, means, documents, and what is refused."""

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from nnrules.errors import NnrulesError, Problem, RunError
from nnrules.image_io import Geometry, write_image
from nnrules.plan import Plan
from nnrules.schema import validate

from nnrules_runtime.evaluate import Evaluation, EvaluationCase, Summary, evaluate_cases, find_pairs
from nnrules_runtime.values import Section

SPACING = (3.0, 1.0, 0.5)
LABELS = {"background": 0, "organ": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
CONVENTIONS = {
    "both_empty": "not_a_number",
    "one_empty": 0,
    "ignored_voxels": "left_out",
    "evaluated": "foreground_labels_or_regions",
    "mean_over_cases": "without_undefined",
    "mean_over_classes": "plain",
    "space": "original_image",
}


def root_of(
    labels: Mapping[str, Any] = LABELS, metrics: tuple[str, ...] = ("dice", "iou"), **conventions: Any
) -> dict[str, Any]:
    return {
        "dataset": {
            "labels": dict(labels),
            "label_order": list(labels),
            "ignore_label": labels.get("ignore"),
            "regions_class_order": [1, 2] if labels is REGIONS else None,
        },
        "evaluation": {"metrics": list(metrics), "conventions": CONVENTIONS | conventions},
    }


def evaluation_of(*args: Any, **conventions: Any) -> Evaluation:
    problems: list[Problem] = []
    evaluation = Evaluation.from_plan(Section(root_of(*args, **conventions), "", problems))
    assert problems == []
    return evaluation


def write(path: Path, array: Any, **changed: Any) -> Path:
    values = {
        "shape": np.shape(array),
        "spacing": SPACING,
        "origin_xyz": (1.0, 2.0, 3.0),
        "direction_xyz": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
        "dimension": 3,
        "num_channels": 1,
    }
    path.parent.mkdir(exist_ok=True)
    write_image(path, np.asarray(array, np.uint8), Geometry(**(values | changed)))
    return path


def box(label: int, start: int, stop: int) -> Any:
    array = np.zeros((4, 6, 8), np.uint8)
    array[1:3, 1:5, start:stop] = label
    return array


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Case a: organ shifted by 1 voxel. Case b: only the tumour, missed. Case c: an invented tumour."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    pairs = {
        "a": (box(1, 2, 6), box(1, 3, 7)),
        "b": (box(0, 0, 1), box(2, 2, 6)),
        "c": (np.maximum(box(1, 1, 4), box(2, 5, 6)), box(1, 1, 4)),
    }
    for name, (prediction, reference) in pairs.items():
        write(predictions / f"{name}.nii.gz", prediction)
        write(references / f"{name}.nii.gz", reference)
    (predictions / "notes.txt").write_text("not a label map")
    (predictions / "._a.nii.gz").write_bytes(b"of macOS")
    return predictions, references


def scored(folders: tuple[Path, Path], evaluation: Evaluation, **options: Any) -> Summary:
    return evaluate_cases(evaluation, find_pairs(*folders, ".nii.gz"), **({"num_workers": 1} | options))


def test_values_and_means(folders: tuple[Path, Path]) -> None:
    summary = scored(folders, evaluation_of())
    by_id = {case.case.id: case.values for case in summary.cases}
    assert list(by_id) == ["a", "b", "c"]
    assert by_id["a"]["organ"]["dice"] == 2 * 3 / (4 + 4)
    assert math.isnan(by_id["a"]["tumour"]["dice"])
    assert by_id["b"]["tumour"]["dice"] == 0
    assert by_id["c"]["organ"]["dice"] == 1
    assert by_id["c"]["tumour"]["dice"] == 0
    means = summary.means()
    assert means["organ"]["dice"] == (0.75 + 1) / 2  # b is undefined
    assert means["tumour"]["dice"] == 0
    assert summary.foreground_mean()["dice"] == 0.4375
    # 2 x 4 x 4 voxels of 1.5 mm³
    assert by_id["a"]["organ"]["volume_predicted_ml"] == pytest.approx(32 * 1.5e-3)
    assert by_id["b"]["tumour"]["volume_predicted_ml"] == 0
    # A shift of 0.5 mm along x is within 1 mm, and is the distance of less than 95 % of the surface.
    assert by_id["a"]["organ"]["surface_dice"] == 1
    assert by_id["a"]["organ"]["hausdorff_95_mm"] == 0.5
    assert by_id["b"]["tumour"]["surface_dice"] == 0
    assert math.isnan(by_id["b"]["tumour"]["hausdorff_95_mm"])
    assert summary.absent() == {
        "organ": {"both": ["b"], "prediction": [], "reference": []},
        "tumour": {"both": ["a"], "prediction": ["b"], "reference": ["c"]},
    }


def test_conventions_of_empty_classes(folders: tuple[Path, Path]) -> None:
    summary = scored(folders, evaluation_of(both_empty=1, one_empty=0.5))
    by_id = {case.case.id: case.values for case in summary.cases}
    for metric in ("dice", "iou", "surface_dice"):
        assert by_id["a"]["tumour"][metric] == 1
        assert by_id["b"]["tumour"][metric] == 0.5
    assert summary.to_json()["conventions"]["both_empty"] == 1


@pytest.mark.parametrize(("convention", "expected"), [("plain", math.nan), ("without_undefined", 0.875)])
def test_class_that_occurs_nowhere(folders: tuple[Path, Path], convention: str, expected: float) -> None:
    evaluation = evaluation_of(LABELS | {"never": 4}, mean_over_classes=convention)
    for folder in folders:
        (folder / "b.nii.gz").unlink()
        write(folder / "c.nii.gz", box(1, 1, 4))
    write(folders[0] / "a.nii.gz", np.maximum(box(1, 2, 6), box(2, 7, 8)))
    write(folders[1] / "a.nii.gz", np.maximum(box(1, 3, 7), box(2, 7, 8)))
    summary = scored(folders, evaluation)
    assert math.isnan(summary.means()["never"]["dice"])
    found = summary.foreground_mean()["dice"]
    wanted = expected if math.isnan(expected) else (0.875 + 1) / 2
    assert found == pytest.approx(wanted, nan_ok=True)
    document = summary.to_json()
    assert document["mean"]["never"]["dice"] is None
    assert document["absent"]["never"]["both"] == ["a", "c"]


@pytest.mark.parametrize(("ignored", "dice"), [("left_out", 1.0), ("counted", 2 * 16 / (32 + 16))])
def test_regions_and_ignored_voxels(tmp_path: Path, ignored: str, dice: float) -> None:
    """Half of the predicted object is not annotated."""
    reference = box(3, 2, 6)
    reference[:, :, 4:] = box(1, 2, 6)[:, :, 4:]
    write(tmp_path / "p" / "a.nii.gz", box(1, 2, 6))
    write(tmp_path / "r" / "a.nii.gz", reference)
    evaluation = evaluation_of(REGIONS, ignored_voxels=ignored)
    assert [(entry.name, entry.labels) for entry in evaluation.classes] == [("whole", (1, 2)), ("core", (2,))]
    (case,) = scored((tmp_path / "p", tmp_path / "r"), evaluation, surface_tolerance_mm=0.4).cases
    assert case.values["whole"]["dice"] == dice
    assert (case.values["whole"]["surface_dice"] == 1) == (ignored == "left_out")


def test_labels_of_a_dataset_with_regions() -> None:
    evaluation = evaluation_of(REGIONS, evaluated="foreground_labels")
    assert [(entry.name, entry.labels) for entry in evaluation.classes] == [("1", (1,)), ("core", (2,))]


def test_slices_have_no_volume(tmp_path: Path) -> None:
    flat = {
        "dimension": 2,
        "origin_xyz": (0.0, 0.0),
        "direction_xyz": (1.0, 0, 0, 1.0),
        "spacing": (999.0, 1.0, 1.0),
    }
    array = np.zeros((1, 9, 9), np.uint8)
    array[0, 2:6, 2:6] = 1
    for name in ("p", "r"):
        write(tmp_path / name / "a.png", array, **flat)
    pairs = find_pairs(tmp_path / "p", tmp_path / "r", ".png")
    (case,) = evaluate_cases(evaluation_of(), pairs, num_workers=1).cases
    assert case.values["organ"] == {"dice": 1, "iou": 1, "surface_dice": 1, "hausdorff_95_mm": 0}


def test_documents(folders: tuple[Path, Path], tmp_path: Path) -> None:
    summary = scored(folders, evaluation_of(), surface_tolerance_mm=2.0, plan_hash="sha256:0")
    summary.save(tmp_path / "summary.json")
    document = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    validate(document, "summary", where="summary", error=RunError)
    assert document["surface_tolerance_mm"] == 2
    assert document["cases"][0]["metrics"]["tumour"]["dice"] is None
    summary.save_csv(tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert rows[0]["case"] == "a"
    assert float(rows[0]["dice"]) == 0.75
    assert rows[1]["dice"] == ""
    assert rows[3]["hausdorff_95_mm"] == ""


def test_every_metric_is_in_the_schema(folders: tuple[Path, Path]) -> None:
    names = (
        "dice",
        "iou",
        "precision",
        "recall",
        "accuracy",
        "tp",
        "fp",
        "fn",
        "tn",
        "num_predicted",
        "num_reference",
    )
    document = scored(folders, evaluation_of(LABELS, names)).to_json()
    validate(document, "summary", where="summary", error=RunError)
    assert set(names) < set(document["foreground_mean"])


def test_processes_give_the_same(folders: tuple[Path, Path]) -> None:
    evaluation = evaluation_of()
    assert scored(folders, evaluation).to_json() == scored(folders, evaluation, num_workers=2).to_json()


def test_all_problems_at_once(folders: tuple[Path, Path]) -> None:
    predictions, _ = folders
    write(predictions / "a.nii.gz", np.zeros((4, 6, 7)))
    write(
        predictions / "b.nii.gz", np.full((4, 6, 8), 9), spacing=(3.0, 1.0, 0.6), origin_xyz=(1.0, 2.0, 9.0)
    )
    (predictions / "c.nii.gz").write_bytes(b"\x1f\x8bno image")
    with pytest.raises(RunError) as caught:
        scored(folders, evaluation_of())
    whats = [problem.what for problem in caught.value.problems]
    assert len(whats) == 4
    assert "another shape" in whats[0]
    assert "another spacing" in whats[1]
    assert "another origin" in whats[2]
    assert [problem.where.split(":")[0] for problem in caught.value.problems] == ["a", "b", "b", "c"]


def test_unknown_labels_are_named(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "a.nii.gz", box(7, 2, 6))
    write(folders[1] / "a.nii.gz", box(9, 2, 6))
    with pytest.raises(RunError) as caught:
        scored(folders, evaluation_of())
    first, second = caught.value.problems
    assert (first.got, second.got) == ("7", "9")
    assert first.expected == "one of 0, 1, 2"


def test_the_ignore_label_is_no_prediction(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.nii.gz", box(3, 2, 6))
    write(tmp_path / "r" / "a.nii.gz", box(3, 2, 6))
    with pytest.raises(RunError, match="does not know"):
        scored((tmp_path / "p", tmp_path / "r"), evaluation_of(REGIONS))


def test_missing_and_extra_files(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "b.nii.gz").unlink()
    (references / "a.nii.gz").unlink()
    with pytest.raises(RunError) as caught:
        find_pairs(predictions, references, ".nii.gz")
    assert [(problem.what.split(" in ")[0], problem.got) for problem in caught.value.problems] == [
        ("a case has no reference", "a"),
        ("a case has no prediction", "b"),
    ]
    write(references / "a.nii.gz", box(1, 3, 7))
    pairs = find_pairs(predictions, references, ".nii.gz", partial=True)
    assert [case.id for case in pairs] == ["a", "c"]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ("nowhere", "references", "no such folder"),
        ("predictions", "nowhere", "no such folder or file"),
        ("empty", "references", "there are no predictions"),
        ("predictions", "empty", "there are no references"),
        ("predictions/a.nii.gz", "references", "not a folder"),
    ],
)
def test_folders_that_hold_nothing(
    folders: tuple[Path, Path], tmp_path: Path, predictions: str, references: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=message):
        find_pairs(tmp_path / predictions, tmp_path / references, ".nii.gz")


def test_references_of_a_dataset(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    references.rename(dataset / "labelsTr")
    for name in "abc":
        write(dataset / "imagesTr" / f"{name}_0000.nii.gz", box(1, 1, 2))
    document = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 3, "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(document))
    for given in (dataset, dataset / "dataset.json"):
        pairs = find_pairs(predictions, given, ".nii.gz")
        assert pairs[0] == EvaluationCase(
            id="a", prediction=predictions / "a.nii.gz", reference=dataset / "labelsTr" / "a.nii.gz"
        )
        assert len(pairs) == 3


def test_unknown_conventions_are_refused() -> None:
    problems: list[Problem] = []
    root = root_of(LABELS, ("dice", "f1"), both_empty="one", space="network", mean_over_classes="median")
    Evaluation.from_plan(Section(root, "", problems))
    assert {problem.where.removeprefix("plan: evaluation.") for problem in problems} == {
        "metrics",
        "conventions.both_empty",
        "conventions.space",
        "conventions.mean_over_classes",
    }


def test_no_cases() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        evaluate_cases(evaluation_of(), [])


@pytest.fixture
def plan(make_fingerprint: Callable[..., Any], tmp_path: Path) -> Path:
    from nnrules.engine.packs import load_pack
    from nnrules.engine.planning import make_plan

    path = tmp_path / "plan.json"
    make_plan(make_fingerprint(), load_pack("nnunet@2.8.0")).save(path)
    return path


def call(*arguments: str | Path) -> None:
    from nnrules_runtime.cli.evaluate import evaluate

    app = typer.Typer()
    app.command()(evaluate)
    typer.main.get_command(app).main([str(argument) for argument in arguments], standalone_mode=False)


def test_command(
    folders: tuple[Path, Path], plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(plan, *folders, "--csv", tmp_path / "scores.csv", "--surface-tolerance-mm", "0.1", "--workers", "1")
    out = capsys.readouterr().out
    assert "organ" in out
    assert "tumour: in the reference but not predicted in 1 of 3 cases: b" in out
    written = json.loads((folders[0] / "summary.json").read_text())
    assert written["plan_hash"].startswith("sha256:")
    assert written["cases"][0]["metrics"]["organ"]["surface_dice"] < 1
    assert (tmp_path / "scores.csv").is_file()
    call(plan, *folders, "-o", tmp_path / "other.json", "--no-surfaces", "--json")
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "other.json").read_text())
    assert "surface_dice" not in json.loads((tmp_path / "other.json").read_text())["foreground_mean"]


def test_command_checks_its_output_first(folders: tuple[Path, Path], plan: Path, tmp_path: Path) -> None:
    with pytest.raises(NnrulesError, match="cannot write here"):
        call(plan, *folders, "-o", tmp_path / "nowhere" / "summary.json")
    assert not (folders[0] / "summary.json").exists()


def test_a_plan_stands_for_its_conventions(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "hash", "sha256:of the plan")
    plan = Plan(document=root_of())
    summary = evaluate_cases(plan, find_pairs(*folders, ".nii.gz"), num_workers=1)
    assert summary.evaluation.classes == evaluation_of().classes
    assert summary.plan_hash == "sha256:of the plan"
    of_conventions = scored(folders, evaluation_of()).foreground_mean()
    assert summary.foreground_mean() == pytest.approx(of_conventions, nan_ok=True)
