"""The sums over voxels that Dice and cross-entropy are made of, and their gradient.

Shapes: B samples, K heads, V voxels. Everything that these losses need of the logits ``(B, K, V)`` are a few sums for
each sample and head; what follows from them is a handful of numbers, left to autograd. In eager mode the sums and
their gradient come from an autograd function that keeps no activation but the logits and works through them in blocks
that fit a cache; while ``torch.compile`` traces, the same sums are plain operations, which the compiler fuses.

Sums are taken in single precision (double for double logits) whatever the type of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Statistics", "Target", "statistics", "sum_type"]

# A block of logits in single precision is about 1 MiB: with its few temporaries it stays in the cache of a core.
_BLOCK_NUMBERS_CPU = 1 << 18
# On other devices a block only bounds the memory of the temporaries: 256 MiB each.
_BLOCK_NUMBERS_DEVICE = 1 << 26


class Target(NamedTuple):
    """What is right in each voxel, and how much it weighs.

    Attributes:
        labels: ``(B, V)``, int64: the head of each voxel (softmax), or its label (sigmoid). Ignored voxels hold
            any valid value.
        valid: ``(B, V)``, bool: False where ignored; ``None`` where no voxel can be.
        members: ``(K, number of labels)``, bool: whether a label is part of a head; ``None`` for softmax.
        weights: ``(K,)``: weight of each head in the cross-entropy; ``None``: all 1.
    """

    labels: Tensor
    valid: Tensor | None
    members: Tensor | None
    weights: Tensor | None


class Statistics(NamedTuple):
    """Sums over the voxels that are not ignored; p probability, y 1 where the head is right, w its weight.

    Attributes:
        intersection: ``(B, K)``: sum of y p.
        predicted: ``(B, K)``: sum of p.
        squared: ``(B, K)``: sum of p².
        cross_entropy: ``(B,)``: sum, over heads too, of -w y log p; with sigmoid also of -w (1 - y) log (1 - p).
        reference: ``(B, K)``: sum of y.
        num_valid: ``(B,)``: number of voxels that are not ignored.
    """

    intersection: Tensor
    predicted: Tensor
    squared: Tensor
    cross_entropy: Tensor
    reference: Tensor
    num_valid: Tensor


def statistics(logits: Tensor, target: Target, *, with_squares: bool) -> Statistics:
    """Compute the sums.

    Args:
        logits: ``(B, K, V)``, of any floating type.
        target: see :class:`Target`; with ``members`` the activation is a sigmoid, else a softmax.
        with_squares: whether ``squared`` is wanted; else it is 0.

    Returns:
        Sums in float32 (float64 for float64 logits); all but ``reference`` and ``num_valid`` have gradients.
    """
    if torch.compiler.is_compiling():
        return _plain(logits, target, with_squares)
    # Autocast would take the small matrix products of the backward pass in half precision.
    with torch.autocast(logits.device.type, enabled=False):
        return Statistics(*_Sums.apply(logits, target, with_squares))  # type: ignore[no-untyped-call]


def sum_type(logits: Tensor) -> torch.dtype:
    """The type in which sums over voxels are taken."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _is_right(target: Target, num_heads: int) -> Tensor:
    """Whether each head is right in each voxel, ``(B, K, V)``, bool; ignored voxels not masked."""
    if target.members is not None:
        return target.members[:, target.labels].transpose(0, 1)
    heads = torch.arange(num_heads, device=target.labels.device)
    return target.labels[:, None] == heads[:, None]


def _plain(logits: Tensor, target: Target, with_squares: bool) -> Statistics:
    """The sums by operations that autograd knows."""
    x = logits.to(sum_type(logits))
    is_right = _is_right(target, x.shape[1])
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    if target.members is None:
        log_p = torch.log_softmax(x, 1)
        p = log_p.exp()
        entropy = torch.where(is_right, -log_p, zero)
    else:
        p = torch.sigmoid(x)
        entropy = functional.softplus(torch.where(is_right, -x, x))
    if target.weights is not None:
        entropy = entropy * target.weights[:, None]
    if target.valid is not None:
        valid = target.valid[:, None]
        is_right = is_right & valid
        p, entropy = torch.where(valid, p, zero), torch.where(valid, entropy, zero)
    return Statistics(
        intersection=torch.where(is_right, p, zero).sum(2),
        predicted=p.sum(2),
        squared=(p * p).sum(2) if with_squares else torch.zeros_like(p[:, :, 0]),
        cross_entropy=entropy.sum((1, 2)),
        reference=is_right.sum(2, dtype=x.dtype),
        num_valid=_num_valid(target, x.dtype),
    )


def _num_valid(target: Target, dtype: torch.dtype) -> Tensor:
    if target.valid is not None:
        return target.valid.sum(1, dtype=dtype)
    size = float(target.labels.shape[1])
    return torch.full(target.labels.shape[:1], size, dtype=dtype, device=target.labels.device)


def _blocks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and voxels of each block: whole samples where they fit, else equal parts of one."""
    num_samples, num_heads, num_voxels = logits.shape
    budget = _BLOCK_NUMBERS_CPU if logits.device.type == "cpu" else _BLOCK_NUMBERS_DEVICE
    size = num_heads * num_voxels
    samples = max(1, budget // size)
    parts = max(1, round(size / budget))
    voxels = -(-num_voxels // parts)
    for sample in range(0, num_samples, samples):
        for voxel in range(0, num_voxels, voxels):
            yield slice(sample, sample + samples), slice(voxel, voxel + voxels)


def _part(target: Target, samples: slice, voxels: slice) -> Target:
    valid = target.valid[samples, voxels] if target.valid is not None else None
    return target._replace(labels=target.labels[samples, voxels], valid=valid)


class _Weights(NamedTuple):
    """The derivatives of the loss with respect to the sums: ``(B, K)``, that of the entropy ``(B,)``."""

    intersection: Tensor
    predicted: Tensor
    squared: Tensor | None
    entropy: Tensor

    def of(self, samples: slice) -> _Weights:
        """Those of some samples."""
        squared = None if self.squared is None else self.squared[samples]
        return _Weights(self.intersection[samples], self.predicted[samples], squared, self.entropy[samples])


class _Sums(torch.autograd.Function):
    """:class:`Statistics` with a gradient that computes the probabilities again instead of storing them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Target, with_squares: bool) -> tuple[Tensor, ...]:
        """Add up the sums of all blocks."""
        ctx.save_for_backward(logits, *target)
        ctx.set_materialize_grads(False)
        dtype = sum_type(logits)
        sums = torch.zeros((4, *logits.shape[:2]), dtype=dtype, device=logits.device)
        entropy = torch.zeros(logits.shape[:1], dtype=dtype, device=logits.device)
        # Counting in buckets reads a label map once, whatever the number of classes; on a GPU its atomic additions
        # to a few numbers would wait for each other.
        block_sums = _plain
        if logits.device.type == "cpu":
            block_sums = _counted if target.members is None else _by_head
        for samples, voxels in _blocks(logits):
            part = _part(target, samples, voxels)
            block = block_sums(logits[samples, :, voxels], part, with_squares)
            sums[:, samples] += torch.stack(
                (block.intersection, block.predicted, block.squared, block.reference)
            )
            entropy[samples] += block.cross_entropy
        intersection, predicted, squared, reference = sums.unbind()
        num_valid = _num_valid(target, dtype)
        ctx.mark_non_differentiable(reference, num_valid)
        return intersection, predicted, squared, entropy, reference, num_valid

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None]:
        """The gradient with respect to the logits, from those with respect to the sums."""
        logits, *parts = ctx.saved_tensors
        target = Target(*parts)
        block_gradient = _softmax_gradient if target.members is None else _sigmoid_gradient
        dtype = sum_type(logits)
        intersection, predicted, squared, entropy = gradients[:4]
        nothing = torch.zeros(logits.shape[:2], dtype=dtype, device=logits.device)
        weights = _Weights(
            intersection=nothing if intersection is None else intersection,
            predicted=nothing if predicted is None else predicted,
            squared=squared,
            entropy=nothing[:, 0] if entropy is None else entropy,
        )
        result = torch.empty_like(logits)
        with torch.autocast(logits.device.type, enabled=False):
            for samples, voxels in _blocks(logits):
                x = logits[samples, :, voxels].to(dtype)
                part = _part(target, samples, voxels)
                result[samples, :, voxels] = block_gradient(x, part, weights.of(samples))
        return result, None, None


def _counted(logits: Tensor, target: Target, with_squares: bool) -> Statistics:
    """The sums of a block by softmax, with counting in buckets for what depends on the label."""
    num_samples, num_heads, _ = logits.shape
    log_p = torch.log_softmax(logits.to(sum_type(logits)), 1)
    log_right = log_p.gather(1, target.labels[:, None])[:, 0]
    p = log_p.exp_()
    num_buckets, buckets = num_heads, target.labels
    entropy = log_right if target.weights is None else log_right * target.weights[target.labels]
    if target.valid is not None:
        num_buckets += 1  # the last one takes the ignored voxels, and is thrown away
        buckets = torch.where(target.valid, buckets, num_heads)
        entropy = entropy * target.valid
        p *= target.valid[:, None]
    if num_samples > 1:
        buckets = buckets + torch.arange(num_samples)[:, None] * num_buckets
    flat, size = buckets.flatten(), num_samples * num_buckets
    reference = torch.bincount(flat, minlength=size)
    intersection = torch.bincount(flat, log_right.exp().flatten().double(), minlength=size)
    return Statistics(
        intersection=intersection.view(num_samples, num_buckets)[:, :num_heads].to(p.dtype),
        predicted=p.sum(2),
        squared=p.square().sum(2) if with_squares else torch.zeros_like(p[:, :, 0]),
        cross_entropy=-entropy.sum(1),
        reference=reference.view(num_samples, num_buckets)[:, :num_heads].to(p.dtype),
        num_valid=entropy[:, 0],  # not used
    )


def _membership(members: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where a head is right, else 0, ``(B, K, V)``; looking up numbers is faster than choosing by masks."""
    table = members.to(dtype)
    return table.index_select(1, labels.flatten()).view(-1, *labels.shape).transpose(0, 1)


def _by_head(logits: Tensor, target: Target, with_squares: bool) -> Statistics:
    """The sums of a block by sigmoid."""
    assert target.members is not None
    x = logits.to(sum_type(logits))
    y = _membership(target.members, target.labels, x.dtype)
    # x where the head is wrong, -x where it is right.
    entropy = functional.softplus(torch.addcmul(x, x, y, value=-2))
    p = torch.sigmoid(x)
    if target.weights is not None:
        entropy *= target.weights[:, None]
    if target.valid is not None:
        valid = target.valid[:, None].to(x.dtype)
        entropy, p, y = entropy * valid, p * valid, y * valid
    return Statistics(
        intersection=(p * y).sum(2),
        predicted=p.sum(2),
        squared=p.square().sum(2) if with_squares else torch.zeros_like(p[:, :, 0]),
        cross_entropy=entropy.sum((1, 2)),
        reference=y.sum(2),
        num_valid=entropy[:, 0, 0],  # not used
    )


def _softmax_gradient(x: Tensor, target: Target, weights: _Weights) -> Tensor:
    """The gradient of a block.

    With d_k the derivative of the loss, by way of the sums of probabilities, by p_k in one voxel, and e the weight of
    the voxel's cross-entropy, the derivative by x_k is p_k (d_k - sum_j p_j d_j) + e (p_k - y_k).
    """
    p = torch.softmax(x, 1)
    # The part of d that does not depend on the label, and its mean over the heads.
    dense = weights.predicted[:, :, None]
    if weights.squared is None:
        mean = torch.bmm(weights.predicted[:, None], p)[:, 0]
    else:
        dense = dense + 2 * weights.squared[:, :, None] * p
        mean = (p * dense).sum(1)
    # What the right head gets in addition, and all heads lose in proportion to their probability.
    entropy = weights.entropy[:, None, None]
    if target.weights is not None:
        entropy = entropy * target.weights[:, None]
    right = target.labels[:, None]
    gain = torch.addcmul(-entropy, weights.intersection[:, :, None], p).gather(1, right)[:, 0]
    if target.valid is None:
        gradient = dense - (mean + gain)[:, None]
    else:
        valid = target.valid.to(p.dtype)
        gain *= valid
        gradient = torch.addcmul(-(mean * valid + gain)[:, None], valid[:, None], dense)
    gradient *= p
    return gradient.scatter_add_(1, right, gain[:, None])


def _sigmoid_gradient(x: Tensor, target: Target, weights: _Weights) -> Tensor:
    """The gradient of a block; each head on its own."""
    assert target.members is not None
    p = torch.sigmoid(x)
    y = _membership(target.members, target.labels, p.dtype)
    slope = torch.addcmul(weights.predicted[:, :, None], weights.intersection[:, :, None], y)
    if weights.squared is not None:
        slope += 2 * weights.squared[:, :, None] * p
    entropy = weights.entropy[:, None, None]
    if target.weights is not None:
        entropy = entropy * target.weights[:, None]
    gradient = slope.mul_(p).mul_(1 - p).addcmul_(p - y, entropy)
    return gradient if target.valid is None else gradient.mul_(target.valid[:, None])
