"""Where samples lie: against formulas written out here, and distributions against counting by hand."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.prepared import ANNOTATED
from nnrules_runtime.train.sampling import (
    PatchSampler,
    Phase,
    Stream,
    new_seed,
    rank_samples,
    sample_generator,
    seed_of_fold,
)
from nnrules_runtime.train.sampling_limits import overhang, pad_then_crop
from nnrules_runtime.values import Section

Triple = tuple[int, int, int]
NUM_DRAWS = 3000
# With fixed draws a test either passes or not; a right sampler has p values below this once in 10000 tests.
LEAST_P = 1e-4


@dataclass
class Case:
    """A case in memory."""

    labels: np.ndarray
    located: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    num_channels: int = 1

    @property
    def shape(self) -> Triple:
        z, y, x = self.labels.shape
        return z, y, x

    @property
    def present(self) -> tuple[tuple[int, ...], ...]:
        return tuple(key for key in self.located if key != ANNOTATED)

    @property
    def original_classes(self) -> tuple[tuple[int, ...], ...]:
        return self.present

    def locations(self) -> Mapping[tuple[int, ...], np.ndarray]:
        return self.located

    def read(self, start: Triple, stop: Triple) -> tuple[np.ndarray, np.ndarray]:
        box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        return np.zeros((1, *self.labels[box].shape), np.float32), self.labels[box]

    def label(self) -> np.ndarray:
        return self.labels


class CaseWithOriginalClasses(Case):
    @property
    def original_classes(self) -> tuple[tuple[int, ...], ...]:
        return ((1,), (2,))


def labels(*foreground: int, ignore: int | None = None) -> LabelSet:
    heads = ((0,), *((value,) for value in foreground))
    return LabelSet(
        heads=heads,
        head_names=tuple(str(head) for head in heads),
        has_regions=False,
        regions_class_order=None,
        ignore_label=ignore,
        foreground_labels=foreground,
    )


def section(**changes: Any) -> Section:
    """A configuration as nnunet@2.8.0 plans it, with changes by dotted path."""
    document: dict[str, Any] = {
        "dim": 3,
        "batch_size": 3,
        "patch_size": [4, 4, 4],
        "sampling": {
            "case_choice": "uniform_with_replacement",
            "foreground": {"share": 0.33, "num_samples": 1, "which": "last", "each_by_chance": False},
            "forced_position": {
                "class": "stored_classes",
                "slice": None,
                "voxel": "uniform",
                "class_lost": "random",
                "no_foreground": "random",
            },
            "random_position": "uniform",
            "initial_patch_size": [6, 7, 5],
            "border": {
                "placement": "overhang",
                "forced_start_limits": "lower",
                "image_value": 0,
                "label_value": -1,
                "previous_stage_value": -1,
            },
            "validation": {"patch": "final", "positions": "as_training"},
        },
    }
    for path, value in changes.items():
        target = document
        *parents, last = path.split("__")
        for name in parents:
            target = target[name]
        assert last in target, path
        target[last] = value
    return Section(document, "", [])


SLICES = {"dim": 2, "patch_size": [4, 4], "sampling__initial_patch_size": [7, 5]}


def sampler(label_set: LabelSet | None = None, **changes: Any) -> PatchSampler:
    return PatchSampler.from_plan(section(**changes), label_set or labels(1, 2))


def generators(number: int = NUM_DRAWS, seed: int = 7) -> list[np.random.Generator]:
    return [
        sample_generator(seed=seed, phase=Phase.TRAIN, epoch=index // 100, iteration=index % 100, sample=0)
        for index in range(number)
    ]


def starts(of: PatchSampler, case: Case, sample: int, phase: Phase = Phase.TRAIN) -> list[Triple]:
    return [of.place(case, sample, phase, random).start for random in generators()]


def uniform_p(values: list[Any], possible: list[Any]) -> float:
    """Chi-square test that values are uniform on what is possible."""
    counts = Counter(values)
    assert set(counts) <= set(possible), sorted(set(counts) - set(possible))[:5]
    if len(possible) == 1:
        return 1.0
    return float(stats.chisquare([counts[value] for value in possible]).pvalue)


# -- random numbers ------------------------------------------------------------------------------------------


def test_random_numbers_are_those_of_their_philox_counter() -> None:
    """Salmon et al.: draw i of a sample is block [i // 4, sample, iteration, epoch] under its key."""
    random = sample_generator(
        seed=12, phase=Phase.VALIDATION, epoch=3, iteration=4, sample=5, stream=Stream.AUGMENTATION
    )
    bits = np.random.Philox(key=[12, 3], counter=[0, 5, 4, 3])
    assert [random.bit_generator.random_raw() for _ in range(8)] == [bits.random_raw() for _ in range(8)]


def test_no_two_samples_share_their_numbers() -> None:
    first = [
        sample_generator(
            seed=seed, phase=phase, epoch=epoch, iteration=iteration, sample=sample, stream=stream
        ).random()
        for seed, phase, epoch, iteration, sample, stream in itertools.product(
            (0, 1, 2**64 - 1), Phase, range(8), range(8), range(8), Stream
        )
    ]
    assert len(set(first)) == len(first)
    assert stats.kstest(first, "uniform").pvalue > LEAST_P
    shifted = np.corrcoef(first[:-1], first[1:])[0, 1]
    assert abs(shifted) < 4 / math.sqrt(len(first))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="a seed is a number from 0"):
        sample_generator(seed=seed, phase=Phase.TRAIN, epoch=0, iteration=0, sample=0)


def test_seeds_of_folds_differ_and_new_seeds_are_new() -> None:
    seeds = [seed_of_fold(12345, fold) for fold in (*range(20), "all")]
    assert len(set(seeds)) == len(seeds)
    assert seed_of_fold(12345, 3) == seeds[3]
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert new_seed() != new_seed()


# -- which samples are forced --------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "expected"), [("last", range(5, 8)), ("first", range(3))])
def test_forced_samples_have_their_places(which: str, expected: range) -> None:
    forced = sampler(batch_size=8, sampling__foreground__num_samples=3, sampling__foreground__which=which)
    random = np.random.default_rng(0)
    assert [sample for sample in range(8) if forced.is_forced(sample, random)] == list(expected)
    assert random.random() == np.random.default_rng(0).random(), "places are no matter of chance"


def test_forced_by_chance() -> None:
    by_chance = sampler(sampling__foreground__each_by_chance=True)
    forced = sum(by_chance.is_forced(0, random) for random in generators())
    assert stats.binomtest(forced, NUM_DRAWS, 0.33).pvalue > LEAST_P


@given(st.integers(1, 200), st.integers(1, 16))
def test_ranks_share_a_batch(batch_size: int, num_ranks: int) -> None:
    parts = [rank_samples(batch_size, rank, num_ranks) for rank in range(num_ranks)]
    assert list(itertools.chain(*parts)) == list(range(batch_size))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_cases_are_drawn_uniformly_with_replacement() -> None:
    drawn = [PatchSampler.choose_case(7, random) for random in generators()]
    assert uniform_p(drawn, list(range(7))) > LEAST_P


# -- limits of the start -------------------------------------------------------------------------------------

edges = st.tuples(st.integers(1, 80), st.integers(1, 80), st.integers(0, 40))


@given(edges)
def test_overhang_follows_the_formula(drawn: tuple[int, int, int]) -> None:
    """Blueprint 4.4: lb = floor(-n/2), ub = S + floor(n/2) + (n mod 2) - I."""
    image, final, margin = drawn
    initial = final + margin
    n = initial - image if margin + image < initial else margin
    limits = overhang(image, initial, final)
    assert limits.lowest == math.floor(Fraction(-n, 2))
    assert (
        limits.highest_random == limits.highest_forced == image + math.floor(Fraction(n, 2)) + n % 2 - initial
    )
    assert limits.lowest <= limits.highest_random


@given(edges)
def test_pad_then_crop_stays_inside_the_padded_image(drawn: tuple[int, int, int]) -> None:
    image, final, margin = drawn
    initial = final + margin
    n = initial - image if margin + image < initial else margin
    size = max(image + n, initial)
    padding = (size - image) // 2, size - image - (size - image) // 2
    limits = pad_then_crop(image, initial, final)
    assert limits.lowest == -padding[0]
    assert limits.highest_forced + initial == image + padding[1]
    assert limits.highest_random == max(limits.highest_forced - 1, limits.lowest)


@pytest.mark.parametrize(
    ("image", "initial", "final", "lowest", "highest"),
    # By hand: margin 33, odd, one voxel more on either side; an image smaller than even the final patch.
    [
        (50, 73, 40, -17, -6),
        (36, 73, 40, -19, -18),
        (100, 40, 40, 0, 60),
        (10, 40, 40, -15, -15),
        (9, 40, 40, -16, -15),
    ],
)
def test_overhang_of_some_images(image: int, initial: int, final: int, lowest: int, highest: int) -> None:
    assert overhang(image, initial, final) == (lowest, highest, highest)


# -- positions -----------------------------------------------------------------------------------------------


def test_random_positions_are_uniform_along_every_axis() -> None:
    case = Case(np.zeros((9, 4, 3), np.int16))
    # n: 2, 3, 2 (3 + 1 < 5).
    ranges = [range(-1, 5), range(-2, 0), range(-1, 0)]
    found = starts(sampler(), case, 0)
    for axis, possible in enumerate(ranges):
        assert uniform_p([start[axis] for start in found], list(possible)) > LEAST_P
    pairs = list(itertools.product(ranges[0], ranges[1]))
    assert uniform_p([start[:2] for start in found], pairs) > LEAST_P, "axes are independent"


def located(shape: Triple, *classes: int, seed: int = 3) -> Case:
    """A case with some voxels of each class; every class has more than the one before."""
    random = np.random.default_rng(seed)
    array = np.zeros(shape, np.int16)
    for number, value in enumerate(classes, start=1):
        array.flat[random.choice(array.size, 6 * number**2, replace=False)] = value
    return Case(array, {(value,): np.argwhere(array == value).astype(np.int32) for value in classes})


def test_forced_positions_weigh_classes_alike_and_voxels_of_a_class_alike() -> None:
    case = located((9, 14, 12), 1, 2)
    of = sampler()
    expected: Counter[Triple] = Counter()
    for key in ((1,), (2,)):
        voxels = case.located[key]
        for z, y, x in voxels.tolist():
            start = (max(-1, z - 3), max(-2, y - 3), max(-1, x - 2))
            expected[start] += Fraction(1, 2 * len(voxels))
    patches = [of.place(case, 2, Phase.TRAIN, random) for random in generators()]
    assert all(patch.is_forced for patch in patches)
    assert uniform_p([patch.key for patch in patches], [(1,), (2,)]) > LEAST_P
    counts = Counter(patch.start for patch in patches)
    assert set(counts) <= set(expected)
    possible = sorted(expected)
    share = [float(expected[start]) * NUM_DRAWS for start in possible]
    assert stats.chisquare([counts[start] for start in possible], share).pvalue > LEAST_P


def test_a_forced_patch_may_overhang_the_far_border_unless_both_sides_are_limited() -> None:
    case = Case(np.zeros((20, 20, 20), np.int16), {(1,): np.array([[19, 19, 0]], np.int32)})
    one_sided = sampler(labels(1)).place(case, 2, Phase.TRAIN, generators(1)[0])
    assert one_sided.start == (16, 16, -1)
    both = sampler(labels(1), sampling__border__forced_start_limits="both")
    # ub = S + n // 2 + n % 2 - I: 20 + 1 - 6, 20 + 1 + 1 - 7.
    assert both.place(case, 2, Phase.TRAIN, generators(1)[0]).start == (15, 15, -1)


def test_an_unforced_sample_is_not_centred_on_foreground() -> None:
    case = located((9, 14, 12), 1, 2)
    patch = sampler().place(case, 0, Phase.TRAIN, generators(1)[0])
    assert (patch.is_forced, patch.key) == (False, None)


def test_validation_reads_the_final_patch() -> None:
    case = located((9, 14, 12), 1, 2)
    for phase, size in ((Phase.TRAIN, (6, 7, 5)), (Phase.VALIDATION, (4, 4, 4))):
        assert sampler().place(case, 0, phase, generators(1)[0]).size == size
    found = starts(sampler(), case, 0, Phase.VALIDATION)
    assert uniform_p([start[1] for start in found], list(range(11))) > LEAST_P
    initial = sampler(sampling__validation__patch="initial")
    assert initial.place(case, 0, Phase.VALIDATION, generators(1)[0]).size == (6, 7, 5)


def test_a_class_that_resampling_removed_gives_a_random_position() -> None:
    case = CaseWithOriginalClasses(np.zeros((9, 4, 3), np.int16), {(1,): np.array([[8, 3, 2]], np.int32)})
    of = sampler(sampling__forced_position__class="original_classes")
    patches = [of.place(case, 2, Phase.TRAIN, random) for random in generators()]
    lost = [patch.start for patch in patches if patch.key is None]
    assert stats.binomtest(len(lost), NUM_DRAWS, 0.5).pvalue > LEAST_P
    assert uniform_p([start[0] for start in lost], list(range(-1, 5))) > LEAST_P
    stored = [sampler().place(case, 2, Phase.TRAIN, random).key for random in generators(50)]
    assert set(stored) == {(1,)}, "stored classes are never lost"


def test_a_case_without_foreground() -> None:
    case = Case(np.zeros((9, 4, 3), np.int16))
    found = starts(sampler(), case, 2)
    assert uniform_p([start[0] for start in found], list(range(-1, 5))) > LEAST_P


@pytest.mark.parametrize("share", [0.5, 0.002])
def test_a_background_voxel_is_any_voxel_of_label_0(share: float) -> None:
    """Also where so few voxels have label 0 that they must be counted."""
    array = np.full((9, 14, 12), -1, np.int16)
    array.flat[np.random.default_rng(0).choice(array.size, math.ceil(share * array.size), replace=False)] = 0
    of = sampler(sampling__forced_position__no_foreground="background_voxel")
    expected = Counter(
        (max(-1, z - 3), max(-2, y - 3), max(-1, x - 2)) for z, y, x in np.argwhere(array == 0).tolist()
    )
    counts = Counter(starts(of, Case(array), 2))
    assert set(counts) <= set(expected)
    possible = sorted(expected)
    weights = [expected[start] * NUM_DRAWS / expected.total() for start in possible]
    assert stats.chisquare([counts[start] for start in possible], weights).pvalue > LEAST_P


def test_no_background_voxel_either_gives_a_random_position() -> None:
    of = sampler(sampling__forced_position__no_foreground="background_voxel")
    found = starts(of, Case(np.full((9, 4, 3), -1, np.int16)), 2)
    assert uniform_p([start[0] for start in found], list(range(-1, 5))) > LEAST_P


def test_with_an_ignore_label_annotated_voxels_are_drawn() -> None:
    voxels = np.array([[4, 5, 6], [5, 9, 8]], np.int32)
    case = Case(np.zeros((9, 14, 12), np.int16), {(1,): voxels[:1], ANNOTATED: voxels})
    of = sampler(
        labels(1, ignore=2),
        sampling__random_position="annotated_voxel",
        sampling__forced_position__no_foreground="annotated_voxel",
    )
    centres = [(1, 2, 4), (2, 6, 6)]
    assert uniform_p(starts(of, case, 0), centres) > LEAST_P
    assert set(starts(of, case, 2)) == {centres[0]}, "forced: the class, never all annotated voxels"
    del case.located[(1,)]
    assert uniform_p(starts(of, case, 2), centres) > LEAST_P, "forced without foreground: any annotated voxel"
    case.located.clear()
    assert len(set(starts(of, case, 0))) > 50, "nothing annotated: random"


def test_classes_that_are_no_head_are_not_drawn() -> None:
    case = located((9, 14, 12), 1, 2, 3)
    keys = {sampler(labels(1, 3)).place(case, 2, Phase.TRAIN, random).key for random in generators(200)}
    assert keys == {(1,), (3,)}


# -- slices --------------------------------------------------------------------------------------------------


def slices_case() -> Case:
    array = np.zeros((5, 12, 11), np.int16)
    array[1, 4, 4] = 1
    array[3, 2:10, 2:10] = 1
    return Case(array, {(1,): np.argwhere(array == 1).astype(np.int32)})


def test_slices_weigh_by_area_where_the_voxel_is_drawn_first() -> None:
    of = sampler(labels(1), **SLICES, sampling__forced_position__slice="slice_of_voxel")
    patches = [of.place(slices_case(), 2, Phase.TRAIN, random) for random in generators()]
    assert {patch.size for patch in patches} == {(1, 7, 5)}
    counts = Counter(patch.start[0] for patch in patches)
    assert set(counts) <= {1, 3}
    assert stats.binomtest(counts[1], NUM_DRAWS, 1 / 65).pvalue > LEAST_P


SLICE_FIRST = {
    **SLICES,
    "sampling__forced_position__slice": "slice_with_class",
    "sampling__forced_position__voxel": "uniform_in_slice",
}


def test_slices_that_show_a_class_weigh_alike_where_the_slice_is_drawn_first() -> None:
    of = sampler(labels(1), **SLICE_FIRST)
    found = starts(of, slices_case(), 2)
    counts = Counter(start[0] for start in found)
    assert set(counts) == {1, 3}
    assert stats.binomtest(counts[1], NUM_DRAWS, 1 / 2).pvalue > LEAST_P
    in_slice = [start[1:] for start in found if start[0] == 3]
    # Starts below the lowest one (-2, -1) are raised to it: voxels at y - 3 = -1.., x - 2 = 0.. never are.
    assert uniform_p(in_slice, list(itertools.product(range(-1, 7), range(8)))) > LEAST_P


def test_random_slices_are_uniform_and_padded_slices_never_start_last() -> None:
    for placement, ranges in (
        ("overhang", [range(5), range(-2, 8), range(-1, 8)]),
        # Padded to 12 + 3 and 11 + 1: starts 0 to 7 and 0 to 6 there, 1 and 0 voxels before the image.
        ("pad_then_crop", [range(5), range(-1, 7), range(6 + 1)]),
    ):
        of = sampler(labels(1), **SLICE_FIRST, sampling__border__placement=placement)
        found = starts(of, slices_case(), 0)
        for axis, possible in enumerate(ranges):
            assert uniform_p([start[axis] for start in found], list(possible)) > LEAST_P, (placement, axis)


def test_forced_padded_slices_are_limited_on_both_sides() -> None:
    array = np.zeros((2, 12, 11), np.int16)
    case = Case(array, {(1,): np.array([[0, 0, 0], [1, 11, 10]], np.int32)})
    of = sampler(
        labels(1),
        **SLICE_FIRST,
        sampling__border__placement="pad_then_crop",
        sampling__border__forced_start_limits="both",
    )
    # Padded to 15 and 12 voxels, 1 and 0 before: from -1 and 0 to 15 - 7 - 1 and 12 - 5.
    assert set(starts(of, case, 2)) == {(0, -1, 0), (1, 7, 7)}


# -- values that cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sampling__forced_position__slice": "slice_with_class"}, "slices are drawn in 2D and only there"),
        (SLICES, "slices are drawn in 2D and only there"),
        ({"sampling__forced_position__voxel": "uniform_in_slice"}, "go together"),
        ({"sampling__case_choice": "by_size"}, "does not know this value"),
        ({"sampling__border__placement": "mirror"}, "does not know this value"),
    ],
)
def test_values_without_code_are_refused(changes: dict[str, Any], what: str) -> None:
    configuration = section(**changes)
    PatchSampler.from_plan(configuration, labels(1))
    assert any(what in problem.what for problem in configuration._problems)
