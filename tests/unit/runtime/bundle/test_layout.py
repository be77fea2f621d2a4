"""Archives: what other programs find in them, and what every byte is for."""

import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnrules.errors import ModelError

from nnrules_runtime.bundle.archive import Archive
from nnrules_runtime.bundle.archive_write import Content, write_archive
from nnrules_runtime.bundle.layout import ALIGNMENT, Entry, layout

parts = st.from_regex(r"[a-z0-9_.-]{0,8}", fullmatch=True).map(
    lambda part: f"p{part}q"
)  # no devices, no points at the end
contents = st.dictionaries(
    st.lists(parts, min_size=1, max_size=3).map("/".join), st.binary(max_size=300), min_size=1, max_size=8
)
some = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, files: dict[str, bytes]) -> bytes:
    write_archive(path, [Content.of(name, files[name]) for name in sorted(files)])
    return path.read_bytes()


@given(contents)
@some
def test_any_program_reads_it(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "a.zip"
    first = write(path, files)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
        assert archive.namelist() == sorted(files)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert write(path, dict(reversed(files.items()))) == first


@given(contents)
@some
def test_contents_begin_aligned_and_come_back(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "a.zip"
    write(path, files)
    archive = Archive.open(path)
    assert list(archive.entries) == sorted(files)
    assert all(start % ALIGNMENT == 0 for start in archive.starts.values())
    assert {name: archive.read(name, None) for name in files} == files


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.zip"
    write(path, {"a.json": b"{}", "models/b/weights.safetensors": b"0123456789" * 30, "empty": b""})
    return path


def refused(path: Path) -> bool:
    """An archive is refused when it is opened or when its contents are read, and said where and what to do."""
    with pytest.raises(ModelError) as caught:
        read(path)
    return all(str(path) in problem.where and problem.fix for problem in caught.value.problems)


def read(path: Path) -> None:
    archive = Archive.open(path)
    for name in archive.entries:
        archive.read(name, None)


def test_every_flipped_byte_is_noticed(whole: Path) -> None:
    content = whole.read_bytes()
    read(whole)
    for position in range(len(content)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[position] ^= mask
            whole.write_bytes(changed)
            assert refused(whole), (position, mask)


def test_every_cut_is_noticed(whole: Path) -> None:
    content = whole.read_bytes()
    for length in range(len(content)):
        whole.write_bytes(content[:length])
        assert refused(whole), length


@pytest.mark.parametrize("extra", [b"\0", b"PK\x05\x06" + bytes(18), b"a" * 100])
def test_bytes_before_and_after_are_noticed(whole: Path, extra: bytes) -> None:
    content = whole.read_bytes()
    for changed in (content + extra, extra + content):
        whole.write_bytes(changed)
        assert refused(whole)


def test_more_than_four_gigabytes(tmp_path: Path) -> None:
    """Sizes and offsets beyond 32 bits: a sparse file stands for the weights."""
    small = {"a.json": b"{}", "z.json": b"hello"}
    entries = [
        Entry("a.json", 2, zlib.crc32(small["a.json"])),
        Entry("large", 5 << 30, 0),
        Entry("z.json", 5, zlib.crc32(small["z.json"])),
    ]
    placed = layout(entries)
    path = tmp_path / "large.zip"
    with path.open("wb") as stream:
        for entry, header, start in zip(entries, placed.headers, placed.starts, strict=True):
            stream.seek(start - len(header))
            stream.write(header)
            stream.write(small.get(entry.name, b""))
        stream.seek(placed.directory_start)
        stream.write(placed.directory)
    with zipfile.ZipFile(path) as archive:
        assert [(entry.filename, entry.file_size) for entry in archive.infolist()] == [
            (entry.name, entry.size) for entry in entries
        ]
        assert archive.infolist()[2].header_offset > 5 << 30
        assert archive.read("z.json") == b"hello"
    found = Archive.open(path)
    assert found.entries["large"].size == 5 << 30
    assert found.read("z.json", None) == b"hello"
    assert all(start % ALIGNMENT == 0 for start in found.starts.values())


def test_a_source_that_changes_is_noticed_and_nothing_is_left(tmp_path: Path) -> None:
    source, path = tmp_path / "weights", tmp_path / "out" / "a.zip"
    path.parent.mkdir()
    source.write_bytes(b"one")
    content = Content.of("weights", source)
    source.write_bytes(b"two")
    with pytest.raises(ModelError, match="was changed while"):
        write_archive(path, [content])
    assert list(path.parent.iterdir()) == []
    source.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        write_archive(path, [content])
    assert list(path.parent.iterdir()) == []
