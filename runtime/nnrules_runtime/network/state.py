"""State dicts with our names, and what makes one unfit for a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nnrules.errors import ModelError, Problem
from torch import Tensor, nn

__all__ = ["check_finite", "check_state", "state_of"]

_SHOWN = 5


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """The state dict with our names, also of a compiled or distributed network."""
    state = {}
    for name, tensor in network.state_dict().items():
        plain = name
        while plain.startswith(("module.", "_orig_mod.")):
            plain = plain.split(".", 1)[1]
        state[plain] = tensor.detach()
    return state


def check_state(
    state: Mapping[str, Tensor], network: nn.Module, where: str, *, identity: str | None = None
) -> None:
    """Refuse a state dict with other names or shapes than the network's.

    Args:
        state: names → tensors.
        network: what it is for.
        where: what the error calls it.
        identity: which plans both are of, where that is known.

    Raises:
        ModelError: with the first few differences.
    """
    wanted = state_of(network)
    differences = [f"{name} is missing" for name in wanted if name not in state]
    differences += [f"{name} is unknown" for name in state if name not in wanted]
    differences += [
        f"{name} is {_shape(state[name])} instead of {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    differences += [
        f"{name} holds {state[name].dtype}"
        for name, tensor in wanted.items()
        if name in state and state[name].is_floating_point() != tensor.is_floating_point()
    ]
    if not differences:
        return
    more = f", and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise ModelError(
        Problem(
            where=where,
            what="these weights are of another plan: they do not fit the network" + (identity or ""),
            got="; ".join(differences[:_SHOWN]) + more,
            fix="Use the plan that they were trained with.",
        )
    )


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        ModelError: with the names of the first few.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        more = f", and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ModelError(
            Problem(
                where=where,
                what="weights are not finite, so every prediction would be NaN",
                got=", ".join(bad[:_SHOWN]) + more,
                expected="finite numbers",
                fix="The training diverged or the file is damaged: use an earlier checkpoint.",
            )
        )


def _shape(tensor: Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape) or "a number"
