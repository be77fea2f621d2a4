"""Initial weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nnrules_runtime.network.blocks import ResidualBlock
from nnrules_runtime.network.instance_norm import InstanceNorm
from nnrules_runtime.values import Section

__all__ = ["initialize", "reinitialize_convolutions"]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (InstanceNorm, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@torch.no_grad()
def initialize(network: nn.Module, configuration: Section, generator: torch.Generator) -> None:
    """Set all parameters as ``architecture.initialization`` says.

    Convolutions and transposed convolutions: normal, deviation sqrt(2 / (1 + slope²) / fan) (He et al. 2015,
    eq. 14 and 15); norms: scale 1, shift 0, running statistics 0 and 1; the last norm of a residual branch 0 and 0
    where the plan says so.

    Args:
        network: what :func:`~nnrules_runtime.network.build_network` gave for this configuration.
        configuration: the configuration of the plan.
        generator: gives the random numbers, in the order of the modules.
    """
    zero_last = (
        configuration.section("architecture")
        .section("initialization")
        .require("zero_last_norm_of_residual_blocks", True, False)
    )
    reinitialize_convolutions(network, configuration, generator)
    for module in network.modules():
        if isinstance(module, _NORMS):
            module.reset_parameters()
    if zero_last:
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                norms = [layer for layer in module.branch if isinstance(layer, _NORMS)]
                for parameter in norms[-1].parameters() if norms else ():
                    parameter.zero_()


@torch.no_grad()
def reinitialize_convolutions(network: nn.Module, configuration: Section, generator: torch.Generator) -> None:
    """New weights for the convolutions alone; norms stay as they are.

    nnunet 1.0 and 1.7 restart a training that has learned nothing so.

    Args:
        network: as for :func:`initialize`.
        configuration: the configuration of the plan.
        generator: gives the random numbers.
    """
    section = configuration.section("architecture").section("initialization")
    section.require("name", "he_normal")
    section.require("mode", "fan_in")
    gain = math.sqrt(2.0 / (1.0 + float(section.value("negative_slope")) ** 2))
    bias = float(section.value("bias"))
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            _draw(module.weight, gain, generator)
            if module.bias is not None:
                module.bias.fill_(bias)


def _draw(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    # torch's convention: the second axis and the kernel, so for a transposed convolution the outputs count.
    fan = math.prod(weight.shape[1:])
    # Drawn where the generator is, so that a network on an accelerator starts with the same numbers.
    values = torch.empty(weight.shape, device=generator.device)
    weight.copy_(values.normal_(0.0, gain / math.sqrt(fan), generator=generator))
