"""Where the windows of a sliding-window prediction lie, and how much each of their voxels counts.

Shapes: ``Z, Y, X`` are transposed axes. A 2D configuration has windows of one slice, on every slice of axis 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from nnrules_runtime.values import Section

__all__ = ["Importance", "Padding", "Tiles", "Weights", "Window", "centers_spread", "evenly_spread"]

Triple = tuple[int, int, int]
Vector = npt.NDArray[np.float64]

# scipy.ndimage.gaussian_filter cuts its kernel off beyond so many standard deviations.
_TRUNCATE = 4.0


def evenly_spread(size: int, window: int, step: float) -> tuple[int, ...]:
    """Starts of windows along an axis, from one end to the other (nnU-Net 1.7 and 2).

    Args:
        size: voxels of the axis, at least ``window``.
        window: voxels of the window.
        step: largest distance of neighbours as a share of the window.
    """
    last = size - window
    count = math.ceil(last / (window * step)) + 1
    if count == 1:
        return (0,)
    distance = last / (count - 1)
    return tuple(round(distance * index) for index in range(count))


def centers_spread(size: int, window: int, step: float) -> tuple[int, ...]:
    """Starts of windows whose centres are spread (nnU-Net 1.0); arguments as for :func:`evenly_spread`.

    The centre of an odd window is its middle voxel; 1.0 itself takes even windows only.
    """
    last, center = size - window, window // 2
    count = math.ceil(last / (window * step))
    distance = last / (count + 1e-8)
    return tuple(round(center + index * distance) - center for index in range(count + 1))


@dataclass(frozen=True, slots=True)
class Padding:
    """Voxels added before and after each axis, so that a window fits."""

    before: Triple
    after: Triple

    @property
    def is_empty(self) -> bool:
        """Whether nothing is added."""
        return not any(self.before) and not any(self.after)

    def inside(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """Where the image lies in the padded one.

        Args:
            shape: voxels of the image.
        """
        first, second, third = (
            slice(start, start + size) for start, size in zip(self.before, shape, strict=True)
        )
        return first, second, third


@dataclass(frozen=True, slots=True)
class Tiles:
    """The windows of one image: every combination of a start along each axis.

    Attributes:
        starts: along each axis of the padded image, ascending.
        window: voxels of a window.
    """

    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    window: Triple

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.starts)

    def __iter__(self) -> Iterator[Triple]:
        """The index of each window along each axis, the last axis fastest."""
        return cast("Iterator[Triple]", itertools.product(*(range(len(axis)) for axis in self.starts)))

    def box(self, index: Triple) -> tuple[slice, slice, slice]:
        """The voxels of a window in the padded image."""
        begins = (starts[place] for starts, place in zip(self.starts, index, strict=True))
        first, second, third = (
            slice(begin, begin + size) for begin, size in zip(begins, self.window, strict=True)
        )
        return first, second, third


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``inference.window`` of a configuration.

    Attributes:
        size: voxels of a window; the first axis is 1 for a 2D configuration.
        step: largest distance of neighbouring windows as a share of their edge.
        starts: gives the starts along an axis.
        padding_value: what surrounds an image that is smaller than the window.
        dim: axes of the network's patch.
    """

    size: Triple
    step: float
    starts: Callable[[int, int, float], tuple[int, ...]]
    padding_value: float
    dim: int

    @classmethod
    def from_plan(cls, configuration: Section) -> Window:
        """Read the window of a configuration and the patch size that it refers to."""
        section = configuration.section("inference").section("window")
        section.require("size", "patch")
        padding = section.section("padding")
        padding.require("position", "centered")
        dim: int = configuration.require("dim", 3, 2)
        patch: list[int] = configuration.value("patch_size") or []
        size = (*(1,) * (3 - len(patch)), *patch)
        return cls(
            size=cast("Triple", size),
            step=section.value("step"),
            starts=section.choice(
                "starts", {"evenly_spread": evenly_spread, "centers_spread": centers_spread}
            ),
            padding_value=padding.value("value"),
            dim=dim,
        )

    def padding(self, shape: Sequence[int]) -> Padding:
        """What an image needs to reach the window on every axis; the odd voxel comes after it.

        Args:
            shape: voxels of the image.
        """
        missing = [max(0, size - have) for size, have in zip(self.size, shape, strict=True)]
        before = tuple(number // 2 for number in missing)
        after = tuple(number - number // 2 for number in missing)
        return Padding(cast("Triple", before), cast("Triple", after))

    def tiles(self, padded_shape: Sequence[int]) -> Tiles:
        """The windows of an image that none of its axes is too small for.

        Args:
            padded_shape: voxels of the image.
        """
        starts = [
            self.starts(have, size, self.step) for have, size in zip(padded_shape, self.size, strict=True)
        ]
        if self.dim == 2:
            starts[0] = tuple(range(padded_shape[0]))
        return Tiles((starts[0], starts[1], starts[2]), self.size)

    def num_tiles(self, shape: Sequence[int]) -> int:
        """How many windows an image takes.

        Args:
            shape: voxels of the image.
        """
        return len(self.tiles([max(pair) for pair in zip(shape, self.size, strict=True)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """``inference.importance`` of a configuration: the weight of the voxels of a window.

    Attributes:
        is_gaussian: whether it falls off from the centre; else it is 1 everywhere.
        sigma_share: standard deviation as a share of the window's edge.
        rounds_sigma_down: whether it is a whole number of voxels.
        maximum: largest weight.
        replaces_zeros: whether weights of 0 become the smallest other weight.
        weights_single_tile: whether it is used for an image that one window covers.
        dim: axes of the network's patch; others have no weights.
    """

    is_gaussian: bool
    sigma_share: float
    rounds_sigma_down: bool
    maximum: float
    replaces_zeros: bool
    weights_single_tile: bool
    dim: int

    @classmethod
    def from_plan(cls, configuration: Section) -> Importance:
        """Read the section of a configuration."""
        section = configuration.section("inference").section("importance")
        return cls(
            is_gaussian=section.choice("name", {"gaussian": True, "uniform": False}),
            sigma_share=section.value("sigma_share"),
            rounds_sigma_down=section.choice("sigma_rounding", {"none": False, "down": True}),
            maximum=section.value("maximum"),
            replaces_zeros=section.choice("zeros", {"smallest_nonzero": True, "keep": False}),
            weights_single_tile=section.choice("single_tile", {"weighted": True, "unweighted": False}),
            dim=configuration.require("dim", 3, 2),
        )

    def along(self, size: int) -> Vector:
        """The factor of one axis: a unit impulse at ``size // 2`` through a Gaussian, 1 at its largest.

        The map of a window is the product over its axes, times ``maximum``.

        Args:
            size: voxels of the window along the axis.
        """
        if not self.is_gaussian:
            return np.ones(size)
        sigma = size * self.sigma_share
        if self.rounds_sigma_down:
            sigma = math.floor(sigma)
        distance = np.arange(size) - size // 2
        if sigma == 0:
            return np.where(distance == 0, 1.0, 0.0)
        values: Vector = np.exp(-0.5 / (sigma * sigma) * distance**2)
        values[np.abs(distance) > int(_TRUNCATE * sigma + 0.5)] = 0
        return values

    def factors(self, window: Sequence[int]) -> list[Vector]:
        """The factor of each axis of a window; the slice axis of a 2D configuration has 1."""
        flat = len(window) - self.dim
        return [np.ones(size) if axis < flat else self.along(size) for axis, size in enumerate(window)]

    def map(self, window: Sequence[int], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[np.floating]:
        """The weights of a window as the plan states them.

        Args:
            window: voxels of the window.
            dtype: type of the weights; zeros are what is 0 in this type.
        """
        values = self.maximum if self.is_gaussian else 1.0
        product = np.array(values)
        for factor in self.factors(window):
            product = product[..., None] * factor
        # By way of float32, as torch converts to float16: nnunetv2 2.8.1 rounds twice.
        weights = product.astype(np.float32 if dtype != np.float64 else np.float64).astype(dtype)
        if self.replaces_zeros:
            weights[weights == 0] = weights[weights > 0].min()
        return cast("npt.NDArray[np.floating]", weights)


class Weights:
    """What each voxel of each window counts in an image: importance over the sum of importances there.

    They add up to 1 in every voxel, so sums of weighted values need no division in the end, and no array of the
    sums of weights. They are computed in float64 from importances that are not rounded: nnU-Net v2 rounds them to
    float16, whose smallest numbers leave errors of up to 0.6 in the logits of corners.

    A voxel in which all importances are 0 has weights of 0.

    Args:
        importance: of a voxel in a window.
        tiles: the windows.
    """

    def __init__(self, importance: Importance, tiles: Tiles) -> None:
        if len(tiles) == 1 and not importance.weights_single_tile:
            factors = [np.ones(size) for size in tiles.window]
        else:
            factors = importance.factors(tiles.window)
        self._tiles = tiles
        has_zeros = importance.replaces_zeros and any((factor == 0).any() for factor in factors)
        self._map = importance.map(tiles.window) if has_zeros else None
        self._sums = self._map_sums(self._map) if self._map is not None else None
        self._factors = [
            _normalized(factor, starts) for factor, starts in zip(factors, tiles.starts, strict=True)
        ]

    def of(self, index: Triple) -> npt.NDArray[np.float64] | tuple[Vector, Vector, Vector]:
        """The weights of a window: an array of its shape, or one factor an axis.

        Args:
            index: as :class:`Tiles` iterates.
        """
        if self._map is not None and self._sums is not None:
            return cast("npt.NDArray[np.float64]", self._map / self._sums[self._tiles.box(index)])
        first, second, third = (factors[place] for factors, place in zip(self._factors, index, strict=True))
        return first, second, third

    def _map_sums(self, weights: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Zeros that were replaced are no product over axes: the sums need an array of the padded image."""
        shape = [
            starts[-1] + size for starts, size in zip(self._tiles.starts, self._tiles.window, strict=True)
        ]
        sums = np.zeros(shape)
        for index in self._tiles:
            sums[self._tiles.box(index)] += weights
        return sums


def _normalized(factor: Vector, starts: Sequence[int]) -> list[Vector]:
    """The factor of each window along an axis, so that they add up to 1 in every voxel."""
    size = len(factor)
    sums = np.zeros(starts[-1] + size)
    for start in starts:
        sums[start : start + size] += factor
    sums[sums == 0] = 1  # no window counts there
    return [np.asarray(factor / sums[start : start + size]) for start in starts]
