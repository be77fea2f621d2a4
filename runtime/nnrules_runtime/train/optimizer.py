"""The optimizer, the clipping of gradients, and the second start of a training that does not learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer

from nnrules_runtime.values import Section

__all__ = ["GradientClipping", "Restart", "build_optimizer", "set_learning_rate"]


def build_optimizer(training: Section, network: nn.Module, *, fused: bool = False) -> Optimizer:
    """Build the optimizer that a plan names.

    Args:
        training: ``training`` of the plan.
        network: whose parameters are optimized; on the device where it is trained.
        fused: whether one kernel moves all weights; rounding differs in the last bits.
    """
    section = training.section("optimizer")
    build = section.choice("name", {"sgd": _sgd, "adam": _adam, "adamw": _adamw})
    groups = section.choice("weight_decay_parameters", {"all": _all, "weights": _weights})
    decay: float = section.value("weight_decay")
    return build(section, groups(network, decay), fused or None)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _sgd(section: Section, groups: Iterable[dict[str, Any]], fused: bool | None) -> Optimizer:
    return SGD(
        groups,
        lr=section.value("initial_learning_rate"),
        momentum=section.value("momentum"),
        dampening=section.value("dampening"),
        nesterov=section.require("nesterov", True, False),
        fused=fused,
    )


def _adam(section: Section, groups: Iterable[dict[str, Any]], fused: bool | None) -> Optimizer:
    return Adam(groups, fused=fused, **_adam_numbers(section))


def _adamw(section: Section, groups: Iterable[dict[str, Any]], fused: bool | None) -> Optimizer:
    return AdamW(groups, fused=fused, **_adam_numbers(section))


def _adam_numbers(section: Section) -> dict[str, Any]:
    return {
        "lr": section.value("initial_learning_rate"),
        "betas": tuple(section.value("betas") or (0.9, 0.999)),
        "eps": section.value("epsilon"),
        "amsgrad": section.require("amsgrad", True, False),
    }


def _all(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    return [{"params": _trained(network), "weight_decay": decay}]


def _weights(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    # Scales, shifts and biases are vectors; kernels are not.
    kernels = [parameter for parameter in _trained(network) if parameter.ndim > 1]
    vectors = [parameter for parameter in _trained(network) if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": kernels, "weight_decay": decay}]
    return [*groups, {"params": vectors, "weight_decay": 0.0}] if vectors else groups


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@dataclass(frozen=True, slots=True)
class GradientClipping:
    """Scale all gradients so that their joint L2 norm is bounded.

    Attributes:
        max_norm: the bound; ``None``: gradients stay as they are, and only the norm is told.
    """

    max_norm: float | None

    @classmethod
    def from_plan(cls, training: Section) -> GradientClipping:
        """Read ``training.gradient_clipping``."""
        section = training.optional("gradient_clipping")
        if section is None:
            return cls(None)
        section.require("name", "global_l2_norm")
        return cls(section.value("max_norm"))

    def __call__(self, network: nn.Module) -> Tensor:
        """Clip the gradients of a network in place; loss scales are removed before.

        Returns:
            Their L2 norm before clipping, a scalar on their device; nothing waits for it.
        """
        if self.max_norm is not None:
            return clip_grad_norm_(network.parameters(), self.max_norm)
        gradients = [one.grad for one in network.parameters() if one.grad is not None]
        return get_total_norm(gradients)


@dataclass(frozen=True, slots=True)
class Restart:
    """The second start of a training that has learned nothing (nnunet 1.0 and 1.7.1).

    Attributes:
        after_epoch_index: the epoch, counted from 0, after which it is checked, once.
        if_mean_dice: the mean validation Dice of that epoch that triggers it, exactly.
        momentum: momentum from then on.
    """

    after_epoch_index: int
    if_mean_dice: float
    momentum: float

    @classmethod
    def from_plan(cls, training: Section) -> Restart | None:
        """Read ``training.restart``; ``None`` where the plan has none."""
        section = training.optional("restart")
        if section is None:
            return None
        section.require("reinitialize", "convolutions")
        # Adam has no momentum of its own to lower.
        training.section("optimizer").require("name", "sgd")
        return cls(
            after_epoch_index=section.value("after_epoch_index"),
            if_mean_dice=section.value("if_mean_dice"),
            momentum=section.value("momentum"),
        )

    def is_due(self, epoch: int, mean_dice: float | None) -> bool:
        """Whether to start again after an epoch.

        Args:
            epoch: the epoch that has ended, counted from 0.
            mean_dice: its mean validation Dice; ``None`` where no class was defined.
        """
        return epoch == self.after_epoch_index and mean_dice == self.if_mean_dice

    def apply(self, optimizer: Optimizer, reinitialize: Callable[[], None]) -> None:
        """Start again: new weights of convolutions, lower momentum; norms and the optimizer's buffers stay.

        Args:
            optimizer: its momentum is lowered in place.
            reinitialize: draws the convolutions of the network anew, see
                :func:`nnrules_runtime.network.initialization.reinitialize_convolutions`.
        """
        with torch.no_grad():
            reinitialize()
        for group in optimizer.param_groups:
            group["momentum"] = self.momentum
