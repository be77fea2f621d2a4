"""Tiny datasets on disk."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

MakeDataset = Callable[..., Path]


def write(path: Path, array: np.ndarray, *, spacing_xyz=(1.0, 1.0, 1.0), direction=None) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz)
    if direction is not None:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Write ``cases`` (id to list of channels and label, zyx) in nnU-Net v2's layout; returns the folder."""

    def make(
        cases: Mapping[str, tuple[list[np.ndarray], np.ndarray]],
        *,
        labels: Mapping[str, Any] | None = None,
        spacing_xyz=(1.0, 1.0, 1.0),
        direction=None,
        name: str = "data",
        ending: str = ".nii.gz",
        **more: Any,
    ) -> Path:
        folder = tmp_path / name
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "labelsTr").mkdir()
        num_channels = max(len(channels) for channels, _ in cases.values())
        for case, (channels, label) in cases.items():
            for number, channel in enumerate(channels):
                path = folder / "imagesTr" / f"{case}_{number:04d}{ending}"
                write(path, channel, spacing_xyz=spacing_xyz, direction=direction)
            path = folder / "labelsTr" / f"{case}{ending}"
            write(path, label, spacing_xyz=spacing_xyz, direction=direction)
        document = {
            "name": "Tiny",
            "channel_names": {str(number): f"channel {number}" for number in range(num_channels)},
            "labels": labels or {"background": 0, "organ": 1, "lesion": 2},
            "numTraining": len(cases),
            "file_ending": ending,
            **more,
        }
        (folder / "dataset.json").write_text(json.dumps(document))
        return folder

    return make


@pytest.fixture
def two_cases() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Case a: int16 with a zero margin; case b: float32 without one, and no lesion."""
    rng = np.random.default_rng(5)
    image_a = np.zeros((6, 7, 8), np.int16)
    image_a[1:5, 2:6, 3:8] = rng.integers(1, 200, (4, 4, 5))
    label_a = np.zeros((6, 7, 8), np.uint8)
    label_a[2, 3:5, 4:7] = 1
    label_a[3, 3, 4:6] = 2
    label_a[0, 0, 0] = 1  # outside the crop: does not count
    image_b = rng.normal(100, 30, (4, 5, 6)).astype(np.float32)
    label_b = np.zeros((4, 5, 6), np.uint8)
    label_b[1:3, 1:4, 2:5] = 1
    return {"b": ([image_b], label_b), "a": ([image_a], label_a)}
