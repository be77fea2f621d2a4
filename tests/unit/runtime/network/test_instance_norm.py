"""The fast instance norm against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nnrules_runtime.network.instance_norm import InstanceNorm, _has_fast_kernels

SHAPES = {4: (3, 5, 6, 7), 5: (2, 8, 4, 5, 6)}
LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def made(axes: int, slope: float, dtype: torch.dtype) -> tuple[InstanceNorm, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = SHAPES[axes]
    norm = InstanceNorm(shape[1], epsilon=1e-5, affine=True, slope=slope)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[1], generator=generator))
        norm.bias.copy_(torch.randn(shape[1], generator=generator))
    norm = norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
    x = (3 * torch.randn(shape, generator=generator) + 1).to(dtype).to(memory_format=LAYOUT[axes])
    dy = torch.randn(shape, generator=generator).to(dtype).to(memory_format=LAYOUT[axes])
    return norm, x, dy


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("slope", [1.0, 0.01, 0.0])
def test_values_and_gradients_are_those_of_torch(axes: int, slope: float) -> None:
    norm, x, dy = made(axes, slope, torch.float32)
    assert _has_fast_kernels(x)
    x.requires_grad_()
    norm(x).backward(dy)
    reference = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    weight, bias = (value.detach().clone().requires_grad_() for value in (norm.weight, norm.bias))
    y = functional.instance_norm(reference, weight=weight, bias=bias, eps=1e-5)
    y = functional.leaky_relu(y, slope)
    y.backward(dy)
    # float32 sums in another order
    torch.testing.assert_close(norm(x), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-5, check_stride=False)
    torch.testing.assert_close(norm.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", SHAPES)
def test_gradients_are_those_of_differences(axes: int) -> None:
    norm, x, _ = made(axes, 0.1, torch.float64)
    x = x[:2, :, :3, :2].contiguous(memory_format=LAYOUT[axes]).requires_grad_()
    assert _has_fast_kernels(x)

    def function(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(function, (x, norm.weight, norm.bias))


def test_half_precision_keeps_its_dtype_and_is_close() -> None:
    norm, x, dy = made(5, 0.01, torch.bfloat16)
    x.requires_grad_()
    y = norm(x)
    y.backward(dy)
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert norm.weight.grad.dtype == torch.float32
    expected = functional.leaky_relu(
        functional.instance_norm(x.detach().float(), weight=norm.weight, bias=norm.bias, eps=1e-5), 0.01
    )
    # bfloat16 has eight bits of mantissa: 2^-8 of values up to 6
    assert (y.float() - expected).abs().max() < 0.03


def test_other_layouts_and_no_affine_give_the_same() -> None:
    norm, x, _ = made(5, 0.01, torch.float32)
    torch.testing.assert_close(norm(x), norm(x.contiguous()), rtol=1e-5, atol=1e-5, check_stride=False)
    plain = InstanceNorm(8, epsilon=1e-5, affine=False, slope=1.0)
    torch.testing.assert_close(plain(x), nn.InstanceNorm3d(8)(x), rtol=1e-5, atol=1e-5, check_stride=False)
    assert list(plain.state_dict()) == []


def test_the_input_is_left_alone() -> None:
    norm, x, _ = made(5, 0.01, torch.float32)
    before = x.clone()
    norm(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
def test_a_mean_far_from_zero_costs_little(layout: torch.memory_format, offset: float) -> None:
    # One pass over sums and squares, as in torch's group norm with channels innermost, is off by 0.9 at 100.
    generator = torch.Generator().manual_seed(6)
    x = (torch.randn(2, 16, 24, 32, 32, generator=generator) + offset).contiguous(memory_format=layout)
    norm = InstanceNorm(16, epsilon=1e-5, affine=True)
    expected = functional.instance_norm(x.double(), eps=1e-5)
    difference = (norm(x) - expected).abs().max().item()
    assert difference < 1e-4 + 3e-5 * offset, f"{difference:.1e}"


def test_the_plain_layout_has_the_same_gradients() -> None:
    norm, x, dy = made(5, 0.01, torch.float32)
    x, dy = x.contiguous().requires_grad_(), dy.contiguous()
    norm(x).backward(dy)
    reference = x.detach().clone().requires_grad_()
    weight, bias = (value.detach().clone().requires_grad_() for value in (norm.weight, norm.bias))
    y = functional.instance_norm(reference, weight=weight, bias=bias, eps=1e-5)
    functional.leaky_relu(y, 0.01).backward(dy)
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)
