"""A trained fold is validated on the original images, once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.dataset import Dataset
from nnrules.image_io import read_geometry, read_label
from nnrules.plan import Plan

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
    def run(fold: int | str = 0, **options: Any) -> TrainingResult:
        return train_fold(
            tiny_plan(epochs=1, num_iterations_per_epoch=2),
            tiny_dataset,
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

    monkeypatch.setattr(run_module, "preprocess_dataset", fail)
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


def test_training_on_all_cases_validates_them(
    train: Callable[..., TrainingResult], tiny_dataset: Dataset
) -> None:
    result = train("all")
    assert result.summary is not None
    assert len(result.summary.cases) == len(tiny_dataset.cases)
