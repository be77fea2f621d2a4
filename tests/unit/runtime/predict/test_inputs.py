"""Which files are which cases."""

from pathlib import Path

import numpy as np
import pytest
from nnrules.errors import ImageError, UsageError
from nnrules.image_io import Geometry, write_image

from nnrules_runtime.predict.inputs import InputCase, find_cases, part_of, read_grid


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


def found(folder: Path) -> dict[str, list[str]]:
    cases, problems = find_cases([folder])
    assert problems == []
    return {case.id: [path.name for path in case.paths] for case in cases}


def test_numbered_channels(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b_0001.nii.gz",
        "b_0000.nii.gz",
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "notes.txt",
        "._b_0000.nii.gz",
    )
    assert found(tmp_path) == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
    }


def test_one_file_a_case(tmp_path: Path) -> None:
    """Numbers belong to the names where no file is a first channel."""
    touch(tmp_path, "patient_0012.nii.gz", "patient_0013.nii.gz", "other.nii.gz")
    assert found(tmp_path) == {
        "other": ["other.nii.gz"],
        "patient_0012": ["patient_0012.nii.gz"],
        "patient_0013": ["patient_0013.nii.gz"],
    }


def test_capital_endings(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.NII.GZ")
    assert found(tmp_path) == {"a": ["a_0000.NII.GZ"]}
    assert find_cases([tmp_path])[0][0].ending == ".nii.gz"


def test_missing_and_doubled_channels_do_not_stop_the_others(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a_0000.nii.gz",
        "b_0000.nii.gz",
        "b_0002.nii.gz",
        "c_0001.nii.gz",
        "d_0000.nii.gz",
        "d_0000.nrrd",
    )
    cases, problems = find_cases([tmp_path])
    assert [case.id for case in cases] == ["a"]
    text = "\n".join(str(problem) for problem in problems)
    assert "b: channels are missing; got no b_0001" in text
    assert "c: channels are missing; got no c_0000" in text
    assert "d: several files for one channel; got 0000" in text


def test_files_of_one_case(tmp_path: Path) -> None:
    paths = touch(tmp_path, "t1.nii.gz", "t2.nii.gz")
    (case,), problems = find_cases(paths[::-1])
    assert problems == []
    assert case == InputCase(id="t2", paths=(paths[1], paths[0]))
    (case,), _ = find_cases(touch(tmp_path, "x_0000.nrrd", "x_0001.nrrd"))
    assert case.id == "x"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["absent"], "there is no such file or folder"),
        (["empty"], "there are no images in this folder; got 1 other files"),
        (["empty", "a.nii.gz"], "a folder among several inputs"),
        (["empty/notes.txt"], "this is no kind of image that can be read"),
    ],
)
def test_refused(tmp_path: Path, names: list[str], said: str) -> None:
    touch(tmp_path, "a.nii.gz")
    touch(tmp_path / "empty", "notes.txt")
    with pytest.raises(UsageError, match=said):
        find_cases([tmp_path / name for name in names])


@pytest.mark.parametrize("count", [1, 2, 3, 10, 12])
def test_parts_make_up_the_whole(count: int) -> None:
    cases = [InputCase(id=str(number), paths=(Path(f"{number}.png"),)) for number in range(10)]
    parts = [part_of(cases, f"{number}/{count}") for number in range(1, count + 1)]
    assert sorted((case.id for part in parts for case in part), key=int) == [case.id for case in cases]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part_of(cases, None) == cases


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0", ""])
def test_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="this is no part"):
        part_of([], text)


def image(path: Path, shape: tuple[int, ...]) -> Path:
    geometry = Geometry(
        shape=shape[-3:],  # type: ignore[arg-type]
        spacing=(1.0, 1.0, 1.0),
        origin_xyz=(0.0, 0.0, 0.0),
        direction_xyz=tuple(np.eye(3).ravel()),
        dimension=3,
        num_channels=1,
    )
    write_image(path, np.zeros(shape, np.int16), geometry)
    return path


def test_channels_are_counted_in_headers(tmp_path: Path) -> None:
    one, four = image(tmp_path / "a_0000.nii.gz", (4, 5, 6)), image(tmp_path / "b.nii.gz", (4, 4, 5, 6))
    assert read_grid(InputCase(id="a", paths=(one,)), 1).shape == (4, 5, 6)
    assert read_grid(InputCase(id="b", paths=(four,)), 4).shape == (4, 5, 6)
    with pytest.raises(
        ImageError, match=r"a: wrong number of channels; got 1 in a_0000.nii.gz; expected 2"
    ) as caught:
        read_grid(InputCase(id="a", paths=(one,)), 2)
    assert "a_0001.nii.gz" in str(caught.value)
    cut = tmp_path / "c_0000.nii.gz"
    cut.write_bytes(one.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"c_0000.nii.gz"):
        read_grid(InputCase(id="c", paths=(cut, one)), 2)
