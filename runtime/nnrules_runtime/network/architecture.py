"""The fields of a plan that describe the network, read and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnrules_runtime.values import Section

__all__ = ["Architecture", "NormSettings", "ResidualSettings"]

Layers = tuple[str, ...]
Sizes = tuple[tuple[int, ...], ...]

_LAYERS = ("convolution", "norm", "nonlinearity")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSettings:
    """Normalisation of feature maps.

    Attributes:
        name: ``instance_norm`` or ``batch_norm``.
        epsilon: added to the variance.
        affine: whether scale and shift are learned.
        track_running_statistics: whether evaluation uses running statistics.
        momentum: weight of a batch in the running statistics.
    """

    name: str
    epsilon: float
    affine: bool
    track_running_statistics: bool
    momentum: float

    @classmethod
    def from_plan(cls, section: Section) -> NormSettings:
        """Read ``architecture.norm``."""
        name: str = section.require("name", "instance_norm", "batch_norm")
        return cls(
            name=name,
            epsilon=section.value("epsilon"),
            affine=section.require("affine", True, False),
            track_running_statistics=section.require("track_running_statistics", True, False),
            # Only batch norm has the field; 0.1 is torch's default for both.
            momentum=section.value("momentum") if name == "batch_norm" else 0.1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualSettings:
    """Residual blocks of the encoder.

    Attributes:
        has_stem: whether one block of ``convolution.order`` with the features of stage 0 comes first.
        layers: layers of the branch; the first convolution has the stride.
        projection_bias: whether the convolution in the skip has a bias.
        nonlinearity_after_sum: whether a nonlinearity follows the sum of branch and skip.
    """

    has_stem: bool
    layers: Layers
    projection_bias: bool
    nonlinearity_after_sum: bool

    @classmethod
    def from_plan(cls, section: Section) -> ResidualSettings:
        """Read ``architecture.residual_block``."""
        section.require("skip_pooling", "average")
        section.require("skip_projection", "convolution_and_norm")
        layers = tuple(section.value("layers"))
        if "convolution" not in layers:
            section.refuse(
                "layers", "no layer can have the stride", got=repr(layers), expected="a convolution"
            )
        return cls(
            has_stem=section.choice("stem", {"one_block": True, "none": False}),
            layers=layers,
            projection_bias=section.require("skip_projection_bias", True, False),
            nonlinearity_after_sum=section.choice("after_sum", {"nonlinearity": True, "none": False}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A U-Net. Stage 0 is full resolution; sizes are in the order of the spatial axes.

    Attributes:
        dim: 2 or 3 spatial axes.
        num_inputs: channels of the input.
        num_outputs: channels of the output.
        features: feature maps a stage.
        strides: stride of the first convolution of each stage.
        kernels: kernel of the encoder a stage.
        decoder_kernels: kernel of the decoder a resolution, full resolution first.
        encoder_blocks: blocks of each stage of the encoder.
        decoder_blocks: blocks of the decoder a resolution, full resolution first.
        order: layers of a plain block.
        norm: normalisation of feature maps.
        nonlinearity: ``leaky_relu`` or ``relu``.
        negative_slope: slope of the leaky ReLU below zero; 0 for ``relu``.
        dropout: share of the feature maps that a block drops in training.
        convolution_bias: whether convolutions have a bias.
        upsampling_bias: whether transposed convolutions have one.
        head_bias: whether heads have one.
        upsampled_first: whether the upsampled features come before those of the skip connection.
        residual: residual blocks in the encoder, or ``None`` for plain ones.
        deep_supervision: whether training uses all heads.
        num_heads: heads, from full resolution downwards; at least one.
    """

    dim: int
    num_inputs: int
    num_outputs: int
    features: tuple[int, ...]
    strides: Sizes
    kernels: Sizes
    decoder_kernels: Sizes
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    order: Layers
    norm: NormSettings
    nonlinearity: str
    negative_slope: float
    dropout: float
    convolution_bias: bool
    upsampling_bias: bool
    head_bias: bool
    upsampled_first: bool
    residual: ResidualSettings | None
    deep_supervision: bool
    num_heads: int

    @classmethod
    def from_plan(cls, configuration: Section) -> Architecture:
        """Read ``dim`` and ``architecture`` of one configuration; what cannot be built is noted there."""
        section = configuration.section("architecture")
        section.require("downsampling", "strided_convolution")
        section.require("upsampling", "transposed_convolution")
        convolution = section.section("convolution")
        convolution.require("padding", "half_kernel")
        nonlinearity = section.section("nonlinearity")
        name: str = nonlinearity.require("name", "leaky_relu", "relu")
        skip = section.section("skip_connection")
        skip.require("name", "concatenate")
        biases = section.section("biases")
        supervision = section.section("deep_supervision")
        is_residual = section.choice("template", {"plain_unet": False, "residual_encoder_unet": True})
        architecture = cls(
            dim=configuration.require("dim", 2, 3),
            num_inputs=section.value("num_input_channels"),
            num_outputs=section.value("num_output_channels"),
            features=tuple(section.value("features_per_stage")),
            strides=_sizes(section.value("strides")),
            kernels=_sizes(section.value("kernel_sizes")),
            decoder_kernels=_sizes(section.value("decoder_kernel_sizes")),
            encoder_blocks=tuple(section.value("blocks_per_stage_encoder")),
            decoder_blocks=tuple(reversed(section.value("blocks_per_stage_decoder"))),
            order=tuple(convolution.value("order")),
            norm=NormSettings.from_plan(section.section("norm")),
            nonlinearity=name,
            negative_slope=nonlinearity.value("negative_slope") if name == "leaky_relu" else 0.0,
            dropout=section.value("dropout_probability"),
            convolution_bias=biases.require("convolution", True, False),
            upsampling_bias=biases.require("transposed_convolution", True, False),
            head_bias=biases.require("head", True, False),
            upsampled_first=skip.choice("order", {("upsampled", "skip"): True, ("skip", "upsampled"): False}),
            residual=ResidualSettings.from_plan(section.section("residual_block")) if is_residual else None,
            deep_supervision=supervision.require("enabled", True, False),
            num_heads=max(1, supervision.value("num_heads")),
        )
        architecture._check(section)
        return architecture

    @property
    def num_stages(self) -> int:
        """Number of resolutions."""
        return len(self.features)

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis of an input must be a multiple of."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.dim))

    def _check(self, section: Section) -> None:
        stages = section.value("num_stages")
        lengths = {
            "features_per_stage": (len(self.features), stages),
            "strides": (len(self.strides), stages),
            "kernel_sizes": (len(self.kernels), stages),
            "blocks_per_stage_encoder": (len(self.encoder_blocks), stages),
            "decoder_kernel_sizes": (len(self.decoder_kernels), stages - 1),
            "blocks_per_stage_decoder": (len(self.decoder_blocks), stages - 1),
        }
        for key, (length, wanted) in lengths.items():
            if length != wanted:
                section.refuse(key, "wrong number of entries", got=str(length), expected=str(wanted))
        for key, sizes in (
            ("strides", self.strides),
            ("kernel_sizes", self.kernels),
            ("decoder_kernel_sizes", self.decoder_kernels),
        ):
            if any(len(size) != self.dim for size in sizes):
                section.refuse(key, "wrong number of axes", got=repr(sizes), expected=f"{self.dim} a stage")
            # An even kernel with half its size as padding makes feature maps smaller, and skips would not fit.
            elif key != "strides" and any(edge % 2 == 0 for size in sizes for edge in size):
                section.refuse(
                    key, "feature maps would lose a voxel", got=repr(sizes), expected="odd kernels"
                )
        if self.strides and any(edge != 1 for edge in self.strides[0]):
            section.refuse(
                "strides", "the output would be smaller", got=repr(self.strides[0]), expected="1 at first"
            )
        if self.num_heads > max(1, stages - 1):
            section.refuse(
                "deep_supervision.num_heads",
                "the decoder has fewer resolutions",
                got=str(self.num_heads),
                expected=f"at most {max(1, stages - 1)}",
            )


def _sizes(values: Any) -> Sizes:
    return tuple(tuple(int(edge) for edge in size) for size in values)
