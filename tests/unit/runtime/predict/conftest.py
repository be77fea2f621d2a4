"""Plans and toy networks for tests of prediction."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.image_io import Geometry, write_image
from nnrules.plan import Plan, value_at
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from nnrules_runtime.workspace import Workspace

REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
LABELS = {"background": 0, "organ": 1, "tumour": 2}


class Pointwise(nn.Module):
    """Logits that depend on a voxel and its mirror image's side: enough to see each flip and each window."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(num_classes, num_channels, generator=generator))
        self.slope = nn.Parameter(torch.randn(num_classes, 3, generator=generator))
        self.num_patches = 0

    def forward(self, image: Tensor) -> Tensor:
        self.num_patches += len(image)
        logits = torch.einsum("kc,bc...->bk...", self.weight, image)
        for axis in range(image.ndim - 2):
            size = image.shape[2 + axis]
            ramp = torch.linspace(-1, 1, size).reshape(
                [-1 if a == axis else 1 for a in range(image.ndim - 2)]
            )
            slope = self.slope[:, axis].reshape(-1, *[1] * (image.ndim - 2))
            logits = logits + slope * ramp + 0.1 * ramp**3 * image[:, :1]
        return logits


@pytest.fixture(scope="session")
def toy() -> Callable[[int, int], Pointwise]:
    return Pointwise


@pytest.fixture(scope="session")
def make_small_plan(make_fingerprint: Callable[..., Fingerprint]) -> Callable[..., Plan]:
    """A plan of a pack for small images, with a small patch and a small network; of large images for a cascade."""

    def make(
        pack: str = "nnunet@2.8.0",
        *,
        channels: tuple[str, ...] = ("MRI",),
        labels: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        cascade: bool = False,
    ) -> Plan:
        has_regions = labels is not None and any(isinstance(entry, list) for entry in labels.values())
        fingerprint = make_fingerprint(
            [(200, 400, 400) if cascade else (20, 30, 25)] * 10,
            [(1.0, 1.0, 1.0)] * 10,
            channels=channels,
            labels=labels or LABELS,
        )
        if has_regions:
            document = copy.deepcopy(dict(fingerprint.document))
            document["dataset"]["regions_class_order"] = [1, 2]
            fingerprint = Fingerprint.from_document(document)
        document = copy.deepcopy(dict(make_plan(fingerprint, load_pack(pack)).document))
        for configuration in document["configurations"].values():
            architecture = configuration["architecture"]
            dim = configuration["dim"]
            patch = [8, 16, 16][-dim:]
            configuration["patch_size"] = patch
            architecture |= {
                "num_stages": 3,
                "features_per_stage": [4, 8, 8],
                "strides": [[1] * dim, [2] * dim, [2] * dim],
                "kernel_sizes": [[3] * dim] * 3,
                "decoder_kernel_sizes": [[3] * dim] * 2,
                "blocks_per_stage_encoder": [1, 1, 1],
                "blocks_per_stage_decoder": [1, 1],
                "deep_supervision": {"enabled": True, "num_heads": 2},
            }
        for path, value in (changes or {}).items():
            parent, _, key = path.rpartition(".")
            value_at(document, parent)[key] = value
        return Plan(document)

    return make


@pytest.fixture(scope="session")
def make_work(
    make_work: Callable[..., Workspace], make_small_plan: Callable[..., Plan]
) -> Callable[..., Path]:
    """The same for some configurations of the small plan, with the same folds each."""

    def make(
        folder: Path,
        *,
        folds: tuple[int | str, ...] = (0, 1),
        configurations: tuple[str, ...] = ("3d_fullres",),
        plan: Plan | None = None,
        checkpoint: str = "final",
    ) -> Path:
        trained = dict.fromkeys(configurations, folds)
        return make_work(folder, plan or make_small_plan(), trained, checkpoint=checkpoint).root

    return make


@pytest.fixture(scope="session")
def write_case() -> Callable[..., Path]:
    """Write an image of noise with a bright ball, on an oblique grid."""

    def write(
        path: Path,
        shape: tuple[int, ...] = (18, 26, 22),
        *,
        seed: int = 0,
        direction: Any = None,
        spacing: tuple[float, float, float] = (1.5, 1.0, 1.2),
    ) -> Path:
        rng = np.random.default_rng(seed)
        array = rng.normal(100, 20, shape).astype(np.float32)
        array[tuple(slice(edge // 4, edge // 2) for edge in shape)] += 200
        matrix = (
            Rotation.from_euler("xyz", [5, -8, 12], degrees=True).as_matrix()
            if direction is None
            else direction
        )
        geometry = Geometry(
            shape=shape,  # type: ignore[arg-type]
            spacing=spacing,
            origin_xyz=(-30.5, 12.25, 7.0),
            direction_xyz=tuple(float(value) for value in np.ravel(matrix)),
            dimension=3,
            num_channels=1,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, array, geometry)
        return path

    return write
