"""What tests of several folders are made of: small packs, fingerprints and datasets, tiny networks."""

import itertools
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.machine import Evaluation
from nnrules.engine.model import Pack
from nnrules.engine.overrides import resolve_overrides
from nnrules.engine.packs import load_pack
from nnrules.fingerprint import Fingerprint
from nnrules.image_io import Geometry, write_image

# As the commands do, see nnrules_runtime.cli: tests side by side would wait for each other's threads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

HEAD = """
title: Test pack
gpu_memory_gb: 8
configurations:
  flat: {dim: 2, doc: two axes}
  deep: {dim: 3, doc: three axes}
"""
STATISTICS = {
    "mean": 60.5, "std": 45.25, "min": -900.0, "median": 70.0, "max": 1500.0, "percentile_00_5": -80.0,
    "percentile_99_5": 210.0,
}  # fmt: skip
LISTING = """
  - {id: listing, title: t, kind: inferred, decides: configurations, constant: [flat, deep], because: b}
"""


@pytest.fixture(scope="session")
def make_fingerprint() -> Callable[..., Fingerprint]:
    """A fingerprint of some cases; what is not given is ordinary."""

    def make(
        shape: Sequence[Sequence[float]] = ((40, 200, 180), (50, 210, 190), (60, 220, 200)),
        spacing: Sequence[Sequence[float]] = ((3.0, 0.8, 0.8), (2.5, 0.7, 0.7), (5.0, 0.9, 0.9)),
        *,
        channels: Sequence[str] = ("CT",),
        labels: Mapping[str, Any] | None = None,
        num_training: int | None = None,
        intensity: Sequence[Mapping[str, float] | None] | None = None,
        cases: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Fingerprint:
        labels = labels or {"background": 0, "organ": 1, "tumour": 2}
        document: dict[str, Any] = {
            "schema_version": "1.0",
            "created_by": "tests",
            "dataset": {
                "name": "Made",
                "channel_names": list(channels),
                "labels": dict(labels),
                "label_order": list(labels),
                "regions_class_order": None,
                "ignore_label": None,
                "num_training": len(shape) if num_training is None else num_training,
                "file_ending": ".nii.gz",
                "orientation_policy": "as_stored",
            },
            "extractors": {"geometry": 1},
            "cases": {
                "id": [f"case_{number:03d}" for number in range(len(shape))],
                "shape": [list(row) for row in shape],
                "spacing": [list(row) for row in spacing],
                **(cases or {}),
            },
            "crop": {"median_size_ratio": 1.0},
        }
        statistics = [dict(STATISTICS) for _ in channels] if intensity is None else list(intensity)
        if statistics:
            document["intensity"] = {"method": "exact", "channels": statistics}
        if extra is not None:
            document["extra"] = {"columns": dict(extra)}
        return Fingerprint.from_document(document)

    return make


@pytest.fixture(scope="session")
def write_pack(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write rules (and other keys) into an overlay file."""
    folder = tmp_path_factory.mktemp("packs")
    numbers = itertools.count()

    def write(text: str, *, head: str = HEAD, name: str | None = None) -> Path:
        path = folder / (name or f"pack{next(numbers)}.yaml")
        path.write_text(textwrap.dedent(head).lstrip() + textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def make_pack(write_pack: Callable[..., Path]) -> Callable[..., Pack]:
    """A pack of the given text below a head with the configurations ``flat`` (2D) and ``deep`` (3D).

    ``rules`` are written below ``rules:`` after one that lists both configurations.
    """

    def make(rules: str = "", *, more: str = "", head: str = HEAD, listing: str = LISTING) -> Pack:
        body = textwrap.dedent(more) + "\nrules:" + listing + textwrap.indent(textwrap.dedent(rules), "  ")
        return load_pack(write_pack(body, head=head))

    return make


@pytest.fixture(scope="session")
def run_pack(make_fingerprint: Callable[..., Fingerprint]) -> Callable[..., Evaluation]:
    """Compile and evaluate a pack."""

    def run(
        pack: Pack, fingerprint: Fingerprint | None = None, *, gb: float = 8.0, traced: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> Evaluation:  # fmt: skip
        program = compile_pack(pack, traced=traced)
        chosen = resolve_overrides(program, overrides or {})
        return evaluate(program, fingerprint or make_fingerprint(), gb, chosen)

    return run


@pytest.fixture(scope="session")
def decide(
    make_pack: Callable[..., Pack], run_pack: Callable[..., Evaluation]
) -> Callable[..., dict[str, Any]]:
    """The decided values of some rules, by plan path."""

    def values(rules: str, fingerprint: Fingerprint | None = None, **options: Any) -> dict[str, Any]:
        more = {key: options.pop(key) for key in ("more", "head", "listing") if key in options}
        evaluation = run_pack(make_pack(rules, **more), fingerprint, **options)
        return {
            path: value
            for decision in evaluation.decisions
            for path, value in zip(decision.paths, decision.values, strict=True)
            if path != "configurations"
        }

    return values


@pytest.fixture(scope="session")
def write_volume() -> Callable[..., None]:
    """Write an image or label map ``(Z, Y, X)`` whose axes are those of the world."""

    def write(
        path: Path,
        array: np.ndarray,
        *,
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        geometry = Geometry(
            shape=array.shape, spacing=spacing, origin_xyz=origin_xyz, direction_xyz=tuple(np.eye(3).ravel()),
            dimension=3, num_channels=1,
        )  # fmt: skip
        write_image(path, array, geometry)

    return write


@pytest.fixture(scope="session")
def write_boxes(write_volume: Callable[..., None]) -> Callable[..., Path]:
    """Write a dataset of noise with a bright box: label 1, and beside it, brighter, label 2. Returns its folder.

    ``starts`` is the range of the corner of the boxes, which have the size ``box`` together. ``seed`` is one for all
    cases; without, each case has its own.
    """

    def write(
        folder: Path,
        *,
        num_cases: int = 5,
        shape: tuple[int, int, int] = (20, 24, 18),
        box: tuple[int, int, int] = (8, 9, 10),
        starts: tuple[int, int] = (2, 6),
        seed: int | None = None,
        origin_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
        **more: Any,
    ) -> Path:
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        depth, height, width = box
        shared = None if seed is None else np.random.default_rng(seed)
        for number in range(num_cases):
            random = np.random.default_rng(number) if shared is None else shared
            label = np.zeros(shape, np.uint8)
            z, y, x = random.integers(*starts, 3)
            label[z : z + depth, y : y + height, x : x + width // 2] = 1
            label[z : z + depth, y : y + height, x + width // 2 : x + width] = 2
            image = random.normal(0, 0.3, shape).astype(np.float32) + label
            write_volume(folder / f"imagesTr/c{number}_0000.nii.gz", image, origin_xyz=origin_xyz)
            write_volume(folder / f"labelsTr/c{number}.nii.gz", label, origin_xyz=origin_xyz)
        document = {
            "name": "Made", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2},
            "numTraining": num_cases, "file_ending": ".nii.gz", **more,
        }  # fmt: skip
        (folder / "dataset.json").write_text(json.dumps(document))
        return folder

    return write


@pytest.fixture(scope="session")
def shrink() -> Callable[..., None]:
    """Make a configuration of a plan's document so small that its training takes a second.

    ``features`` are those of the first stages; the others have as many as the last of them. ``patch`` is its edge;
    ``None`` leaves it.
    """

    def change(
        configuration: dict[str, Any], *, features: Sequence[int] = (4,), patch: int | None = 16
    ) -> None:
        if patch is not None:
            configuration["patch_size"] = [patch] * configuration["dim"]
            configuration["sampling"]["initial_patch_size"] = [patch + 4] * configuration["dim"]
        configuration["batch_size"] = 2
        configuration["sampling"]["foreground"]["num_samples"] = 1
        architecture = configuration["architecture"]
        stages = range(architecture["num_stages"])
        architecture["features_per_stage"] = [features[min(stage, len(features) - 1)] for stage in stages]

    return change


@pytest.fixture
def torch_as_before() -> Iterator[None]:
    """Trainings and commands set switches of the process: other tests find them as they were."""
    import torch  # most tests do without

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_thread(torch_as_before: None) -> None:
    """Networks run in one thread, as small ones are fastest and sums are the same everywhere."""
    import torch

    torch.set_num_threads(1)
