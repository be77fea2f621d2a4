"""The installed batchgeneratorsv2, asked now: warps and the cascade's operators of patches that no recording has.

``NNRULES_PEER_SEED`` draws other patches. Skipped aloud where nnU-Net v2 is not installed.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from scipy import ndimage

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.augment.patch import Patch
from nnrules_runtime.augment.previous_stage import OperatorDraw, apply_operator
from nnrules_runtime.augment.spatial import SpatialDraw, affine_matrix
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = int(os.environ.get("NNRULES_PEER_SEED", "20261123"))
NUM_WARPS = 8
INITIAL, FINAL = (45, 52, 47), (30, 33, 28)
OPERATORS = ("dilation", "erosion", "closing", "opening")
RADII = (1.0, 1.7, 2.0, 3.4, 5.0)

# Runs in the other interpreter: the same parameters through its transforms.
QUESTION = """
import sys, numpy as np, torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.nnunet import random_binary_operator as operators
from skimage.morphology import ball

given = np.load(sys.argv[1])
final = tuple(int(edge) for edge in given["final"])
answer = {}
for number in range(int(given["num_warps"])):
    angles, factor = given[f"angles_{number}"], float(given[f"factor_{number}"])
    drawn = iter(angles)
    transform = SpatialTransform(
        final, 0, False, p_rotation=1, rotation=lambda **_: float(next(drawn)), p_scaling=1,
        scaling=lambda **_: factor, p_synchronize_scaling_across_axes=1, border_mode_seg="constant",
        padding_value_seg=-1,
    )
    image = torch.from_numpy(given["image"].copy())
    labels = torch.from_numpy(given[f"labels_{number}"].copy())
    parameters = transform.get_parameters(image=image)
    answer[f"image_{number}"] = transform._apply_to_image(image, **parameters).numpy()
    answer[f"labels_{number}"] = transform._apply_to_segmentation(labels, **parameters).numpy()
mask = torch.from_numpy(given["mask"])
for name in ("dilation", "erosion", "closing", "opening"):
    for radius in given["radii"]:
        element = torch.from_numpy(ball(float(radius), dtype=bool))
        result = getattr(operators, f"binary_{name}_torch")(mask, element)
        answer[f"{name}_{radius}"] = result.numpy()
np.savez(sys.argv[2], **answer)
"""


def smooth_labels(rng: np.random.Generator, num: int) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(INITIAL), 2.5)
    return (np.digitize(field, np.quantile(field, np.linspace(0, 1, num + 1)[1:-1])) - 1).astype(np.int16)


@pytest.fixture(scope="module")
def asked(
    peer_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was given to the peer, and its answers."""
    rng = np.random.default_rng(SEED)
    given: dict[str, Any] = {
        "final": np.array(FINAL),
        "num_warps": NUM_WARPS,
        "image": rng.standard_normal((1, *INITIAL)).astype(np.float32),
        "mask": ndimage.gaussian_filter(rng.standard_normal((24, 26, 22)), 2) > 0.03,
        "radii": np.array(RADII),
    }
    for number in range(NUM_WARPS):
        given[f"angles_{number}"] = rng.uniform(-0.6, 0.6, 3)
        given[f"factor_{number}"] = rng.uniform(0.7, 1.4)
        given[f"labels_{number}"] = smooth_labels(rng, 2 + number)[None]
    folder = tmp_path_factory.mktemp("peer")
    np.savez(folder / "given.npz", **given)
    command = [peer_python, "-c", QUESTION, folder / "given.npz", folder / "answer.npz"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return given, dict(np.load(folder / "answer.npz"))


@pytest.fixture(scope="module")
def spatial(make_fingerprint: Callable[..., Fingerprint]) -> Any:
    fingerprint = make_fingerprint([(60, 60, 60)] * 20, [(1.0, 1.0, 1.0)] * 20, channels=("MRI",))
    document = make_plan(fingerprint, load_pack("nnunet@2.8.0")).document
    configuration = document["configurations"]["3d_fullres"]
    configuration["patch_size"] = list(FINAL)
    configuration["sampling"]["initial_patch_size"] = list(INITIAL)
    problems: list[Any] = []
    root = Section(document, "", problems)
    augmentation = Augmentation.from_plan(
        root, Section(configuration, "", problems), LabelSet.from_plan(root)
    )
    assert not problems
    return dict(augmentation.transforms)["spatial"]


@pytest.mark.parametrize("number", range(NUM_WARPS))
def test_warp(
    number: int,
    asked: tuple[dict[str, Any], dict[str, Any]],
    spatial: Any,
    record_property: Callable[[str, object], None],
) -> None:
    given, answer = asked
    matrix = affine_matrix(tuple(given[f"angles_{number}"]), (given[f"factor_{number}"],) * 3)
    box = spatial.needed_box(matrix)
    patch = Patch(
        torch.from_numpy(given["image"][(..., *box.slices)].copy()),
        torch.from_numpy(given[f"labels_{number}"][(..., *box.slices)].copy()),
    )
    spatial.apply(patch, SpatialDraw(tuple(map(tuple, matrix.tolist())), box))
    worst = float(np.abs(patch.image.numpy() - answer[f"image_{number}"]).max())
    differing = int((patch.labels.numpy() != answer[f"labels_{number}"]).sum())
    record_property("largest difference of the image", worst)
    record_property("labels that differ", differing)
    # White noise: an error of 1e-5 voxel in a position, from its float32, is one of 4e-5 here.
    assert worst < 1e-4
    # The peer rounds positions through [-1, 1]; where the float16 scores of two labels are equal by chance only for
    # one of both roundings, a voxel differs. One in 20,000 here.
    assert differing <= 2, f"{differing} of {patch.labels.numel()} labels differ"


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str, radius: float, asked: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given, answer = asked
    channels = torch.from_numpy(given["mask"])[None].float()
    apply_operator(channels, OperatorDraw(0, name, radius), is_2d=False)
    assert np.array_equal(channels[0].numpy() > 0, answer[f"{name}_{radius}"])
