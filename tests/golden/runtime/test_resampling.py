"""Resampling against results recorded from nnunetv2 2.8.1 (batchgenerators 0.25.5, scikit-image 0.26.0)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnrules_runtime.resampling import LabelRule, Resampler, SeparateAxis, new_shape

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "a_preprocessing"
REASON = "the recorded resampling is not beside the checkout (../shared/golden/runtime/a_preprocessing)"

Record = Callable[[str, object], None]

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]
DOCUMENT: dict[str, Any] = (
    json.loads((RECORDED / "resampling.json").read_text()) if RECORDED.is_dir() else {"calls": {}}
)
CALLS: dict[str, dict[str, Any]] = DOCUMENT["calls"]
IMAGES = [name for name, call in CALLS.items() if not call["is_seg"]] or ["absent"]
SEGMENTATIONS = [name for name, call in CALLS.items() if call["is_seg"]] or ["absent"]
# A tie along a separate axis of order 1 stays 0 in the peer, whichever labels are tied: its loop writes what rounds to
# more than a half. No plan asks for order 1 there, and none could ask for that.
PEER_LEAVES_TIES_EMPTY = {"sepz_new_axis0__seg__o1_oz1_fzNone"}


def separate(call: dict[str, Any]) -> SeparateAxis | None:
    if call["force_separate_z"] is None:
        return SeparateAxis(
            spacings=("original", "network"), order=call["order_z"], ratio_above=3, shared="together"
        )
    if call["force_separate_z"]:
        return SeparateAxis(spacings=("original",), order=call["order_z"], ratio_above=0, shared="together")
    return None


@pytest.mark.parametrize("name", IMAGES)
def test_images_equal_to_1e_5(name: str, record_property: Record) -> None:
    call = CALLS[name]
    with np.load(RECORDED / "resampling.npz") as arrays:
        before, expected = arrays[call["input"]], arrays[call["output"]]
    result = Resampler(order=call["order"], separate=separate(call)).resample(
        before,
        call["new_shape"],
        original_spacing=call["current_spacing"],
        network_spacing=call["new_spacing"],
    )
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    worst = float(np.abs(result - expected).max())
    record_property("largest difference", worst)
    assert worst <= 1e-5, f"{name}: {worst:.2e} over {expected.size} voxels"


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_segmentations_equal(name: str, record_property: Record) -> None:
    call = CALLS[name]
    with np.load(RECORDED / "resampling.npz") as arrays:
        before, expected = arrays[call["input"]], arrays[call["output"]]
    resampler = Resampler(order=call["order"], separate=separate(call), rule=LabelRule("argmax_nearest"))
    result = np.stack(
        [
            resampler.resample_labels(
                channel,
                call["new_shape"],
                original_spacing=call["current_spacing"],
                network_spacing=call["new_spacing"],
            )
            for channel in before
        ]
    )
    different = result != expected
    record_property("voxels that differ", int(different.sum()))
    if name in PEER_LEAVES_TIES_EMPTY:
        assert (expected[different] == 0).all()
        return
    assert not different.any(), f"{name}: {different.sum()} of {expected.size} voxels differ"


def test_shapes_and_separate_axes_equal(record_property: Record) -> None:
    triples = DOCUMENT["compute_new_shape_and_separate_z"]
    decision = SeparateAxis(spacings=("original", "network"), order=0, ratio_above=3, shared="together")
    wrong = []
    for triple in triples:
        shape = new_shape(triple["old_shape"], triple["old_spacing"], triple["new_spacing"])
        spacings = {"original": triple["old_spacing"], "network": triple["new_spacing"]}
        axis = decision.axis(spacings, "case")
        if list(shape) != triple["new_shape"] or axis != triple["axis"]:
            wrong.append((triple, shape, axis))
    record_property("triples compared", len(triples))
    assert len(triples) >= 64
    assert not wrong
