"""Trained weights of a cascade in nnU-Net v2 and here: the labels of both stages on whole images.

The weights of a work folder are loaded into nnunetv2's own networks, strictly, and written as its checkpoints; nnunetv2
predicts with them through both stages; then these checkpoints are imported here, and predict the same images.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnrules.image_io import read_image
from nnrules.interop.nnunetv2_write import nnunet_plans
from nnrules.plan import Plan
from peer import interpreter

from nnrules_runtime.network.model import read_model
from nnrules_runtime.network.model_import import import_nnunetv2
from nnrules_runtime.network.nnunetv2 import to_nnunetv2_state_dict
from nnrules_runtime.predictors import open_predictor
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.workspace import Workspace

__all__ = ["Agreement", "compare_labels"]

SERVER = Path(__file__).resolve().parents[1] / "golden" / "runtime" / "peer_jobs" / "serve.py"
NUM_THREADS = 2
FOLD = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Labels of one stage and image.

    Attributes:
        case: the image.
        stage: its configuration.
        num_voxels: of the image.
        num_labelled: voxels that nnunetv2 labels as foreground.
        num_different: voxels whose labels differ.
    """

    case: str
    stage: str
    num_voxels: int
    num_labelled: int
    num_different: int


def compare_labels(
    plan: Plan, dataset: Mapping[str, Any], work: Path, stages: Sequence[str], images: Sequence[Path]
) -> list[Agreement]:
    """Predict with both.

    Args:
        plan: the plan of the models.
        dataset: their dataset.json.
        work: the work folder with the trained models.
        stages: first and second configuration of the cascade.
        images: files of one channel.
    """
    with tempfile.TemporaryDirectory(prefix="nnrules-cascade-") as made:
        folder = Path(made)
        folders = {name: folder / f"nnUNetTrainer__nnUNetPlans__{name}" for name in stages}
        theirs = _ask(folder, _request(plan, dataset, work, folders, images))
        workspace = Workspace(folder / "work")
        for name, model in folders.items():
            import_nnunetv2(model, plan, name, workspace.models(name))
        profile = choose_profile(device="cpu", precision="float32", num_threads=NUM_THREADS)
        cascade = open_predictor(workspace.root, configurations=stages[-1], profile=profile)
        predictors = {"first": cascade.singles[0], "second": cascade}
        found = []
        for number, path in enumerate(images):
            image, geometry = read_image([path])
            for (key, predictor), name in zip(predictors.items(), stages, strict=True):
                wanted = theirs[f"{number}/{key}/own"]
                labels = predictor.predict(image, geometry.spacing)
                found.append(
                    Agreement(
                        case=path.name.partition("_0000")[0],
                        stage=name,
                        num_voxels=wanted.size,
                        num_labelled=int((wanted > 0).sum()),
                        num_different=int((labels != wanted).sum()),
                    )
                )
        return found


def _request(
    plan: Plan, dataset: Mapping[str, Any], work: Path, folders: Mapping[str, Path], images: Sequence[Path]
) -> dict[str, Any]:
    """What nnunetv2 is asked, with our weights in files beside its folders."""
    plans = nnunet_plans(plan, dataset_name="Dataset001_Ours").document
    entries = []
    for name, folder in folders.items():
        weights = folder.with_name(f"{name}.npz")
        model = read_model(Workspace(work).fold(name, FOLD), "final", plan=plan)
        state = to_nnunetv2_state_dict(model.network())
        np.savez(weights, **{key: tensor.numpy() for key, tensor in state.items()})  # type: ignore[arg-type]
        entries.append(
            {
                "folder": str(folder),
                "plans": plans,
                "dataset": dataset,
                "name": name,
                "seed": 0,
                "mirror_axes": list(model.mirror_axes),
                "weights": str(weights),
            }
        )
    return {
        "stages": entries,
        "images": [str(path) for path in images],
        "sums": ["own"],
        "num_threads": NUM_THREADS,
    }


def _ask(folder: Path, document: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """One question to nnunetv2, in a process of its own."""
    question = folder / "question"
    question.mkdir()
    np.savez(question / "question.npz")
    (question / "question.json").write_text(json.dumps({"task": "whole_cascade", "document": document}))
    names = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    subprocess.run(
        [interpreter(install=True), SERVER],
        input=f"{question}\n",
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **names},
    )
    answer = json.loads((question / "answer.json").read_text())
    if "error" in answer:
        raise RuntimeError(f"nnU-Net v2 failed: {answer['error']}")
    with np.load(question / "answer.npz") as file:
        return {name: file[name] for name in file.files}
