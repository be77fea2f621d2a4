"""Rotation and scaling in one interpolation, and the crop from the initial to the final patch.

Legend: S edge of the initial patch, F edge of the final patch. A voxel u of the final patch, counted from its
centre, is looked up at ``centre + R · diag(s) · u`` of the initial patch (Supplement D; batchgeneratorsv2 0.3.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from nnrules_runtime.augment import spline, warp
from nnrules_runtime.augment.patch import Box, Patch
from nnrules_runtime.augment.random_values import RandomFactor, happens, uniform
from nnrules_runtime.augment.warp_labels import LabelRule, LabelWarp
from nnrules_runtime.values import Section

__all__ = ["CenterCrop", "Spatial", "SpatialDraw", "affine_matrix", "center_box", "half_difference"]

Floats = npt.NDArray[np.float64]
Triple = tuple[int, int, int]


def half_difference(initial: int, final: int) -> int:
    """Start of the plain crop: floor((S - F) / 2)."""
    return (initial - final) // 2


def difference_of_halves(initial: int, final: int) -> int:
    """Start of the plain crop: floor(S / 2) - floor(F / 2)."""
    return initial // 2 - final // 2


def between_voxels(initial: int) -> float:
    """Centre of the transform: S / 2 - 0.5, the middle."""
    return initial / 2 - 0.5


def rounded_half_size(initial: int) -> float:
    """Centre of the transform: S / 2, rounded half to even; up to a voxel off the middle (batchgenerators < 0.25)."""
    return float(round(initial / 2))


def center_box(initial: Triple, final: Triple, start: Callable[[int, int], int]) -> Box:
    """The final patch in the middle of the initial one."""
    first, second, third = (start(edge, kept) for edge, kept in zip(initial, final, strict=True))
    return Box((first, second, third), final)


def affine_matrix(angles: tuple[float, ...], factors: tuple[float, ...]) -> Floats:
    """Rotation times scaling, for column vectors of axes in array order.

    Args:
        angles: radian; three around axes 0, 1 and 2, of which the first is applied first, or one in plane.
        factors: what coordinates are multiplied with before they are rotated, one an axis.

    Returns:
        float64 (D, D), D = 3 or 2.
    """
    cos, sin = np.cos(angles), np.sin(angles)
    if len(angles) == 1:
        rotation = np.array([[cos[0], -sin[0]], [sin[0], cos[0]]])
    else:
        first = np.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
        second = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
        third = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
        rotation = third @ second @ first
    matrix: Floats = rotation * np.asarray(factors, dtype=np.float64)
    return matrix


@dataclass(frozen=True, slots=True)
class SpatialDraw:
    """What was drawn for one sample.

    Attributes:
        matrix: float64 (D, D) as a tuple of rows; ``None`` where the centre is cropped.
        box: the part of the initial patch that is needed.
    """

    matrix: tuple[tuple[float, ...], ...] | None
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterCrop:
    """Stands first where the plan orders no spatial transform: the centre of the initial patch. Draws nothing."""

    box: Box

    def draw(self, rng: np.random.Generator) -> SpatialDraw:  # noqa: ARG002 - nothing is random
        """The box, always."""
        return SpatialDraw(None, self.box)

    def apply(self, patch: Patch, drawn: SpatialDraw) -> None:
        """Crop image and labels."""
        patch.crop(drawn.box)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spatial:
    """``spatial``.

    Draws: whether to rotate, whether to scale, then the angles (three, or one in plane), then the factor (or one an
    axis).

    Attributes:
        initial: S.
        final: F.
        planar: whether each slice along axis 0 is transformed by itself (2D, or a stack of slices as pseudo-2D).
        angles: range in radian.
        crop_start: of the plain crop.
        center: where the transform is centred, for an edge S.
        image_order: 0 nearest, 1 linear, 3 cubic spline.
        border_value: beyond the initial patch. Linear: voxels there have this value. Cubic: every position beyond the
            outermost voxels' centres has it, as in ``scipy.ndimage`` with mode "constant".
        label_order: 0 nearest, 1 linear indicators.
        label_rule: linear indicators to labels.
        border_label: label beyond the initial patch.
    """

    initial: Triple
    final: Triple
    planar: bool
    rotation_probability: float
    angles: tuple[float, float]
    scaling_probability: float
    scaling: RandomFactor
    axes_alike: bool
    divide: bool
    crop_start: Callable[[int, int], int]
    center: Callable[[int], float]
    image_order: int
    border_value: float
    label_order: int
    label_rule: LabelRule
    border_label: int

    @classmethod
    def from_plan(
        cls, section: Section, augmentation: Section, initial: Triple, final: Triple, *, is_2d: bool
    ) -> Spatial:
        """Read the transform's parameters."""
        scaling, image, label = section.section("scaling"), section.section("image"), section.section("label")
        section.require("elastic_probability", 0)
        image.require("border", "constant")
        low, high = augmentation.value("rotation_range_degrees") or (0.0, 0.0)
        return cls(
            initial=initial,
            final=final,
            planar=augmentation.require("dummy_2d", False, True) or is_2d,
            rotation_probability=section.value("rotation_probability"),
            angles=(math.radians(low), math.radians(high)),
            scaling_probability=section.value("scaling_probability"),
            scaling=RandomFactor.from_plan(scaling),
            axes_alike=scaling.require("all_axes_alike", True, False),
            divide=scaling.choice("applied_to", {"sampling_coordinates": False, "object": True}),
            crop_start=section.choice(
                "crop_start",
                {"half_difference": half_difference, "difference_of_halves": difference_of_halves},
            ),
            center=section.choice(
                "center", {"between_voxels": between_voxels, "rounded_half_size": rounded_half_size}
            ),
            image_order=image.require("order", 0, 1, 3),
            border_value=float(image.value("border_value") or 0),
            label_order=label.require("order", 0, 1),
            label_rule=LabelRule.from_plan(label),
            border_label=int(label.value("border_label") or 0),
        )

    @property
    def _first_axis(self) -> int:
        return 1 if self.planar else 0

    def draw(self, rng: np.random.Generator) -> SpatialDraw:
        """Matrix and needed box for one sample."""
        rotate = happens(rng, self.rotation_probability)
        scale = happens(rng, self.scaling_probability)
        num_axes = 3 - self._first_axis
        angles = tuple(uniform(rng, *self.angles) if rotate else 0.0 for _ in range(1 if self.planar else 3))
        factors = [1.0] * num_axes
        if scale:
            drawn = [self.scaling.draw(rng) for _ in range(1 if self.axes_alike else num_axes)]
            factors = drawn * num_axes if self.axes_alike else drawn
        if not (rotate or scale):
            return SpatialDraw(None, center_box(self.initial, self.final, self.crop_start))
        if self.divide:
            factors = [1 / factor for factor in factors]
        matrix = affine_matrix(angles, tuple(factors))
        return SpatialDraw(tuple(tuple(row) for row in matrix.tolist()), self.needed_box(matrix))

    def _grid(self, matrix: Floats, offset: Triple = (0, 0, 0)) -> warp.AffineGrid:
        """Positions in a box of the initial patch."""
        first = self._first_axis
        centre = np.array([self.center(edge) for edge in self.initial[first:]])
        middle = (np.array(self.final[first:]) - 1) / 2
        origin = centre - matrix @ middle - np.array(offset[first:])
        return warp.AffineGrid(matrix=matrix, origin=origin, shape=self.final[first:])

    def needed_box(self, matrix: Floats) -> Box:
        """The part of the initial patch that the interpolation looks at."""
        # One voxel more than the voxels around a position, because positions are rounded.
        margin = spline.REACH if self.image_order == 3 else 1
        smallest, largest = self._grid(matrix).extent()
        box = center_box(self.initial, self.final, self.crop_start)
        offset, size = list(box.offset), list(box.size)
        for index, axis in enumerate(range(self._first_axis, 3)):
            edge = self.initial[axis]
            # At least two voxels, to interpolate between, where there are two.
            start = min(max(0, math.floor(smallest[index]) - margin), max(0, edge - 2))
            stop = max(min(edge, math.floor(largest[index]) + 2 + margin), min(edge, start + 2))
            offset[axis], size[axis] = start, stop - start
        return Box((offset[0], offset[1], offset[2]), (size[0], size[1], size[2]))

    def apply(self, patch: Patch, drawn: SpatialDraw) -> None:
        """Crop, or rotate and scale, image and labels."""
        patch.crop(drawn.box)
        if drawn.matrix is None:
            return
        first = self._first_axis
        image, labels = (
            array.reshape(-1, *array.shape[1 + first :]) for array in (patch.image, patch.labels)
        )
        if min(image.shape[1:]) < 2:
            # A linear interpolation takes two voxels; the second one is border, as it would be anyway.
            more = [pad for edge in reversed(image.shape[1:]) for pad in (0, int(edge < 2))]
            image = pad(image, more, value=self.border_value)
            labels = pad(labels, more, value=self.border_label)
        grid = self._grid(np.array(drawn.matrix), drawn.box.offset)
        warped, found = self._warp(image, labels, grid)
        patch.image = warped.view(len(patch.image), *self.final)
        patch.labels = found.view(len(patch.labels), *self.final)

    def _warp(
        self, image: torch.Tensor, labels: torch.Tensor, grid: warp.AffineGrid
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (K, S) and labels (L, S) at the grid: (K, P flattened), (L, *P)."""
        shape = tuple(image.shape[1:])
        warped = torch.empty(len(image), math.prod(grid.shape))
        label_warp = LabelWarp(labels, grid, self.border_label, self.label_rule if self.label_order else None)
        if self.image_order == 3:
            image = _bordered_coefficients(image)
        for block in grid.blocks(shape, mark_outside=self.image_order == 3 or label_warp.marks_outside):
            if self.image_order == 0:
                warp.sample_nearest(image, block, self.border_value, warped)
            elif self.image_order == 1:
                warp.sample_linear(image, block, self.border_value, warped)
            else:
                warp.sample_cubic(image, block, self.border_value, warped)
            label_warp.sample(block)
        return warped, label_warp.finish()


def _bordered_coefficients(image: torch.Tensor) -> torch.Tensor:
    """Spline coefficients of (K, S), with the border that sampling needs: mirrored, as the spline is."""
    for axis in range(1, image.ndim):
        image = spline.coefficients(image, axis)
    border = warp.CUBIC_BORDER
    if min(image.shape[1:]) > border:
        return pad(image[None], (border,) * 2 * (image.ndim - 1), mode="reflect")[0]
    # Mirrored more than once.
    for axis in range(1, image.ndim):
        mirrored = np.pad(np.arange(image.shape[axis]), border, mode="reflect")
        image = image.index_select(axis, torch.from_numpy(mirrored))
    return image
