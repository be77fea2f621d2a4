"""Instance normalisation with the leaky ReLU that follows it, fast on a CPU with channels innermost.

torch's own instance norm copies such activations to the other layout and back, and its group norm is inaccurate
there and slow in the backward pass: on two cores with AMX the step of the paper's Hippocampus network takes 2.3 s with
the first and 2.9 s with the second, 1.2 s with what is here, as fast as ``torch.compile`` makes it, without compiling.

Shapes: activations ``(B, C, *spatial)``; statistics ``(B, C)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["InstanceNorm"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class _ChannelsLast(torch.autograd.Function):
    """Batch norm of one sample at a time, forward and backward.

    Its kernels take channels innermost and see the statistics of one sample and channel, which is what instance norm
    is. They sum the mean first and the squares about it second. Group norm with one channel a group is no faster and
    sums both in one pass: where the mean is ten times the deviation its float32 result is off by 0.006, at a hundred
    times by 0.9 (here by 0.0002 and 0.001).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take positions only
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float
    ) -> Tensor:
        batch, channels = x.shape[:2]
        y = torch.empty_like(x)
        mean = torch.empty(batch, channels, dtype=weight.dtype)
        rstd = torch.empty_like(mean)
        for index in range(batch):
            sample = slice(index, index + 1)
            torch.ops.aten.native_batch_norm.out(
                x[sample],
                weight,
                bias,
                None,
                None,
                True,
                0.0,
                epsilon,
                out=y[sample],
                save_mean=mean[index],
                save_invstd=rstd[index],
            )
        if slope != 1:
            functional.leaky_relu_(y, slope)
        ctx.save_for_backward(x, y if slope != 1 else None, weight, mean, rstd)
        ctx.epsilon, ctx.slope = epsilon, slope
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, rstd = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=_CHANNELS_LAST[x.dim()])
        dx = torch.empty_like(x)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        wanted = [True, True, True]
        for index in range(len(x)):  # one sample stays in the cache through both passes
            sample = slice(index, index + 1)
            dz = dy[sample]
            if y is not None:
                # The sign of the result is that of the argument, so the result is enough.
                dz = torch.ops.aten.leaky_relu_backward(dz, y[sample], ctx.slope, True)
            part, part_weight, part_bias = torch.ops.aten.native_batch_norm_backward(
                dz, x[sample], weight, None, None, mean[index], rstd[index], True, ctx.epsilon, wanted
            )
            dx[sample] = part
            d_weight += part_weight
            d_bias += part_bias
        return dx, d_weight, d_bias, None, None


class InstanceNorm(nn.Module):
    """Instance normalisation without running statistics, and an optional leaky ReLU after it.

    Args:
        features: number of channels C.
        epsilon: added to the variance.
        affine: whether there is a learned scale and shift a channel.
        slope: slope of the leaky ReLU below zero (0: ReLU); 1 leaves values as they are.
    """

    def __init__(self, features: int, *, epsilon: float, affine: bool, slope: float = 1.0) -> None:
        super().__init__()
        self.features = features
        self.epsilon = epsilon
        self.slope = slope
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None

    def reset_parameters(self) -> None:
        """Scale 1 and shift 0."""
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Activations ``(B, C, *spatial)`` in, the same shape and dtype out."""
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            # The compiler writes its own kernel for either; the one for group norm leaves the layout alone.
            y = functional.group_norm(x, self.features, self.weight, self.bias, self.epsilon)
            return y if self.slope == 1 else functional.leaky_relu(y, self.slope)
        if self.weight is not None and self.bias is not None and _has_fast_kernels(x):
            result: Tensor = _ChannelsLast.apply(  # type: ignore[no-untyped-call]
                x, self.weight, self.bias, self.epsilon, self.slope
            )
            return result
        if x.device.type == "cpu" and x.is_contiguous():
            # The same numbers from another kernel: forward 10 times, with the backward pass 3 times as fast.
            y = functional.group_norm(x, self.features, self.weight, self.bias, self.epsilon)
        else:
            y = functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.epsilon)
        return y if self.slope == 1 else functional.leaky_relu_(y, self.slope)

    def extra_repr(self) -> str:
        """What ``print(network)`` shows."""
        return (
            f"{self.features}, epsilon={self.epsilon}, affine={self.weight is not None}, slope={self.slope}"
        )


def _has_fast_kernels(x: Tensor) -> bool:
    """Whether channels are innermost on a CPU, and the statistics are over more than one voxel."""
    layout = _CHANNELS_LAST.get(x.dim())
    return (
        layout is not None
        and x.device.type == "cpu"
        and math.prod(x.shape[2:]) > 1
        and x.is_contiguous(memory_format=layout)
        and not x.is_contiguous()
    )
