"""How large a network is and what it costs, for logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnrules_runtime.network.instance_norm import InstanceNorm
from nnrules_runtime.network.unet import UNet

__all__ = ["NetworkSize", "describe"]

_UPSAMPLINGS = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, *_UPSAMPLINGS)
_KEPT = (
    InstanceNorm,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.AvgPool2d,
    nn.AvgPool3d,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSize:
    """A network on one patch.

    Attributes:
        num_parameters: numbers that are learned.
        num_multiplications: multiply-adds of the convolutions in one forward pass of one patch, with all heads that
            training computes.
        num_activations: values of the feature maps that a training step keeps for the gradient of one patch: results
            of convolutions and norms, and concatenated features.
    """

    num_parameters: int
    num_multiplications: int
    num_activations: int

    def training_bytes(self, batch_size: int, *, bytes_per_value: int = 4) -> int:
        """Memory of a training step: activations and their gradients' share, weights, gradients and momentum.

        An estimate: what convolutions need for their own work comes on top.
        """
        return batch_size * self.num_activations * bytes_per_value + 3 * 4 * self.num_parameters

    def __str__(self) -> str:
        """Read as ``5.6 million parameters, 95 billion multiply-adds a patch``."""
        return (
            f"{self.num_parameters / 1e6:.1f} million parameters, "
            f"{self.num_multiplications / 1e9:.1f} billion multiply-adds a patch"
        )


def describe(network: UNet, patch: Sequence[int]) -> NetworkSize:
    """Count parameters and the cost of one patch; nothing is computed.

    Args:
        network: a network that :func:`~nnrules_runtime.network.build_network` made.
        patch: spatial shape, a multiple of the network's divisors.
    """
    with torch.device("meta"):
        twin = UNet(network.architecture)
        image = torch.empty(1, network.architecture.num_inputs, *patch)
    twin.num_active_heads = network.num_active_heads
    counts = {"multiplications": 0, "activations": 0}

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, _CONVOLUTIONS):
            # Each number of a transposed convolution's input, and of any other's output, meets the kernel once.
            values = inputs[0] if isinstance(module, _UPSAMPLINGS) else output
            voxels = math.prod(values.shape[2:])
            counts["multiplications"] += voxels * math.prod(module.weight.shape)
        # A norm keeps its input, the next convolution the norm's result.
        counts["activations"] += output.numel()

    for name, module in twin.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, *_KEPT)):
            module.register_forward_hook(count)
        if name.startswith("up."):  # its result is copied into the concatenation, together with the skip
            module.register_forward_hook(lambda _, __, output: _add(counts, output))
    twin.train()(image)
    return NetworkSize(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_multiplications=counts["multiplications"],
        num_activations=counts["activations"],
    )


def _add(counts: dict[str, int], output: Tensor) -> None:
    counts["activations"] += output.numel()
