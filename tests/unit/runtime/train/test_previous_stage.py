"""Segmentations of the previous stage on disk."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import StoreError

from nnrules_runtime.train.previous_stage import Origin, PreviousStageStore

ORIGIN = Origin(key="k", weights="w", settings="s", fold=2)
SHAPE = (70, 40, 90)


def labels(shape: tuple[int, ...] = SHAPE, highest: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, highest + 1, shape).astype(np.int16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreviousStageStore:
    made = PreviousStageStore(tmp_path_factory.mktemp("previous") / "3d_cascade_fullres")
    made.write("case 1", labels(), ORIGIN, patch_is_2d=False)
    made.write("slices", labels(), ORIGIN, patch_is_2d=True)
    made.write("many", labels(highest=300), ORIGIN, patch_is_2d=False)
    return made


edges = st.tuples(*(st.tuples(st.integers(0, edge - 1), st.integers(1, edge)) for edge in SHAPE))


@settings(max_examples=30, deadline=None)
@given(box=edges, case_id=st.sampled_from(["case 1", "slices", "many"]))
def test_any_box_is_read(store: PreviousStageStore, box: tuple[tuple[int, int], ...], case_id: str) -> None:
    start = [min(first, edge - 1) for (first, _), edge in zip(box, SHAPE, strict=True)]
    stop = [max(first + 1, last) for first, (_, last) in zip(start, box, strict=True)]
    found = store.read(case_id, start, stop)
    expected = labels(highest=300 if case_id == "many" else 3)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected[tuple(map(slice, start, stop))])
    found[:] = 7  # it may be written to


def test_it_travels_to_other_processes(store: PreviousStageStore) -> None:
    again = pickle.loads(pickle.dumps(store))
    assert again.origin("case 1") == ORIGIN
    assert again.shape("case 1") == SHAPE
    np.testing.assert_array_equal(again.read("case 1", (0, 0, 0), SHAPE), labels())
    # Only the path travels.
    assert len(pickle.dumps(store)) < 500


def test_boxes_outside_of_the_image_are_a_bug(store: PreviousStageStore) -> None:
    for start, stop in (((0, 0, -1), (1, 1, 1)), ((0, 0, 0), (71, 1, 1)), ((3, 0, 0), (3, 1, 1))):
        with pytest.raises(ValueError, match="case 1: box"):
            store.read("case 1", start, stop)


def test_what_is_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    store = PreviousStageStore(tmp_path / "stage")
    assert store.origin("a") is None
    store.write("a", labels(), ORIGIN, patch_is_2d=False)
    assert store.shape("a") == SHAPE
    # A process that was killed left these; those of another case are not touched.
    for name in (".a.abcd1234.tmp", ".a.17.old", ".b.abcd1234.tmp"):
        (store.folder / name).mkdir()
    other = Origin(key="l", weights="w", settings="s", fold=3)
    store.write("a", labels((3, 4, 5)), other, patch_is_2d=False)
    assert store.origin("a") == other
    assert store.shape("a") == (3, 4, 5)
    assert sorted(path.name for path in store.folder.iterdir()) == [".b.abcd1234.tmp", "a"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    store = PreviousStageStore(tmp_path)
    with pytest.raises(
        StoreError, match=r"a: .*segmentation of this case is missing\. Train the second stage"
    ):
        store.read("a", (0, 0, 0), (1, 1, 1))
    for name in ("cut", "flipped", "header", "format"):
        store.write(name, labels(), ORIGIN, patch_is_2d=False)
    cut, flipped = tmp_path / "cut" / "label.b2nd", tmp_path / "flipped" / "label.b2nd"
    cut.write_bytes(cut.read_bytes()[:-10])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    (tmp_path / "header" / "stage.json").write_text("{")
    document = json.loads((tmp_path / "format" / "stage.json").read_text())
    (tmp_path / "format" / "stage.json").write_text(json.dumps({**document, "format": 0}))
    fresh = PreviousStageStore(tmp_path)
    assert fresh.origin("cut") is None
    assert fresh.origin("header") is None
    assert fresh.origin("format") is None
    assert fresh.origin("flipped") == ORIGIN, "content is looked at when it is read"
    for name, message in (
        ("cut", "cut off"),
        ("flipped", "Remove .*flipped first. Train the second stage again"),
        ("header", "description .* is damaged"),
        ("format", "got format 0"),
    ):
        with pytest.raises(StoreError, match=message):
            fresh.read(name, (0, 0, 0), SHAPE)
