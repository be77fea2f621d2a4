"""From the label map of a batch to what is right in each voxel of each level of deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.loss_statistics import Target

__all__ = ["TargetMaker", "nearest"]


def nearest(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize a label map by nearest neighbour.

    Voxel j of the result is voxel floor((j + 0.5) S / S') of the input, S and S' being the edges: the one at the same
    place, centres of voxels being half-integers (scikit-image's ``resize``, torch's ``nearest-exact``; at a factor of
    2, the odd voxels).

    Args:
        labels: ``(B, *S)``.
        shape: edges S' of the result.
    """
    for axis, (edge_in, edge_out) in enumerate(zip(labels.shape[1:], shape, strict=True), start=1):
        if edge_out == edge_in:
            continue
        if edge_in % edge_out == 0:
            step = edge_in // edge_out
            labels = labels.narrow(axis, step // 2, edge_in - step // 2)
            labels = labels[(slice(None),) * axis + (slice(None, None, step),)]
        else:
            # Whole numbers, as a rounded quotient can fall to the other side of a half.
            index = [(2 * j + 1) * edge_in // (2 * edge_out) for j in range(edge_out)]
            labels = labels.index_select(axis, torch.tensor(index, device=labels.device))
    return labels


class TargetMaker(nn.Module):
    """Label maps become targets of the heads.

    Args:
        labels: the labels of the dataset.
        by_head: whether each head is a question of its own (sigmoid), or all are one (softmax).
        class_weights: weight of each head in the cross-entropy; ``None``: all alike.
    """

    _members: Tensor | None
    _head_of: Tensor | None
    _weights: Tensor | None

    def __init__(
        self, labels: LabelSet, *, by_head: bool, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self._ignore = labels.ignore_label
        values = [value for head in labels.heads for value in head]
        size = max(values) + 1
        members: Tensor | None = None
        head_of: Tensor | None = None
        if by_head:
            # The last column is for labels above all others: they belong to no head.
            members = torch.zeros((labels.num_heads, size + 1), dtype=torch.bool)
            for head, entry in enumerate(labels.heads):
                members[head, list(entry)] = True
        elif values != list(range(size)):
            head_of = torch.zeros(size, dtype=torch.int64)
            head_of[values] = torch.arange(len(values))
        # Not part of a checkpoint: they follow from the plan.
        self.register_buffer("_members", members, persistent=False)
        self.register_buffer("_head_of", head_of, persistent=False)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("_weights", weights, persistent=False)

    def forward(self, labels: Tensor, shape: Sequence[int]) -> Target:
        """The target of one level.

        Args:
            labels: label map ``(B, *patch)`` at full size, any integer type.
            shape: edges of the level.
        """
        flat = nearest(labels, shape).flatten(1)
        valid: Tensor | None = None
        if self._ignore is not None:
            valid = flat != self._ignore
            flat = torch.where(valid, flat, torch.zeros((), dtype=flat.dtype, device=flat.device))
        if self._members is not None:
            flat = flat.clamp(0, self._members.shape[1] - 1)
        flat = flat.long()
        if self._head_of is not None:
            flat = self._head_of[flat]
        return Target(flat, valid, self._members, self._weights)
