"""The crop to the non-zero region, and the label of what lies outside of it.

Facts: nnunetv2 2.8.1 ``crop_to_nonzero`` and nnunet 1.7.1 ``crop``; blueprints section 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.errors import ImageError, Problem

from nnrules_runtime.values import Section

__all__ = ["Box", "Crop", "fill_holes", "nonzero_box"]

Box = tuple[slice, slice, slice]

_FEW = 0.02  # share of zeros up to which following them is faster than labelling


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """``preprocessing.crop`` of a plan.

    Attributes:
        fills_holes: whether holes of the non-zero region count as inside.
        outside_label: label of voxels labelled 0 that lie in the box but outside of the region.
        refuses_all_zero: whether an image without any non-zero voxel is an error, instead of being kept whole.
        zeroes_lower_labels: whether stored labels below ``outside_label`` become 0.
    """

    fills_holes: bool
    outside_label: int
    refuses_all_zero: bool
    zeroes_lower_labels: bool

    @classmethod
    def from_plan(cls, section: Section) -> Crop:
        """Read ``preprocessing.crop``."""
        section.require("foreground", "any_channel_nonzero")
        return cls(
            fills_holes=section.require("fill_holes", True, False),
            outside_label=section.value("outside_label"),
            refuses_all_zero=section.choice("all_zero_image", {"keep": False, "refuse": True}),
            zeroes_lower_labels=section.choice("labels_below_outside_label", {"keep": False, "zero": True}),
        )

    def box(self, image: npt.NDArray[Any]) -> Box:
        """The bounding box of the non-zero region of ``(C, Z, Y, X)``.

        Raises:
            ImageError: all voxels are zero and the plan refuses such images.
        """
        box = nonzero_box(image)
        if box is not None:
            return box
        if self.refuses_all_zero:
            raise ImageError(
                Problem(
                    where="image",
                    what="all intensities are 0: there is nothing to crop to",
                    fix="Leave the case out, or export its image again.",
                )
            )
        z, y, x = (slice(0, size) for size in image.shape[1:])
        return z, y, x

    def inside(self, cropped: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """The non-zero region of an image ``(C, z, y, x)`` that was cropped to its box."""
        mask: npt.NDArray[np.bool_] = cropped[0] != 0
        for channel in cropped[1:]:
            mask |= channel != 0
        return fill_holes(mask) if self.fills_holes else mask

    def mark_outside(self, label: npt.NDArray[np.int16], inside: npt.NDArray[np.bool_]) -> None:
        """Give voxels that are labelled 0 and lie outside the outside label, in place."""
        label[(label == 0) & ~inside] = self.outside_label
        if self.zeroes_lower_labels:
            label[label < self.outside_label] = 0

    def outside_only(self, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
        """The label map of an image without a reference: 0 inside, the outside label outside."""
        return np.where(inside, np.int16(0), np.int16(self.outside_label))


def nonzero_box(image: npt.NDArray[Any]) -> Box | None:
    """Smallest box that holds every voxel where any channel is not zero; ``None`` if there is none.

    Filling holes never changes this box. Planes are looked at from the outside inwards, so that an image without
    a margin costs six planes.
    """
    box = [slice(0, size) for size in image.shape[1:]]
    for axis in range(3):
        planes = np.moveaxis(image[(slice(None), *box)], axis + 1, 0)
        first = next((index for index in range(len(planes)) if planes[index].any()), None)
        if first is None:
            return None
        last = next(index for index in reversed(range(len(planes))) if planes[index].any())
        box[axis] = slice(first, last + 1)
    return box[0], box[1], box[2]


def fill_holes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Fill what is enclosed: zeros without a path over faces to the border of the array.

    Equals ``scipy.ndimage.binary_fill_holes``, which dilates from the border one voxel at a time. Mostly there is
    nothing to look for; the few zeros of a CT are followed from the border, and more of them are labelled, which
    takes a third of that time.
    """
    faces = [np.take(mask, index, axis) for axis in range(mask.ndim) for index in (0, -1)]
    if all(face.all() for face in faces):
        return np.ones_like(mask)
    num_zeros = mask.size - np.count_nonzero(mask)
    return _fill_among_few(mask) if num_zeros < _FEW * mask.size else _fill_among_many(mask)


def _fill_among_few(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Follow zeros from the border, one step at a time; walls around the array spare the checks for its edges."""
    is_hole = ~np.pad(mask, 1, constant_values=True)
    zeros = np.flatnonzero(is_hole)
    places = np.unravel_index(zeros, is_hole.shape)
    at_border = np.zeros(zeros.size, np.bool_)
    for place, size in zip(places, mask.shape, strict=True):
        at_border |= (place == 1) | (place == size)
    steps = np.array(is_hole.strides)  # of one byte an element, so in elements
    flat = is_hole.ravel()
    reached = zeros[at_border]
    while reached.size:
        flat[reached] = False
        neighbours = (reached[:, None] + np.concatenate([steps, -steps])).ravel()
        reached = np.unique(neighbours[flat[neighbours]])
    inner = tuple(slice(1, -1) for _ in mask.shape)
    return mask | is_hole[inner]


def _fill_among_many(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    import SimpleITK  # noqa: PLC0415 - reading images has loaded it; scipy would take 0.2 s

    sitk: Any = SimpleITK  # without types
    zeros = sitk.GetImageFromArray((~mask).view(np.uint8))
    components = sitk.GetArrayFromImage(sitk.ConnectedComponent(zeros, False))
    is_open = np.zeros(int(components.max()) + 1, np.bool_)
    for axis in range(mask.ndim):
        for index in (0, -1):
            is_open[np.take(components, index, axis)] = True
    is_open[0] = False
    return np.asarray(~is_open[components])
