"""The U-Net, plain or with residual blocks in the encoder.

Parameter names, with ``S`` a stage of the encoder, ``L`` a resolution of the decoder (0 = full resolution for both)
and ``B`` a block::

    stem.conv|norm                      residual encoder only
    encoder.S.B.conv|norm               plain block
    encoder.S.B.branch.conv1|norm1|…    residual block
    encoder.S.B.skip.conv|norm          its projection, where it has one
    up.L                                transposed convolution from resolution L + 1 to L
    decoder.L.B.conv|norm
    heads.L                             convolution with kernel 1 to the output channels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnrules.errors import Problem, RunError
from torch import Tensor, nn

from nnrules_runtime.network.architecture import Architecture
from nnrules_runtime.network.blocks import CONVOLUTIONS, TRANSPOSED, ResidualBlock, layers

__all__ = ["UNet"]


class UNet(nn.Module):
    """A network built from a plan's ``architecture`` alone.

    Args:
        architecture: what to build.

    Attributes:
        architecture: as given.
        deep_supervision: whether the network in training gives a list of logits, or those at full resolution only.
        num_active_heads: heads that are computed in training, from full resolution downwards;
            see :meth:`skip_unweighted_heads`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.deep_supervision = architecture.deep_supervision
        self.num_active_heads = architecture.num_heads
        self._divisors = architecture.divisors
        self._upsampled_first = architecture.upsampled_first

        residual = architecture.residual
        features = architecture.num_inputs
        self.stem: nn.Module | None = None
        if residual is not None and residual.has_stem:
            ones = (1,) * architecture.dim
            first, kernel = architecture.features[0], architecture.kernels[0]
            self.stem = layers(architecture, architecture.order, features, first, kernel=kernel, stride=ones)
            features = first
        self.encoder = nn.ModuleList()
        for stage in range(architecture.num_stages):
            self.encoder.append(_encoder_stage(architecture, stage, features))
            features = architecture.features[stage]

        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in range(architecture.num_stages - 1):
            self.up.append(_upsampling(architecture, level))
            self.decoder.append(_decoder_level(architecture, level))
        self.heads = nn.ModuleList(_head(architecture, level) for level in range(architecture.num_heads))

    def skip_unweighted_heads(self, weights: Sequence[float]) -> None:
        """Leave out heads whose loss has weight 0, below the last one with a weight.

        The list of logits is then shorter than ``weights``. The parameters of such heads stay, without gradient (as
        distributed training demands of parameters that are not used).

        Args:
            weights: weight of the loss of each head, full resolution first.
        """
        self.num_active_heads = max(
            (index + 1 for index, weight in enumerate(weights) if weight != 0), default=1
        )
        for level, head in enumerate(self.heads):
            head.requires_grad_(level < self.num_active_heads)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits of a batch of patches.

        Args:
            image: ``(B, C, *spatial)``, two or three spatial axes.

        Returns:
            In training with deep supervision a list of logits, full resolution first; else logits
            ``(B, K, *spatial)``.

        Raises:
            RunError: the patch has other axes or channels, or cannot be halved as often as the network does.
        """
        self._check_input(image)
        features = image if self.stem is None else self.stem(image)
        skips: list[Tensor] = []
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        skips.pop()

        num_heads = self.num_active_heads if self.training and self.deep_supervision else 1
        logits: list[Tensor] = []
        if not self.decoder:
            logits.append(self.heads[0](features))
        for level in reversed(range(len(self.decoder))):
            upsampled = self.up[level](features)
            # Taken off the list, so that its memory is free as soon as the decoder has used it.
            skip = skips.pop()
            parts = (upsampled, skip) if self._upsampled_first else (skip, upsampled)
            features = torch.cat(parts, dim=1)
            del upsampled, skip, parts
            features = self.decoder[level](features)
            if level < num_heads:
                logits.append(self.heads[level](features))
        logits.reverse()
        return logits if self.training and self.deep_supervision else logits[0]

    def _check_input(self, image: Tensor) -> None:
        shape = image.shape[2:]
        if image.shape[1] != self.architecture.num_inputs or len(shape) != len(self._divisors):
            raise _wrong_input(image, self.architecture)
        for size, divisor in zip(shape, self._divisors, strict=True):
            if size % divisor != 0:
                raise _wrong_input(image, self.architecture)


def _wrong_input(image: Tensor, architecture: Architecture) -> RunError:
    axes = " × ".join(f"a multiple of {divisor}" for divisor in architecture.divisors)
    return RunError(
        Problem(
            where="network input",
            what="this patch does not fit the network",
            got=f"shape {tuple(image.shape)} (batch, channels, axes)",
            expected=f"{architecture.num_inputs} channels and axes of {axes} voxels",
            fix="Use the patch size of the plan, or pad to such a size.",
        )
    )


def _encoder_stage(architecture: Architecture, stage: int, inputs: int) -> nn.Sequential:
    residual = architecture.residual
    features, kernel = architecture.features[stage], architecture.kernels[stage]
    blocks = nn.Sequential()
    for block in range(architecture.encoder_blocks[stage]):
        stride = architecture.strides[stage] if block == 0 else (1,) * architecture.dim
        blocks.append(
            layers(architecture, architecture.order, inputs, features, kernel=kernel, stride=stride)
            if residual is None
            else ResidualBlock(architecture, residual, inputs, features, kernel=kernel, stride=stride)
        )
        inputs = features
    return blocks


def _upsampling(architecture: Architecture, level: int) -> nn.Module:
    below, here = architecture.features[level + 1], architecture.features[level]
    stride = architecture.strides[level + 1]
    kind = TRANSPOSED[architecture.dim]
    return kind(below, here, stride, stride, bias=architecture.upsampling_bias)  # type: ignore[arg-type]


def _decoder_level(architecture: Architecture, level: int) -> nn.Sequential:
    features, kernel = architecture.features[level], architecture.decoder_kernels[level]
    ones = (1,) * architecture.dim
    blocks = nn.Sequential()
    inputs = 2 * features
    for _ in range(architecture.decoder_blocks[level]):
        blocks.append(layers(architecture, architecture.order, inputs, features, kernel=kernel, stride=ones))
        inputs = features
    return blocks


def _head(architecture: Architecture, level: int) -> nn.Module:
    kind = CONVOLUTIONS[architecture.dim]
    return kind(architecture.features[level], architecture.num_outputs, 1, bias=architecture.head_bias)
