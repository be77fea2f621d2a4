"""The mean of predictions on the image's grid, tile by tile, against the mean of whole arrays."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import RunError
from nnrules.plan import Plan
from numpy.typing import NDArray

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict import export_placed, export_tiling
from nnrules_runtime.predict.export import Exporter
from nnrules_runtime.predict.export_average import AverageExporter, Share
from nnrules_runtime.predict.export_placed import Placed
from nnrules_runtime.predict.export_values import Box, certain_outputs
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.resampling import zoom
from nnrules_runtime.values import reading

REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
# Two configurations of one image: other orders of axes, grids, and crops that overlap.
ONE = CaseGeometry(
    original_shape=(23, 20, 27),
    original_spacing=(1.0, 1.2, 0.9),
    transpose_forward=(2, 0, 1),
    crop_start=(3, 0, 2),
    crop_stop=(25, 21, 18),
    network_shape=(13, 17, 11),
    network_spacing=(1.5, 1.3, 1.75),
)
OTHER = CaseGeometry(
    original_shape=(23, 20, 27),
    original_spacing=(1.0, 1.2, 0.9),
    transpose_forward=(0, 1, 2),
    crop_start=(1, 4, 0),
    crop_stop=(23, 20, 20),
    network_shape=(22, 11, 14),
    network_spacing=(1.0, 1.75, 1.3),
)

MakePlan = Callable[..., Plan]

pytestmark = pytest.mark.usefixtures("one_thread")


def exporters(plan: Plan, name: str = "3d_fullres") -> tuple[AverageExporter, Exporter]:
    with reading(plan) as root:
        configuration = root.section("configurations").section(name)
        labels = LabelSet.from_plan(root)
        return (
            AverageExporter.from_plan(root, configuration, labels),
            Exporter.from_plan(root, configuration, labels),
        )


def values(
    geometry: CaseGeometry, seed: int, *, num_outputs: int = 3, activated: bool = False
) -> NDArray[np.float32]:
    """Smooth in places, so that there are tiles of one label, and noise; logits, or probabilities."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(num_outputs, 3, 3, 3)).astype(np.float32)
    logits = 8 * zoom(coarse, geometry.network_shape, 1)
    logits += rng.normal(size=logits.shape).astype(np.float32) * 0.2
    if not activated:
        return np.ascontiguousarray(logits, np.float32)
    exponential = np.exp(logits - logits.max(0))
    return np.ascontiguousarray(exponential / exponential.sum(0), np.float32)


def is_activated(plan: Plan, name: str = "3d_fullres") -> bool:
    return bool(plan.configurations[name]["inference"]["folds"]["average"] == "softmax")


def stored_mean(exporter: Exporter, shares: list[Share], plan: Plan) -> NDArray[Any]:
    """The mean of the files that each member would store, over the whole image."""
    import dataclasses

    whole = dataclasses.replace(exporter, whole_image=True)
    stored = [whole.probabilities(share.logits, share.geometry).astype(np.float32) for share in shares]
    dtype = plan.document["empirical"]["ensembles"]["dtype"]
    mean: NDArray[Any] = (sum(stored[1:], stored[0]) / np.float32(len(stored))).astype(dtype)
    return mean


def margin(mean: NDArray[Any], *, regions: bool) -> NDArray[Any]:
    """How far a voxel is from another label."""
    exact = mean.astype(np.float64)
    if regions:
        return np.asarray(np.abs(exact - 0.5).min(0))
    first, second = np.sort(exact, axis=0)[::-1][:2]
    return np.asarray(first - second)


@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0"])
@pytest.mark.parametrize("labels", [None, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize(
    "geometries", [(ONE, ONE), (ONE, OTHER), (OTHER, ONE, OTHER)], ids=["alike", "two", "three"]
)
def test_equals_the_mean_of_whole_arrays(
    make_small_plan: MakePlan,
    pack: str,
    labels: dict[str, Any] | None,
    geometries: tuple[CaseGeometry, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_tiling, "_LARGEST_TILE", (4, 8, 8))
    plan = make_small_plan(pack, labels=labels)
    average, exporter = exporters(plan)
    num_outputs = 3 if labels is None else 2
    shares = [
        Share(
            exporter, values(geometry, seed, num_outputs=num_outputs, activated=is_activated(plan)), geometry
        )
        for seed, geometry in enumerate(geometries)
    ]
    mean = stored_mean(exporter, shares, plan)
    by_region = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
    wanted = mean.argmax(0) if labels is None else by_region
    for threads in (1, 2):
        found = average.segmentation(shares, num_threads=threads)
        assert found.dtype == exporter.label_dtype
        # Sums of float32 in another order: a voxel may differ where two outputs are as good as equal.
        limit = 1e-5 if mean.dtype == np.float32 else 2e-3
        assert (margin(mean, regions=labels is not None)[found != wanted] < limit).all()
        assert (found != wanted).mean() < 1e-3
    assert len(np.unique(found)) == 3
    probabilities, box = average.probabilities(shares)
    inside = mean[(slice(None), *box)]
    assert probabilities.dtype == mean.dtype
    tolerance = 2e-6 if mean.dtype == np.float32 else 1e-3
    np.testing.assert_allclose(
        probabilities.astype(np.float32), inside.astype(np.float32), atol=tolerance, rtol=0
    )
    # Rounded as stored before the mean, and after it: all but a few values are the same to the bit.
    if mean.dtype == np.float16:
        assert (probabilities == inside).mean() > 0.999


def test_what_the_crop_leaves_out(make_small_plan: MakePlan) -> None:
    """Where one member sees nothing, background has probability 1 for it; where none does, the label is given."""
    plan = make_small_plan()
    average, exporter = exporters(plan)
    certain = np.zeros((3, *ONE.network_shape), np.float32)
    certain[1] = 20
    other = np.zeros((3, *OTHER.network_shape), np.float32)
    other[2] = 1
    found = average.segmentation([Share(exporter, certain, ONE), Share(exporter, other, OTHER)])
    in_one = np.zeros(ONE.original_shape, bool)
    in_one[0:21, 2:18, 3:25] = True
    in_other = np.zeros(ONE.original_shape, bool)
    in_other[1:23, 4:20, 0:20] = True
    assert (found[in_one & in_other] == 1).all()
    # 1 against 1 for background: the smaller label.
    assert (found[in_one & ~in_other] == 0).all()
    assert (found[~in_one] == 0).all()
    one, _ = average.probabilities([Share(exporter, certain, ONE), Share(exporter, other, OTHER)])
    np.testing.assert_allclose(one.sum(0), 1, atol=1e-6)
    assert (one[0][~in_one & ~in_other] == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.7.0"])
def test_tiles_that_are_certain_change_nothing(
    make_small_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, pack: str, kind: torch.dtype, dtype: str
) -> None:
    """To the voxel, ties included: filling a tile without looking at its voxels is no approximation."""
    monkeypatch.setattr(export_tiling, "_LARGEST_TILE", (4, 4, 4))
    filled = []
    real = Placed.certain

    def noted(placed: Placed, box: Box) -> int | None:
        found = real(placed, box)
        filled.append(found)
        return found

    monkeypatch.setattr(Placed, "certain", noted)
    changes = {
        "empirical.ensembles.dtype": dtype,
        "configurations.3d_fullres.inference.files.probability_dtype": dtype,
    }
    plan = make_small_plan(pack, changes=changes)
    average, exporter = exporters(plan)
    for seed in range(4):
        shares = [
            Share(
                exporter,
                torch.from_numpy(values(geometry, seed + each, activated=is_activated(plan))).to(kind),
                geometry,
            )
            for each, geometry in enumerate((ONE, OTHER))
        ]
        found = average.segmentation(shares)
        with monkeypatch.context() as patch:
            patch.setattr(
                export_placed,
                "certain_outputs",
                lambda tensor, *_, **__: np.full(tuple(tensor.shape[1:]), 255, np.uint8),
            )
            np.testing.assert_array_equal(found, average.segmentation(shares))
    assert len(filled) > sum(label is not None for label in filled) > len(filled) / 20


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.01, 0.1, 1.0, 10.0, 60.0]),
    kind=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    are_probabilities=st.booleans(),
)
def test_a_certain_output_wins_every_mean(
    seed: int, scale: float, kind: torch.dtype, are_probabilities: bool
) -> None:
    """However voxels are mixed, and rounded before and after."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy((rng.normal(size=(4, 1, 1, 200)) * scale).astype(np.float32))
    given_values = (logits.softmax(0) if are_probabilities else logits).to(kind)
    certain = certain_outputs(given_values, 1, are_probabilities=are_probabilities)[0, 0]
    exact = given_values.double().numpy()[:, 0, 0]
    assert (certain[certain != 255] == exact.argmax(0)[certain != 255]).all()
    for label in range(4):
        (where,) = np.nonzero(certain == label)
        if not where.size:
            continue
        chosen = rng.choice(where, (50, 8))
        weights = rng.dirichlet(np.ones(8), 50)
        mixed = np.einsum("kij,ij->ki", exact[:, chosen], weights)
        rounded = torch.from_numpy(mixed).to(kind).double()
        probabilities = rounded if are_probabilities else rounded.softmax(0)
        stored = probabilities.numpy().astype(np.float16)
        others = np.delete(stored, label, axis=0)
        assert (stored[label] > others.max(0)).all()


def test_infinite_values_are_not_certain() -> None:
    logits = torch.zeros(3, 1, 1, 4)
    logits[0, 0, 0] = torch.tensor([np.inf, -np.inf, np.nan, 5.0])
    assert certain_outputs(logits, 1, are_probabilities=False).ravel().tolist()[1:] == [255, 255, 0]


def test_many_outputs_need_a_wider_type() -> None:
    logits = torch.zeros(256, 1, 1, 2)
    logits[255, 0, 0, 0] = 9
    found = certain_outputs(logits, 1, are_probabilities=False)
    assert found.dtype == np.uint16
    assert found.ravel().tolist() == [255, 65535]


def test_memory_holds_a_tile_and_no_image(make_small_plan: MakePlan) -> None:
    """40 classes on 96 x 96 x 96 voxels are 142 MB; what is taken stays within what was allowed."""
    names = {"background": 0} | {f"label_{number}": number for number in range(1, 40)}
    plan = make_small_plan(labels=names)
    average, exporter = exporters(plan)
    geometry = CaseGeometry(
        original_shape=(96, 96, 96),
        original_spacing=(1.0, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        crop_start=(0, 0, 0),
        crop_stop=(96, 96, 96),
        network_shape=(24, 24, 24),
        network_spacing=(4.0, 4.0, 4.0),
    )
    shares = [Share(exporter, values(geometry, seed, num_outputs=40), geometry) for seed in (0, 1)]
    limit = 40 << 20
    tracemalloc.start()
    try:
        found = average.segmentation(shares, memory_bytes=limit, num_threads=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit + found.nbytes
    with pytest.raises(RunError, match="does not fit into the memory"):
        average.segmentation(shares, memory_bytes=1 << 20)


def test_images_of_other_shapes_are_refused(make_small_plan: MakePlan) -> None:
    import dataclasses

    average, exporter = exporters(make_small_plan())
    larger = dataclasses.replace(ONE, original_shape=(24, 20, 27))
    shares = [Share(exporter, values(each, 0), each) for each in (ONE, larger)]
    with pytest.raises(
        RunError, match="images of several shapes cannot be averaged; got 23 x 20 x 27 and 24"
    ):
        average.segmentation(shares)
