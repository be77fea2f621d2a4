"""One training or validation iteration: batch in, loss out, weights moved.

How it is computed (device, precision, memory format, compilation) is the profile's; what is computed is the plan's.
On CUDA nothing here waits for the device: losses and counts stay there until somebody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from nnrules.errors import Problem, RunError
from torch import Tensor, nn

from nnrules_runtime.profile import Profile
from nnrules_runtime.train.optimizer import set_learning_rate
from nnrules_runtime.train.pseudo_dice import PseudoDice

__all__ = ["PatchBatch", "Trainer"]

# A loss scale of 65536 that overflows is halved: after 16 such steps in a row it is 1 and cannot be the reason.
_MOST_SKIPPED_IN_A_ROW = 25


class PatchBatch(Protocol):
    """A batch of patches."""

    @property
    def image(self) -> Tensor:
        """``(B, C, *patch)`` float32."""

    @property
    def target(self) -> Tensor:
        """``(B, *patch)`` int16."""


class Trainer:
    """A network with all that moves its weights.

    Args:
        network: in training it gives a list of logits, full resolution first.
        loss: takes that list and the target.
        optimizer: of the network's parameters.
        clip: clips the gradients of the network and returns their norm before; a plain norm where the plan clips not.
        pseudo_dice: counts of the validation patches.
        profile: how to compute.
        loss_scaling: whether the loss is scaled against underflow of float16.
        seed: of dropout, the only random thing in here.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip: Callable[[nn.Module], Tensor],
        pseudo_dice: PseudoDice,
        profile: Profile,
        loss_scaling: bool,
        seed: int,
    ) -> None:
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.pseudo_dice = pseudo_dice
        self.device = torch.device(profile.device)
        self._clip = clip
        self._seed = seed
        self._profile = profile
        self._has_dropout = any(
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in network.modules()
        )
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=loss_scaling and profile.scales_loss)
        self._training_loss = self._loss_of
        self._validation_outputs = self._outputs_of
        if profile.compile:
            # Patches have one shape: compiling for others, too, would only cost.
            self._training_loss = torch.compile(self._loss_of, dynamic=False)
            self._validation_outputs = torch.compile(self._outputs_of, dynamic=False)
        self._num_skipped = torch.tensor(0, device=self.device)
        self._skipped_in_a_row = torch.tensor(0, device=self.device)

    # -- iterations --------------------------------------------------------------------------------------------------

    def begin_training(self) -> None:
        """Before a series of training iterations."""
        self.network.train()

    def begin_validation(self) -> None:
        """Before a series of validation iterations: norms and dropout as in prediction, all heads as in training."""
        self.network.train()
        for child in self.network.children():
            child.eval()
        self.pseudo_dice.reset()

    def train_step(self, batch: PatchBatch, *, epoch: int, iteration: int) -> Tensor:
        """Move the weights by one batch.

        A step whose loss or gradient is not finite is left out: the weights stay as they are.

        Returns:
            The loss, float32, on the device.
        """
        if self._has_dropout:
            words = np.random.SeedSequence([self._seed, epoch, iteration]).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0] >> 1))
        image, target = self._to_device(batch)
        loss = self._training_loss(image, target)
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self.optimizer)
        norm = self._clip(self.network)
        self._step(torch.isfinite(norm) & torch.isfinite(loss))
        return loss.detach().float()

    def _step(self, is_finite: Tensor) -> None:
        self._num_skipped += ~is_finite
        self._skipped_in_a_row = torch.where(is_finite, 0, self._skipped_in_a_row + 1)
        if self._scaler.is_enabled():
            self._scaler.step(self.optimizer)  # looks at the gradients itself
            self._scaler.update()
        elif self._skips_on_device:
            # Fused optimizers look at this flag on the device, as the loss scaler tells them to.
            self.optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(is_finite):
            self.optimizer.step()

    @property
    def _skips_on_device(self) -> bool:
        return self.device.type == "cuda" and bool(self.optimizer.defaults.get("fused"))

    @torch.no_grad()
    def validation_step(self, batch: PatchBatch) -> Tensor:
        """Add one batch to the pseudo Dice.

        Returns:
            The loss, float32, on the device.
        """
        image, target = self._to_device(batch)
        loss, logits = self._validation_outputs(image, target)
        self.pseudo_dice.update(logits, target)
        return loss.float()

    def _loss_of(self, image: Tensor, target: Tensor) -> Tensor:
        with self._profile.autocast():
            logits = self.network(image)
        loss: Tensor = self.loss(logits, target)
        return loss

    def _outputs_of(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with self._profile.autocast():
            logits = self.network(image)
        return self.loss(logits, target), logits[0] if isinstance(logits, list) else logits

    def _to_device(self, batch: PatchBatch) -> tuple[Tensor, Tensor]:
        image = batch.image.to(self.device, non_blocking=True)
        image = image.contiguous(memory_format=self._profile.memory_format(image.ndim - 2))
        return image, batch.target.to(self.device, non_blocking=True)

    # -- what went wrong ---------------------------------------------------------------------------------------------

    def reset_counts(self, num_skipped: int = 0) -> None:
        """Start counting skipped steps; at the start of an epoch."""
        self._num_skipped = torch.tensor(num_skipped, device=self.device)

    @property
    def num_skipped(self) -> int:
        """Steps of this epoch that were left out. Waits for the device."""
        return int(self._num_skipped)

    def check_finite(self, *, epoch: int, iteration: int) -> None:
        """Refuse to go on where too many steps in a row were left out. Waits for the device.

        Raises:
            RunError: names epoch and iteration.
        """
        in_a_row = int(self._skipped_in_a_row)
        if in_a_row < _MOST_SKIPPED_IN_A_ROW:
            return
        raise RunError(
            Problem(
                where=f"epoch {epoch}, iteration {iteration}",
                what=f"loss or gradient was not finite {in_a_row} times in a row",
                expected="finite numbers",
                fix="Lower training.optimizer.initial_learning_rate, compute with --precision float32, or look for "
                "images with NaN or infinite values (`nnrules check` finds them).",
            )
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        set_learning_rate(self.optimizer, rate)

    def scaler_state(self) -> dict[str, Any]:
        """State of the loss scaler; empty where there is none."""
        return dict(self._scaler.state_dict())

    def load_state(
        self, network: Mapping[str, Tensor], optimizer: Mapping[str, Any], scaler: Mapping[str, Any]
    ) -> None:
        """Take over the state of a checkpoint.

        Raises:
            ValueError: it does not fit; nothing may be done with this object then.
        """
        try:
            self.network.load_state_dict(dict(network))
            self.optimizer.load_state_dict(dict(optimizer))
        except (RuntimeError, KeyError, TypeError) as exc:
            raise ValueError(str(exc)) from None
        if scaler and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(scaler))
