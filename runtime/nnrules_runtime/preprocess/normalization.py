"""Intensity normalisation of a channel, by the name of its scheme.

Facts: nnunetv2 2.8.1 ``default_normalization_schemes`` and nnunet 1.7.1; blueprints section 6.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from nnrules.errors import ImageError, Problem

from nnrules_runtime.values import Section

__all__ = ["ChannelNormalization", "Epsilon", "normalizations_from_plan"]

Channel = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Squares that are summed in float32.
_SHORT_SUM = 512


@dataclass(frozen=True, slots=True)
class Epsilon:
    """What keeps a division from a zero.

    Attributes:
        value: the small number.
        is_added: ``x + value``; else ``max(x, value)``.
    """

    value: float
    is_added: bool

    @classmethod
    def from_plan(cls, section: Section) -> Epsilon:
        """Read ``epsilon`` and ``epsilon_use``."""
        return cls(section.value("epsilon"), section.choice("epsilon_use", {"floor": False, "add": True}))

    def __call__(self, divisor: float) -> float:
        """The divisor, made safe."""
        return divisor + self.value if self.is_added else max(divisor, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelNormalization:
    """How one channel is normalised.

    Attributes:
        scheme: name of the scheme.
        use_mask: whether statistics are those of the voxels inside the non-zero region; only ``zscore``.
        zeroes_outside: with a mask, whether voxels outside become 0; else they stay.
        epsilon: for the divisor.
        lower: ``ct``: clip; ``rgb_to_0_1``: smallest intensity.
        upper: the same, upper end.
        mean: ``ct``: global mean.
        std: ``ct``: global standard deviation.
    """

    scheme: str
    use_mask: bool = False
    zeroes_outside: bool = False
    epsilon: Epsilon = Epsilon(0.0, is_added=False)
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def from_plan(cls, channel: Section, schemes: Section) -> ChannelNormalization:
        """Read ``channels[i].normalization`` with the details of its scheme.

        Args:
            channel: ``channels[i].normalization``.
            schemes: ``preprocessing.normalization``.
        """
        scheme = channel.require("scheme", *_SCHEMES)
        if scheme == "zscore":
            details = schemes.section(scheme)
            return cls(
                scheme=scheme,
                use_mask=channel.require("use_mask", False, True),
                zeroes_outside=details.choice("outside_mask", {"keep": False, "zero": True}),
                epsilon=Epsilon.from_plan(details),
            )
        if scheme == "ct":
            statistics = channel.section("statistics")
            return cls(
                scheme=scheme,
                epsilon=Epsilon.from_plan(schemes.section(scheme)),
                lower=statistics.value("clip_lower"),
                upper=statistics.value("clip_upper"),
                mean=statistics.value("mean"),
                std=statistics.value("std"),
            )
        if scheme == "rescale_to_0_1":
            return cls(scheme=scheme, epsilon=Epsilon.from_plan(schemes.section(scheme)))
        if scheme == "rgb_to_0_1":
            details = schemes.section(scheme)
            return cls(scheme=scheme, lower=details.value("min"), upper=details.value("max"))
        return cls(scheme=scheme)

    def apply(self, channel: Channel, inside: Mask | None) -> None:
        """Normalise a channel in place.

        Args:
            channel: ``(Z, Y, X)`` float32, C-contiguous.
            inside: the voxels with label >= 0; needed with a mask.

        Raises:
            ImageError: intensities beyond the range that the scheme states.
        """
        _SCHEMES[self.scheme](self, channel, inside if self.use_mask else None)


def normalizations_from_plan(root: Section) -> tuple[ChannelNormalization, ...]:
    """The normalisation of each channel of a plan."""
    schemes = root.section("preprocessing").section("normalization")
    return tuple(
        ChannelNormalization.from_plan(channel.section("normalization"), schemes)
        for channel in root.sections("channels")
    )


def _zscore(how: ChannelNormalization, channel: Channel, inside: Mask | None) -> None:
    """Mean 0 and population deviation 1, of the image or of the voxels inside."""
    if inside is None or inside.all():
        mean, std = _mean_and_deviation(channel)
        channel -= np.float32(mean)
        channel /= np.float32(how.epsilon(std))
        return
    # Without voxels inside there are no statistics; all of the image is outside.
    values = channel[inside]
    if values.size:
        mean, std = _mean_and_deviation(values)
        values -= np.float32(mean)
        values /= np.float32(how.epsilon(std))
    if how.zeroes_outside:
        channel[...] = 0
    channel[inside] = values


def _mean_and_deviation(values: Channel) -> tuple[float, float]:
    """Two passes: a constant image has deviation 0 to the bit, and no sum over 1e8 voxels is taken in float32."""
    planes = values if values.ndim > 1 else np.array_split(values, 1 + values.size // 2**16)
    mean = sum(float(plane.sum(dtype=np.float64)) for plane in planes) / values.size
    shift = np.float32(mean)
    total = sum(_square_sum(plane - shift) for plane in planes)
    # The differences are from the mean as rounded to float32.
    return mean, sqrt(max(0.0, total / values.size - (mean - float(shift)) ** 2))


def _square_sum(values: Channel) -> float:
    """Short sums in float32, sums of them in float64: a dot product of all loses what dim voxels add to bright ones."""
    flat = values.ravel()
    end = flat.size - flat.size % _SHORT_SUM
    blocks, rest = flat[:end].reshape(-1, _SHORT_SUM), flat[end:]
    sums = np.einsum("ij,ij->i", blocks, blocks)
    return float(sums.sum(dtype=np.float64)) + float(np.dot(rest, rest))


def _ct(how: ChannelNormalization, channel: Channel, inside: Mask | None) -> None:
    """Clip to the foreground's percentiles, then global mean and deviation."""
    del inside
    np.clip(channel, np.float32(how.lower), np.float32(how.upper), out=channel)
    channel -= np.float32(how.mean)
    channel /= np.float32(how.epsilon(how.std))


def _rescale(how: ChannelNormalization, channel: Channel, inside: Mask | None) -> None:
    """To 0 at the image's minimum and 1 at its maximum."""
    del inside
    channel -= channel.min()
    channel /= np.float32(how.epsilon(float(channel.max())))


def _rgb(how: ChannelNormalization, channel: Channel, inside: Mask | None) -> None:
    """By the range of the format."""
    del inside
    low, high = float(channel.min()), float(channel.max())
    if low < how.lower or high > how.upper:
        raise ImageError(
            Problem(
                where="image",
                what="intensities beyond the range that the scheme rgb_to_0_1 is for",
                got=f"{low:g} to {high:g}",
                expected=f"{how.lower:g} to {how.upper:g}",
                fix="Convert the image to 8 bits a channel, or name the channel otherwise: its name chose the scheme.",
            )
        )
    channel -= np.float32(how.lower)
    channel /= np.float32(how.upper - how.lower)


def _none(how: ChannelNormalization, channel: Channel, inside: Mask | None) -> None:
    """Unchanged."""


_SCHEMES: dict[str, Callable[[ChannelNormalization, Channel, Mask | None], None]] = {
    "ct": _ct,
    "zscore": _zscore,
    "none": _none,
    "rescale_to_0_1": _rescale,
    "rgb_to_0_1": _rgb,
}
