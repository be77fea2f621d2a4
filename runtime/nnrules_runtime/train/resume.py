"""Going on from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnrules_runtime.profile import Profile
from nnrules_runtime.train.checkpoint import Checkpoint, check_same_training, read_checkpoint
from nnrules_runtime.train.metrics import MetricsLog
from nnrules_runtime.train.state import State

__all__ = ["resume", "state_of_checkpoint"]

_LOGGER = logging.getLogger(__name__)


def resume(path: Path, fields: Mapping[str, Any], profile: Profile, log: MetricsLog) -> Checkpoint | None:
    """The checkpoint to continue from, if there is one; the log of epochs is cut to it.

    Args:
        path: where it would be.
        fields: what training reads of the plan now.
        profile: how it is executed now; another one than before is a warning, as only rounding differs.
        log: the epochs so far.

    Raises:
        ModelError: it is damaged, or of another plan.
    """
    if not path.exists():
        log.keep_before(0)
        return None
    checkpoint = read_checkpoint(path)
    check_same_training(checkpoint.fields, fields, path)
    changed = [
        f"{name} {checkpoint.profile.get(name)} → {value}"
        for name, value in profile.to_json().items()
        if name != "num_workers" and checkpoint.profile.get(name) != value
    ]
    if checkpoint.torch_version != str(torch.__version__):
        changed.append(f"torch {checkpoint.torch_version} → {torch.__version__}")
    if changed:
        _LOGGER.warning(
            "the training continues in another way, so that numbers differ in rounding: %s",
            ", ".join(changed),
        )
    log.keep_before(checkpoint.epoch)
    return checkpoint


def state_of_checkpoint(checkpoint: Checkpoint | None, device: str) -> State:
    """The state that a checkpoint holds; without one, that of the start."""
    if checkpoint is None:
        return State()
    losses: list[Tensor] = list(checkpoint.losses.to(device).unbind())
    return State(
        epoch=checkpoint.epoch,
        iteration=checkpoint.iteration,
        losses=losses,
        num_iterations=checkpoint.num_iterations,
        seconds_per_iteration=checkpoint.seconds_per_iteration,
        average_dice=checkpoint.average_dice,
        best_dice=checkpoint.best_dice,
        seconds_before=checkpoint.seconds,
    )
