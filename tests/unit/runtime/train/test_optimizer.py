"""Optimizer, learning rate, clipping and the second start."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnrules.errors import Problem
from torch import nn

from nnrules_runtime.train.optimizer import GradientClipping, Restart, build_optimizer, set_learning_rate
from nnrules_runtime.train.schedule import LearningRate
from nnrules_runtime.values import Section

SGD = {
    "name": "sgd",
    "initial_learning_rate": 0.01,
    "momentum": 0.99,
    "dampening": 0,
    "nesterov": True,
    "weight_decay": 3e-5,
    "weight_decay_parameters": "all",
}
ADAM = {
    "name": "adam",
    "initial_learning_rate": 3e-4,
    "betas": [0.8, 0.95],
    "epsilon": 1e-6,
    "amsgrad": True,
    "weight_decay": 1e-2,
    "weight_decay_parameters": "weights",
}


def training(**fields: Any) -> dict[str, Any]:
    return {
        "epochs": 1000,
        "optimizer": SGD,
        "learning_rate_schedule": {"name": "polynomial", "exponent": 0.9, "update": "epoch"},
        "gradient_clipping": {"name": "global_l2_norm", "max_norm": 12},
        "restart": None,
        **fields,
    }


def section(document: Mapping[str, Any]) -> Section:
    return Section(document, "training", [])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2, affine=True), nn.Conv3d(2, 3, 1, bias=False)
    )


def give_gradients(network: nn.Module, scale: float = 1.0) -> None:
    for index, parameter in enumerate(network.parameters()):
        parameter.grad = torch.full_like(parameter, scale * (index + 1))


def test_sgd_is_nesterov_with_decay_on_all() -> None:
    """Two steps written out: g + wd w, v = m v + g, w - lr (g + m v)."""
    model = network()
    optimizer = build_optimizer(section(training()), model)
    expected = [parameter.detach().clone().double() for parameter in model.parameters()]
    velocity = [torch.zeros_like(value) for value in expected]
    for _ in range(2):
        give_gradients(model)
        optimizer.step()
        for index, value in enumerate(expected):
            gradient = (index + 1) + 3e-5 * value
            velocity[index] = 0.99 * velocity[index] + gradient
            expected[index] = value - 0.01 * (gradient + 0.99 * velocity[index])
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-6, atol=1e-7)


def test_fused_sgd_differs_by_rounding_only() -> None:
    results = []
    for fused in (False, True):
        model = network()
        optimizer = build_optimizer(section(training()), model, fused=fused)
        for _ in range(3):
            give_gradients(model)
            optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_reads_its_numbers(name: str) -> None:
    optimizer = build_optimizer(section(training(optimizer=ADAM | {"name": name})), network())
    assert type(optimizer).__name__.lower() == name
    kernels, vectors = optimizer.param_groups
    assert [parameter.ndim for parameter in kernels["params"]] == [5, 5]
    assert [parameter.ndim for parameter in vectors["params"]] == [1, 1, 1]
    assert (kernels["weight_decay"], vectors["weight_decay"]) == (1e-2, 0)
    for group in (kernels, vectors):
        assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.8, 0.95), 1e-6)
        assert group["amsgrad"] is True


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(requires_grad=False)  # type: ignore[index]
    optimizer = build_optimizer(section(training()), model)
    assert len(optimizer.param_groups[0]["params"]) == 3


def test_unknown_values_are_refused() -> None:
    problems: list[Problem] = []
    document = training(
        learning_rate_schedule={"name": "cosine", "exponent": 0.9, "update": "iteration"},
        gradient_clipping={"name": "value", "max_norm": 1},
        restart={"after_epoch_index": 1, "if_mean_dice": 0, "momentum": 0.9, "reinitialize": "all"},
    )
    root = Section(document, "training", problems)
    LearningRate.from_plan(root)
    GradientClipping.from_plan(root)
    Restart.from_plan(root)
    assert {problem.where for problem in problems} == {
        "plan: training.learning_rate_schedule.name",
        "plan: training.learning_rate_schedule.update",
        "plan: training.gradient_clipping.name",
        "plan: training.restart.reinitialize",
    }


def test_polynomial_rate() -> None:
    rate = LearningRate.from_plan(section(training()))
    assert rate(0) == 0.01
    assert rate(500) == 0.01 * 0.5**0.9
    assert rate(999) == 0.01 * (1 - 999 / 1000) ** 0.9
    assert rate(1000) == 0
    assert rate(1200) == 0
    assert rate.at(0.25) == 0.01 * 0.75**0.9
    assert rate.at(1.5) == 0


@given(epochs=st.integers(1, 2000), exponent=st.floats(0.1, 3), initial=st.floats(1e-6, 1))
def test_polynomial_rate_falls(epochs: int, exponent: float, initial: float) -> None:
    rate = LearningRate(initial, exponent, epochs)
    rates = [rate(epoch) for epoch in range(0, epochs, max(1, epochs // 20))]
    assert rates[0] == initial
    assert all(first > second > 0 for first, second in itertools.pairwise(rates))


def test_constant_rate() -> None:
    schedule = {"name": "constant", "exponent": 0.9, "update": "epoch"}
    rate = LearningRate.from_plan(section(training(learning_rate_schedule=schedule)))
    assert {rate(epoch) for epoch in (0, 1, 500, 999, 1000)} == {0.01}


def test_rate_is_set_everywhere() -> None:
    optimizer = build_optimizer(section(training(optimizer=ADAM)), network())
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_clipping(scale: float) -> None:
    model = network()
    give_gradients(model, scale)
    squares = sum(
        parameter.numel() * (scale * (index + 1)) ** 2 for index, parameter in enumerate(model.parameters())
    )
    norm = GradientClipping.from_plan(section(training()))(model)
    assert norm.item() == pytest.approx(math.sqrt(squares), rel=1e-6)
    after = math.sqrt(sum(float((one.grad**2).sum()) for one in model.parameters() if one.grad is not None))
    assert after == pytest.approx(min(12, math.sqrt(squares)), rel=1e-5)


def test_without_clipping_the_norm_is_told() -> None:
    model = network()
    give_gradients(model, 100.0)
    clip = GradientClipping.from_plan(section(training(gradient_clipping=None)))
    first, second = clip(model), clip(model)
    assert first == second
    assert first > 12


def test_restart() -> None:
    document = {"after_epoch_index": 100, "if_mean_dice": 0, "momentum": 0.95, "reinitialize": "convolutions"}
    restart = Restart.from_plan(section(training(restart=document)))
    assert restart is not None
    assert restart.is_due(100, 0.0)
    assert not restart.is_due(99, 0.0)
    assert not restart.is_due(100, 1e-9)
    assert not restart.is_due(100, None)
    model = network()
    optimizer = build_optimizer(section(training()), model)
    give_gradients(model)
    optimizer.step()
    buffers = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    drawn = []
    restart.apply(optimizer, lambda: drawn.append(True))
    assert drawn == [True]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.95]
    kept = [state["momentum_buffer"] for state in optimizer.state.values()]
    torch.testing.assert_close(kept, buffers, rtol=0, atol=0)
    assert Restart.from_plan(section(training())) is None
