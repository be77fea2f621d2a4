"""Building blocks of the U-Net: sequences of convolution, norm and nonlinearity, with or without a skip."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnrules_runtime.network.architecture import Architecture, ResidualSettings
from nnrules_runtime.network.instance_norm import InstanceNorm

__all__ = ["CONVOLUTIONS", "NORMS", "TRANSPOSED", "ResidualBlock", "layers"]

Size = Sequence[int]

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
NORMS: dict[tuple[str, int], type[nn.Module]] = {
    ("instance_norm", 2): nn.InstanceNorm2d,
    ("instance_norm", 3): nn.InstanceNorm3d,
    ("batch_norm", 2): nn.BatchNorm2d,
    ("batch_norm", 3): nn.BatchNorm3d,
}
_DROPOUTS = {2: nn.Dropout2d, 3: nn.Dropout3d}
_POOLINGS = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


def _fuses(architecture: Architecture) -> bool:
    """Whether the norm takes over the nonlinearity that follows it."""
    return architecture.norm.name == "instance_norm" and not architecture.norm.track_running_statistics


def _norm(architecture: Architecture, features: int, *, slope: float = 1.0) -> nn.Module:
    settings = architecture.norm
    if _fuses(architecture):
        return InstanceNorm(features, epsilon=settings.epsilon, affine=settings.affine, slope=slope)
    return NORMS[settings.name, architecture.dim](
        features,
        eps=settings.epsilon,
        momentum=settings.momentum,
        affine=settings.affine,
        track_running_stats=settings.track_running_statistics,
    )


def _nonlinearity(architecture: Architecture, *, inplace: bool) -> nn.Module:
    if architecture.nonlinearity == "relu":
        return nn.ReLU(inplace=inplace)
    return nn.LeakyReLU(architecture.negative_slope, inplace=inplace)


def _convolution(
    architecture: Architecture, inputs: int, outputs: int, kernel: Size, stride: Size, *, bias: bool
) -> nn.Module:
    padding = tuple((edge - 1) // 2 for edge in kernel)
    return CONVOLUTIONS[architecture.dim](
        inputs,
        outputs,
        tuple(kernel),  # type: ignore[arg-type]
        tuple(stride),  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        bias=bias,
    )


def layers(
    architecture: Architecture,
    order: tuple[str, ...],
    inputs: int,
    outputs: int,
    *,
    kernel: Size,
    stride: Size,
) -> nn.Sequential:
    """Layers in the given order, named ``conv``, ``norm``, …; numbered from 1 if there are several convolutions.

    A nonlinearity right after an instance norm is part of that module.

    Args:
        architecture: what kinds of layers.
        order: ``convolution``, ``norm`` and ``nonlinearity``; the first convolution has the stride, changes the
            number of features, and is followed by the dropout.
        inputs: feature maps that come in.
        outputs: feature maps that go out.
        kernel: kernel of all convolutions.
        stride: stride of the first convolution.
    """
    modules = nn.Sequential()
    is_numbered = order.count("convolution") > 1
    counts = dict.fromkeys(order, 0)
    features = inputs
    for index, layer in enumerate(order):
        counts[layer] += 1
        number = str(counts[layer]) if is_numbered else ""
        if layer == "convolution":
            is_first = counts[layer] == 1
            step = stride if is_first else (1,) * architecture.dim
            modules.add_module(
                f"conv{number}",
                _convolution(
                    architecture, features, outputs, kernel, step, bias=architecture.convolution_bias
                ),
            )
            features = outputs
            if is_first and architecture.dropout > 0:
                modules.add_module("dropout", _DROPOUTS[architecture.dim](architecture.dropout))
        elif layer == "norm":
            is_last = order[index + 1 : index + 2] != ("nonlinearity",)
            slope = 1.0 if is_last else architecture.negative_slope
            modules.add_module(f"norm{number}", _norm(architecture, features, slope=slope))
        elif index == 0 or order[index - 1] != "norm" or not _fuses(architecture):
            # What comes into the block belongs to others: a skip connection may still need it.
            modules.add_module(f"act{number}", _nonlinearity(architecture, inplace=index > 0))
    return modules


class ResidualBlock(nn.Module):
    """Layers whose result is added to their input.

    The input is pooled where the stride is not 1 and projected where the number of features changes.
    """

    def __init__(
        self,
        architecture: Architecture,
        settings: ResidualSettings,
        inputs: int,
        outputs: int,
        *,
        kernel: Size,
        stride: Size,
    ) -> None:
        super().__init__()
        self.branch = layers(architecture, settings.layers, inputs, outputs, kernel=kernel, stride=stride)
        self.skip = nn.Sequential()
        ones = (1,) * architecture.dim
        if tuple(stride) != ones:
            self.skip.add_module("pool", _POOLINGS[architecture.dim](tuple(stride), tuple(stride)))  # type: ignore[arg-type]
        if inputs != outputs:
            projection = _convolution(
                architecture, inputs, outputs, ones, ones, bias=settings.projection_bias
            )
            self.skip.add_module("conv", projection)
            self.skip.add_module("norm", _norm(architecture, outputs))
        self.act = _nonlinearity(architecture, inplace=True) if settings.nonlinearity_after_sum else None
        # A norm does not need its result for the gradient, so the sum may take its place.
        self._sum_in_place = settings.layers[-1:] == ("norm",)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, *spatial)`` in, ``(B, C', *spatial / stride)`` out."""
        skip = self.skip(features)
        result: Tensor = self.branch(features)
        result = result.add_(skip) if self._sum_in_place else result + skip
        return result if self.act is None else self.act(result)
