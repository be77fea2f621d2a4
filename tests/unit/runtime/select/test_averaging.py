"""Labels of the mean of stored probabilities, without ever holding all of them."""

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.errors import RunError
from nnrules.image_io import Geometry
from nnrules.plan import Plan

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.predict.probabilities import write_probabilities
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.select.averaging import BYTES_PER_VOXEL, Averaging
from nnrules_runtime.values import reading

SHAPE = (3, 5, 4)
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def averaging(
    num_outputs: int = 3, dtype: Any = np.float32, *, regions: bool = False, outside: int = 0
) -> Averaging:
    rule = OutputRule(
        activation="sigmoid" if regions else "softmax",
        regions=regions,
        values=tuple(range(1, num_outputs + 1)) if regions else tuple(range(num_outputs)),
        threshold=0.5,
        background=None if regions else 0,
    )
    return Averaging(rule=rule, label_dtype=np.dtype(np.uint8), outside_label=outside, dtype=np.dtype(dtype))


def drawn(rng: np.random.Generator, num_outputs: int = 3, dtype: Any = np.float32) -> np.ndarray:
    """Few different values, so that there are ties."""
    return (rng.integers(0, 5, (num_outputs, *SHAPE)) / 4).astype(dtype)


def saved(folder: Path, *members: np.ndarray, save: Any = np.savez_compressed, **more: Any) -> list[Path]:
    paths = []
    for number, values in enumerate(members):
        paths.append(folder / f"{number}.npz")
        save(paths[-1], probabilities=values, **more)
    return paths


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("stored", "dtype"), [("f4", "f4"), ("f2", "f2"), ("f2", "f4"), (">f4", "f2")])
def test_largest_mean_and_the_smaller_label_on_a_tie(
    tmp_path: Path, rng: np.random.Generator, save: Any, stored: str, dtype: str
) -> None:
    first, second = drawn(rng, dtype=stored), drawn(rng, dtype=stored)
    mean = np.mean(np.stack([first.astype("f4"), second.astype("f4")]), axis=0).astype(dtype)
    paths = saved(tmp_path, first, second, save=save)
    labels = averaging(dtype=dtype).labels(paths, SHAPE)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, mean.argmax(axis=0))


def test_the_mean_is_rounded_to_the_type_of_the_plan(tmp_path: Path) -> None:
    """In float16 two means are equal that differ in float32; nnunet 1.7.1 forms np.mean of float16 arrays."""
    first = np.array([0.5, 0.5], np.float16).reshape(2, 1, 1, 1)
    second = np.array([0.1, 0.1001], np.float16).reshape(2, 1, 1, 1)
    assert second[0] != second[1]
    theirs = np.mean(np.stack([first, second]), axis=0)
    assert theirs.dtype == np.float16
    assert theirs[0] == theirs[1]
    paths = saved(tmp_path, first, second)
    assert averaging(2, np.float16).labels(paths, (1, 1, 1)).item() == 0
    assert averaging(2, np.float32).labels(paths, (1, 1, 1)).item() == 1


def test_regions_above_the_threshold_in_their_order(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = drawn(rng, 2), drawn(rng, 2)
    mean = (first + second) / 2
    expected = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
    found = averaging(2, regions=True).labels(saved(tmp_path, first, second), SHAPE)
    np.testing.assert_array_equal(found, expected)


def test_within_the_crop(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = drawn(rng), drawn(rng)
    whole = (7, 6, 9)
    box = np.array([[2, 5], [0, 5], [5, 9]])
    found = averaging(outside=2).labels(saved(tmp_path, first, second, box=box), whole)
    expected = np.full(whole, 2)
    expected[2:5, 0:5, 5:9] = ((first + second) / 2).argmax(axis=0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("canonical", [False, True])
def test_as_validation_writes_them(tmp_path: Path, rng: np.random.Generator, canonical: bool) -> None:
    """In the axes of the file, also where the plan turns images; of the crop, whose place is in the file, too."""
    whole = (7, 6, 9)
    in_file = Geometry(
        shape=whole,
        spacing=(1.0, 1.0, 1.0),
        origin_xyz=(0.0, 0.0, 0.0),
        direction_xyz=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
        dimension=3,
        num_channels=1,
    )
    reader = CaseReader(canonical)
    turned, _ = reader.grid(in_file)
    box = tuple(slice(edge // 3, edge // 3 + 3) for edge in turned)
    members = [drawn(rng)[:, :3, :3, :3] for _ in range(2)]
    paths = [tmp_path / f"{number}.npz" for number in range(2)]
    for path, values in zip(paths, members, strict=True):
        write_probabilities(path, values, box, reader=reader, in_file=in_file)  # type: ignore[arg-type]
    expected = np.zeros(turned, np.uint8)
    expected[box] = (sum(members) / 2).argmax(axis=0)
    found = averaging().labels(paths, whole)
    np.testing.assert_array_equal(found, reader.as_in_file(expected, in_file))


def test_memory_does_not_grow_with_the_number_of_outputs(tmp_path: Path) -> None:
    num_outputs, shape = 60, (10, 60, 50)
    values = np.random.default_rng(0).random((num_outputs, *shape), np.float32)
    paths = saved(tmp_path, values, values[::-1])
    del values
    tracemalloc.start()
    try:
        averaging(num_outputs).labels(paths, shape)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    fixed = 1 << 20  # buffers of the archive
    assert peak <= BYTES_PER_VOXEL * np.prod(shape) + fixed


def refused(paths: list[Path], shape: tuple[int, ...] = SHAPE, **options: Any) -> RunError:
    with pytest.raises(RunError) as caught:
        averaging(**options).labels(paths, shape)
    assert all(problem.fix for problem in caught.value.problems)
    return caught.value


def test_what_does_not_belong_together_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    good, other = drawn(rng), drawn(rng)
    paths = saved(tmp_path, good, other[:2])
    error = refused(paths)
    assert str(paths[1]) in str(error)
    assert "not probabilities of this image" in str(error)
    assert len(refused(saved(tmp_path, good, other), (3, 5, 5)).problems) == 2
    assert len(refused(saved(tmp_path, good, other), num_outputs=4).problems) == 2
    paths = saved(tmp_path, good, other, box=np.array([[0, 3], [0, 5], [0, 4]]))
    np.savez(paths[1], probabilities=other, box=np.array([[1, 4], [0, 5], [0, 4]]))
    assert "in the box" in str(refused(paths, (9, 9, 9)))
    paths = saved(tmp_path, good, other, box=np.array([[7, 10], [0, 5], [0, 4]]))
    assert "a box within (9, 9, 9)" in str(refused(paths, (9, 9, 9)))


def test_damaged_files_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    values = drawn(rng)
    paths = saved(tmp_path, values, values, save=np.savez)
    whole = paths[1].read_bytes()

    def with_bytes(content: bytes) -> str:
        paths[1].write_bytes(content)
        return str(refused(paths))

    assert "cannot be read" in with_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in with_bytes(b"no archive")
    place = whole.index(values.tobytes()) + 40
    flipped = bytes([whole[place] ^ 1])
    assert "CRC" in with_bytes(whole[:place] + flipped + whole[place + 1 :])
    paths[1].unlink()
    assert "missing" in str(refused(paths))
    np.savez(paths[1], other=values)
    assert "cannot be read" in str(refused(paths))
    np.savez(paths[1], probabilities=values.astype(np.int16))
    assert "int16" in str(refused(paths))
    np.savez(paths[1], probabilities=np.asfortranarray(values))
    assert "cannot be read" in str(refused(paths))
    np.savez(paths[1], probabilities=values, box=np.zeros((2, 2), int))
    assert "a box of" in str(refused(paths))


def test_more_or_less_than_the_header_says(tmp_path: Path, rng: np.random.Generator) -> None:
    values = drawn(rng)
    paths = saved(tmp_path, values, values)
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values)
    for content in (stream.getvalue() + b"more", stream.getvalue()[:-4]):
        with zipfile.ZipFile(paths[1], "w") as archive:
            archive.writestr("probabilities.npy", content)
        assert "cannot be read" in str(refused(paths))


def test_nothing_is_ever_unpickled(tmp_path: Path, rng: np.random.Generator) -> None:
    values = drawn(rng)
    paths = saved(tmp_path, values, values)
    with zipfile.ZipFile(paths[1], "w") as archive:
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.array([{"a": 1}], object), allow_pickle=True)
        archive.writestr("probabilities.npy", stream.getvalue())
    assert "cannot be read" in str(refused(paths))


def test_of_a_plan(make_choice_plan: Callable[..., Plan]) -> None:
    for plan, dtype in ((make_choice_plan(), "f4"), (make_choice_plan("nnunet@1.7.0"), "f2")):
        with reading(plan) as root:
            found = Averaging.from_plan(root, "2d", LabelSet.from_plan(root), np.dtype(dtype))
        assert found == averaging(3, dtype)
        assert pickle.loads(pickle.dumps(found)) == found
    with reading(make_choice_plan(labels=REGIONS)) as root:
        assert Averaging.from_plan(root, "3d_fullres", LabelSet.from_plan(root), np.dtype("f4")) == averaging(
            2, regions=True
        )
