"""Stored cases: what comes back, how little is read, and what is noticed."""

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import ImageError, RunError, StoreError

from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.preprocess.prepared import ANNOTATED, PreparedCase
from nnrules_runtime.preprocess.store import CaseStore, case_folder_name, stored_key
from nnrules_runtime.preprocess.store_write import write_case, write_index

SHAPE = (70, 130, 90)


def prepared(shape=SHAPE, *, seed=0, channels=2):
    generator = np.random.default_rng(seed)
    label = generator.integers(-1, 3, shape).astype(np.int16)
    return PreparedCase(
        image=generator.normal(size=(channels, *shape)).astype(np.float32),
        label=label,
        geometry=CaseGeometry(
            original_shape=shape,
            original_spacing=(2.0, 1.0, 0.5),
            transpose_forward=(0, 1, 2),
            crop_start=(0, 0, 0),
            crop_stop=shape,
            network_shape=shape,
            network_spacing=(2.0, 1.0, 0.5),
        ),
        locations={
            (2,): generator.permutation(np.argwhere(label == 2))[:5000].astype(np.int32),
            (1, 2): np.argwhere(label > 0)[:7].astype(np.int32),
            ANNOTATED: np.argwhere(label < 2)[:3].astype(np.int32),
        },
        original_classes=((1,), (2,), (1, 2)),
    )


def write(folder: Path, case_id="case", made=None, **changes):
    fields = {
        "key": "k",
        "recipe": "r",
        "image_dtype": "float32",
        "label_dtype": "int16",
        "patch_is_2d": False,
    }
    return write_case(folder, case_id, made or prepared(), **{**fields, **changes})


@pytest.fixture(scope="module")
def made():
    return prepared()


@pytest.fixture
def store(tmp_path, made):
    write(tmp_path, made=made)
    return CaseStore(tmp_path)


def flip_byte(path: Path, position: float = 0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 1
    path.write_bytes(content)


def test_everything_comes_back(store, made):
    case = store.case("case")
    assert np.array_equal(case.image(), made.image)
    assert np.array_equal(case.label(), made.label)
    assert (case.shape, case.num_channels, case.geometry) == (SHAPE, 2, made.geometry)
    assert case.present == ((2,), (1, 2))
    assert case.original_classes == ((1,), (2,), (1, 2))
    assert case.has_annotated
    assert list(case.locations()) == [(2,), (1, 2), ANNOTATED]
    for key, voxels in made.locations.items():
        expected = voxels[np.lexsort(voxels.T[::-1])]
        assert np.array_equal(case.locations()[key], expected)
        assert case.locations().counts[key] == len(voxels)
        assert case.locations()[key].dtype == np.int32
    with pytest.raises(KeyError):
        case.locations()[(9,)]


@pytest.fixture(scope="module")
def module_case(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("store")
    write(folder, made=made)
    return CaseStore(folder).case("case")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_box(module_case, made, data):
    start = [data.draw(st.integers(0, size - 1)) for size in SHAPE]
    stop = [data.draw(st.integers(first + 1, size)) for first, size in zip(start, SHAPE, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    image, label = module_case.read(start, stop)
    assert np.array_equal(image, made.image[(slice(None), *box)])
    assert np.array_equal(label, made.label[box])
    assert image.flags.writeable
    assert label.flags.writeable


@pytest.mark.parametrize("box", [((0, 0, 0), (71, 1, 1)), ((-1, 0, 0), (1, 1, 1)), ((3, 3, 3), (3, 4, 4))])
def test_box_outside_of_the_image_is_a_mistake_of_the_caller(store, box):
    with pytest.raises(ValueError, match="box"):
        store.case("case").read(*box)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_types_that_the_plan_may_choose(tmp_path, made, dtype):
    write(tmp_path, made=made, image_dtype="float16", label_dtype=dtype, patch_is_2d=True)
    case = CaseStore(tmp_path).case("case")
    image, label = case.read((3, 0, 0), (4, *SHAPE[1:]))
    assert np.array_equal(image, made.image[:, 3:4].astype(np.float16))
    assert (image.dtype, label.dtype) == (np.float32, np.int16)
    assert np.array_equal(label, made.label[3:4])


def test_values_that_the_type_cannot_hold(tmp_path, made):
    made.image[0, 0, 0, 0] = 1e5
    try:
        with pytest.raises(ImageError, match=r"100000 in float16.*storage.image_dtype=float32"):
            write(tmp_path, made=made, image_dtype="float16")
    finally:
        made.image[0, 0, 0, 0] = 0
    assert not list(tmp_path.iterdir())


def test_case_without_any_location(tmp_path):
    made = prepared((3, 4, 5))
    empty = PreparedCase(
        image=made.image, label=made.label * 0, geometry=made.geometry, locations={}, original_classes=()
    )
    write(tmp_path, made=empty)
    case = CaseStore(tmp_path).case("case")
    assert case.present == ()
    assert not case.has_annotated
    assert len(case.locations()) == 0


def test_only_touched_chunks_are_looked_at(store):
    # Damage in the last chunk does not matter to who reads the first one.
    case = store.case("case")
    flip_byte(case.folder / "image.b2nd", 0.8)
    image, _ = case.read((0, 0, 0), (20, 20, 20))
    assert np.isfinite(image).all()
    with pytest.raises(StoreError, match=r"case: .*image\.b2nd: .*checksum.*preprocess` again"):
        case.image()


@pytest.mark.parametrize("name", ["image", "label", "locations"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "grown"])
def test_damage_is_noticed(store, name, damage):
    path = store.case("case").folder / f"{name}.b2nd"
    content = path.read_bytes()
    if damage == "flip":
        flip_byte(path)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut" else content + b"x")
    case = CaseStore(store.folder).case("case")
    read = {"image": case.image, "label": case.label, "locations": lambda: case.locations()[(2,)]}[name]
    with pytest.raises(StoreError, match=f"{name}.b2nd"):
        read()
    assert (stored_key(store.folder, "case") == "k") == (damage == "flip")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 7))
def test_no_flipped_bit_passes(small_case, position, bit):
    folder, original = small_case
    path = folder / "case" / "label.b2nd"
    content = bytearray(original)
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cut off or damaged"):
        CaseStore(folder).case("case").label()


@pytest.fixture(scope="module")
def small_case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write(folder, made=prepared((9, 10, 11)))
    return folder, (folder / "case" / "label.b2nd").read_bytes()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "key": 3, "files": {}}']
)
def test_damaged_description(store, text):
    (store.folder / "case" / "case.json").write_text(text)
    with pytest.raises(StoreError, match=r"case.*case\.json.*preprocess` again"):
        CaseStore(store.folder).case("case")
    assert stored_key(store.folder, "case") is None


def test_missing_case_and_missing_store(store, tmp_path):
    with pytest.raises(StoreError, match=r"other.*not been preprocessed"):
        store.case("other")
    with pytest.raises(StoreError, match="no such folder"):
        CaseStore(tmp_path / "nowhere")


def test_cases_of_the_index_and_their_groups(store):
    assert store.ids == ("case",)
    write_index(store.folder, {"z": "patient", "case": None})
    again = CaseStore(store.folder)
    assert again.ids == ("case", "z")
    assert dict(again.groups) == {"case": None, "z": "patient"}
    with pytest.raises(StoreError, match=r"z: .*not been preprocessed"):
        again.check("r", again.ids)
    (store.folder / "store.json").write_text("{}")
    with pytest.raises(StoreError, match="list of cases is damaged"):
        _ = CaseStore(store.folder).ids


def test_store_of_another_plan(store):
    store.check("r", ["case"])
    with pytest.raises(StoreError, match=r"another plan; got case"):
        store.check("other recipe", ["case"])


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()))
def test_any_id_makes_a_folder_name(case_id):
    name = case_folder_name(case_id)
    assert "/" not in name
    assert not name.startswith(".")
    assert Path(name).name == name


@pytest.mark.parametrize("case_id", ["a/b", "..", ".hidden", "a b", "50%", "Fall-ä"])
def test_odd_ids(tmp_path, case_id):
    write(tmp_path, case_id, prepared((3, 4, 5)))
    store = CaseStore(tmp_path)
    assert store.ids == (case_id,)
    assert store.case(case_id).id == case_id
    assert [entry.parent for entry in tmp_path.iterdir()] == [tmp_path]


def test_writing_again_replaces_and_leaves_nothing_else(store):
    write(store.folder, made=prepared(seed=1), key="new")
    assert [entry.name for entry in store.folder.iterdir()] == ["case"]
    assert stored_key(store.folder, "case") == "new"
    assert json.loads((store.folder / "case" / "case.json").read_text())["key"] == "new"


def test_full_disk(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Could not write")

    monkeypatch.setattr("blosc2.asarray", fails)
    with pytest.raises(RunError, match="disk"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def _sum_in_worker(case):
    image, label = case.read((10, 10, 10), (60, 60, 60))
    return float(image.sum()), int(label.sum()), len(case.locations()[(2,)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_read_by_several_processes_at_once(store, method):
    case = store.case("case")
    expected = _sum_in_worker(case)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_sum_in_worker, [case] * 4) == [expected] * 4


def test_pickles_carry_no_arrays(store):
    case = store.case("case")
    case.locations()[(2,)]
    assert len(pickle.dumps(store)) < 1000
    assert len(pickle.dumps(case)) < 1000
    assert pickle.loads(pickle.dumps(case)).present == case.present
