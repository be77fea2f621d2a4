"""Initial weights: distribution, seeds, and what a restart leaves alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nnrules_runtime.network import UNet, build_network, initialize, reinitialize_convolutions
from nnrules_runtime.values import Section

Make = Callable[..., UNet]
Describe = Callable[..., Section]
SLOPE = 0.3
LARGE = {
    "num_input_channels": 8,
    "features_per_stage": [32, 48, 64],
    "initialization": {
        "name": "he_normal",
        "mode": "fan_in",
        "negative_slope": SLOPE,
        "bias": 0.25,
        "zero_last_norm_of_residual_blocks": True,
    },
}


def made(section: Section, seed: int) -> UNet:
    network = build_network(section)
    initialize(network, section, torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("residual", [False, True])
def test_convolutions_are_he_normal(describe_network: Describe, residual: bool) -> None:
    network = made(describe_network(residual=residual, **LARGE), 1)
    for name, module in network.named_modules():
        if not isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            continue
        voxels = math.prod(module.kernel_size)
        is_up = isinstance(module, nn.ConvTranspose3d)
        fan = voxels * (module.out_channels if is_up else module.in_channels)
        wanted = math.sqrt(2 / (1 + SLOPE**2) / fan)
        count = module.weight.numel()
        # five standard errors of a deviation and of a mean estimated from this many numbers
        assert abs(module.weight.std().item() / wanted - 1) < 5 / math.sqrt(2 * count), name
        assert abs(module.weight.mean().item()) < 5 * wanted / math.sqrt(count), name
        assert module.bias is None or bool((module.bias == 0.25).all()), name


def test_norms_start_at_one_and_zero_but_the_last_of_residual_blocks(describe_network: Describe) -> None:
    network = made(describe_network(residual=True, **LARGE), 1)
    zero = {
        name
        for name, value in network.named_parameters()
        if "norm" in name and bool((value == 0).all()) and name.endswith("weight")
    }
    assert zero == {
        f"encoder.{stage}.{block}.branch.norm2.weight"
        for stage, block in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    }
    for name, value in network.named_parameters():
        if "norm" in name and name.removesuffix("bias") + "weight" not in zero and name not in zero:
            assert bool((value == (1 if name.endswith("weight") else 0)).all()), name


def test_a_residual_block_starts_as_its_skip(describe_network: Describe) -> None:
    network = made(describe_network(residual=True, **LARGE), 1)
    x = torch.randn(1, 64, 4, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(network.encoder[2][1](x), torch.where(x > 0, x, 0.01 * x))


def test_the_seed_decides_all_numbers(describe_network: Describe) -> None:
    section = describe_network(residual=True)
    first, again, other = made(section, 1), made(section, 1), made(section, 2)
    torch.manual_seed(99)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert value.dim() == 1 or not torch.equal(value, other.state_dict()[name])


def test_initializing_again_leaves_nothing_of_before(describe_network: Describe, make_network: Make) -> None:
    norm = {
        "name": "batch_norm",
        "epsilon": 1e-5,
        "affine": True,
        "momentum": 0.1,
        "track_running_statistics": True,
    }
    section = describe_network(norm=norm)
    network = make_network(norm=norm).train()
    network(torch.randn(2, 2, 8, 8, 12))
    initialize(network, section, torch.Generator().manual_seed(4))
    for name, value in made(section, 4).state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_a_restart_draws_convolutions_and_keeps_norms(describe_network: Describe, make_network: Make) -> None:
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    reinitialize_convolutions(network, describe_network(), torch.Generator().manual_seed(8))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (".norm." in name), name
