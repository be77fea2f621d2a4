"""Work folders with made-up predictions of validation cases."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.dataset import Dataset, load_dataset
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.image_io import Geometry, write_image
from nnrules.plan import Plan, value_at

from nnrules_runtime.evaluate import EvaluationCase, evaluate_cases
from nnrules_runtime.select import Empirical, find_best
from nnrules_runtime.workspace import Workspace

LABELS = {"background": 0, "organ": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
SPACING = (2.0, 1.0, 1.0)
Maps = Mapping[str, np.ndarray]


def geometry_of(array: np.ndarray) -> Geometry:
    depth, height, width = array.shape[-3:]
    return Geometry(
        shape=(depth, height, width),
        spacing=SPACING,
        origin_xyz=(1.0, 2.0, 3.0),
        direction_xyz=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
        dimension=3,
        num_channels=1,
    )


@dataclass(frozen=True)
class Study:
    """A plan, a dataset and a work folder."""

    plan: Plan
    dataset: Dataset
    workspace: Workspace

    def find(self, **options: Any) -> Empirical:
        return find_best(self.plan, self.dataset, self.workspace, **{"num_workers": 1, **options})

    def with_plan(self, plan: Plan) -> "Study":
        return Study(plan, self.dataset, self.workspace)


@pytest.fixture(scope="session")
def make_choice_plan(make_fingerprint: Callable[..., Fingerprint]) -> Callable[..., Plan]:
    """A plan with the configurations 2d and 3d_fullres."""

    def make(
        pack: str = "nnunet@2.8.0",
        labels: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Plan:
        labels = dict(labels or LABELS)
        fingerprint = make_fingerprint(
            [(20, 30, 25)] * 10, [(1.0, 1.0, 1.0)] * 10, channels=("MRI",), labels=labels
        )
        document = copy.deepcopy(dict(fingerprint.document))
        document["dataset"]["ignore_label"] = labels.get("ignore")
        if any(isinstance(entry, list) for entry in labels.values()):
            regions = [name for name in labels if name not in ("background", "ignore")]
            document["dataset"]["regions_class_order"] = list(range(1, len(regions) + 1))
        plan = make_plan(Fingerprint.from_document(document), load_pack(pack))
        return changed(plan, **changes)

    return make


def changed(plan: Plan, **changes: Any) -> Plan:
    """A plan with other values; ``__`` stands for the dot of a path."""
    document = copy.deepcopy(dict(plan.document))
    for name, value in changes.items():
        parent, _, key = name.replace("__", ".").rpartition(".")
        value_at(document, parent)[key] = value
    return Plan.from_document(document)


@pytest.fixture(scope="session")
def change_plan() -> Callable[..., Plan]:
    return changed


def study_in(
    folder: Path,
    plan: Plan,
    references: Maps,
    predictions: Mapping[str, Maps],
    *,
    folds: Mapping[str, int] | None = None,
    probabilities: Mapping[str, Maps] | None = None,
    groups: Any = None,
) -> Study:
    """Write references, and predictions of folds as validation does: by default five folds, dealt in turn."""
    dataset = written_dataset(folder / "dataset", plan, references, groups)
    workspace = Workspace(folder / "work")
    numbers = folds or {case_id: index % 5 for index, case_id in enumerate(sorted(references))}
    for configuration, maps in predictions.items():
        for fold in sorted({numbers[case_id] for case_id in maps}):
            held_out = {case_id: labels for case_id, labels in maps.items() if numbers[case_id] == fold}
            write_fold(plan, dataset, workspace.validation(configuration, fold), held_out)
    for configuration, maps in (probabilities or {}).items():
        for case_id, values in maps.items():
            path = workspace.validation(configuration, numbers[case_id]) / f"{case_id}.npz"
            np.savez_compressed(path, probabilities=values)
    return Study(plan, dataset, workspace)


@pytest.fixture(scope="session")
def make_study_in() -> Callable[..., Study]:
    return study_in


@pytest.fixture
def make_study(tmp_path: Path, make_choice_plan: Callable[..., Plan]) -> Callable[..., Study]:
    """The same, in a folder of the test."""

    def make(
        references: Maps, predictions: Mapping[str, Maps], *, plan: Plan | None = None, **options: Any
    ) -> Study:
        return study_in(tmp_path, plan or make_choice_plan(), references, predictions, **options)

    return make


def written_dataset(folder: Path, plan: Plan, references: Maps, groups: Any = None) -> Dataset:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case_id, labels in references.items():
        write_image(folder / "labelsTr" / f"{case_id}.nii.gz", labels.astype(np.uint8), geometry_of(labels))
        (folder / "imagesTr" / f"{case_id}_0000.nii.gz").touch()
    facts = plan.document["dataset"]
    document: dict[str, Any] = {
        "name": "Made",
        "channel_names": {"0": "MRI"},
        "labels": {name: facts["labels"][name] for name in facts["label_order"]},
        "numTraining": len(references),
        "file_ending": ".nii.gz",
    }
    if facts.get("ignore_label") is not None:
        document["labels"]["ignore"] = facts["ignore_label"]
    if facts.get("regions_class_order"):
        document["regions_class_order"] = facts["regions_class_order"]
    if groups is not None:
        document["nnrules"] = {"groups": groups}
    (folder / "dataset.json").write_text(json.dumps(document))
    return load_dataset(folder)


def write_fold(plan: Plan, dataset: Dataset, folder: Path, maps: Maps) -> None:
    """Predictions of the validation cases of a fold, and their summary."""
    folder.mkdir(parents=True)
    references = {case.id: case.label_path for case in dataset.cases}
    pairs = []
    for case_id, labels in maps.items():
        path = folder / f"{case_id}.nii.gz"
        write_image(path, labels.astype(np.uint8), geometry_of(labels))
        pairs.append(EvaluationCase(id=case_id, prediction=path, reference=references[case_id]))
    summary = evaluate_cases(plan, pairs, surface_tolerance_mm=None, num_workers=1)
    summary.save(folder / "summary.json")


def one_hot(labels: np.ndarray, sure: float, num_labels: int = 3) -> np.ndarray:
    """Probabilities whose largest output is the label's, with the rest shared by the others."""
    values = np.full((num_labels, *labels.shape), (1 - sure) / (num_labels - 1), np.float32)
    np.put_along_axis(values, labels[None].astype(np.int64), sure, axis=0)
    return values


@pytest.fixture(scope="session")
def probabilities_of() -> Callable[..., np.ndarray]:
    return one_hot


@pytest.fixture(scope="session")
def phantom() -> Callable[..., np.ndarray]:
    """An organ with a tumour in it, of ``(4, 10, 12)``; ``islands`` are far from both."""

    def make(*islands: tuple[int, int], tumour: int = 2, shift: int = 0) -> np.ndarray:
        labels = np.zeros((4, 10, 12), np.uint8)
        labels[1:3, 2:8, 2 + shift : 7 + shift] = 1
        labels[1:3, 4:6, 3 + shift : 3 + shift + tumour] = 2
        for label, place in islands:
            labels[0, 9, place] = label
        return labels

    return make
