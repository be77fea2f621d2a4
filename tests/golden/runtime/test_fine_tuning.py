"""A training of ours begins with the weights of a genuine nnU-Net v2 checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnrules.plan import Plan

from nnrules_runtime.network import build_network
from nnrules_runtime.network.names import to_our_names
from nnrules_runtime.train.start import draw_weights, take_weights
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[3]
FOLDER = CHECKOUT.parent / "shared" / "golden" / "runtime" / "c_model" / "Dataset004_Hippocampus"
MODEL = FOLDER / "nnUNetTrainer__nnUNetPlans__3d_fullres"
REASON = "the recorded model is not beside the checkout (../shared/golden/runtime/c_model)"

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not MODEL.is_dir(), reason=REASON)]


@pytest.mark.parametrize("num_labels", [2, 5])
def test_begin_with_the_weights_of_nnunetv2(plan_request: Callable[..., Plan], num_labels: int) -> None:
    fingerprint = json.loads((MODEL / "dataset_fingerprint.json").read_text())
    dataset = json.loads((MODEL / "dataset.json").read_text())
    dataset["labels"] = {"background": 0} | {f"label {value}": value for value in range(1, num_labels + 1)}
    with reading(plan_request("ExperimentPlanner", fingerprint, dataset)) as root:
        configuration = root.section("configurations").section("3d_fullres")
        network = build_network(configuration)
    draw_weights(network, configuration, 1)
    drawn = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    left = take_weights(MODEL / "fold_0" / "checkpoint_final.pth", network)

    # As nnU-Net itself would read it.
    checkpoint = torch.load(MODEL / "fold_0" / "checkpoint_final.pth", weights_only=False)
    expected = to_our_names(checkpoint["network_weights"])
    heads = {name for name in drawn if name.startswith("heads.")}
    assert set(left) == (heads if num_labels == 5 else set())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, drawn[name] if name in left else expected[name]), name
