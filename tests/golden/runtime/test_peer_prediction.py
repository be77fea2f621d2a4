"""Whole predictions against the installed nnunetv2 2.8.1, with the same drawn weights, on all kinds of grids.

The networks are small and untrained, so that their output changes from voxel to voxel: whatever is a voxel off shows.
Where nnU-Net v2 is not installed these tests skip aloud, except on CI (or with ``NNRULES_PEER=install``).
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.image_io import read_image
from nnrules.plan import Plan
from safetensors.torch import save_file

from nnrules_runtime.network import build_network, initialize
from nnrules_runtime.network.nnunetv2 import to_nnunetv2_state_dict
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[3]
SHARED = CHECKOUT.parent / "shared"
RECORDED = SHARED / "golden" / "runtime" / "a_preprocessing"
REASON = "the recorded plans are not beside the checkout (../shared/golden/runtime/a_preprocessing)"
SCRIPT = CHECKOUT / "tests" / "benchmarks" / "runtime_peer" / "predict.py"
FEATURES, MAX_FEATURES = 4, 16

Record = Callable[[str, object], None]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


@dataclass(frozen=True)
class Case:
    """One prediction.

    Attributes:
        dataset: whose recorded plans are used.
        configuration: of the plans.
        image: the files of the image, below the shared folder.
        budget: GB that the plans were made for.
        num_folds: networks that are averaged.
        mirrors: whether all axes are mirrored.
    """

    dataset: str
    configuration: str
    image: str
    budget: float = 8
    num_folds: int = 1
    mirrors: bool = True


SYNTHETIC = "golden/runtime/a_preprocessing/synthetic_masked/raw/imagesTr"
CASES = {
    "regions, transposed, coarse axis": Case(
        "synthetic_masked", "3d_fullres", f"{SYNTHETIC}/syn_000", num_folds=2
    ),
    "regions in 2D, two folds": Case("synthetic_masked", "2d", f"{SYNTHETIC}/syn_003", num_folds=2),
    "anisotropic, smaller than the patch": Case(
        "acdc", "3d_fullres", "data/acdc/imagesTr/patient007_frame01", mirrors=False
    ),
    "slices": Case("acdc", "2d", "data/acdc/imagesTr/patient018_frame01"),
    "a 2D image": Case("nuclei_2d", "2d", "data/nuclei_2d/imagesTr/nuc_016"),
    "CT, transposed, many windows": Case(
        "head_neck_ct", "3d_lowres", "data/head_neck_ct/imagesTr/OpenKBP_022", budget=1, mirrors=False
    ),
}


def drawn(plan: Plan, name: str, number: int) -> list[torch.nn.Module]:
    """Networks with drawn weights, norms and biases included."""
    networks: list[torch.nn.Module] = []
    for seed in range(number):
        generator = torch.Generator().manual_seed(seed)
        with reading(plan) as root:
            configuration = root.section("configurations").section(name)
            network = build_network(configuration)
        initialize(network, configuration, generator)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        networks.append(network)
    return networks


def asked(python: Path, case: Case, networks: list[torch.nn.Module], paths: list[Path], folder: Path) -> Any:
    """What nnU-Net predicts with the same weights."""
    weights = []
    for number, network in enumerate(networks):
        weights.append(str(folder / f"{number}.safetensors"))
        state = {name: tensor.detach().clone() for name, tensor in to_nnunetv2_state_dict(network).items()}
        save_file(state, weights[-1])
    job = {
        "mode": "cases",
        "num_threads": 1,
        "plans": str(RECORDED / case.dataset / "plans.json"),
        "dataset": str(RECORDED / case.dataset / "dataset.json"),
        "configuration": case.configuration,
        "features": FEATURES,
        "max_features": MAX_FEATURES,
        "num_channels": len(paths),
        "weights": weights,
        "mirror_axes": list(range(2 if case.configuration == "2d" else 3)) if case.mirrors else [],
        "images": {"case": [str(path) for path in paths]},
        "output": str(folder / "answer.npz"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [python, SCRIPT, folder / "job.json", folder / "answer.json"]
    names = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, **names}
    process = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    with np.load(folder / "answer.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", CASES)
def test_prediction(
    name: str,
    peer_python: Path,
    narrow: Callable[..., Plan],
    plan_request: Callable[..., Plan],
    tmp_path: Path,
    record_property: Record,
) -> None:
    case = CASES[name]
    recorded = RECORDED / case.dataset
    fingerprint, dataset = (
        json.loads((recorded / file).read_text()) for file in ("dataset_fingerprint.json", "dataset.json")
    )
    plan = plan_request("ExperimentPlanner", fingerprint, dataset, gpu_memory_gb=case.budget)
    image_path = SHARED / case.image
    paths = sorted(image_path.parent.glob(f"{image_path.name}_000*"))
    image, geometry = read_image(paths)
    networks = drawn(narrow(plan, features=FEATURES, most=MAX_FEATURES), case.configuration, case.num_folds)
    theirs = asked(peer_python, case, networks, paths, tmp_path)
    labels, probabilities = {}, {}
    for sums in ("float32", "float16"):
        predictor = Predictor.from_networks(
            narrow(plan, features=FEATURES, most=MAX_FEATURES, sums=sums),
            case.configuration,
            networks,
            profile=choose_profile(device="cpu", precision="float32", num_threads=1, channels_last=False),
            mirror_axes=None if case.mirrors else (),
        )
        labels[sums] = predictor.predict(image, geometry.spacing)
        probabilities[sums] = predictor.predict_probabilities(image, geometry.spacing)
    wanted = theirs["case/exact"]
    assert labels["float32"].shape == wanted.shape
    exact, half = (int((labels[sums] != wanted).sum()) for sums in ("float32", "float16"))
    peer = int((theirs["case/own"] != wanted).sum())
    difference = float(np.abs(probabilities["float32"] - theirs["case/exact/probabilities"]).max())
    record_property("voxels", wanted.size)
    record_property("voxels that differ from nnU-Net with exact sums: ours with float32 sums", exact)
    record_property("the same, ours with float16 sums", half)
    record_property("the same, nnU-Net's own float16 sums", peer)
    record_property("largest difference of probabilities, float32 sums", difference)
    assert exact <= max(2, 1e-5 * wanted.size), f"{exact} of {wanted.size} voxels differ from exact sums"
    assert half <= 1.5 * peer + 2, f"{half} voxels differ with float16 sums, {peer} with nnU-Net's"
    assert difference <= 1e-4, f"probabilities differ by {difference}"
