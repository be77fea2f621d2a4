"""The accepted steps of postprocessing, applied to a segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]

from nnrules_runtime.postprocess.components import Components

__all__ = ["BYTES_PER_VOXEL", "Postprocessing", "Step"]

BYTES_PER_VOXEL = 16
"""Most memory that :meth:`Postprocessing.apply` takes beside its input, a voxel: the result (2), a mask and SimpleITK's
copy of it, numbers of components (4), what is removed (1), and what SimpleITK keeps meanwhile (6 in noise)."""

Array = npt.NDArray[Any]
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """All but the largest component of some labels become background.

    Attributes:
        name: whose components they are: a class or region, or ``all foreground``.
        labels: the label values whose union is taken apart into components.
        components: what a component is, and which stay.
    """

    name: str
    labels: tuple[int, ...]
    components: Components

    def to_json(self) -> dict[str, Any]:
        """The step as in ``schemas/empirical.schema.json``."""
        return {
            "name": self.name,
            "labels": list(self.labels),
            "connectivity": self.components.connectivity,
            "size": self.components.size,
            "min_size": self.components.min_size,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Step:
        """The step of a document that was checked against the schema."""
        return cls(
            name=document["name"],
            labels=tuple(document["labels"]),
            components=Components(
                connectivity=document["connectivity"], size=document["size"], min_size=document["min_size"]
            ),
        )

    def to_text(self) -> str:
        """One clause for readers."""
        unit = "mm³" if self.components.size == "volume" else "voxels"
        least = self.components.min_size
        return f"only the largest component of {self.name} stays" + (
            "" if least is None else f", and any of at least {least:g} {unit}"
        )


@dataclass(frozen=True, slots=True)
class Postprocessing:
    """Steps in the order in which they are applied, each on the outcome of the one before; picklable.

    Attributes:
        steps: none: segmentations stay as they are.
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def none(cls) -> Postprocessing:
        """No step."""
        return cls()

    def then(self, *steps: Step) -> Postprocessing:
        """These steps and more after them."""
        return Postprocessing((*self.steps, *steps))

    def apply(self, labels: Array, spacing: Sequence[float]) -> Array:
        """Postprocess a segmentation.

        Args:
            labels: ``(Z, Y, X)``, any integer type; not changed.
            spacing: mm along z, y, x.

        Returns:
            A new array of the same type. Voxels that are removed are 0; no other voxel changes.

        Raises:
            ValueError: the array does not have three axes.
        """
        if labels.ndim != 3:
            raise ValueError(f"a segmentation has the axes (Z, Y, X), not the shape {labels.shape}")
        result = labels.copy()
        if not self.steps:
            return result
        # One pass finds where each label is; as steps only remove voxels, the boxes hold for all of them.
        boxes = ndimage.find_objects(labels, max(max(step.labels) for step in self.steps))
        for step in self.steps:
            box = _union([found for value in step.labels if (found := boxes[value - 1]) is not None])
            if box is None:
                continue
            part = result[box]
            removed = step.components.smaller(_mask(part, step.labels), spacing)
            if removed is not None:
                part[removed] = 0
        return result

    def to_json(self) -> dict[str, Any]:
        """The steps as in ``schemas/empirical.schema.json``."""
        return {"steps": [step.to_json() for step in self.steps]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Postprocessing:
        """The steps of a document that was checked against the schema."""
        return cls(tuple(Step.from_json(step) for step in document["steps"]))


def _mask(labels: Array, values: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Where a label map has one of the values, C-contiguous."""
    mask = labels == values[0] if len(values) == 1 else np.isin(labels, values)
    return np.ascontiguousarray(mask)


def _union(boxes: Sequence[Box]) -> Box | None:
    """The smallest box around all of them."""
    if not boxes:
        return None
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(len(boxes[0]))
    )
