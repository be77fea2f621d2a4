"""Logits of networks that the installed nnunetv2 2.8.1 built from our exported plans, after importing their weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.plan import Plan

from nnrules_runtime.network.model_import import import_nnunetv2
from nnrules_runtime.network.nnunetv2 import to_nnunetv2_state_dict

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

LIMIT = 1e-4
PLANNERS = {"plain": "ExperimentPlanner", "residual": "ResEncUNetPlanner"}
SPACINGS = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (6.0, 0.9, 0.8)}
SHAPES = {"isotropic": (90, 110, 100), "anisotropic": (14, 200, 220)}
CASES = [
    ("plain", "isotropic", "3d_fullres"),
    ("plain", "anisotropic", "3d_fullres"),
    ("plain", "anisotropic", "2d"),
    ("residual", "isotropic", "3d_fullres"),
    ("residual", "anisotropic", "3d_fullres"),
    ("residual", "anisotropic", "2d"),
]


def drawn_dataset(rng: np.random.Generator, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fingerprint and a dataset.json, of a random size, with two channels."""
    shape = np.array(SHAPES[kind]) * rng.uniform(0.8, 1.25, (12, 3))
    statistics = dict.fromkeys(
        ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
    )
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": np.round(shape).astype(int).tolist(),
        "spacings": [list(SPACINGS[kind])] * len(shape),
    }
    labels = {"background": 0} | {f"label {value}": value for value in range(1, int(rng.integers(2, 6)))}
    dataset = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": labels,
        "numTraining": len(shape),
        "file_ending": ".nii.gz",
    }
    return fingerprint, dataset


@pytest.mark.parametrize(("kind", "grid", "name"), CASES, ids=["-".join(case) for case in CASES])
def test_logits(
    kind: str,
    grid: str,
    name: str,
    ask_peer: Callable[..., Any],
    narrow: Callable[..., Plan],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    fingerprint, dataset = drawn_dataset(rng, grid)
    plan = narrow(plan_request(PLANNERS[kind], fingerprint, dataset), most=24)
    architecture = plan.configurations[name]["architecture"]
    shape = 2 * np.prod(architecture["strides"], axis=0)
    image = rng.standard_normal((2, architecture["num_input_channels"], *shape)).astype(np.float32)
    request = {
        "folder": str(tmp_path / "theirs"),
        "plans": exported(plan, "Dataset001_Ours"),
        "dataset": dataset,
        "configuration": name,
        "seed": int(rng.integers(2**31)),
    }
    (names,), arrays = ask_peer("networks", [request], {"0/image": image})
    (model,) = import_nnunetv2(tmp_path / "theirs", plan, name, tmp_path / "ours")
    network = model.network()
    with torch.no_grad():
        single = network.eval()(torch.from_numpy(image))
        heads = network.train()(torch.from_numpy(image))
    ours = {"0/eval": single} | {f"0/train/{level}": head for level, head in enumerate(heads)}
    assert sorted(ours) == sorted(arrays)
    off = {key: float(np.abs(ours[key].numpy() - theirs).max()) for key, theirs in arrays.items()}
    largest = max(float(np.abs(theirs).max()) for theirs in arrays.values())
    stages, heads_of = architecture["num_stages"], architecture["num_output_channels"]
    what = f"{kind} {grid} {name}, {stages} stages, {heads_of} classes, patch {shape.tolist()}"
    compare(f"logits up to {largest:.2g} of {len(off)} outputs of {what}", max(off.values()), LIMIT)
    checkpoint = torch.load(tmp_path / "theirs" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    theirs, exported_state = checkpoint["network_weights"], to_nnunetv2_state_dict(network)
    assert sorted(exported_state) == names
    different = [key for key in names if not torch.equal(exported_state[key], theirs[key])]
    compare(f"number of exported tensors of {what}, of {len(names)}", len(different), 0)
