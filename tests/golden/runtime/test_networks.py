"""Outputs, names and initial weights of networks against those recorded from nnunetv2 2.8.1."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nnrules_runtime.network import UNet, build_network, initialize
from nnrules_runtime.network.names import nnunetv2_aliases, to_nnunetv2_name, to_our_names
from nnrules_runtime.network.nnunetv2 import to_nnunetv2_state_dict
from nnrules_runtime.network.state import check_state
from nnrules_runtime.values import Section

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "b_networks"
REASON = "the recorded networks are not beside the checkout (../shared/golden/runtime/b_networks)"
NETWORKS = (
    "plain_2d",
    "plain_2d_uneven",
    "plain_3d_aniso",
    "plain_3d_iso",
    "resenc_2d",
    "resenc_3d_aniso",
    "resenc_3d_iso",
)
# fp32; the recordings differ among themselves by up to 1.5e-5 (thread count, mkldnn, float64)
TOLERANCE = 5e-5

Record = Callable[[str, object], None]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return document


def configuration(document: Mapping[str, Any]) -> Section:
    """The recorded network as a plan has it."""
    theirs = document["architecture"]["arch_kwargs"]
    is_residual = "n_blocks_per_stage" in theirs
    residual = {
        "stem": "one_block",
        "layers": ["convolution", "norm", "nonlinearity", "convolution", "norm"],
        "skip_pooling": "average",
        "skip_projection": "convolution_and_norm",
        "skip_projection_bias": False,
        "after_sum": "nonlinearity",
    }
    bias = theirs["conv_bias"]
    architecture = {
        "template": "residual_encoder_unet" if is_residual else "plain_unet",
        "num_input_channels": document["input_channels"],
        "num_output_channels": document["num_classes"],
        "num_stages": theirs["n_stages"],
        "features_per_stage": theirs["features_per_stage"],
        "strides": theirs["strides"],
        "kernel_sizes": theirs["kernel_sizes"],
        "decoder_kernel_sizes": theirs["kernel_sizes"][:-1],
        "blocks_per_stage_encoder": theirs["n_blocks_per_stage" if is_residual else "n_conv_per_stage"],
        "blocks_per_stage_decoder": theirs["n_conv_per_stage_decoder"],
        "convolution": {"order": ["convolution", "norm", "nonlinearity"], "padding": "half_kernel"},
        "norm": {
            "name": "instance_norm",
            "epsilon": theirs["norm_op_kwargs"]["eps"],
            "affine": theirs["norm_op_kwargs"]["affine"],
            "track_running_statistics": False,
        },
        "nonlinearity": {"name": "leaky_relu", "negative_slope": 0.01},
        "dropout_probability": 0,
        "biases": {"convolution": bias, "transposed_convolution": bias, "head": True},
        "downsampling": "strided_convolution",
        "upsampling": "transposed_convolution",
        "skip_connection": {"name": "concatenate", "order": ["upsampled", "skip"]},
        "deep_supervision": {"enabled": True, "num_heads": theirs["n_stages"] - 1},
        "initialization": {
            "name": "he_normal",
            "mode": "fan_in",
            "negative_slope": 0.01,
            "bias": 0,
            "zero_last_norm_of_residual_blocks": is_residual,
        },
        "residual_block": residual if is_residual else None,
    }
    dim = 3 if theirs["conv_op"].endswith("3d") else 2
    return Section({"dim": dim, "architecture": architecture}, "configurations.recorded", [])


def loaded(name: str) -> UNet:
    """Our network with the recorded weights."""
    network = build_network(configuration(recorded(name)))
    state = to_our_names(load_file(RECORDED / f"{name}.safetensors"))
    check_state(state, network, name)
    network.load_state_dict(state)
    return network


def outputs(name: str, *, layout: torch.memory_format) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Our and the recorded logits: all heads of training, and the one of evaluation."""
    network = loaded(name).to(memory_format=layout)
    with np.load(RECORDED / f"{name}.npz") as arrays:
        image = torch.from_numpy(arrays["input"]).contiguous(memory_format=layout)
        wanted = {key: torch.from_numpy(arrays[key]) for key in arrays if key != "input"}
    with torch.no_grad():
        heads = network.train()(image)
        single = network.eval()(image)
    ours = {"eval_output": single} | {f"train_output_{index}": head for index, head in enumerate(heads)}
    assert sorted(ours) == sorted(wanted)
    return {key: (ours[key], wanted[key]) for key in wanted}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_outputs_are_the_recorded_ones(name: str, record_property: Record) -> None:
    for key, (ours, wanted) in outputs(name, layout=torch.contiguous_format).items():
        assert ours.shape == wanted.shape
        difference = (ours - wanted).abs().max().item()
        record_property(f"{name}.{key}.max_abs_difference", difference)
        assert difference < TOLERANCE, f"{name} {key}: {difference:.1e} of {wanted.abs().max():.1f}"


@pytest.mark.parametrize("name", ["plain_3d_iso", "resenc_3d_aniso", "resenc_2d"])
def test_channels_innermost_gives_the_same(name: str, record_property: Record) -> None:
    is_2d = name.endswith("2d")
    layout = torch.channels_last if is_2d else torch.channels_last_3d
    for key, (ours, wanted) in outputs(name, layout=layout).items():
        difference = (ours - wanted).abs().max().item()
        record_property(f"{name}.{key}.channels_last.max_abs_difference", difference)
        # Its kernels sum statistics in float32 one after the other.
        assert difference < 4 * TOLERANCE, f"{name} {key}: {difference:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_has_all_names_of_nnunetv2(name: str) -> None:
    document = recorded(name)
    network = loaded(name)
    state = to_nnunetv2_state_dict(network)
    assert sorted(state) == sorted(document["state_dict_keys"])
    tensors = load_file(RECORDED / f"{name}.safetensors")
    aliases = document["state_dict_aliases"]
    different = [key for key in state if not torch.equal(state[key], tensors[aliases.get(key, key)])]
    assert different == []
    unique = [to_nnunetv2_name(key, network.architecture) for key in network.state_dict()]
    ours = nnunetv2_aliases(unique, network.architecture)
    assert {key: value for key, value in ours.items() if key != value} == aliases
    assert sum(parameter.numel() for parameter in network.parameters()) == document["n_parameters"]


def test_initial_weights_have_the_recorded_statistics(record_property: Record) -> None:
    document = json.loads((RECORDED / "initialisation_stats.json").read_text())
    section = configuration(recorded(document["network"]))
    network = build_network(section)
    initialize(network, section, torch.Generator().manual_seed(1))
    worst = 0.0
    for name, tensor in network.state_dict().items():
        wanted = document["per_parameter"][to_nnunetv2_name(name, network.architecture)]
        assert list(tensor.shape) == wanted["shape"], name
        if wanted["std"] == 0:
            assert tensor.min().item() == tensor.max().item() == wanted["mean"], name
            continue
        # Two estimates from n numbers each: their ratio has a deviation of about 1 / sqrt(n).
        ratio = tensor.std().item() / wanted["std"]
        worst = max(worst, abs(ratio - 1) * tensor.numel() ** 0.5)
        assert abs(ratio - 1) < max(0.1, 4 / tensor.numel() ** 0.5), name
    record_property("worst_deviation_of_std_in_standard_errors", worst)
