"""Windows and weights, against formulas and brute force."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnrules.plan import Plan
from scipy.ndimage import gaussian_filter

from nnrules_runtime.predict.window import Importance, Tiles, Weights, Window, centers_spread, evenly_spread
from nnrules_runtime.values import reading

sizes = st.integers(1, 200)
steps = st.sampled_from([0.25, 0.3, 0.5, 0.75, 1.0])
GAUSSIAN = Importance(
    is_gaussian=True,
    sigma_share=0.125,
    rounds_sigma_down=False,
    maximum=10,
    replaces_zeros=True,
    weights_single_tile=True,
    dim=3,
)


def changed(**fields: object) -> Importance:
    names = Importance.__slots__
    return Importance(**{name: getattr(GAUSSIAN, name) for name in names} | fields)  # type: ignore[arg-type]


@given(window=st.integers(1, 80), more=sizes, step=steps)
@pytest.mark.parametrize("starts", [evenly_spread, centers_spread])
def test_windows_cover_the_image(
    starts: Callable[[int, int, float], tuple[int, ...]], window: int, more: int, step: float
) -> None:
    size = window + more
    found = starts(size, window, step)
    assert found[0] == 0
    assert found[-1] == size - window
    assert list(found) == sorted(found)
    gaps = np.diff(found)
    # Rounding moves a start by half a voxel at most.
    assert (gaps <= window * step + 1).all()
    assert (gaps <= window).all()


@given(window=sizes, step=steps)
def test_one_window_for_an_image_of_its_size(window: int, step: float) -> None:
    assert evenly_spread(window, window, step) == centers_spread(window, window, step) == (0,)


def test_examples_of_the_blueprint() -> None:
    assert evenly_spread(110, 64, 0.5) == (0, 23, 46)
    assert evenly_spread(200, 128, 0.5) == (0, 36, 72)
    assert evenly_spread(65, 64, 0.5) == (0, 1)


@given(half=st.integers(1, 60), more=sizes)
def test_spread_centres_by_their_formula(half: int, more: int) -> None:
    """Version 1.0, for an even window: its ``numpy.arange`` of centres."""
    window, size = 2 * half, 2 * half + more
    first, last = window // 2, size - window // 2
    number = np.ceil((last - first) / (window / 2))
    distance = (last - first) / (number + 1e-8)
    centers = np.round(np.arange(first, last + 1e-8, distance)).astype(int)
    assert centers_spread(size, window, 0.5) == tuple(int(center) - half for center in centers)


@given(half=st.integers(1, 60), more=sizes)
def test_versions_differ_by_a_voxel_at_most(half: int, more: int) -> None:
    window, size = 2 * half, 2 * half + more
    pairs = zip(evenly_spread(size, window, 0.5), centers_spread(size, window, 0.5), strict=True)
    assert all(abs(one - other) <= 1 for one, other in pairs)


@pytest.mark.parametrize("shape", [(5, 9), (8, 16, 7), (33, 20, 40)])
@pytest.mark.parametrize("share", [0.05, 0.125, 0.4])
def test_gaussian_is_that_of_scipy(shape: tuple[int, ...], share: float) -> None:
    impulse = np.zeros(shape)
    impulse[tuple(edge // 2 for edge in shape)] = 1
    filtered = gaussian_filter(impulse, [edge * share for edge in shape], mode="constant", cval=0)
    wanted = filtered / filtered.max() * 10
    found = changed(sigma_share=share, replaces_zeros=False, dim=len(shape)).map(shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)
    assert ((found == 0) == (wanted == 0)).all()


def test_sigma_in_whole_voxels() -> None:
    rounded = changed(rounds_sigma_down=True, replaces_zeros=False, dim=1)
    impulse = np.zeros(47)
    impulse[23] = 1
    filtered = gaussian_filter(impulse, 5, mode="constant")  # floor(47 / 8)
    np.testing.assert_allclose(rounded.map((47,)), 10 * filtered / filtered.max(), rtol=1e-12)
    # Below 8 voxels it is 0, and the centre alone counts.
    assert rounded.map((7,)).tolist() == [0, 0, 0, 10, 0, 0, 0]


def test_zeros_become_the_smallest_weight() -> None:
    narrow = changed(sigma_share=0.05, dim=2)
    kept = changed(sigma_share=0.05, dim=2, replaces_zeros=False).map((20, 24))
    found = narrow.map((20, 24))
    assert (kept == 0).any()
    assert (found[kept == 0] == kept[kept > 0].min()).all()
    assert (found[kept > 0] == kept[kept > 0]).all()


def test_uniform() -> None:
    assert (changed(is_gaussian=False).map((3, 4, 5)) == 1).all()


def brute_force(importance: Importance, tiles: Tiles) -> dict[tuple[int, int, int], np.ndarray]:
    weights = importance.map(tiles.window)
    shape = [starts[-1] + size for starts, size in zip(tiles.starts, tiles.window, strict=True)]
    sums = np.zeros(shape)
    for index in tiles:
        sums[tiles.box(index)] += weights
    sums[sums == 0] = 1
    return {index: weights / sums[tiles.box(index)] for index in tiles}


@given(
    window=st.tuples(*[st.integers(2, 12)] * 3),
    more=st.tuples(*[st.integers(0, 14)] * 3),
    step=steps,
    importance=st.builds(
        changed,
        sigma_share=st.sampled_from([0.04, 0.125, 0.3]),
        replaces_zeros=st.booleans(),
        is_gaussian=st.booleans(),
        dim=st.sampled_from([2, 3]),
    ),
)
def test_weights(
    window: tuple[int, int, int], more: tuple[int, int, int], step: float, importance: Importance
) -> None:
    """As the plan's formula gives them, and 1 together in each voxel that counts at all."""
    dim = importance.dim
    window = window if dim == 3 else (1, *window[1:])
    shape = [size + extra for size, extra in zip(window, more, strict=True)]
    recipe = Window(size=window, step=step, starts=evenly_spread, padding_value=0, dim=dim)
    tiles = recipe.tiles(shape)
    found = Weights(importance, tiles)
    wanted = brute_force(importance, tiles)
    total = np.zeros(shape)
    for index in tiles:
        weights = found.of(index)
        if isinstance(weights, tuple):
            first, second, third = weights
            weights = first[:, None, None] * second[:, None] * third
        np.testing.assert_allclose(weights, wanted[index], rtol=1e-9, atol=1e-15)
        total[tiles.box(index)] += weights
    counts = np.zeros(shape, bool)
    for index in tiles:
        counts[tiles.box(index)] |= importance.map(window) > 0
    np.testing.assert_allclose(total[counts], 1, rtol=1e-12)
    assert (total[~counts] == 0).all()


def test_single_window_without_weights() -> None:
    tiles = Tiles(((0,), (0,), (0,)), (4, 20, 20))
    importance = changed(sigma_share=0.04, replaces_zeros=False, weights_single_tile=False)
    factors = Weights(importance, tiles).of((0, 0, 0))
    assert all((factor == 1).all() for factor in factors)


@given(shape=st.tuples(*[st.integers(1, 60)] * 3), size=st.tuples(*[st.integers(1, 40)] * 3))
def test_padding_is_centred(shape: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    window = Window(size=size, step=0.5, starts=evenly_spread, padding_value=0, dim=3)
    padding = window.padding(shape)
    for have, want, before, after in zip(shape, size, padding.before, padding.after, strict=True):
        assert have + before + after == max(have, want)
        assert after - before in (0, 1)
    assert padding.is_empty == all(have >= want for have, want in zip(shape, size, strict=True))
    assert [part.stop - part.start for part in padding.inside(shape)] == list(shape)


@pytest.mark.parametrize(
    "pack", ["nnunet@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0", "nnunet@0.6.0", "preprint@2.0.0"]
)
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_all_packs_are_read(make_small_plan: Callable[..., Plan], pack: str, name: str) -> None:
    plan = make_small_plan(pack)
    with reading(plan) as root:
        configuration = root.section("configurations").section(name)
        window, importance = Window.from_plan(configuration), Importance.from_plan(configuration)
    spread = pack.startswith(("nnunet@2", "nnunet@1.7"))
    assert window.starts is (evenly_spread if spread else centers_spread)
    assert window.size == ((1, 16, 16) if name == "2d" else (8, 16, 16))
    tiles = window.tiles((9, 20, 30))
    assert tiles.starts[0] == (tuple(range(9)) if name == "2d" else (0, 1))
    assert len(tiles) == math.prod(len(starts) for starts in tiles.starts) == window.num_tiles((9, 20, 30))
    assert importance.is_gaussian
    assert importance.weights_single_tile == (pack != "nnunet@1.7.0")
