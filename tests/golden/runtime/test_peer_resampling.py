"""Resampling of drawn arrays between drawn grids, against the installed nnunetv2 2.8.1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from nnrules_runtime.resampling import LabelRule, Resampler, SeparateAxis, new_shape

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_IMAGES, NUM_LABELS, NUM_GRIDS = 60, 40, 400
# The splines are float64 there and, for float32 images, float32 here.
LIMIT = 1e-5
Spacing = list[float]


def drawn_grid(rng: np.random.Generator, least: int, most: int) -> tuple[list[int], Spacing, Spacing]:
    """A shape, its spacing and another one: alike, anisotropic, with shared axes, 2D, or with a ratio of exactly 3."""
    shape = rng.integers(least, most, 3)
    spacing, other = rng.uniform(0.6, 1.6, 3), rng.uniform(0.6, 1.6, 3)
    kind = int(rng.integers(6))
    axis = int(rng.integers(3))
    if kind == 1:
        spacing[axis] *= rng.uniform(2, 9)
    elif kind == 2:
        other[axis] *= rng.uniform(2, 9)
    elif kind == 3:  # two axes share the largest spacing
        spacing[:] = spacing[0] * 4
        spacing[axis] = spacing[axis - 1] / 4.5
    elif kind == 4:
        shape[axis], spacing[axis] = 1, 999.0
        other[axis] = 999.0
    elif kind == 5:
        spacing[:] = 0.5
        spacing[axis] = 1.5
    if rng.random() < 0.3:
        other[int(rng.integers(3))] = spacing[0]
    return [int(size) for size in shape], [float(edge) for edge in spacing], [float(edge) for edge in other]


def drawn_image(rng: np.random.Generator, shape: list[int]) -> np.ndarray:
    values = rng.standard_normal((int(rng.integers(1, 3)), *shape))
    if rng.random() < 0.5:
        values = ndimage.gaussian_filter(values, (0, 1, 1, 1))
    return (values + rng.uniform(-2, 2)).astype(np.float32)


def drawn_labels(rng: np.random.Generator, shape: list[int]) -> np.ndarray:
    """Blobs of up to six labels, -1 among them; sometimes noise, which is full of ties."""
    count = int(rng.integers(2, 7))
    if rng.random() < 0.3:
        return rng.integers(-1, count - 1, (1, *shape)).astype(np.int8)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    edges = np.quantile(field, np.linspace(0, 1, count + 1)[1:-1])
    return (np.digitize(field, edges) - 1).astype(np.int8)[None]


def separate(order: int) -> SeparateAxis:
    return SeparateAxis(spacings=("original", "network"), order=order, ratio_above=3, shared="together")


def drawn_calls(rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    calls, arrays = [], []
    for number in range(NUM_IMAGES + NUM_LABELS):
        shape, spacing, other = drawn_grid(rng, 2, 26)
        is_seg = number >= NUM_IMAGES
        wanted = [min(max(size, 1), 60) for size in new_shape(shape, spacing, other)]
        calls.append(
            {
                "new_shape": wanted,
                "spacing": spacing,
                "new_spacing": other,
                "is_seg": is_seg,
                "order": int(rng.choice([0, 1, 1, 1] if is_seg else [0, 1, 3, 3])),
                # Along the separate axis the peer leaves ties of order 1 empty, and no plan asks for order 1 there.
                "order_z": 0 if is_seg else int(rng.choice([0, 1, 3])),
                "separate": bool(rng.random() < 0.8),
            }
        )
        arrays.append(drawn_labels(rng, shape) if is_seg else drawn_image(rng, shape))
    return calls, arrays


def ours(call: dict[str, Any], array: np.ndarray) -> np.ndarray:
    rule = LabelRule("argmax_nearest") if call["is_seg"] else None
    apart = separate(call["order_z"]) if call["separate"] else None
    resampler = Resampler(order=call["order"], separate=apart, rule=rule)
    spacings = {"original_spacing": call["spacing"], "network_spacing": call["new_spacing"]}
    if call["is_seg"]:
        return resampler.resample_labels(array[0], call["new_shape"], **spacings)[None]
    return resampler.resample(array, call["new_shape"], **spacings)


def test_drawn_arrays_and_grids(
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
) -> None:
    calls, arrays = drawn_calls(rng)
    grids = [
        dict(zip(("shape", "spacing", "new_spacing"), drawn_grid(rng, 1, 600), strict=True))
        for _ in range(NUM_GRIDS)
    ]
    given = {str(number): array for number, array in enumerate(arrays)}
    decisions, found = ask_peer("resampling", {"calls": calls, "grids": grids}, given)
    largest = num_labels = num_voxels = num_apart = 0
    for number, (call, array) in enumerate(zip(calls, arrays, strict=True)):
        result, theirs = ours(call, array), found[str(number)]
        assert result.shape == theirs.shape, call
        if call["is_seg"]:
            different = int((result != theirs).sum())
            assert different == 0, f"{different} of {theirs.size} labels differ: {call}"
            num_labels, num_voxels = num_labels + different, num_voxels + theirs.size
        else:
            off = float(np.abs(result - theirs).max())
            assert off <= LIMIT, f"{off:.2e}: {array.shape} {call}"
            largest = max(largest, off)
        apart = separate(0).axis({"original": call["spacing"], "network": call["new_spacing"]}, "case")
        num_apart += call["separate"] and apart is not None
    assert num_apart > 10
    compare(f"{NUM_IMAGES} drawn images ({num_apart} calls with a separate axis)", largest, LIMIT)
    compare(f"number of labels of {NUM_LABELS} drawn label maps, of {num_voxels}", num_labels, 0)
    wrong = []
    for grid, decision in zip(grids, decisions, strict=True):
        axis = separate(0).axis({"original": grid["spacing"], "network": grid["new_spacing"]}, "case")
        shape = new_shape(grid["shape"], grid["spacing"], grid["new_spacing"])
        if [list(shape), axis] != decision:
            wrong.append((grid, shape, axis, decision))
    assert not wrong
    compare(f"number of new shapes and separate axes of {NUM_GRIDS} grids", len(wrong), 0)
