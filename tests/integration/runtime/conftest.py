"""Small made datasets with plans of tiny networks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.cli import run

SHAPE = (20, 24, 18)


def write_case(folder: Path, case: str, *, labels: Sequence[int], channels: int, seed: int) -> None:
    """A noisy image with a box of each label."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    for value in labels:
        z, y, x = rng.integers(2, 6, 3)
        label[z : z + 5, y : y + 6, 5 * value + x - 5 : 5 * value + x] = value
    sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"labelsTr/{case}.nii.gz"))
    for channel in range(channels):
        image = (rng.normal(0, 0.3, SHAPE) + (channel + 1) * label).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"imagesTr/{case}_{channel:04d}.nii.gz"))


@pytest.fixture
def narrow(shrink: Callable[..., None]) -> Callable[..., None]:
    """``narrow(plan_file, features=(4,))``: give its networks so few features that each trains in a second."""

    def change(plan_file: Path, *, features: Sequence[int] = (4,)) -> None:
        plan = json.loads(plan_file.read_text())
        for configuration in plan["configurations"].values():
            shrink(configuration, features=features, patch=None)
        plan_file.write_text(json.dumps(plan))

    return change


@pytest.fixture
def make(tmp_path: Path, narrow: Callable[..., None]) -> Callable[..., Path]:
    """``make(labels of each case, options=, channels=)`` writes ``data`` and ``plan.json``; returns their folder."""

    def made(shown: Sequence[Sequence[int]], *, options: str = "", channels: int = 1) -> Path:
        data = tmp_path / "data"
        for name in ("imagesTr", "labelsTr"):
            (data / name).mkdir(parents=True)
        for number, labels in enumerate(shown):
            write_case(data, f"c{number}", labels=labels, channels=channels, seed=number)
        document = {
            "name": "Made",
            "channel_names": {str(channel): f"MRI{channel}" for channel in range(channels)},
            "labels": {"background": 0, "a": 1, "b": 2},
            "numTraining": len(shown),
            "file_ending": ".nii.gz",
        }
        (data / "dataset.json").write_text(json.dumps(document))
        assert run(f"plan {data} {options} -o {tmp_path}/plan.json".split()) == 0
        narrow(tmp_path / "plan.json")
        return tmp_path

    return made
