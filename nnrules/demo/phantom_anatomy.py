"""Painting of the phantoms: ellipsoids with waves in their surface, in mm, and what a scanner adds.

A phantom is painted in two steps. The anatomy (:func:`paint_heart`, :func:`paint_abdomen`,
:func:`paint_brain`) gives noise-free channels and the label map; the scan (:func:`add_mr_noise`,
:func:`add_ct_noise`) adds what makes two images of one subject differ. Each takes its own generator, so that
one subject can be scanned twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Grid",
    "Painting",
    "add_ct_noise",
    "add_mr_noise",
    "paint_abdomen",
    "paint_brain",
    "paint_heart",
]

FloatArray = npt.NDArray[np.float64]
Millimetres = tuple[float, float, float]

_MAX_EXPONENT = 30.0
_AIR_HU = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Voxels and their distances.

    Attributes:
        shape: voxels, zyx.
        spacing: mm, zyx.
    """

    shape: tuple[int, int, int]
    spacing: Millimetres

    @property
    def size_mm(self) -> Millimetres:
        """Extent of the grid, zyx."""
        z, y, x = (count * step for count, step in zip(self.shape, self.spacing, strict=True))
        return z, y, x

    def axes_mm(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coordinates of the voxels from the middle of the grid, zyx; they broadcast to ``shape``."""
        z, y, x = (
            (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step
            for count, step in zip(self.shape, self.spacing, strict=True)
        )
        return z[:, None, None], y[:, None], x


class Painting:
    """Channels and labels of one case while they are painted.

    Args:
        grid: where the voxels lie.
        background: value of each channel where nothing is painted.
        rng: makes the surfaces wave.
    """

    def __init__(self, grid: Grid, background: Sequence[float], rng: np.random.Generator) -> None:
        self.channels: FloatArray = np.empty((len(background), *grid.shape))
        self.channels[:] = np.reshape(background, (-1, 1, 1, 1))
        self.labels: npt.NDArray[np.uint8] = np.zeros(grid.shape, dtype=np.uint8)
        self._axes = grid.axes_mm()
        self._softness_mm = 0.25 * min(grid.spacing)
        self._rng = rng

    def ellipsoid(self, center: Millimetres, radii: Millimetres, *, wave: float = 0.05) -> FloatArray:
        """Depth below the surface of an ellipsoid: mm, about; positive inside, shape ``(Z, Y, X)``.

        Args:
            center: mm from the middle of the grid, zyx.
            radii: mm, zyx.
            wave: how far the surface departs from the ellipsoid, as a share of the radius.
        """
        unit = [(axis - c) / r for axis, c, r in zip(self._axes, center, radii, strict=True)]
        radius = np.sqrt(sum(part * part for part in unit))
        phases = self._rng.uniform(0, 2 * np.pi, 3)
        waves = sum(np.sin(2.5 * part + phase) for part, phase in zip(unit, phases, strict=True))
        depth: FloatArray = (1 + wave / 3 * waves - radius) * min(radii)
        return depth

    def fill(self, depth: FloatArray, values: Sequence[float], *, label: int | None = None) -> None:
        """Paint what lies below a surface; voxels on the surface get a mixture.

        Args:
            depth: mm below the surface.
            values: one value a channel.
            label: label of the voxels whose centre lies below the surface; by default labels stay.
        """
        share = 1 / (1 + np.exp(-np.clip(depth / self._softness_mm, -_MAX_EXPONENT, _MAX_EXPONENT)))
        target = np.reshape(values, (-1, 1, 1, 1))
        self.channels += share * (target - self.channels)
        if label is not None:
            self.labels[depth > 0] = label


def _near(rng: np.random.Generator, values: Sequence[float], jitter: float) -> Millimetres:
    z, y, x = (float(value + rng.uniform(-jitter, jitter)) for value in values)
    return z, y, x


def paint_heart(grid: Grid, rng: np.random.Generator) -> Painting:
    """A short-axis view of a heart: ``cavity`` (1) and ``wall`` (2) of the left ventricle.

    The right ventricle holds blood of the same brightness and is background, so that brightness alone does
    not tell the cavity.
    """
    painting = Painting(grid, (20.0,), rng)
    _, height, width = grid.size_mm
    size = rng.uniform(0.9, 1.1)
    center = _near(rng, (0.0, 3.0, 6.0), 5.0)
    painting.fill(painting.ellipsoid((0, 0, 0), (500, 0.42 * height, 0.46 * width)), (420.0,))
    painting.fill(painting.ellipsoid((0, -8, 30), (500, 26 * size, 15 * size)), (60.0,))
    right = (center[0], center[1] - 7 * size, center[2] - 23 * size)
    painting.fill(painting.ellipsoid(right, (30 * size, 22 * size, 16 * size)), (900.0,))
    wall_mm = rng.uniform(8.0, 11.0) * size
    radii = _near(rng, (33 * size, 25 * size, 25 * size), 2.0)
    wall = painting.ellipsoid(center, radii)
    painting.fill(wall, (300.0,), label=2)
    inner = (radii[0] - wall_mm, radii[1] - wall_mm, radii[2] - wall_mm)
    cavity = np.minimum(painting.ellipsoid(center, inner), wall - 2.0)
    painting.fill(cavity, (900.0,), label=1)
    return painting


def paint_abdomen(grid: Grid, rng: np.random.Generator, *, num_lesions: int) -> Painting:
    """A trunk in Hounsfield units: an ``organ`` (1) that holds ``lesion`` s (2), beside a similar organ.

    Args:
        grid: where the voxels lie.
        rng: for the anatomy.
        num_lesions: dark spots in the organ.
    """
    painting = Painting(grid, (_AIR_HU,), rng)
    _, height, width = grid.size_mm
    size = rng.uniform(0.9, 1.1)
    body = painting.ellipsoid((0, 0, 0), (1000, 0.42 * height, 0.46 * width), wave=0.03)
    painting.fill(body, (-100.0,))
    painting.fill(body - 7.0, (40.0,))
    painting.fill(painting.ellipsoid((0, 0.28 * height, 0), (1000, 13, 12)), (350.0,))
    painting.fill(painting.ellipsoid(_near(rng, (0, 18, 44), 4.0), (24, 17, 15)), (115.0,))
    painting.fill(painting.ellipsoid(_near(rng, (4, -22, 34), 5.0), (20, 14, 18)), (-820.0,))
    center = _near(rng, (4.0, -2.0, -28.0), 4.0)
    radii = _near(rng, (44 * size, 36 * size, 34 * size), 2.0)
    organ = np.minimum(painting.ellipsoid(center, radii, wave=0.12), body - 10.0)
    painting.fill(organ, (110.0,), label=1)
    for _ in range(num_lesions):
        offset = rng.normal(size=3)
        offset *= rng.uniform(0.3, 0.6) / np.linalg.norm(offset)
        where = tuple(c + o * r for c, o, r in zip(center, offset, radii, strict=True))
        radius = rng.uniform(10.0, 15.0)
        spot = painting.ellipsoid((where[0], where[1], where[2]), (radius, radius, radius), wave=0.2)
        painting.fill(np.minimum(spot, organ - 5.0), (70.0,), label=2)
    return painting


def paint_brain(grid: Grid, rng: np.random.Generator) -> Painting:
    """A brain without its skull, T1 and T2, zero outside: ``left_nucleus`` (1) and ``right_nucleus`` (2).

    Left and right look alike: only the side tells them apart, and x rises to the patient's left. Cysts are as
    bright as the nuclei in T1 and differ in T2, so that both channels are needed.
    """
    painting = Painting(grid, (0.0, 0.0), rng)
    size = rng.uniform(0.95, 1.05)
    brain = painting.ellipsoid((0, 0, 0), (58 * size, 75 * size, 60 * size), wave=0.04)
    painting.fill(brain, (520.0, 640.0))
    painting.fill(brain - 8.0, (650.0, 520.0))
    painting.fill(painting.ellipsoid((6, 0, 0), (20 * size, 30 * size, 6 * size)), (250.0, 950.0))
    for _ in range(4):
        side = rng.choice((-1.0, 1.0))
        cyst = _near(rng, (rng.uniform(-28, 28), rng.choice((-42.0, 42.0)), 26 * side), 6.0)
        radius = rng.uniform(6.0, 9.0)
        painting.fill(
            np.minimum(painting.ellipsoid(cyst, (radius, radius, radius)), brain - 9.0), (850.0, 780.0)
        )
    for label, side in ((1, 1.0), (2, -1.0)):
        center = _near(rng, (0.0, 2.0, 26.0 * side), 3.0)
        radii = _near(rng, (13 * size, 21 * size, 10 * size), 1.0)
        painting.fill(painting.ellipsoid(center, radii, wave=0.1), (850.0, 380.0), label=label)
    painting.channels *= brain > 0
    return painting


def add_mr_noise(channels: FloatArray, grid: Grid, rng: np.random.Generator, *, sigma: float) -> FloatArray:
    """The channels under a coil's bias field and another gain, with Rician noise; zeros stay zero.

    Args:
        channels: ``(C, Z, Y, X)``, at least 0.
        grid: where the voxels lie.
        rng: for field, gain and noise.
        sigma: standard deviation of the noise in each part of the complex signal.
    """
    scanned = np.empty_like(channels)
    extent = max(grid.size_mm)
    for channel, target in zip(channels, scanned, strict=True):
        field = sum(
            rng.uniform(0.05, 0.12) * np.cos(np.pi * axis / extent + rng.uniform(0, 2 * np.pi))
            for axis in grid.axes_mm()
        )
        signal = channel * np.exp(field) * rng.uniform(0.8, 1.25)
        noisy = np.hypot(signal + rng.normal(0, sigma, grid.shape), rng.normal(0, sigma, grid.shape))
        target[:] = np.where(channel > 0, noisy, 0.0)
    return scanned


def add_ct_noise(channels: FloatArray, rng: np.random.Generator, *, sigma_hu: float) -> FloatArray:
    """The channels in Hounsfield units with noise; nothing lies below air by more than a scanner stores."""
    noisy: FloatArray = channels + rng.normal(0, sigma_hu, channels.shape)
    return np.maximum(noisy, _AIR_HU - 24)
