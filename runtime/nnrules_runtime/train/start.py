"""Weights that a training begins with: drawn anew, or those of another training."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from nnrules_runtime.network import initialize
from nnrules_runtime.network.nnunetv2 import load_nnunetv2_weights
from nnrules_runtime.network.state import check_state
from nnrules_runtime.network.weights import read_weights
from nnrules_runtime.values import Section

__all__ = ["check_weights", "draw_weights", "take_weights"]

_LOGGER = logging.getLogger(__name__)
_HEADS = "heads."


def draw_weights(network: nn.Module, configuration: Section, seed: int) -> None:
    """Draw the initial weights, on the CPU, so that they are the same on each device."""
    initialize(network, configuration, torch.Generator().manual_seed(seed))


def check_weights(path: Path, network: nn.Module) -> None:
    """Whether :func:`take_weights` could take these; before work that would be in vain, or results are removed.

    Args:
        path: safetensors of ours, or a checkpoint (``.pth``) of nnU-Net v2.
        network: the network, which stays as it is.

    Raises:
        ModelError: as :func:`take_weights`.
    """
    _fitting(path, network)


def take_weights(path: Path, network: nn.Module) -> tuple[str, ...]:
    """Begin with the weights of another training (fine-tuning).

    Heads of another number of classes keep their drawn weights, as the classes are others.

    Args:
        path: safetensors of ours, or a checkpoint (``.pth``) of nnU-Net v2.
        network: with drawn weights.

    Returns:
        Names of the parameters that were not taken.

    Raises:
        ModelError: the file is damaged or no such file, or the network is another one but for its heads.
    """
    taken, left = _fitting(path, network)
    network.load_state_dict(taken)
    _LOGGER.info("began with the weights of %s", path)
    if left:
        _LOGGER.warning(
            "heads of another shape or missing there, drawn anew: %s",
            ", ".join(f"{name} {tuple(taken[name].shape)}" for name in left),
        )
    return left


def _fitting(path: Path, network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Values for all parameters, and the names of those that keep their own."""
    # An nnU-Net checkpoint is a zip archive; safetensors start with their header.
    state = load_nnunetv2_weights(path) if zipfile.is_zipfile(path) else read_weights(path)[0]
    own = network.state_dict()
    left = tuple(
        name
        for name, tensor in own.items()
        if name.startswith(_HEADS) and (name not in state or state[name].shape != tensor.shape)
    )
    taken: dict[str, Tensor] = {
        name: tensor for name, tensor in state.items() if name in own or not name.startswith(_HEADS)
    }
    taken |= {name: own[name] for name in left}
    check_state(taken, network, str(path))
    return taken, left
