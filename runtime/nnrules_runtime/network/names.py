"""Parameter names: ours (see :mod:`nnrules_runtime.network.unet`) and those of nnU-Net v2.

nnU-Net v2 counts the decoder from the lowest resolution, we count resolutions from the full one::

    ours                                  nnunetv2 2.8.1
    stem.conv                             encoder.stem.convs.0.conv
    encoder.S.B.conv                      encoder.stages.S.0.convs.B.conv
    encoder.S.B.branch.conv1 / norm1      encoder.stages.S.blocks.B.conv1.conv / conv1.norm
    encoder.S.B.skip.conv                 encoder.stages.S.blocks.B.skip.0|1.conv   (1 behind a pooling)
    up.L                                  decoder.transpconvs.D                     (D = resolutions - 2 - L)
    decoder.L.B.conv                      decoder.stages.D.convs.B.conv
    heads.L                               decoder.seg_layers.D

Its checkpoints hold each convolution and norm of a block a second time below ``all_modules``, and the whole encoder
again below ``decoder.encoder``. They are the same tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from nnrules_runtime.network.architecture import Architecture

__all__ = ["nnunetv2_aliases", "to_nnunetv2_name", "to_our_name", "to_our_names", "unmappable"]

_DECODER_LISTS = {"transpconvs": "up", "seg_layers": "heads"}
_PREFIXES = ("module.", "_orig_mod.")
_RESIDUAL_LAYERS = ("convolution", "norm", "nonlinearity", "convolution", "norm")

_THEIRS = {
    "stem": re.compile(r"encoder\.stem\.convs\.0\.(conv|norm)\.(\w+)"),
    "plain": re.compile(r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(\w+)"),
    "branch": re.compile(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.(conv|norm)\.(\w+)"),
    "skip": re.compile(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.[01]\.(conv|norm)\.(\w+)"),
    "decoder": re.compile(r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(\w+)"),
    "list": re.compile(r"decoder\.(transpconvs|seg_layers)\.(\d+)\.(\w+)"),
}


def unmappable(architecture: Architecture) -> list[str]:
    """Why nnU-Net v2 cannot express a network; empty where it can."""
    reasons = []
    if architecture.order not in (
        ("convolution", "norm", "nonlinearity"),
        ("convolution", "nonlinearity", "norm"),
    ):
        reasons.append("its blocks start with a convolution")
    if architecture.decoder_kernels != architecture.kernels[:-1]:
        reasons.append("its decoder has the kernels of the encoder")
    if not architecture.upsampled_first:
        reasons.append("its decoder puts upsampled features before those of the skip connection")
    if architecture.num_heads != architecture.num_stages - 1:
        reasons.append("it has a head at each resolution of the decoder")
    residual = architecture.residual
    if residual is not None:
        if not residual.has_stem or not residual.nonlinearity_after_sum:
            reasons.append("its residual encoder has a stem, and a nonlinearity after each sum")
        if residual.layers != _RESIDUAL_LAYERS:
            reasons.append("its residual branch is " + ", ".join(_RESIDUAL_LAYERS))
        if residual.projection_bias:
            reasons.append("its projections have no bias")
    return reasons


def to_nnunetv2_name(name: str, architecture: Architecture) -> str:
    """Our name of a parameter or buffer → nnU-Net v2's, without its repetitions.

    Args:
        name: a key of the state dict of our network.
        architecture: the network's; nothing may be :func:`unmappable` about it.
    """
    lowest = architecture.num_stages - 2
    match name.split("."):
        case ["stem", layer, what]:
            return f"encoder.stem.convs.0.{layer}.{what}"
        case ["encoder", stage, block, "branch", layer, what]:
            kind, number = layer[:-1], layer[-1]
            return f"encoder.stages.{stage}.blocks.{block}.conv{number}.{kind}.{what}"
        case ["encoder", stage, block, "skip", layer, what]:
            is_pooled = block == "0" and any(edge != 1 for edge in architecture.strides[int(stage)])
            return f"encoder.stages.{stage}.blocks.{block}.skip.{int(is_pooled)}.{layer}.{what}"
        case ["encoder", stage, block, layer, what]:
            return f"encoder.stages.{stage}.0.convs.{block}.{layer}.{what}"
        case ["decoder", level, block, layer, what]:
            return f"decoder.stages.{lowest - int(level)}.convs.{block}.{layer}.{what}"
        case ["up", level, what]:
            return f"decoder.transpconvs.{lowest - int(level)}.{what}"
        case ["heads", level, what]:
            return f"decoder.seg_layers.{lowest - int(level)}.{what}"
    raise AssertionError(f"a parameter without a name in nnU-Net v2: {name}")


def to_our_name(name: str, num_upsamplings: int) -> str | None:
    """nnU-Net v2's name → ours; ``None`` for a repetition and for what we do not know.

    Args:
        name: a key of an nnU-Net v2 state dict.
        num_upsamplings: resolutions of its decoder.
    """
    lowest = num_upsamplings - 1
    for kind, pattern in _THEIRS.items():
        match = pattern.fullmatch(name)
        if match is None:
            continue
        parts = match.groups()
        if kind == "stem":
            return f"stem.{parts[0]}.{parts[1]}"
        if kind == "plain":
            return "encoder.{}.{}.{}.{}".format(*parts)
        if kind == "branch":
            return "encoder.{0}.{1}.branch.{3}{2}.{4}".format(*parts)
        if kind == "skip":
            return "encoder.{}.{}.skip.{}.{}".format(*parts)
        if kind == "decoder":
            return f"decoder.{lowest - int(parts[0])}.{parts[1]}.{parts[2]}.{parts[3]}"
        return f"{_DECODER_LISTS[parts[0]]}.{lowest - int(parts[1])}.{parts[2]}"
    return None


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An nnU-Net v2 state dict with our names, each tensor once, without what wrappers put before names."""
    stripped = {_strip(name): tensor for name, tensor in state.items()}
    numbers = [int(match[2]) for name in stripped if (match := _THEIRS["list"].fullmatch(name))]
    num_upsamplings = max(numbers, default=-1) + 1
    renamed = {to_our_name(name, num_upsamplings): tensor for name, tensor in stripped.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


def nnunetv2_aliases(names: Iterable[str], architecture: Architecture) -> dict[str, str]:
    """All names under which nnU-Net v2 stores tensors, by their names without repetitions.

    Args:
        names: nnU-Net v2's names without repetitions.
        architecture: the network's.

    Returns:
        Name or repetition → name; all of ``names`` are among the keys.
    """
    order = [layer for layer in architecture.order if layer != "convolution"]
    aliases = {}
    for name in names:
        every = [name]
        head, layer, what = name.rsplit(".", 2)
        if layer in ("conv", "norm"):
            # The first convolution of a residual branch has the dropout, the second and the projection have none.
            has_dropout = architecture.dropout > 0 and not head.endswith(("conv2", "skip.0", "skip.1"))
            index = 0 if layer == "conv" else 1 + int(has_dropout) + order.index("norm")
            every.append(f"{head}.all_modules.{index}.{what}")
        if name.startswith("encoder."):
            every += [f"decoder.{other}" for other in every]
        aliases.update(dict.fromkeys(every, name))
    return aliases


def _strip(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name
