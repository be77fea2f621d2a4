"""Counts against torch's own counter."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nnrules_runtime.network import UNet
from nnrules_runtime.network.describe import describe

Make = Callable[..., UNet]


@pytest.mark.parametrize("residual", [False, True])
def test_multiplications_are_half_of_torchs_operations(make_network: Make, residual: bool) -> None:
    network = make_network(residual=residual).train()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, 2, 8, 8, 12))
    size = describe(network, (8, 8, 12))
    assert 2 * size.num_multiplications == counter.get_total_flops()
    assert size.num_parameters == sum(value.numel() for value in network.parameters())


def test_activations_are_counted_by_hand(make_network: Make) -> None:
    network = make_network()
    full, half, low = 8 * 8 * 12, 4 * 4 * 6, 4 * 2 * 3
    # convolution and norm: 1 + 2 blocks in the encoder at stage 0 and the decoder, and so on
    blocks = 2 * (4 * full * (1 + 2) + 6 * half * (2 + 1) + 6 * low * 2)
    # the transposed convolution, and its copy in the concatenation; the logits
    upsampled = 2 * (4 * full + 6 * half)
    assert describe(network, (8, 8, 12)).num_activations == blocks + upsampled + 3 * (full + half)


def test_nothing_is_computed_and_the_network_is_left_alone(make_network: Make) -> None:
    network = make_network().eval()
    size = describe(network, (2048, 2048, 2048))
    assert not network.training
    assert str(size).endswith("multiply-adds a patch")
    assert size.training_bytes(2) > 4 * 2 * size.num_activations
