"""The steps of preprocessing, on the arrays of one case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from nnrules.errors import ImageError, Problem

from nnrules_runtime.preprocess.crop import Box

if TYPE_CHECKING:
    from nnrules_runtime.preprocess.case import Preprocessing

__all__ = ["STEPS", "CaseInWork"]

STEPS = ("transpose", "crop", "replace_nan", "normalize", "resample")
"""Names of the steps."""

Image = npt.NDArray[np.float32]
Label = npt.NDArray[np.int16]

_INT16 = np.iinfo(np.int16)


class CaseInWork:
    """A case between the steps.

    The image stays a view of what was given, in its own type, until a step changes it: what the crop removes is
    never converted. Transposing comes first whatever the order: it commutes with the steps that may precede it.

    Args:
        recipe: what to do.
        image: ``(C, Z, Y, X)``, original axes.
        label: ``(Z, Y, X)``, original axes, or ``None``.
        spacing: mm, transposed axes.
        keep_mask: without a label, whether to keep the map of 0 and the outside label.

    Attributes:
        label: label values. Without a reference: 0 inside of the non-zero region, the outside label outside, as
            long as a step to come reads it; else ``None``.
        box: the crop, transposed axes.
        original_values: the declared label values that occur in the crop before resampling.
        cropped_shape: voxels before resampling, transposed axes.
        spacing: mm before resampling, transposed axes.
    """

    def __init__(
        self,
        recipe: Preprocessing,
        image: npt.NDArray[Any],
        label: npt.NDArray[Any] | None,
        spacing: tuple[float, float, float],
        *,
        keep_mask: bool,
    ) -> None:
        order = recipe.transpose_forward
        self._recipe = recipe
        self._image: npt.NDArray[Any] = image.transpose([0, *(axis + 1 for axis in order)])
        self._is_owned = False
        self._is_finite = image.dtype.kind in "biu"
        self._to_do = list(recipe.steps)
        self._given = None if label is None else label.transpose(order)
        self._keeps_label = keep_mask or label is not None
        self._uses_mask = any(how.use_mask for how in recipe.normalizations)
        self.label: Label | None = None
        self.original_values: frozenset[int] = frozenset()
        z, y, x = (slice(0, size) for size in self._image.shape[1:])
        self.box: Box = (z, y, x)
        self.cropped_shape: Sequence[int] = self._image.shape[1:]
        self.spacing = spacing
        if self._given is not None and "crop" not in recipe.steps:
            self.label = self._checked(self._given)

    def run(self, step: str) -> None:
        """Do the next step."""
        self._to_do.remove(step)
        {
            "transpose": lambda: None,
            "crop": self._crop,
            "replace_nan": self._replace_nan,
            "normalize": self._normalize,
            "resample": self._resample,
        }[step]()
        if not self._label_is_needed():
            self.label = None

    def owned(self) -> Image:
        """The image as float32, C-contiguous, in an array that nobody else has."""
        if not self._is_owned:
            with np.errstate(over="ignore"):  # such a value is found as one that is not finite
                self._image = np.array(self._image, dtype=np.float32, order="C", copy=True)
            self._is_owned = True
        return self._image

    def _label_is_needed(self) -> bool:
        return self._keeps_label or (self._uses_mask and "normalize" in self._to_do)

    def _crop(self) -> None:
        crop = self._recipe.crop
        self.box = crop.box(self._image)
        self._image = self._image[(slice(None), *self.box)]
        self.cropped_shape = self._image.shape[1:]
        if self._given is not None:
            self.label = self._checked(self._given[self.box])
            crop.mark_outside(self.label, crop.inside(self._image))
            self._given = None
        elif self._label_is_needed():
            self.label = crop.outside_only(crop.inside(self._image))

    def _replace_nan(self) -> None:
        if not self._is_finite:
            image = self.owned()
            image[np.isnan(image)] = 0

    def _normalize(self) -> None:
        image = self._finite()
        inside = self.label >= 0 if self._uses_mask and self.label is not None else None
        for how, channel in zip(self._recipe.normalizations, image, strict=True):
            how.apply(channel, inside)

    def _resample(self) -> None:
        recipe = self._recipe
        shape, spacing = recipe.network_grid(self.cropped_shape, self.spacing)
        if 0 in shape:
            raise _vanishes(self.cropped_shape, self.spacing, spacing)
        self._image = recipe.data.resample(
            self._finite(), shape, original_spacing=self.spacing, network_spacing=spacing
        )
        if self.label is not None and self._label_is_needed():
            self.label = recipe.segmentation.resample_labels(
                self.label, shape, original_spacing=self.spacing, network_spacing=spacing, where="label map"
            )

    def _finite(self) -> Image:
        """The image, once its intensities are known to be finite."""
        image = self.owned()
        if not self._is_finite:
            for number, channel in enumerate(image):
                # The extremes show every NaN and infinity, without a mask of the size of the image.
                if not (np.isfinite(channel.min()) and np.isfinite(channel.max())):
                    raise _not_finite(number, channel)
            self._is_finite = True
        return image

    def _checked(self, label: npt.NDArray[Any]) -> Label:
        """A label map as int16 in an array of its own, if it holds nothing but what the plan declares."""
        lowest, highest = int(label.min()), int(label.max())
        crop = self._recipe.crop
        if lowest >= _INT16.min and highest <= _INT16.max:
            values: Label = np.array(label, dtype=np.int16, order="C", copy=True)
            is_present, is_known = np.zeros((2, 2**16), np.bool_)
            # As indices, negative values count from the end.
            is_known[[*self._recipe.label_values, crop.outside_label]] = True
            if crop.zeroes_lower_labels:
                is_known[2**15 : 2**16 + crop.outside_label] = True
            is_present[values.view(np.uint16)] = True
            if not (is_present & ~is_known).any():
                self.original_values = frozenset(
                    value for value in self._recipe.label_values if is_present[value]
                )
                return values
        raise _undeclared(label, self._recipe)


def _not_finite(number: int, channel: Image) -> ImageError:
    num_wrong = channel.size - int(np.isfinite(channel).sum())
    return ImageError(
        Problem(
            where="image",
            what=f"intensities of channel {number} are not finite",
            got=f"{num_wrong} of {channel.size} voxels are NaN, infinite or too large for float32",
            expected="finite numbers",
            fix="Replace them, e.g. by the background value, or leave the case out.",
        )
    )


def _vanishes(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> ImageError:
    return ImageError(
        Problem(
            where="image",
            what="the image is thinner than half a voxel of the spacing that the plan resamples to",
            got=f"{tuple(shape)} voxels of {tuple(round(edge, 4) for edge in spacing)} mm",
            expected=f"voxels of {tuple(round(edge, 4) for edge in target)} mm",
            fix="Check the spacing in the image's header, or leave the case out.",
        )
    )


def _undeclared(label: npt.NDArray[Any], recipe: Preprocessing) -> ImageError:
    known = (*recipe.label_values, recipe.crop.outside_label)
    values, counts = np.unique(label, return_counts=True)
    wrong = [
        (int(value), int(count)) for value, count in zip(values, counts, strict=True) if value not in known
    ]
    shown = ", ".join(f"{value} ({count} voxels)" for value, count in wrong[:10])
    return ImageError(
        Problem(
            where="label map",
            what="label values that the plan does not know",
            got=shown + (", …" if len(wrong) > 10 else ""),
            expected=", ".join(map(str, sorted(recipe.label_values))),
            fix="Correct the label map, or add the values to dataset.json and plan again.",
        )
    )
