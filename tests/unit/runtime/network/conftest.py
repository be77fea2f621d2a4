"""Small networks, described as plans describe them."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from nnrules.errors import PlanError
from nnrules.plan import Plan

from nnrules_runtime.network import UNet, build_network, initialize
from nnrules_runtime.values import Section, reading

RESIDUAL = {
    "stem": "one_block",
    "layers": ["convolution", "norm", "nonlinearity", "convolution", "norm"],
    "skip_pooling": "average",
    "skip_projection": "convolution_and_norm",
    "skip_projection_bias": False,
    "after_sum": "nonlinearity",
}


def architecture(dim: int = 3, *, residual: bool = False, **changes: Any) -> dict[str, Any]:
    """The ``architecture`` of a plan: three stages, the first axis downsampled once only."""
    first = [1] * dim
    document = {
        "template": "residual_encoder_unet" if residual else "plain_unet",
        "num_input_channels": 2,
        "num_output_channels": 3,
        "num_stages": 3,
        "features_per_stage": [4, 6, 6],
        "strides": [first, [2] * dim, [1] + [2] * (dim - 1)],
        "kernel_sizes": [[1] + [3] * (dim - 1), [3] * dim, [3] * dim],
        "decoder_kernel_sizes": [[1] + [3] * (dim - 1), [3] * dim],
        "blocks_per_stage_encoder": [1, 2, 2],
        "blocks_per_stage_decoder": [1, 2],
        "convolution": {"order": ["convolution", "norm", "nonlinearity"], "padding": "half_kernel"},
        "norm": {
            "name": "instance_norm",
            "epsilon": 1e-5,
            "affine": True,
            "track_running_statistics": False,
        },
        "nonlinearity": {"name": "leaky_relu", "negative_slope": 0.01},
        "dropout_probability": 0,
        "biases": {"convolution": True, "transposed_convolution": True, "head": True},
        "downsampling": "strided_convolution",
        "upsampling": "transposed_convolution",
        "skip_connection": {"name": "concatenate", "order": ["upsampled", "skip"]},
        "deep_supervision": {"enabled": True, "num_heads": 2},
        "initialization": {
            "name": "he_normal",
            "mode": "fan_in",
            "negative_slope": 0.01,
            "bias": 0,
            "zero_last_norm_of_residual_blocks": residual,
        },
        "residual_block": copy.deepcopy(RESIDUAL) if residual else None,
    }
    return {**document, **changes}


def section(values: Mapping[str, Any], dim: int = 3) -> Section:
    problems: list[Any] = []
    return Section({"dim": dim, "architecture": values}, "configurations.made", problems)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For every test of a network."""


@pytest.fixture(scope="session")
def describe_network() -> Callable[..., Section]:
    """A configuration with this architecture: ``describe_network(dim, residual=…, field=value)``."""

    def make(dim: int = 3, **changes: Any) -> Section:
        return section(architecture(dim, **changes), dim)

    return make


@pytest.fixture(scope="session")
def make_network() -> Callable[..., UNet]:
    """Such a network, initialised, with norms and biases moved away from 0 and 1 so that nothing hides."""

    def make(dim: int = 3, **changes: Any) -> UNet:
        described = section(architecture(dim, **changes), dim)
        network = build_network(described)
        assert described._problems == []
        generator = torch.Generator().manual_seed(5)
        initialize(network, described, generator)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.rand(parameter.shape, generator=generator) - 0.5)
        return network

    return make


@pytest.fixture
def refusals() -> Callable[..., str]:
    """What reading a plan with this architecture says: ``refusals(field=value)``."""

    def read(dim: int = 3, **changes: Any) -> str:
        document = {"configurations": {"made": {"dim": dim, "architecture": architecture(dim, **changes)}}}
        with pytest.raises(PlanError) as caught, reading(Plan(document)) as root:
            build_network(root.section("configurations").section("made"))
        return str(caught.value)

    return read
