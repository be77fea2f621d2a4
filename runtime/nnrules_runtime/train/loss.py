"""The training loss: over the heads of deep supervision, the weighted sum of Dice and cross-entropy terms.

Legend of shapes: B samples, K heads of the network (classes or regions), V voxels of a level.

Source: the paper, Methods, Training schedule; the released losses of nnunet 1.7.1 and nnunetv2 2.8.1, whose values and
gradients are recorded in the golden data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.loss_statistics import Statistics, Target, statistics, sum_type
from nnrules_runtime.train.loss_targets import TargetMaker
from nnrules_runtime.values import Section

__all__ = ["CrossEntropy", "Dice", "Loss", "TopKCrossEntropy"]

# Divisor of the released loss with regions and an ignore label where no voxel is annotated (nnunetv2 2.8.1).
_LEAST_NUM_VALID = 1e-8


class _Level(NamedTuple):
    """One level of deep supervision, as the terms see it; sums and targets by activation."""

    logits: Tensor  # (B, K, V)
    targets: Mapping[str, Target]
    sums: Mapping[str, Statistics]


class Dice(nn.Module):
    """Minus the mean soft Dice.

    Soft Dice = (2 TP + smooth) / max(2 TP + FP + FN + smooth + offset, floor), where 2 TP + FP + FN is the sum of all
    probabilities (or of their squares) and of the reference; the mean is over heads, and over samples unless they are
    summed before (batch Dice: over the batches of all ranks, where there are several).
    """

    def __init__(self, loss: Section, labels: LabelSet) -> None:
        """Read ``loss.dice`` and ``loss.batch_dice``."""
        super().__init__()
        dice = loss.section("dice")
        dice.require("ignored_voxels", "masked")  # the statistics leave them out
        self.activation = _activation(dice, labels)
        self.with_squares: bool = dice.require("squared", False, True)
        self._over_batch: bool = loss.require("batch_dice", False, True)
        self._first_head = 0 if dice.require("include_background", True, False) else 1
        self._smooth: float = dice.value("smooth")
        self._added: float = self._smooth + dice.value("denominator_offset")
        self._floor: float = dice.value("denominator_floor")

    def forward(self, level: _Level) -> Tensor:
        """The term of one level, a scalar."""
        sums = level.sums[self.activation]
        size = sums.squared if self.with_squares else sums.predicted
        parts = torch.stack([sums.intersection, size + sums.reference])[:, :, self._first_head :]
        if self._over_batch:
            parts = _over_ranks(parts.sum(1))
        overlap, total = parts.unbind()
        ratio = (2 * overlap + self._smooth) / (total + self._added).clamp_min(self._floor)
        return -ratio.mean()


class _Entropy(NamedTuple):
    """A cross-entropy before its reduction."""

    total: Tensor  # weighted sum over voxels and heads
    divisor: Tensor  # sum of the weights
    num_valid: Tensor
    num_voxels: int


class CrossEntropy(nn.Module):
    """Cross-entropy, reduced as the plan says.

    Class weights weigh voxels by their class (softmax) or regions (sigmoid); means are weighted means.
    """

    with_squares = False

    def __init__(self, loss: Section, labels: LabelSet) -> None:
        """Read ``loss.cross_entropy``."""
        super().__init__()
        section = loss.section("cross_entropy")
        self.activation = _activation(section, labels)
        self._reduction = section.choice(
            "reduction",
            {
                "mean": _mean_of_all,
                "mean_over_valid_voxels": _mean_of_valid,
                "sum_over_heads_mean_over_valid_voxels": _sum_over_heads,
            },
        )
        self.class_weights = _class_weights(section, labels)

    def forward(self, level: _Level) -> Tensor:
        """The term of one level, a scalar."""
        sums = level.sums[self.activation]
        num_valid = sums.num_valid.sum()
        weights = level.targets[self.activation].weights
        divisor = num_valid
        if self.activation == "sigmoid":
            divisor = num_valid * (sums.reference.shape[1] if weights is None else weights.sum())
        elif weights is not None:
            divisor = (sums.reference * weights).sum()
        num_voxels = level.logits.shape[0] * level.logits.shape[2]
        return self._reduction(_Entropy(sums.cross_entropy.sum(), divisor, num_valid, num_voxels))


def _mean_of_valid(entropy: _Entropy) -> Tensor:
    # Without any valid voxel both are 0, and so is the mean.
    return entropy.total / torch.where(entropy.divisor > 0, entropy.divisor, torch.ones_like(entropy.divisor))


def _mean_of_all(entropy: _Entropy) -> Tensor:
    """As if ignored voxels had a loss of 0."""
    return _mean_of_valid(entropy) * (entropy.num_valid / entropy.num_voxels)


def _sum_over_heads(entropy: _Entropy) -> Tensor:
    return entropy.total / entropy.num_valid.clamp_min(_LEAST_NUM_VALID)


class TopKCrossEntropy(nn.Module):
    """Mean cross-entropy of the voxels of the batch with the largest one; ignored voxels count, with 0.

    With regions, the cross-entropy of a voxel is the mean over regions.
    """

    with_squares = False

    def __init__(self, loss: Section, labels: LabelSet) -> None:
        """Read ``loss.top_k_cross_entropy``."""
        super().__init__()
        self.activation = _activation(loss.section("cross_entropy"), labels)
        # The share is meant as a decimal number: 0.29 of 100 voxels are 29, not 28.999….
        share = Fraction(str(loss.section("top_k_cross_entropy").value("share") or 0))
        self._share = (share.numerator, share.denominator)

    def forward(self, level: _Level) -> Tensor:
        """The term of one level, a scalar."""
        target = level.targets[self.activation]
        logits = level.logits.to(sum_type(level.logits))
        if target.members is None:
            log_p = torch.log_softmax(logits, 1)
            entropy = -log_p.gather(1, target.labels[:, None])[:, 0]
        else:
            is_right = target.members[:, target.labels].transpose(0, 1).to(logits.dtype)
            entropy = functional.binary_cross_entropy_with_logits(logits, is_right, reduction="none").mean(1)
        if target.valid is not None:
            entropy = torch.where(target.valid, entropy, torch.zeros_like(entropy))
        entropy = entropy.flatten()
        count = max(1, entropy.numel() * self._share[0] // self._share[1])
        return entropy.topk(count, sorted=False).values.mean()


_Term = Dice | CrossEntropy | TopKCrossEntropy


class Loss(nn.Module):
    """The loss of a configuration.

    Args:
        terms: what is added up, with the weight of each.
        head_weights: weight of each head of deep supervision, full resolution first.
        labels: the labels of the dataset.

    Attributes:
        active_heads: indices of the heads with a weight; the others need not be computed.
    """

    def __init__(
        self,
        terms: Sequence[tuple[float, _Term]],
        head_weights: Sequence[float],
        labels: LabelSet,
    ) -> None:
        super().__init__()
        self._terms = nn.ModuleList([term for weight, term in terms if weight])
        self._term_weights = [weight for weight, _ in terms if weight]
        self._head_weights = tuple(head_weights)
        self.active_heads = tuple(index for index, weight in enumerate(head_weights) if weight)
        self._with_squares = any(term.with_squares for _, term in terms)
        activations = sorted({term.activation for _, term in terms})
        weights = {term.activation: term.class_weights for _, term in terms if isinstance(term, CrossEntropy)}
        self._targets = nn.ModuleDict(
            {
                name: TargetMaker(labels, by_head=name == "sigmoid", class_weights=weights.get(name))
                for name in activations
            }
        )
        # The sums are not for terms that look at single voxels.
        self._summed = sorted(
            {term.activation for _, term in terms if not isinstance(term, TopKCrossEntropy)}
        )

    @classmethod
    def from_plan(cls, configuration: Section, labels: LabelSet) -> Loss:
        """Read ``loss`` of a configuration, and whether its network has deep supervision.

        A plan without weights for the heads (``null``) is refused: the release that it describes cannot train it.
        """
        loss = configuration.section("loss")
        kinds: dict[str, type[Dice] | type[CrossEntropy] | type[TopKCrossEntropy]] = {
            "dice": Dice,
            "cross_entropy": CrossEntropy,
            "top_k_cross_entropy": TopKCrossEntropy,
        }
        terms = [
            (term.value("weight"), term.choice("name", kinds)(loss, labels))
            for term in loss.sections("terms")
        ]
        return cls(terms, _head_weights(configuration, loss.section("deep_supervision")), labels)

    def forward(self, outputs: Tensor | Sequence[Tensor | None], target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            outputs: logits ``(B, K, *patch)`` of each head, full resolution first, any floating type; heads without
                weight may be ``None`` or left out at the end. A single tensor is the head at full resolution, whose
                loss is then returned without a weight: that is how a network in evaluation mode is scored.
            target: the label map ``(B, *patch)`` at full size, any integer type. Each level's own is made here.

        Returns:
            A scalar in float32 (float64 for float64 logits).
        """
        if isinstance(outputs, Tensor):
            return self._level(outputs, target)
        total: Tensor | None = None
        for head in self.active_heads:
            logits = outputs[head]
            assert logits is not None, "a head with a weight was not computed"
            value = self._head_weights[head] * self._level(logits, target)
            total = value if total is None else total + value
        assert total is not None
        return total

    def _level(self, logits: Tensor, target: Tensor) -> Tensor:
        shape = logits.shape[2:]
        flat = logits.flatten(2)
        targets = {name: maker(target, shape) for name, maker in self._targets.items()}
        sums = {
            name: statistics(flat, targets[name], with_squares=self._with_squares) for name in self._summed
        }
        level = _Level(flat, targets, sums)
        # Autocast must not take what is left in half precision.
        with torch.autocast(logits.device.type, enabled=False):
            values: list[Tensor] = [
                weight * term(level) for weight, term in zip(self._term_weights, self._terms, strict=True)
            ]
        return torch.stack(values).sum()


def _activation(section: Section, labels: LabelSet) -> str:
    """The activation of a term; regions overlap, so that a softmax over them means nothing."""
    known = ("sigmoid",) if labels.has_regions else ("softmax", "sigmoid")
    activation: str = section.require("activation", *known)
    return activation


def _class_weights(section: Section, labels: LabelSet) -> list[float] | None:
    weights: list[float] | None = section.value("class_weights")
    if weights is not None and len(weights) != labels.num_heads:
        section.refuse(
            "class_weights",
            "one weight is needed for each output of the network",
            got=f"{len(weights)} weights",
            expected=f"{labels.num_heads}: {', '.join(labels.head_names)}",
        )
        return None
    return weights


def _head_weights(configuration: Section, section: Section) -> tuple[float, ...]:
    section.require("target_interpolation", "nearest")
    section.require("target_shape_rounding", "half_to_even")
    heads = configuration.section("architecture").section("deep_supervision")
    if not heads.require("enabled", True, False):
        return (1.0,)
    weights = section.value("weights")
    if not weights or not any(weights):
        section.refuse(
            "weights",
            "no head has a weight, so that there is nothing to train: with this few levels the release that the plan "
            "describes divides zero by zero",
            got=repr(weights),
            fix=f"Train with the full resolution alone: plan again with --set {section.path}.weights='[1]'.",
        )
        return (1.0,)
    return tuple(float(weight) for weight in weights)


def _over_ranks(values: Tensor) -> Tensor:
    """Sums over all ranks of a distributed training, with gradients to each."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        return all_reduce(values)  # type: ignore[no-untyped-call,no-any-return]
    return values
