"""Voxels of each class or region that are stored, so that a patch with foreground is found without a search.

Facts: nnunetv2 2.8.1 and nnunet 1.7.1 ``_sample_foreground_locations``; blueprints section 4.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.prepared import ANNOTATED, LabelKey
from nnrules_runtime.values import Section

__all__ = ["LocationSampler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationSampler:
    """``preprocessing.foreground_locations`` of a plan.

    Attributes:
        wanted: under which key which label values are collected, in the order of drawing.
        takes_all: whether every voxel is stored.
        min_voxels: voxels kept a class, where it has as many.
        min_share: least share of a class' voxels that is kept.
        seed: of the draw, anew for each case.
    """

    wanted: tuple[tuple[LabelKey, tuple[int, ...]], ...]
    takes_all: bool
    min_voxels: int = 0
    min_share: float = 0.0
    seed: int = 0

    @classmethod
    def from_plan(cls, section: Section, labels: LabelSet, *, outside_label: int) -> LocationSampler:
        """Read ``preprocessing.foreground_locations``.

        Args:
            section: that section.
            labels: the labels of the plan; a region is collected in the order of its values.
            outside_label: the label outside of the non-zero region, which counts as annotated.
        """
        wanted: list[tuple[LabelKey, tuple[int, ...]]] = [
            (labels.heads[head], labels.heads[head]) for head in labels.foreground_heads
        ]
        if section.require("annotated_voxels", True, False) and labels.ignore_label is not None:
            wanted.append((ANNOTATED, (outside_label, 0, *labels.foreground_labels)))
        if section.choice("method", {"sample": False, "all": True}):
            return cls(wanted=tuple(wanted), takes_all=True)
        for key in ("min_voxels", "min_share", "seed"):
            if key not in section:
                section.refuse(key, "the method `sample` needs this", got="null", expected="a number")
        return cls(
            wanted=tuple(wanted),
            takes_all=False,
            min_voxels=section.value("min_voxels") or 0,
            min_share=section.value("min_share") or 0.0,
            seed=section.value("seed") or 0,
        )

    def locate(self, label: npt.NDArray[np.int16]) -> dict[LabelKey, npt.NDArray[np.int32]]:
        """Voxels ``(n, 3)`` of every class or region that is present in ``(Z, Y, X)``."""
        flat = label.ravel()
        blocks = _positions(flat, sorted({value for _, values in self.wanted for value in values}))
        generator = np.random.RandomState(self.seed)
        found = {}
        for key, values in self.wanted:
            # Drawn from the values' blocks one after the other, which is the order of 2.8.1.
            parts = [blocks[value] for value in values if value in blocks]
            if not parts:
                continue
            positions = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if not self.takes_all:
                positions = positions[
                    generator.choice(positions.size, self._number(positions.size), replace=False)
                ]
            found[key] = np.stack(np.unravel_index(positions, label.shape), axis=1).astype(np.int32)
        return found

    def classes_of(self, values: Collection[int]) -> tuple[LabelKey, ...]:
        """The classes or regions that have one of these label values, in the order of the plan."""
        return tuple(
            key for key, members in self.wanted if key != ANNOTATED and not set(members).isdisjoint(values)
        )

    def _number(self, count: int) -> int:
        return max(min(self.min_voxels, count), ceil(count * self.min_share))


def _positions(flat: npt.NDArray[np.int16], values: Sequence[int]) -> dict[int, npt.NDArray[np.int64]]:
    """Flat positions of each value that occurs, ascending."""
    # Background, where nobody asks for it, is most of an image: look once for what is not.
    if 0 in values:
        found = {value: np.flatnonzero(flat == value) for value in values}
        return {value: positions for value, positions in found.items() if positions.size}
    places = np.flatnonzero(flat)
    present = flat[places]
    order = np.argsort(present, kind="stable")
    starts = np.searchsorted(present[order], values, side="left")
    stops = np.searchsorted(present[order], values, side="right")
    return {
        value: places[order[start:stop]]
        for value, start, stop in zip(values, starts, stops, strict=True)
        if stop > start
    }
