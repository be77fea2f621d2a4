"""Plans and a small dataset that the tests of training share."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnrules.dataset import Dataset, load_dataset
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.preprocess.dataset import preprocess_dataset
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile, choose_profile
from nnrules_runtime.workspace import Workspace

LABELS = {"background": 0, "a": 1, "b": 2}
NUM_CASES = 10


def planned(make_fingerprint: Callable[..., Fingerprint], pack: str) -> Plan:
    fingerprint = make_fingerprint(
        [(36, 50, 35)] * 30, [(1.0, 1.0, 1.0)] * 30, channels=("MRI",), labels=LABELS, num_training=30
    )
    return make_plan(fingerprint, load_pack(pack))


@pytest.fixture(scope="session")
def hippocampus_plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    """A plan like that of a dataset of small images, with a patch of (40, 56, 40)."""
    return planned(make_fingerprint, "nnunet@2.8.0")


@pytest.fixture(scope="session")
def tiny_plan(make_fingerprint: Callable[..., Fingerprint]) -> Callable[..., Plan]:
    """A plan whose training takes a second: few features, small patches, short epochs."""

    def make(pack: str = "nnunet@2.8.0", **training: Any) -> Plan:
        document = copy.deepcopy(dict(planned(make_fingerprint, pack).document))
        for name, size in (("2d", [16, 16]), ("3d_fullres", [16, 16, 16])):
            configuration = document["configurations"][name]
            configuration["patch_size"] = size
            configuration["sampling"]["initial_patch_size"] = [edge + 4 for edge in size]
            configuration["batch_size"] = 2
            configuration["sampling"]["foreground"]["num_samples"] = 1
            stages = configuration["architecture"]["num_stages"]
            configuration["architecture"]["features_per_stage"] = [4, 6, 8, 8, 8, 8, 8][:stages]
        document["training"] |= {
            "epochs": 3,
            "num_iterations_per_epoch": 4,
            "num_validation_iterations_per_epoch": 2,
            "seed": 7,
        }
        document["training"] |= training
        return Plan.from_document(document)

    return make


@pytest.fixture(scope="session")
def cascade_plan(
    make_fingerprint: Callable[..., Fingerprint], tiny_plan: Callable[..., Plan]
) -> Callable[..., Plan]:
    """A tiny plan of two folds with a cascade: the first stage at half the resolution."""

    def make(pack: str = "nnunet@2.8.0", **training: Any) -> Plan:
        fingerprint = make_fingerprint(
            [(400, 400, 400)] * 30, [(1.0, 1.0, 1.0)] * 30, channels=("MRI",), labels=LABELS, num_training=30
        )
        planned = make_plan(fingerprint, load_pack(pack)).configurations["3d_cascade_fullres"]
        document = copy.deepcopy(dict(tiny_plan(pack, **training).document))
        document["folds"]["num_folds"] = 2
        configurations = document["configurations"]
        first, second = (copy.deepcopy(configurations["3d_fullres"]) for _ in range(2))
        first |= {"next_stage": "3d_cascade_fullres"}
        first["spacing"] = [2 * edge for edge in first["spacing"]]
        second["inherits_from"] = "3d_fullres"
        second |= {key: copy.deepcopy(planned[key]) for key in ("previous_stage", "cascade", "augmentation")}
        second["architecture"]["num_input_channels"] = planned["architecture"]["num_input_channels"]
        configurations |= {"3d_lowres": first, "3d_cascade_fullres": second}
        return Plan.from_document(document)

    return make


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten images of two bright boxes in noise."""
    folder = tmp_path_factory.mktemp("dataset")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    random = np.random.default_rng(3)
    for number in range(NUM_CASES):
        label = np.zeros((18, 22, 20), np.uint8)
        z, y, x = random.integers(2, 8, 3)
        label[z : z + 6, y : y + 8, x : x + 4] = 1
        label[z : z + 6, y : y + 8, x + 4 : x + 9] = 2
        image = random.normal(0, 0.3, label.shape).astype(np.float32) + label
        for array, place in (
            (image, f"imagesTr/c{number}_0000.nii.gz"),
            (label, f"labelsTr/c{number}.nii.gz"),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / place))
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Made",
                "channel_names": {"0": "MRI"},
                "labels": LABELS,
                "numTraining": NUM_CASES,
                "file_ending": ".nii.gz",
            }
        )
    )
    return load_dataset(folder)


@pytest.fixture(scope="session")
def tiny_store(
    tiny_plan: Callable[..., Plan], tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> CaseStore:
    """Its cases, preprocessed for 3d_fullres."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    return preprocess_dataset(tiny_plan(), tiny_dataset, "3d_fullres", workspace, num_workers=0)


@pytest.fixture(scope="session")
def cpu_profile() -> Callable[..., Profile]:
    """A profile of one thread, deterministic, without workers."""

    def make(**changes: Any) -> Profile:
        options: Mapping[str, Any] = {
            "device": "cpu",
            "precision": "float32",
            "compile": False,
            "channels_last": False,
            "num_threads": 1,
            "num_workers": 0,
            "deterministic": True,
        }
        return choose_profile(None, **{**options, **changes})

    return make


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Trainings set switches of the process: other tests find them as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
