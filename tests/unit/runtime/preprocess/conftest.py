"""A small dataset on disk and plans for it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.dataset import Dataset, load_dataset
from nnrules.engine.planning import make_plan
from nnrules.extract.pipeline import extract_fingerprint
from nnrules.image_io import Geometry, write_image
from nnrules.plan import Plan

from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.values import reading

LABELS: Mapping[str, Any] = {"background": 0, "organ": 1, "tumour": 2}
RAS = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
LPS = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)


def arrays(seed: int, shape: tuple[int, int, int], values: list[int]) -> tuple[Any, Any]:
    """A body with a margin of zeros, holes in it, and labels around it."""
    generator = np.random.default_rng(seed)
    z, y, x = (
        np.linspace(-1.3, 1.3, size)[(...,) + (None,) * after]
        for size, after in zip(shape, (2, 1, 0), strict=True)
    )
    radius = np.sqrt(z**2 + y**2 + x**2)
    image = np.where(radius < 1.1, 300 + 80 * x + 40 * z + generator.normal(0, 20, shape), 0).astype(
        np.float32
    )
    image[radius < 0.15] = 0  # a hole
    label = np.zeros(shape, np.uint8)
    for number, value in enumerate(values):
        label[radius < 0.9 - 0.25 * number] = value
    return image, label


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Write a dataset of images and labels; returns its folder."""

    def write(
        folder: Path,
        *,
        num_cases: int = 4,
        channels: tuple[str, ...] = ("MRI",),
        labels: Mapping[str, Any] = LABELS,
        shape: tuple[int, int, int] = (12, 30, 26),
        spacing: tuple[float, float, float] = (3.0, 1.0, 1.2),
        direction: tuple[float, ...] = LPS,
        more: Mapping[str, Any] | None = None,
    ) -> Path:
        (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
        (folder / "labelsTr").mkdir(exist_ok=True)
        values = sorted(
            {v for entry in labels.values() for v in (entry if isinstance(entry, list) else [entry])}
        )
        for number in range(num_cases):
            size = (shape[0] + number, shape[1], shape[2] + 2 * number)
            geometry = Geometry(
                shape=size,
                spacing=spacing,
                origin_xyz=(0.0, 0.0, 0.0),
                direction_xyz=direction,
                dimension=3,
                num_channels=1,
            )
            for channel in range(len(channels)):
                image, label = arrays(10 * number + channel, size, values[1:])
                write_image(folder / "imagesTr" / f"c{number}_{channel:04d}.nii.gz", image, geometry)
            write_image(folder / "labelsTr" / f"c{number}.nii.gz", label, geometry)
        document = {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": dict(labels),
            "numTraining": num_cases,
            "file_ending": ".nii.gz",
            **(more or {}),
        }
        (folder / "dataset.json").write_text(json.dumps(document))
        return folder

    return write


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Dataset:
    """Four cases of one channel and two labels; not to be changed."""
    return load_dataset(write_dataset(tmp_path_factory.mktemp("dataset")))


@pytest.fixture(scope="session")
def plan_for() -> Callable[..., Plan]:
    """Plan a dataset with a pack and overrides."""

    def plan(dataset: Dataset, pack: str = "nnunet@2.8.0", **overrides: Any) -> Plan:
        changes = {path.replace("__", "."): value for path, value in overrides.items()}
        return make_plan(extract_fingerprint(dataset, workers=1), pack, overrides=changes)

    return plan


@pytest.fixture(scope="session")
def recipe_of() -> Callable[..., Preprocessing]:
    """The preprocessing of a plan's configuration."""

    def recipe(plan: Plan, name: str = "3d_fullres") -> Preprocessing:
        with reading(plan) as root:
            return Preprocessing.from_plan(root, name)

    return recipe
