"""Small phantom datasets with their images, made anew each time: for the demo, tests, a short training.

Three kinds, each with something that planning must see:

=============  ==========================================================  ===================================
kind           images                                                      what it is for
=============  ==========================================================  ===================================
``heart_mr``   10 MR images, thick slices (about 6 × 1.2 × 1.2 mm),        anisotropic kernels and strides
               oblique axes
``abdomen_ct`` 8 CT images in Hounsfield units, about 2.5 mm each way      CT normalisation; a small lesion
``brain_mr``   12 scans of 6 subjects, T1 and T2, about 3 mm, zero         channels; left and right; groups;
               outside the brain                                           normalisation inside a mask
=============  ==========================================================  ===================================

The same kind, case and seed give the same voxels, however many cases are asked for.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import cos, radians, sin
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules.demo.phantom_anatomy import (
    FloatArray,
    Grid,
    Painting,
    add_ct_noise,
    add_mr_noise,
    paint_abdomen,
    paint_brain,
    paint_heart,
)
from nnrules.documents import write_json
from nnrules.errors import NnrulesError, Problem, UsageError
from nnrules.image_geometry import Geometry
from nnrules.image_io import write_image

__all__ = ["PHANTOM_KINDS", "PhantomCase", "PhantomKind", "phantom_case", "write_phantom"]

logger = logging.getLogger(__name__)

_ENDING = ".nii.gz"
_MAX_CASES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomCase:
    """One case in memory.

    Attributes:
        id: name of the case.
        channels: ``(C, Z, Y, X)``, int16; Hounsfield units for CT, arbitrary for MR.
        labels: ``(Z, Y, X)``, uint8.
        geometry: where the voxels lie.
    """

    id: str
    channels: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    geometry: Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomKind:
    """What one kind of phantom looks like.

    Attributes:
        dataset_name: name of its folder in nnU-Net's style.
        description: what the images show.
        channel_names: in channel order.
        labels: label name to value.
        num_cases: cases in the demo.
        shape: mean voxels, zyx.
        shape_jitter: largest deviation from ``shape``.
        spacing: mean spacing, mm, zyx.
        spacing_steps: spacing varies by -2 to 2 of these, mm, zyx; multiples of 1/16 mm, because files hold
            those exactly.
        tilt_degrees: how far the axes are turned out of the patient's.
        scans_per_subject: images of one subject, which share its anatomy.
        paint: anatomy from grid, generator and subject number.
        scan: adds noise to its channels.
        dataset_extra: further fields of its dataset.json.
    """

    dataset_name: str
    description: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, int]
    num_cases: int
    shape: tuple[int, int, int]
    shape_jitter: tuple[int, int, int]
    spacing: tuple[float, float, float]
    spacing_steps: tuple[float, float, float]
    tilt_degrees: float = 0.0
    scans_per_subject: int = 1
    paint: Callable[[Grid, np.random.Generator, int], Painting]
    scan: Callable[[FloatArray, Grid, np.random.Generator], FloatArray]
    dataset_extra: Mapping[str, Any] = field(default_factory=dict)


PHANTOM_KINDS: Mapping[str, PhantomKind] = {
    "heart_mr": PhantomKind(
        dataset_name="Dataset901_PhantomHeart",
        description="Phantom of a heart in short axis: anisotropic MR",
        channel_names=("MRI",),
        labels={"background": 0, "cavity": 1, "wall": 2},
        num_cases=10,
        shape=(12, 96, 96),
        shape_jitter=(2, 8, 8),
        spacing=(6.0, 1.1875, 1.1875),
        spacing_steps=(0.5, 0.0625, 0.0625),
        tilt_degrees=20.0,
        paint=lambda grid, rng, _: paint_heart(grid, rng),
        scan=lambda channels, grid, rng: add_mr_noise(channels, grid, rng, sigma=25.0),
    ),
    "abdomen_ct": PhantomKind(
        dataset_name="Dataset902_PhantomAbdomen",
        description="Phantom of an organ with lesions: CT in Hounsfield units",
        channel_names=("CT",),
        labels={"background": 0, "organ": 1, "lesion": 2},
        num_cases=8,
        shape=(52, 68, 72),
        shape_jitter=(6, 4, 4),
        spacing=(2.75, 2.375, 2.375),
        spacing_steps=(0.125, 0.0625, 0.0625),
        # Every fourth subject is healthy, as in real sets.
        paint=lambda grid, rng, subject: paint_abdomen(grid, rng, num_lesions=(2, 1, 2, 0)[subject % 4]),
        scan=lambda channels, _, rng: add_ct_noise(channels, rng, sigma_hu=14.0),
    ),
    "brain_mr": PhantomKind(
        dataset_name="Dataset903_PhantomBrain",
        description="Phantom of a brain with a left and a right nucleus: two channels, two scans each",
        channel_names=("T1", "T2"),
        labels={"background": 0, "left_nucleus": 1, "right_nucleus": 2},
        num_cases=12,
        shape=(50, 60, 52),
        shape_jitter=(3, 3, 3),
        spacing=(3.0, 3.0, 3.0),
        spacing_steps=(0.0625, 0.0625, 0.0625),
        scans_per_subject=2,
        paint=lambda grid, rng, _: paint_brain(grid, rng),
        scan=lambda channels, grid, rng: add_mr_noise(channels, grid, rng, sigma=22.0),
        dataset_extra={"nnrules": {"groups": {"pattern": "^(subject[0-9]+)_"}}},
    ),
}
"""The kinds by name."""


def phantom_case(kind: str, index: int, *, seed: int = 0) -> PhantomCase:
    """Make one case in memory.

    Args:
        kind: a key of :data:`PHANTOM_KINDS`.
        index: number of the case, from 0.
        seed: other seeds give other subjects.

    Raises:
        UsageError: there is no such kind.
    """
    recipe = _kind(kind)
    number = list(PHANTOM_KINDS).index(kind)
    subject, scan = divmod(index, recipe.scans_per_subject)
    # One generator for the anatomy, which the scans of a subject share, and one for each scan.
    anatomy = np.random.default_rng([seed, number, subject])
    noise = np.random.default_rng([seed, number, subject, scan + 1])
    grid = _grid(recipe, anatomy)
    painting = recipe.paint(grid, anatomy, subject)
    channels = np.rint(recipe.scan(painting.channels, grid, noise)).astype(np.int16)
    return PhantomCase(
        id=f"subject{subject:02d}_scan{scan}" if recipe.scans_per_subject > 1 else f"subject{subject:02d}",
        channels=channels,
        labels=painting.labels,
        geometry=_geometry(grid, recipe.tilt_degrees),
    )


def write_phantom(
    folder: Path, kind: str, *, num_cases: int | None = None, num_test_cases: int = 0, seed: int = 0
) -> Path:
    """Write a phantom dataset in nnU-Net v2's layout: dataset.json, imagesTr, labelsTr, imagesTs, labelsTs.

    Args:
        folder: the dataset's folder; made here, appears whole or not at all.
        kind: a key of :data:`PHANTOM_KINDS`.
        num_cases: number of training cases; that of the demo by default.
        num_test_cases: number of further cases, of other subjects where the training cases are whole subjects.
        seed: other seeds give other subjects.

    Returns:
        The path of the dataset.json.

    Raises:
        UsageError: there is no such kind, no case is asked for, or the folder holds something.
        NnrulesError: it cannot be written.
    """
    recipe = _kind(kind)
    count = recipe.num_cases if num_cases is None else num_cases
    if not 1 <= count <= _MAX_CASES:
        raise UsageError(
            Problem(
                where="num_cases", what="no number of cases", got=str(count), expected=f"1 to {_MAX_CASES}"
            )
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            Problem(
                where=str(folder), what="this is in the way", fix="Choose a folder that does not exist yet."
            )
        )
    target = folder.resolve()  # "." has no name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as exc:
        raise _not_written(folder, exc) from None
    try:
        part = temporary / target.name
        _write(part, recipe, kind, (count, num_test_cases), seed)
        part.replace(target)  # a folder may take the place of an empty one
    except OSError as exc:
        raise _not_written(folder, exc) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("wrote %s (%d cases)", folder, count)
    return folder / "dataset.json"


def _write(folder: Path, recipe: PhantomKind, kind: str, counts: tuple[int, int], seed: int) -> None:
    num_cases, num_test_cases = counts
    _write_cases(folder, "Tr", kind, range(num_cases), seed)
    if num_test_cases:
        _write_cases(folder, "Ts", kind, range(num_cases, num_cases + num_test_cases), seed)
    document = {
        "name": recipe.dataset_name,
        "description": recipe.description,
        "licence": "CC0-1.0",
        "reference": f"made by nnrules.demo.phantom, kind {kind}, seed {seed}",
        "channel_names": {str(index): name for index, name in enumerate(recipe.channel_names)},
        "labels": dict(recipe.labels),
        "numTraining": num_cases,
        "file_ending": _ENDING,
        **recipe.dataset_extra,
    }
    write_json(folder / "dataset.json", document)


def _write_cases(folder: Path, part: str, kind: str, indices: range, seed: int) -> None:
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    images.mkdir(parents=True)
    labels.mkdir()
    for index in indices:
        case = phantom_case(kind, index, seed=seed)
        for channel, array in enumerate(case.channels):
            write_image(images / f"{case.id}_{channel:04d}{_ENDING}", array, case.geometry)
        write_image(labels / f"{case.id}{_ENDING}", case.labels, case.geometry)


def _kind(kind: str) -> PhantomKind:
    if kind not in PHANTOM_KINDS:
        raise UsageError(
            Problem(where=kind, what="there is no such phantom", expected=", ".join(PHANTOM_KINDS))
        )
    return PHANTOM_KINDS[kind]


def _grid(recipe: PhantomKind, rng: np.random.Generator) -> Grid:
    z, y, x = (
        mean + int(rng.integers(-jitter, jitter + 1))
        for mean, jitter in zip(recipe.shape, recipe.shape_jitter, strict=True)
    )
    through, in_plane = (int(rng.integers(-2, 3)) for _ in range(2))  # pixels stay square
    steps = (through, in_plane, in_plane)
    spacing_z, spacing_y, spacing_x = (
        mean + count * step
        for mean, step, count in zip(recipe.spacing, recipe.spacing_steps, steps, strict=True)
    )
    return Grid(shape=(z, y, x), spacing=(spacing_z, spacing_y, spacing_x))


def _geometry(grid: Grid, tilt_degrees: float) -> Geometry:
    """Geometry with the middle of the grid at the world's origin, turned about the x axis."""
    c, s = cos(radians(tilt_degrees)), sin(radians(tilt_degrees))
    direction = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    middle_xyz = [
        (count - 1) / 2 * step for count, step in zip(grid.shape[::-1], grid.spacing[::-1], strict=True)
    ]
    return Geometry(
        shape=grid.shape,
        spacing=grid.spacing,
        origin_xyz=tuple(float(value) for value in -direction @ middle_xyz),
        direction_xyz=tuple(float(value) for value in direction.ravel()),
        dimension=3,
        num_channels=1,
    )


def _not_written(folder: Path, exc: OSError) -> NnrulesError:
    return NnrulesError(
        Problem(
            where=str(folder),
            what="the phantom cannot be written",
            got=exc.strerror or str(exc),
            fix="Check that the folder above it is writable and that there is space.",
        )
    )
