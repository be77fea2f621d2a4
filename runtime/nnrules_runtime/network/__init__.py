"""Networks: built from the plan alone, with weights that can be exchanged with nnU-Net v2."""

from __future__ import annotations

from nnrules_runtime.network.architecture import Architecture
from nnrules_runtime.network.initialization import initialize, reinitialize_convolutions
from nnrules_runtime.network.unet import UNet
from nnrules_runtime.values import Section

__all__ = ["Architecture", "UNet", "build_network", "initialize", "reinitialize_convolutions"]


def build_network(configuration: Section) -> UNet:
    """The network of a configuration, with torch's initial weights (see :func:`initialize`).

    Args:
        configuration: ``configurations.NAME`` of a plan.

    Returns:
        A module that takes ``(B, C, *spatial)`` float images. In training with deep supervision it gives a list of
        logits, full resolution first; else the logits ``(B, K, *spatial)`` at full resolution.
    """
    return UNet(Architecture.from_plan(configuration))
