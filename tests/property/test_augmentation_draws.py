"""Laws of the draws: probabilities, ranges and independence of what a plan says, over thousands of samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.augment.random_values import RandomFactor
from nnrules_runtime.augment.spatial import affine_matrix
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

PACKS = ("nnunet@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0", "preprint@2.0.0")
NUM = 6000


@pytest.fixture(scope="module")
def plans(make_fingerprint: Callable[..., Fingerprint]) -> dict[str, Any]:
    cubes = make_fingerprint([(128, 140, 130)] * 20, [(1.0, 1.0, 1.0)] * 20, channels=("MRI", "CT"))
    return {pack: make_plan(cubes, load_pack(pack)).document for pack in PACKS}


@pytest.fixture(scope="module")
def draws(plans: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, list[Any]]]]:
    """For each pack ``augmentation`` of 3d_fullres and what each of its transforms drew in ``NUM`` samples."""
    found = {}
    for pack, document in plans.items():
        problems: list[Any] = []
        root = Section(document, "", problems)
        configuration = root.section("configurations").section("3d_fullres")
        augmentation = Augmentation.from_plan(root, configuration, LabelSet.from_plan(root))
        assert not problems
        steps = [augmentation.draw(np.random.default_rng((4, number))).steps for number in range(NUM)]
        names = [name for name, _ in augmentation.transforms]
        columns = {name: [step[index] for step in steps] for index, name in enumerate(names)}
        found[pack] = (document["configurations"]["3d_fullres"]["augmentation"], columns)
    return found


def close(share: float, probability: float, num: int = NUM) -> bool:
    """Within four standard deviations of a share."""
    return abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / num) + 1e-12


def share_below(factor: dict[str, Any], bound: float) -> float:
    low, high = factor["range"]
    if factor["distribution"] == "uniform":
        return float(np.clip((bound - low) / (high - low), 0, 1))
    below = np.clip((bound - low) / (1 - low), 0, 1) if low < 1 else 0.0
    above = np.clip((bound - max(low, 1)) / (high - max(low, 1)), 0, 1)
    return float((below + above) / 2 if low < 1 else above)


@pytest.mark.parametrize("pack", PACKS)
def test_probabilities(pack: str, draws: Any) -> None:
    augmentation, columns = draws[pack]
    happened = {}
    for name, drawn in columns.items():
        parameters = augmentation["transforms"][name]
        if "probability" not in parameters:
            continue
        probability = parameters["probability"]
        happened[name] = np.array([entry is not None for entry in drawn])
        assert close(happened[name].mean(), probability), name
        chosen = [entry for entry in drawn if entry is not None]
        if "channel_probability" in parameters:
            taken = np.array([[channel in entry for channel in (0, 1)] for entry in chosen])
            assert close(taken.mean(), parameters["channel_probability"], taken.size), name
            # Channels by themselves: both, one, or none of them.
            assert close((~taken).all(1).mean(), (1 - parameters["channel_probability"]) ** 2, len(taken))
    names = sorted(happened)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            both = (happened[first] & happened[second]).mean()
            expected = happened[first].mean() * happened[second].mean()
            assert abs(both - expected) < 4 * np.sqrt(expected / NUM), (first, second)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "gamma_inverted", "low_resolution"])
def test_factors(pack: str, name: str, draws: Any) -> None:
    augmentation, columns = draws[pack]
    parameters = augmentation["transforms"][name]
    factor = parameters[
        {"low_resolution": "zoom", "gamma_inverted": "gamma"}.get(name, name if name == "gamma" else "factor")
    ]
    chosen = [entry for entry in columns[name] if entry is not None]
    values = np.array([value for entry in chosen for (value,) in entry.values()])
    low, high = factor["range"]
    assert low <= values.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < values.max() <= high
    for bound in np.linspace(low, high, 9)[1:-1]:
        wanted = share_below(factor, bound)
        assert close((values <= bound).mean(), wanted, len(values)), f"{name} below {bound}"
    pairs = np.array([[entry[0][0], entry[1][0]] for entry in chosen if len(entry) == 2])
    correlation = np.corrcoef(pairs.T)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(pairs)), "channels share no value"


@pytest.mark.parametrize("pack", PACKS)
def test_rotation_and_scaling(pack: str, draws: Any) -> None:
    augmentation, columns = draws[pack]
    parameters = augmentation["transforms"]["spatial"]
    matrices = [None if entry.matrix is None else np.array(entry.matrix) for entry in columns["spatial"]]
    plain = np.array([matrix is None for matrix in matrices])
    assert close(plain.mean(), 0.8 * 0.8)
    made = np.array([matrix for matrix in matrices if matrix is not None])
    factors = np.cbrt(np.linalg.det(made))
    scaled = np.abs(factors - 1) > 1e-9
    rotations = made / factors[:, None, None]
    rotated = np.abs(rotations - np.eye(3)).max(axis=(1, 2)) > 1e-9
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3))
    # Independent draws: 0.16, 0.16 and 0.04 of all samples (blueprints, 13, question 3).
    for both, wanted in ((rotated & ~scaled, 0.16), (~rotated & scaled, 0.16), (rotated & scaled, 0.04)):
        assert close(both.sum() / NUM, wanted)
    drawn = factors[scaled]
    if parameters["scaling"]["applied_to"] == "object":
        drawn = 1 / drawn
    for bound in (0.8, 0.9, 1.0, 1.2, 1.3):
        assert close((drawn <= bound).mean(), share_below(parameters["scaling"], bound), len(drawn))
    # From the entries of Rz · Ry · Rx.
    angles = np.degrees(
        [
            np.arctan2(rotations[rotated, 2, 1], rotations[rotated, 2, 2]),
            -np.arcsin(rotations[rotated, 2, 0]),
            np.arctan2(rotations[rotated, 1, 0], rotations[rotated, 0, 0]),
        ]
    )
    low, high = augmentation["rotation_range_degrees"]
    assert low <= angles.min() < 0.95 * low
    assert 0.95 * high < angles.max() <= high
    for one in angles:
        assert close((one < low / 2).mean(), 0.25, one.size)
        assert close((one < 0).mean(), 0.5, one.size)
    assert np.abs(np.corrcoef(angles) - np.eye(3)).max() < 5 / np.sqrt(angles.shape[1])


@pytest.mark.parametrize("pack", PACKS)
def test_noise_blur_and_mirrors(pack: str, draws: Any) -> None:
    augmentation, columns = draws[pack]
    noise = augmentation["transforms"]["gaussian_noise"]
    chosen = [entry for entry in columns["gaussian_noise"] if entry is not None]
    strengths = np.array([list(entry.deviations.values()) for entry in chosen])
    if noise["strength"] == "variance":
        strengths = strengths**2
    assert (strengths[:, 0] == strengths[:, 1]).all() == noise["channels_alike"]
    assert close((strengths[:, 0] < 0.05).mean(), 0.5, len(strengths))
    assert len({entry.seed for entry in chosen}) == len(chosen)

    blur = augmentation["transforms"]["gaussian_blur"]
    sigmas = np.array([sigma for entry in columns["gaussian_blur"] if entry for sigma in entry.values()])
    low, high = blur["sigma_voxels"]
    assert low <= sigmas.min() <= sigmas.max() <= high
    assert close((sigmas[:, 0] < (low + high) / 2).mean(), 0.5, len(sigmas))
    assert (np.ptp(sigmas, axis=1) == 0).all() == blur["axes_alike"]

    mirrored = np.array([[axis in (entry or ()) for axis in range(3)] for entry in columns["mirror"]])
    assert all(close(share, 0.5) for share in mirrored.mean(0))
    combinations = np.unique(mirrored @ [1, 2, 4], return_counts=True)[1] / NUM
    assert len(combinations) == 8
    assert all(close(share, 1 / 8) for share in combinations)


def test_half_below_one_is_even_where_the_range_is() -> None:
    # (0.75, 1.25) is why the plan may say "uniform" for brightness (blueprints, 5.2).
    rng = np.random.default_rng(0)
    factor = RandomFactor(low=0.75, high=1.25, half_below_one=True)
    values = np.array([factor.draw(rng) for _ in range(NUM)])
    for bound in np.linspace(0.75, 1.25, 9)[1:-1]:
        assert close((values < bound).mean(), 2 * (bound - 0.75))


@given(low=st.floats(0.1, 3), width=st.floats(0, 3), half=st.booleans(), seed=st.integers(0, 2**32))
def test_factors_are_in_their_range(low: float, width: float, half: bool, seed: int) -> None:
    high = max(low + width, 1.0) if half else low + width
    value = RandomFactor(low=low, high=high, half_below_one=half).draw(np.random.default_rng(seed))
    assert low <= value <= high


@settings(max_examples=60)
@given(
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    factors=st.tuples(*[st.floats(0.5, 2)] * 3),
)
def test_affine_matrix_scales_then_rotates(
    angles: tuple[float, float, float], factors: tuple[float, float, float]
) -> None:
    matrix = affine_matrix(angles, factors)
    assert np.allclose(np.linalg.norm(matrix, axis=0), factors)
    assert np.linalg.det(matrix) == pytest.approx(np.prod(factors))
    assert np.allclose(affine_matrix((angles[0],), factors[:2])[0, 1], -np.sin(angles[0]) * factors[1])
