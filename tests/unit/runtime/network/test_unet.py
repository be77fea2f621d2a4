"""Networks from plans: every field does what it says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnrules.errors import RunError
from torch import Tensor, nn
from torch.nn import functional

from nnrules_runtime.network import UNet

Make = Callable[..., UNet]

TRACKED = {"name": "instance_norm", "epsilon": 1e-5, "affine": True, "track_running_statistics": True}
PLAIN_NORM = {**TRACKED, "affine": False, "track_running_statistics": False}
BATCH = {
    "name": "batch_norm",
    "epsilon": 1e-5,
    "affine": True,
    "momentum": 0.1,
    "track_running_statistics": True,
}
LAYERS = ("convolution", "norm", "nonlinearity")
ORDERS = [
    ["convolution", "norm", "nonlinearity"],
    ["convolution", "nonlinearity", "norm"],
    ["norm", "nonlinearity", "convolution"],
    ["nonlinearity", "convolution", "norm"],
    ["norm", "convolution", "nonlinearity"],
    ["nonlinearity", "norm", "convolution"],
]
BRANCHES = [
    ["convolution", "norm", "nonlinearity", "convolution", "norm"],
    ["norm", "nonlinearity", "convolution", "norm", "nonlinearity", "convolution"],
    ["nonlinearity", "convolution"],
    ["convolution", "norm", "nonlinearity"],
]


def image(dim: int = 3, *, batch: int = 2, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(batch, channels, *(8, 8, 12)[-dim:], generator=generator)


def reference(network: UNet, x: Tensor, training: bool) -> list[Tensor]:
    """The same network spelled out with functions, nothing in place, from the plan's fields."""
    a = network.architecture
    state = dict(network.named_parameters())
    convolve = functional.conv2d if a.dim == 2 else functional.conv3d
    upsample = functional.conv_transpose2d if a.dim == 2 else functional.conv_transpose3d
    pool = functional.avg_pool2d if a.dim == 2 else functional.avg_pool3d
    ones = (1,) * a.dim

    def layers(x: Tensor, order: tuple[str, ...], prefix: str, stride: tuple[int, ...]) -> Tensor:
        counts = dict.fromkeys(LAYERS, 0)
        for layer in order:
            counts[layer] += 1
            number = counts[layer] if order.count("convolution") > 1 else ""
            if layer == "convolution":
                weight = state[f"{prefix}.conv{number}.weight"]
                padding = [(edge - 1) // 2 for edge in weight.shape[2:]]
                step = stride if counts[layer] == 1 else ones
                x = convolve(x, weight, state.get(f"{prefix}.conv{number}.bias"), step, padding)
            elif layer == "norm":
                x = norm(x, f"{prefix}.norm{number}")
            else:
                x = activate(x)
        return x

    def norm(x: Tensor, prefix: str) -> Tensor:
        scale, shift = state.get(f"{prefix}.weight"), state.get(f"{prefix}.bias")
        if a.norm.name == "batch_norm":
            return functional.batch_norm(x, None, None, scale, shift, training=True, eps=a.norm.epsilon)
        return functional.instance_norm(x, weight=scale, bias=shift, eps=a.norm.epsilon)

    def activate(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, a.negative_slope * x)

    def block(x: Tensor, stage: int, index: int) -> Tensor:
        stride = a.strides[stage] if index == 0 else ones
        prefix = f"encoder.{stage}.{index}"
        if a.residual is None:
            return layers(x, a.order, prefix, stride)
        skip = pool(x, stride) if max(stride) > 1 else x
        if f"{prefix}.skip.conv.weight" in state:
            weight, bias = state[f"{prefix}.skip.conv.weight"], state.get(f"{prefix}.skip.conv.bias")
            skip = norm(convolve(skip, weight, bias), f"{prefix}.skip.norm")
        total = layers(x, a.residual.layers, f"{prefix}.branch", stride) + skip
        return activate(total) if a.residual.nonlinearity_after_sum else total

    if a.residual is not None and a.residual.has_stem:
        x = layers(x, a.order, "stem", ones)
    skips = []
    for stage in range(len(a.features)):
        for index in range(a.encoder_blocks[stage]):
            x = block(x, stage, index)
        skips.append(x)
    logits = []
    for level in reversed(range(len(a.features) - 1)):
        weight, stride = state[f"up.{level}.weight"], a.strides[level + 1]
        x = upsample(x, weight, state.get(f"up.{level}.bias"), stride)
        x = torch.cat([x, skips[level]] if a.upsampled_first else [skips[level], x], dim=1)
        for index in range(a.decoder_blocks[level]):
            x = layers(x, a.order, f"decoder.{level}.{index}", ones)
        if level < a.num_heads:
            logits.append(convolve(x, state[f"heads.{level}.weight"], state.get(f"heads.{level}.bias")))
    return logits[::-1] if training else logits[-1:]


def assert_same_as_reference(network: UNet, x: Tensor) -> None:
    """Values of all heads, and gradients of all parameters and of the input, in float64."""
    network, x = network.double().train(), x.double().requires_grad_()
    before = x.detach().clone()
    heads = network(x)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(head.shape, generator=generator, dtype=head.dtype) for head in heads]
    inputs = [x, *network.parameters()]
    ours = torch.autograd.grad(
        sum((head * weight).sum() for head, weight in zip(heads, weights, strict=True)), inputs
    )
    assert torch.equal(x, before), "the input was changed"
    expected = reference(network, x, training=True)
    assert [head.shape for head in heads] == [head.shape for head in expected]
    theirs = torch.autograd.grad(
        sum((head * weight).sum() for head, weight in zip(expected, weights, strict=True)), inputs
    )
    for mine, wanted in zip([*heads, *ours], [*expected, *theirs], strict=True):
        scale = wanted.abs().max().clamp_min(1.0).item()
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("dim", [2, 3])
def test_layers_in_any_order(make_network: Make, order: list[str], dim: int) -> None:
    convolution = {"order": order, "padding": "half_kernel"}
    assert_same_as_reference(make_network(dim, convolution=convolution), image(dim))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("residual", [False, True])
def test_layouts(make_network: Make, layout: torch.memory_format, residual: bool) -> None:
    network = make_network(residual=residual).to(memory_format=layout)
    assert_same_as_reference(network, image().contiguous(memory_format=layout))


@pytest.mark.parametrize("norm", [PLAIN_NORM, BATCH], ids=["no_affine", "batch"])
@pytest.mark.parametrize("residual", [False, True])
def test_norms(make_network: Make, norm: dict[str, Any], residual: bool) -> None:
    assert_same_as_reference(make_network(norm=norm, residual=residual), image())


@pytest.mark.parametrize("layers", BRANCHES, ids="-".join)
@pytest.mark.parametrize("stem", ["one_block", "none"])
@pytest.mark.parametrize("after_sum", ["nonlinearity", "none"])
def test_residual_blocks(make_network: Make, layers: list[str], stem: str, after_sum: str) -> None:
    block = {
        "stem": stem,
        "layers": layers,
        "skip_pooling": "average",
        "skip_projection": "convolution_and_norm",
        "skip_projection_bias": after_sum == "none",
        "after_sum": after_sum,
    }
    assert_same_as_reference(make_network(residual=True, residual_block=block), image())


@pytest.mark.parametrize(
    "changes",
    [
        {"nonlinearity": {"name": "relu"}},
        {"nonlinearity": {"name": "leaky_relu", "negative_slope": 0.2}},
        {"skip_connection": {"name": "concatenate", "order": ["skip", "upsampled"]}},
        {"biases": {"convolution": False, "transposed_convolution": False, "head": False}},
        # nnunet 1.0 and 1.7: a level of the decoder has the kernel of the stage below
        {"decoder_kernel_sizes": [[3, 3, 3], [3, 3, 3]]},
        {"deep_supervision": {"enabled": True, "num_heads": 1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_fields(make_network: Make, changes: dict[str, Any]) -> None:
    assert_same_as_reference(make_network(**changes), image())


def test_evaluation_gives_full_resolution_alone(make_network: Make) -> None:
    network = make_network().eval()
    called: list[int] = []
    network.heads[1].register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        logits = network(image())
        network.train()
        network.deep_supervision = False
        torch.testing.assert_close(network(image()), logits, rtol=0, atol=0)
        assert called == []
        network.deep_supervision = True
        heads = network(image())
    assert [tuple(head.shape) for head in heads] == [(2, 3, 8, 8, 12), (2, 3, 4, 4, 6)]
    torch.testing.assert_close(heads[0], logits, rtol=0, atol=0)


def test_a_plan_without_deep_supervision_gives_a_tensor(make_network: Make) -> None:
    network = make_network(deep_supervision={"enabled": False, "num_heads": 2}).train()
    assert isinstance(network(image()), Tensor)


def test_heads_without_a_weight_are_skipped(make_network: Make) -> None:
    network = make_network().train()
    network.skip_unweighted_heads([1.0, 0.0])
    heads = network(image())
    assert len(heads) == 1
    heads[0].sum().backward()
    without = [name for name, value in network.named_parameters() if value.grad is None]
    assert without == ["heads.1.weight", "heads.1.bias"]
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == without
    network.skip_unweighted_heads([0.0, 1.0])
    assert len(network(image())) == 2
    assert all(value.requires_grad for value in network.parameters())


def test_one_stage_is_a_network_without_decoder(make_network: Make) -> None:
    network = make_network(
        2,
        num_stages=1,
        features_per_stage=[4],
        strides=[[1, 1]],
        kernel_sizes=[[3, 3]],
        decoder_kernel_sizes=[],
        blocks_per_stage_encoder=[2],
        blocks_per_stage_decoder=[],
        deep_supervision={"enabled": True, "num_heads": 0},
    )
    heads = network.train()(image(2))
    assert [tuple(head.shape) for head in heads] == [(2, 3, 8, 12)]


def test_dropout_drops_feature_maps_once_a_block_in_training(make_network: Make) -> None:
    network = make_network(residual=True, dropout_probability=0.5)
    dropouts = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout3d)]
    assert dropouts == [
        "stem.dropout",
        "encoder.0.0.branch.dropout",
        "encoder.1.0.branch.dropout",
        "encoder.1.1.branch.dropout",
        "encoder.2.0.branch.dropout",
        "encoder.2.1.branch.dropout",
        "decoder.0.0.dropout",
        "decoder.0.1.dropout",
        "decoder.1.0.dropout",
    ]
    names = list(dict(network.stem.named_children()))
    assert names == ["conv", "dropout", "norm"]
    x = image()
    with torch.no_grad():
        assert not torch.equal(network.train()(x)[0], network(x)[0])
        expected = reference(network.eval(), x, training=False)[0]
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [TRACKED, BATCH], ids=["instance", "batch"])
def test_running_statistics_are_used_in_evaluation(make_network: Make, norm: dict[str, Any]) -> None:
    network = make_network(norm=norm)
    with torch.no_grad():
        network.eval()
        alone = network(image()[:1])
        torch.testing.assert_close(network(image())[:1], alone, rtol=1e-5, atol=1e-5)
        network.train()(image() + 3)
        assert not torch.allclose(network.eval()(image()[:1]), alone)


@pytest.mark.parametrize("residual", [False, True])
def test_autocast_gives_the_same_within_bfloat16(make_network: Make, residual: bool) -> None:
    network = make_network(residual=residual).train()
    with torch.no_grad():
        exact = network(image())
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image())
    for mine, wanted in zip(half, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - wanted).abs().mean() < 0.03 * wanted.abs().mean()


@pytest.mark.parametrize("residual", [False, True])
def test_the_whole_network_is_one_graph(make_network: Make, residual: bool) -> None:
    network = make_network(residual=residual).train()
    x = image()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for mine, wanted in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("shape", "divisors"),
    [((1, 2, 8, 8, 11), "multiple of 4"), ((1, 3, 8, 8, 12), "2 channels"), ((1, 2, 8, 8), "2 channels")],
)
def test_a_patch_that_does_not_fit_is_refused(
    make_network: Make, shape: tuple[int, ...], divisors: str
) -> None:
    with pytest.raises(RunError, match=divisors) as caught:
        make_network()(torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"template": "vision_transformer"}, "one of 'plain_unet', 'residual_encoder_unet'"),
        ({"norm": {**PLAIN_NORM, "name": "layer_norm"}}, "one of 'instance_norm', 'batch_norm'"),
        ({"nonlinearity": {"name": "gelu"}}, "one of 'leaky_relu', 'relu'"),
        ({"kernel_sizes": [[2, 3, 3], [3, 3, 3], [3, 3, 3]]}, "odd kernels"),
        ({"strides": [[2, 1, 1], [2, 2, 2], [1, 2, 2]]}, "1 at first"),
        ({"strides": [[1, 1, 1], [2, 2, 2]]}, "wrong number of entries"),
        ({"decoder_kernel_sizes": [[3, 3], [3, 3]]}, "3 a stage"),
        ({"deep_supervision": {"enabled": True, "num_heads": 3}}, "at most 2"),
        ({"residual": True, "residual_block": None}, "architecture.residual_block"),
    ],
)
def test_what_cannot_be_built_is_refused(
    refusals: Callable[..., str], changes: dict[str, Any], text: str
) -> None:
    message = refusals(**changes)
    assert text in message
    assert "configurations.made.architecture" in message
