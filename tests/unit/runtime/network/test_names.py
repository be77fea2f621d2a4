"""Names of nnU-Net v2 and ours."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnrules.errors import ModelError
from torch import nn

from nnrules_runtime.network import UNet
from nnrules_runtime.network.names import (
    nnunetv2_aliases,
    to_nnunetv2_name,
    to_our_name,
    to_our_names,
    unmappable,
)
from nnrules_runtime.network.nnunetv2 import to_nnunetv2_state_dict
from nnrules_runtime.network.state import state_of

Make = Callable[..., UNet]

BATCH = {
    "name": "batch_norm",
    "epsilon": 1e-5,
    "affine": True,
    "momentum": 0.1,
    "track_running_statistics": True,
}
UNLIKE = [
    {"convolution": {"order": ["norm", "nonlinearity", "convolution"], "padding": "half_kernel"}},
    {"decoder_kernel_sizes": [[3, 3, 3], [3, 3, 3]]},
    {"skip_connection": {"name": "concatenate", "order": ["skip", "upsampled"]}},
    {"deep_supervision": {"enabled": True, "num_heads": 1}},
]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("changes", [{}, {"norm": BATCH}, {"dropout_probability": 0.1}], ids=str)
def test_names_go_there_and_back(make_network: Make, residual: bool, changes: dict[str, Any]) -> None:
    network = make_network(residual=residual, **changes)
    state = state_of(network)
    theirs = [to_nnunetv2_name(name, network.architecture) for name in state]
    assert len(set(theirs)) == len(theirs)
    assert [to_our_name(name, 2) for name in theirs] == list(state)
    exported = to_nnunetv2_state_dict(network)
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in exported.items()}
    for names in (exported, wrapped):
        back = to_our_names(names)
        assert sorted(back) == sorted(state)
        assert all(torch.equal(back[name], state[name]) for name in state)


@given(
    st.integers(1, 12), st.integers(0, 11), st.integers(0, 9), st.sampled_from(["conv.weight", "norm.bias"])
)
def test_levels_are_counted_from_the_other_end(upsamplings: int, index: int, block: int, what: str) -> None:
    index %= upsamplings
    level = upsamplings - 1 - index
    assert (
        to_our_name(f"decoder.stages.{index}.convs.{block}.{what}", upsamplings)
        == f"decoder.{level}.{block}.{what}"
    )
    assert to_our_name(f"decoder.transpconvs.{index}.weight", upsamplings) == f"up.{level}.weight"
    assert to_our_name(f"decoder.seg_layers.{index}.bias", upsamplings) == f"heads.{level}.bias"


@given(st.text(max_size=40))
def test_any_other_name_is_not_ours(name: str) -> None:
    assert to_our_name(name, 3) is None


def test_repetitions_count_the_layers_before_them(make_network: Make) -> None:
    convolution = {"order": ["convolution", "nonlinearity", "norm"], "padding": "half_kernel"}
    network = make_network(residual=True, convolution=convolution, dropout_probability=0.5)
    names = ["encoder.stages.1.blocks.0.conv1.norm.weight", "encoder.stages.1.blocks.0.conv2.norm.weight"]
    repetitions = {
        name: key for key, name in nnunetv2_aliases(names, network.architecture).items() if key != name
    }
    # convolution, dropout, nonlinearity, norm; the second has no dropout
    assert repetitions[names[0]].endswith("conv1.all_modules.3.weight")
    assert repetitions[names[1]].endswith("conv2.all_modules.2.weight")


def test_wrapped_networks_have_plain_names(make_network: Make) -> None:
    network = make_network()
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module._orig_mod = network
    assert list(state_of(wrapped)) == list(state_of(network))


def test_missing_biases_are_exported_as_zeros(make_network: Make) -> None:
    network = make_network(biases={"convolution": True, "transposed_convolution": False, "head": False})
    exported = to_nnunetv2_state_dict(network)
    assert exported["decoder.seg_layers.0.bias"].tolist() == [0, 0, 0]
    assert exported["decoder.transpconvs.0.bias"].shape == (6,)
    assert exported["decoder.transpconvs.1.bias"].shape == (4,)


@pytest.mark.parametrize("changes", UNLIKE, ids=lambda changes: next(iter(changes)))
def test_a_network_that_nnunetv2_does_not_have_is_refused(
    make_network: Make, changes: dict[str, Any]
) -> None:
    network = make_network(**changes)
    reasons = unmappable(network.architecture)
    assert len(reasons) == 1
    with pytest.raises(ModelError, match="nnU-Net v2 cannot express"):
        to_nnunetv2_state_dict(network)
