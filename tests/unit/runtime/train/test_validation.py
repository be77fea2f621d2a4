"""A trained fold is validated on the original images, once."""

import copy
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.dataset import Dataset
from nnrules.errors import ModelError, RunError
from nnrules.image_io import read_geometry, read_label, write_image
from nnrules.plan import Plan

from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.train import run as run_module
from nnrules_runtime.train.run import TrainingOptions, TrainingResult, train_fold
from nnrules_runtime.workspace import Workspace


@pytest.fixture
def train(
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
    workspace: Workspace,
) -> Callable[..., TrainingResult]:
    def run(
        fold: int | str = 0, *, plan: Plan | None = None, dataset: Dataset = tiny_dataset, **options: Any
    ) -> TrainingResult:
        return train_fold(
            plan or tiny_plan(epochs=1, num_iterations_per_epoch=2),
            dataset,
            "3d_fullres",
            fold,
            workspace,
            profile=cpu_profile(),
            options=TrainingOptions(**options),
        )

    return run


def test_a_fold_is_trained_and_validated_once(
    train: Callable[..., TrainingResult], tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(validate=False)
    assert first.outcome.finished
    assert first.summary is None
    result = train()  # validates what was trained before
    assert result.summary is not None
    folder = result.folder / "validation"
    summary = json.loads((folder / "summary.json").read_text())
    cases = {case.id: case for case in tiny_dataset.cases}
    predicted = {path.name.removesuffix(".nii.gz"): path for path in folder.glob("*.nii.gz")}
    assert sorted(predicted) == [entry["id"] for entry in summary["cases"]]
    assert len(predicted) == 2  # of ten cases in five folds
    for name, path in predicted.items():
        labels, reference = read_label(path)[0], read_label(cases[name].label_path)[0]
        assert read_geometry(path) == read_geometry(cases[name].label_path)
        for value, label in ((1, "a"), (2, "b")):
            overlap = 2 * np.sum((labels == value) & (reference == value))
            size = np.sum(labels == value) + np.sum(reference == value)
            (entry,) = (one for one in summary["cases"] if one["id"] == name)
            assert entry["metrics"][label]["dice"] == pytest.approx(overlap / size)

    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("nothing is left to do")

    monkeypatch.setattr(run_module, "preprocess_configurations", fail)
    again = train()
    assert again.outcome.finished
    assert again.summary is None


def test_an_interrupted_validation_goes_on(train: Callable[..., TrainingResult]) -> None:
    folder = train().folder / "validation"
    first, second = sorted(folder.glob("*.nii.gz"))
    kept = first.stat().st_mtime_ns
    second.unlink()
    (folder / "summary.json").unlink()
    assert train().summary is not None
    assert first.stat().st_mtime_ns == kept
    assert second.is_file()


def test_predictions_of_other_weights_are_not_kept(train: Callable[..., TrainingResult]) -> None:
    folder = train().folder / "validation"
    (folder / "summary.json").unlink()
    (folder / ".weights.json").write_text("{}")
    extra: Path = folder / "old.nii.gz"
    extra.touch()
    assert train().summary is not None
    assert not extra.exists()


def test_predictions_of_another_way_are_not_kept(
    train: Callable[..., TrainingResult], tiny_plan: Callable[..., Plan]
) -> None:
    folder = train().folder / "validation"
    (first, *_) = sorted(folder.glob("*.nii.gz"))
    made = first.stat().st_mtime_ns
    document = copy.deepcopy(dict(tiny_plan(epochs=1, num_iterations_per_epoch=2).document))
    document["configurations"]["3d_fullres"]["inference"]["window"]["step"] = 0.25
    result = train(plan=Plan.from_document(document))
    assert result.summary is not None
    assert first.stat().st_mtime_ns != made


def test_half_written_predictions_of_a_killed_process_are_removed(
    train: Callable[..., TrainingResult],
) -> None:
    folder = train().folder / "validation"
    (folder / ".c1.nii.gz.abc").mkdir()
    (folder / ".c1.nii.gz.abc" / "c1.nii.gz").touch()
    (folder / ".c1.npz.x.tmp").touch()
    (folder / "summary.json").unlink()
    assert train().summary is not None
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".weights.json"]


def test_training_on_all_cases_validates_them(
    train: Callable[..., TrainingResult], tiny_dataset: Dataset
) -> None:
    result = train("all")
    assert result.summary is not None
    assert len(result.summary.cases) == len(tiny_dataset.cases)


def test_probabilities_are_those_of_prediction(
    train: Callable[..., TrainingResult], workspace: Workspace, cpu_profile: Callable[..., Profile]
) -> None:
    folder = train().folder / "validation"
    assert not list(folder.glob("*.npz"))
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    assert train(save_probabilities=True).summary is not None
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")} == kept
    files = sorted(folder.glob("*.npz"))
    assert [path.stem for path in files] == sorted(name.removesuffix(".nii.gz") for name in kept)
    predictor = Predictor(folder.parent, profile=cpu_profile())
    store = CaseStore(workspace.preprocessed("3d_fullres"))
    for path in files:
        case = store.case(path.stem)
        expected = predictor.export_probabilities(predictor.logits(case.image()), case.geometry)
        with np.load(path) as file:
            assert file.files == ["probabilities"]
            np.testing.assert_array_equal(file["probabilities"], expected)
            labels, _ = read_label(folder / f"{path.stem}.nii.gz")
            np.testing.assert_array_equal(file["probabilities"].argmax(axis=0), labels)
    assert train(save_probabilities=True).summary is None, "nothing is left to do"
    files[0].unlink()
    assert train(save_probabilities=True).summary is not None
    assert files[0].is_file()


def test_splits_of_the_users_own(
    train: Callable[..., TrainingResult], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = tmp_path / "mine.json"
    splits.write_text(json.dumps([{"train": ["c3", "c1"], "val": ["c7"]}]))
    with caplog.at_level(logging.INFO):
        result = train(splits=splits)
    assert "fold 0 is that of mine.json" in caplog.text
    assert "2 cases train, 1 validate" in caplog.text
    assert result.summary is not None
    assert [entry.case.id for entry in result.summary.cases] == ["c7"]
    facts = json.loads((result.folder / "training.json").read_text())
    assert facts["cases"] == {"train": ["c1", "c3"], "validation": ["c7"], "held_out": True}
    assert facts["splits_file"] == "mine.json"
    assert facts["plan_fields"]["split.train"].startswith("2 cases, digest ")
    # Another split of the same fold is another training, finished or not.
    with pytest.raises(
        ModelError, match=r"split.train: .*got .2 cases.*8 cases(.|\n)*other cases than the fold"
    ):
        train()
    splits.write_text(json.dumps([{"train": ["c3", "c1", "c2"], "val": ["c7"]}]))
    with pytest.raises(ModelError, match=r"split\.train"):
        train(splits=splits)


def test_an_unfinished_fold_is_not_continued_with_other_cases(
    train: Callable[..., TrainingResult], tmp_path: Path
) -> None:
    assert not train(max_seconds=0).outcome.finished
    splits = tmp_path / "mine.json"
    splits.write_text(json.dumps([{"train": ["c3", "c1"], "val": ["c7"]}]))
    with pytest.raises(ModelError, match=r"checkpoint.pt: split.train(.|\n)*--restart"):
        train(splits=splits)
    assert train(splits=splits, restart=True).outcome.finished


def test_folds_by_class_train(
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
    workspace: Workspace,
) -> None:
    document = copy.deepcopy(dict(tiny_plan(epochs=1, num_iterations_per_epoch=1).document))
    document["folds"]["assignment"]["method"] = "stratified_by_class"
    result = train_fold(
        Plan.from_document(document), tiny_dataset, "3d_fullres", 4, workspace, profile=cpu_profile()
    )
    assert result.summary is not None
    assert len(result.summary.cases) == 2


def test_a_class_in_a_single_case_is_said(
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All but one of the cases lose class b: it trains where that one trains, and where it does not, that is said."""
    cases = []
    for case in tiny_dataset.cases:
        path = tmp_path / case.label_path.name
        labels = read_label(case.label_path)[0]
        kept = labels if case.id == "c5" else np.where(labels == 2, 0, labels)
        write_image(path, kept.astype(np.uint8), read_geometry(case.label_path))
        cases.append(dataclasses.replace(case, label_path=path))
    dataset = dataclasses.replace(tiny_dataset, cases=tuple(cases))
    splits = tmp_path / "mine.json"
    ids = [case.id for case in cases]
    splits.write_text(json.dumps([{"train": ids[:5], "val": ids[5:]}, {"train": ids[5:], "val": ids[:5]}]))
    for fold, message in (
        (0, "fold 0: no training case shows b (only c5): the network cannot learn it"),
        (1, "fold 1: no validation case shows b (only c5): it is not scored here"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            result = train_fold(
                tiny_plan(epochs=1, num_iterations_per_epoch=2),
                dataset,
                "3d_fullres",
                fold,
                Workspace(tmp_path / "work"),
                profile=cpu_profile(),
                options=TrainingOptions(splits=splits),
            )
        assert message in caplog.text
        assert result.outcome.finished
        assert result.summary is not None


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_few_cases(
    number: int,
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
    workspace: Workspace,
) -> None:
    """They train with the policies that are for them, or it is said why not."""
    dataset = dataclasses.replace(tiny_dataset, cases=tiny_dataset.cases[:number])

    def train(policy: str, fold: int | str = 0) -> TrainingResult:
        document = copy.deepcopy(dict(tiny_plan(epochs=1, num_iterations_per_epoch=1).document))
        document["folds"]["too_few"]["policy"] = policy
        plan = Plan.from_document(document)
        folder = Workspace(workspace.root / policy)
        return train_fold(plan, dataset, "3d_fullres", fold, folder, profile=cpu_profile())

    with pytest.raises(RunError, match=rf"fewer cases than folds; got {number} cases.* Train --fold all"):
        train("refuse")
    assert train("refuse", "all").outcome.finished
    for policy in ("fewer_folds", "hold_out"):
        if number == 1:
            with pytest.raises(RunError, match="Train --fold all"):
                train(policy)
        else:
            result = train(policy)
            assert result.summary is not None
            assert len(result.summary.cases) == 1
