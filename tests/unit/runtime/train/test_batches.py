"""Batches: what is read, what lies beyond the border, and that nothing but the key matters."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.errors import RunError, StoreError
from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.preprocess.prepared import PreparedCase
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.preprocess.store_write import write_case
from nnrules_runtime.train.batches import Batch, BatchKey, BatchSource
from nnrules_runtime.train.sampling import PatchSampler, Phase, Stream, rank_samples, sample_generator
from nnrules_runtime.values import Section, reading

Triple = tuple[int, int, int]
BORDER = {"image_value": 7.5, "label_value": -1, "previous_stage_value": -3}


@dataclass
class Case:
    """A case in memory that notes the boxes that are read."""

    image: np.ndarray
    labels: np.ndarray
    boxes: list[tuple[Triple, Triple]] = field(default_factory=list)

    @property
    def shape(self) -> Triple:
        z, y, x = self.labels.shape
        return z, y, x

    @property
    def num_channels(self) -> int:
        return len(self.image)

    @property
    def present(self) -> tuple[tuple[int, ...], ...]:
        return ((1,),) if (self.labels == 1).any() else ()

    @property
    def original_classes(self) -> tuple[tuple[int, ...], ...]:
        return self.present

    def locations(self) -> Mapping[tuple[int, ...], np.ndarray]:
        return {key: np.argwhere(self.labels == key[0]).astype(np.int32) for key in self.present}

    def read(self, start: Triple, stop: Triple) -> tuple[np.ndarray, np.ndarray]:
        assert all(0 <= low < high <= edge for low, high, edge in zip(start, stop, self.shape, strict=True))
        self.boxes.append((start, stop))
        box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        return self.image[(slice(None), *box)].copy(), self.labels[box].copy()

    def label(self) -> np.ndarray:
        return self.labels


class Store:
    def __init__(self, cases: dict[str, Case]) -> None:
        self.cases = cases
        self.ids = tuple(sorted(cases))

    def case(self, case_id: str) -> Case:
        return self.cases[case_id]


class Crop:
    """In place of augmentation: reads a box of the initial patch and crops nothing."""

    needs_previous = False

    def __init__(self, offset: Triple, size: Triple) -> None:
        self.box = SimpleNamespace(offset=offset, size=size)

    def draw(self, generator: np.random.Generator, /) -> Any:
        return self.box

    def apply(
        self, draw: Any, image: Tensor, label: Tensor, /, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        assert (previous is not None) == self.needs_previous
        if previous is not None:
            image = torch.cat((image, previous[None].float()))
        image += 0.0  # may overwrite what it is given
        return image, label


class CropWithPrevious(Crop):
    needs_previous = True


class Previous:
    def __init__(self, store: Store) -> None:
        self.store = store

    def read(self, case_id: str, start: Triple, stop: Triple) -> np.ndarray:
        box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        return self.store.cases[case_id].labels[box] + 100


def section(*, dim: int = 3, final: list[int], initial: list[int], batch_size: int = 5) -> Section:
    return Section(
        {
            "dim": dim,
            "batch_size": batch_size,
            "patch_size": final,
            "sampling": {
                "case_choice": "uniform_with_replacement",
                "foreground": {"share": 0.33, "num_samples": 2, "which": "last", "each_by_chance": False},
                "forced_position": {
                    "class": "stored_classes",
                    "slice": "slice_of_voxel" if dim == 2 else None,
                    "voxel": "uniform",
                    "class_lost": "random",
                    "no_foreground": "random",
                },
                "random_position": "uniform",
                "initial_patch_size": initial,
                "border": {"placement": "overhang", "forced_start_limits": "lower", **BORDER},
                "validation": {"patch": "final", "positions": "as_training"},
            },
        },
        "",
        [],
    )


LABELS = LabelSet(
    heads=((0,), (1,)),
    head_names=("background", "a"),
    has_regions=False,
    regions_class_order=None,
    ignore_label=None,
    foreground_labels=(1,),
)


def make_store(*shapes: Triple, num_channels: int = 2, seed: int = 0) -> Store:
    random = np.random.default_rng(seed)
    return Store(
        {
            f"case {number}": Case(
                random.normal(size=(num_channels, *shape)).astype(np.float32),
                random.integers(0, 2, shape).astype(np.int16),
            )
            for number, shape in enumerate(shapes)
        }
    )


SHAPES = ((9, 14, 12), (3, 5, 4), (30, 6, 2))


def make(store: Store | None = None, augmentation: Any = None, **options: Any) -> BatchSource:
    store = store or make_store(*SHAPES)
    sampler = PatchSampler.from_plan(section(final=[4, 4, 4], initial=[6, 7, 5]), LABELS)
    augmentation = augmentation or Crop((0, 0, 0), (6, 7, 5))
    return BatchSource(store, store.ids, sampler, augmentation, **{"seed": 3, **options})


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.target, second.target)
        and (first.key, first.case_ids) == (second.key, second.case_ids)
    )


def padded(array: np.ndarray, value: float, margin: int) -> np.ndarray:
    return np.pad(array, [(0, 0)] * (array.ndim - 3) + [(margin, margin)] * 3, constant_values=value)


@pytest.mark.parametrize("cache_bytes", [0, 10**6, 3000])
@pytest.mark.parametrize(
    ("offset", "size"),
    [((0, 0, 0), (6, 7, 5)), ((1, 2, 1), (4, 4, 4)), ((5, 6, 4), (1, 1, 1)), ((2, 0, 0), (2, 7, 5))],
)
def test_a_sample_is_its_box_of_the_image_with_the_border_around(
    offset: Triple, size: Triple, cache_bytes: int
) -> None:
    """Against slices of images that are padded beforehand."""
    store = make_store(*SHAPES)
    source = make(store, Crop(offset, size), cache_bytes=cache_bytes)
    sampler = source._sampler
    num_outside = 0
    for epoch in range(20):
        batch = source.batch(epoch, 4)
        assert batch.image.shape == (5, 2, *size)
        assert batch.target.shape == (5, *size)
        assert (batch.image.dtype, batch.target.dtype) == (torch.float32, torch.int16)
        for sample in range(5):
            random = sample_generator(seed=3, phase=Phase.TRAIN, epoch=epoch, iteration=4, sample=sample)
            case_id = store.ids[sampler.choose_case(3, random)]
            assert batch.case_ids[sample] == case_id
            case = store.cases[case_id]
            patch = sampler.place(case, sample, Phase.TRAIN, random)
            margin = 60
            z, y, x = (
                slice(start + add + margin, start + add + margin + edge)
                for start, add, edge in zip(patch.start, offset, size, strict=True)
            )
            image = padded(case.image, 7.5, margin)[:, z, y, x]
            label = padded(case.labels, -1, margin)[z, y, x]
            assert np.array_equal(batch.image[sample], image)
            assert np.array_equal(batch.target[sample], label)
            num_outside += int((label == -1).all())
    assert num_outside or size != (1, 1, 1), "some boxes lie wholly outside"


def test_only_what_is_needed_is_read() -> None:
    store = make_store((40, 40, 40))
    source = make(store, Crop((1, 2, 1), (4, 4, 4)))
    source.batch(0, 0)
    boxes = store.cases["case 0"].boxes
    assert len(boxes) == 5
    assert all(high - low <= 4 for start, stop in boxes for low, high in zip(start, stop, strict=True))


def test_cases_are_cached_within_the_limit() -> None:
    store = make_store((8, 8, 8), (8, 8, 8))
    one_case = 8**3 * (2 * 4 + 2)
    for limit, num_whole in ((one_case * 2, 2), (one_case, 1), (one_case - 1, 0)):
        for case in store.cases.values():
            case.boxes.clear()
        source = make(store, cache_bytes=limit)
        for iteration in range(10):
            source.batch(0, iteration)
        whole = [case for case in store.cases.values() if case.boxes == [((0, 0, 0), (8, 8, 8))]]
        assert len(whole) == num_whole
        assert source._cache.size_bytes == num_whole * one_case


def test_a_cached_case_is_not_changed_by_augmentation() -> None:
    class Wiping(Crop):
        def apply(self, draw: Any, image: Tensor, label: Tensor, /, previous: Any = None) -> Any:
            result = image.clone(), label.clone()
            image.fill_(99)
            label.fill_(99)
            return result

    store = make_store((3, 3, 3), (6, 7, 5))
    wiped, fresh = (make(store, Wiping((0, 0, 0), (6, 7, 5)), cache_bytes=limit) for limit in (10**6, 0))
    for iteration in range(10):
        assert equal(wiped.batch(0, iteration), fresh.batch(0, iteration))


def test_a_batch_depends_on_seed_phase_epoch_and_iteration_alone() -> None:
    first, second = make(), make(cache_bytes=10**6)
    keys = [(epoch, iteration) for epoch in range(3) for iteration in range(3)]
    batches = {key: first.batch(*key) for key in keys}
    for key in reversed(keys):
        assert equal(second.batch(*key), batches[key])
    assert batches[0, 1].key == BatchKey(Phase.TRAIN, 0, 1)
    distinct = {batch.image.numpy().tobytes() for batch in batches.values()}
    assert len(distinct) == len(keys)
    assert not torch.equal(make(seed=4).batch(0, 0).image, batches[0, 0].image)


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_ranks_make_the_same_batch_together(num_ranks: int) -> None:
    whole = make().batch(1, 2)
    parts = [make(samples=rank_samples(5, rank, num_ranks)).batch(1, 2) for rank in range(num_ranks)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.target for part in parts]), whole.target)


def test_slices_have_no_first_axis() -> None:
    store = make_store((9, 14, 12))
    sampler = PatchSampler.from_plan(section(dim=2, final=[4, 4], initial=[7, 5]), LABELS)
    batch = BatchSource(store, store.ids, sampler, Crop((0, 1, 0), (1, 5, 5)), seed=3).batch(0, 0)
    assert batch.image.shape == (5, 2, 5, 5)
    assert batch.target.shape == (5, 5, 5)
    assert batch.image.is_contiguous()
    assert batch.target.is_contiguous()


def test_the_previous_stage_is_read_from_the_same_box() -> None:
    store = make_store((3, 5, 4), (9, 9, 9))
    source = make(store, CropWithPrevious((0, 0, 0), (6, 7, 5)), previous=Previous(store))
    batch = source.batch(0, 0)
    label, previous = batch.target, batch.image[:, 2]
    assert torch.equal(previous, torch.where(label == -1, -3, label + 100).float())
    outside = make(store, CropWithPrevious((5, 6, 4), (1, 1, 1)), previous=Previous(store))
    values = torch.cat([outside.batch(0, iteration).image[:, 2].flatten() for iteration in range(20)])
    assert set(values.tolist()) == {-3.0, 100.0, 101.0}


def test_a_previous_stage_that_is_missing_or_not_wanted_is_refused() -> None:
    with pytest.raises(RunError, match="Train the previous stage on all folds"):
        make(augmentation=CropWithPrevious((0, 0, 0), (6, 7, 5)))
    store = make_store(*SHAPES)
    with pytest.raises(RunError, match="not used by this configuration"):
        make(store, previous=Previous(store))


def test_missing_cases_are_named() -> None:
    store = make_store(*SHAPES)
    sampler = PatchSampler.from_plan(section(final=[4, 4, 4], initial=[6, 7, 5]), LABELS)
    crop = Crop((0, 0, 0), (6, 7, 5))
    with pytest.raises(
        StoreError, match=r"train cases: .* got case 7, case 8\. Run `nnrules run preprocess`"
    ):
        BatchSource(store, ["case 8", "case 0", "case 7"], sampler, crop, seed=0)
    with pytest.raises(StoreError, match="validation cases: there are no cases"):
        BatchSource(store, [], sampler, crop, seed=0, phase=Phase.VALIDATION)


# -- with the real store and the real augmentation -----------------------------------------------------------


def write(folder: Path, case_id: str, image: np.ndarray, label: np.ndarray) -> None:
    shape = label.shape
    geometry = CaseGeometry(
        original_shape=shape,
        original_spacing=(1.0, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        crop_start=(0, 0, 0),
        crop_stop=shape,
        network_shape=shape,
        network_spacing=(1.0, 1.0, 1.0),
    )
    located = {(value,): np.argwhere(label == value).astype(np.int32) for value in (1, 2)}
    prepared = PreparedCase(
        image=image, label=label, geometry=geometry, locations=located, original_classes=tuple(located)
    )
    write_case(
        folder,
        case_id,
        prepared,
        key="",
        recipe="",
        image_dtype="float32",
        label_dtype="int16",
        patch_is_2d=False,
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    folder = tmp_path_factory.mktemp("store")
    random = np.random.default_rng(5)
    for number, shape in enumerate([(36, 50, 35), (30, 60, 40), (48, 44, 30)]):
        label = np.zeros(shape, np.int16)
        label[8:20, 20:30, 10:20] = 1
        label[15:25, 28:40, 15:22] = 2
        image = random.normal(size=(1, *shape)).astype(np.float32) + label
        write(folder, f"case {number}", image, label)
    return CaseStore(folder)


@pytest.fixture(scope="module")
def recipe(hippocampus_plan: Plan) -> tuple[PatchSampler, Augmentation, Augmentation]:
    with reading(hippocampus_plan) as root:
        configuration, labels = root.section("configurations").section("3d_fullres"), LabelSet.from_plan(root)
        return (
            PatchSampler.from_plan(configuration, labels),
            Augmentation.from_plan(root, configuration, labels),
            Augmentation.for_validation(root, configuration, labels),
        )


@pytest.mark.parametrize("phase", list(Phase))
def test_reading_what_is_needed_changes_nothing(
    stored: CaseStore, recipe: tuple[PatchSampler, Augmentation, Augmentation], phase: Phase
) -> None:
    """Against whole initial patches, cut from padded cases and augmented."""
    sampler, augmentation = recipe[0], recipe[1 + phase]
    source = BatchSource(stored, stored.ids, sampler, augmentation, seed=1, phase=phase)
    for iteration in range(8):
        batch = source.batch(0, iteration)
        images, targets, generators = [], [], []
        for sample in range(sampler.batch_size):
            draws = {
                stream: sample_generator(
                    seed=1, phase=phase, epoch=0, iteration=iteration, sample=sample, stream=stream
                )
                for stream in Stream
            }
            case = stored.case(stored.ids[sampler.choose_case(3, draws[Stream.SAMPLING])])
            patch = sampler.place(case, sample, phase, draws[Stream.SAMPLING])
            z, y, x = (
                slice(start + 80, start + 80 + edge)
                for start, edge in zip(patch.start, patch.size, strict=True)
            )
            images.append(torch.from_numpy(padded(case.image(), 0, 80)[:, z, y, x]))
            targets.append(torch.from_numpy(padded(case.label(), -1, 80)[z, y, x]))
            generators.append(draws[Stream.AUGMENTATION])
        image, target = augmentation(torch.stack(images), torch.stack(targets), generators)
        assert torch.equal(batch.image, image)
        assert torch.equal(batch.target, target)
        assert batch.image.shape == (2, 1, 40, 56, 40)
        assert batch.target.min() == 0


def test_batches_do_not_depend_on_threads(
    stored: CaseStore, recipe: tuple[PatchSampler, Augmentation, Augmentation]
) -> None:
    source = BatchSource(stored, stored.ids, recipe[0], recipe[1], seed=1)
    number = torch.get_num_threads()
    try:
        batches = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            batches.append([source.batch(5, iteration) for iteration in range(4)])
    finally:
        torch.set_num_threads(number)
    assert all(equal(one, two) for one, two in zip(*batches, strict=True))


def test_a_source_travels_to_another_process(
    stored: CaseStore, recipe: tuple[PatchSampler, Augmentation, Augmentation]
) -> None:
    source = BatchSource(stored, stored.ids, recipe[0], recipe[1], seed=1, cache_bytes=10**6)
    expected = source.batch(2, 1)
    assert equal(pickle.loads(pickle.dumps(source)).batch(2, 1), expected)


def test_a_forced_sample_shows_foreground(
    stored: CaseStore, recipe: tuple[PatchSampler, Augmentation, Augmentation]
) -> None:
    source = BatchSource(stored, stored.ids, recipe[0], recipe[2], seed=1, phase=Phase.VALIDATION)
    for iteration in range(10):
        assert (source.batch(0, iteration).target[-1:] > 0).flatten(1).any(1).all()
