"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest
from nnrules.errors import RunError

from nnrules_runtime.files import atomic_file, atomic_folder, digest_of_file, make_folder


def test_a_file_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with atomic_file(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("two")
        raise ZeroDivisionError
    assert path.read_text() == "one"
    with atomic_file(path) as temporary:
        temporary.write_text("three")
    assert path.read_text() == "three"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_a_folder_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("one")
    with pytest.raises(ZeroDivisionError), atomic_folder(folder) as temporary:
        (temporary / "b").write_text("two")
        raise ZeroDivisionError
    assert [entry.name for entry in folder.iterdir()] == ["a"]
    with atomic_folder(folder) as temporary:
        (temporary / "c").write_text("three")
    assert [entry.name for entry in folder.iterdir()] == ["c"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["case"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("old")
    with pytest.raises(RunError, match="cannot be written; got No space left") as error, atomic_file(path):
        raise OSError(28, "No space left on device")
    assert "unchanged" in str(error.value)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"), atomic_file(tmp_path / "no" / "file"):
        pass
    with pytest.raises(RunError, match="cannot be written"), atomic_folder(tmp_path / "no" / "folder"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        make_folder(tmp_path / "file" / "below")


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert digest_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
