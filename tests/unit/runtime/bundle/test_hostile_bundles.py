"""Bundles that are damaged, foreign or hostile: each is refused, in words, and nothing in it is run or extracted."""

import hashlib
import json
import os
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnrules.errors import ModelError, NnrulesError
from nnrules.plan import Plan
from safetensors.torch import load_file, save_file

from nnrules_runtime.bundle import open_bundle, write_bundle
from nnrules_runtime.bundle.archive_write import Content, write_archive
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.workspace import Workspace

Files = dict[str, bytes]
NAME = "3d_fullres"
FOLD = f"models/{NAME}/fold_0"


@pytest.fixture(scope="module")
def good(
    tmp_path_factory: pytest.TempPathFactory,
    plan: Plan,
    make_work: Callable[..., Workspace],
    make_choice: Callable[..., Empirical],
) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    work = make_work(folder / "work", plan, {NAME: (0,)})
    path = folder / "good.nnrules"
    write_bundle(work, path, empirical=make_choice(plan, (NAME,), (0,)), licence="MIT")
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, good: bytes) -> Path:
    """A copy of a good bundle, alone in a folder."""
    (tmp_path / "alone").mkdir()
    path = tmp_path / "alone" / "b.nnrules"
    path.write_bytes(good)
    return path


def refused(path: Path, text: str | None = None) -> str:
    """Using the bundle fails with this text, and leaves no file behind."""
    with pytest.raises(ModelError, match=text) as caught:
        use(path)
    assert list(path.parent.iterdir()) == [path]
    assert all(str(path) in problem.where for problem in caught.value.problems)
    return str(caught.value)


def use(path: Path) -> None:
    bundle = open_bundle(path)
    list(bundle.verify())
    for name in bundle.folds:
        for model in bundle.models(name):
            model.network()


def files_of(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, change: Callable[[Files], object], *, digests: bool = True) -> None:
    """Change contents as somebody would who knows the format: with the manifest's digests, in the right layout."""
    files = files_of(path)
    change(files)
    manifest = files.pop("manifest.json")
    if digests:
        document = json.loads(manifest)
        document["content"] = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
        manifest = json.dumps(document).encode()
    contents = [Content.of(name, content) for name, content in sorted(files.items())]
    write_archive(path, [Content.of("manifest.json", manifest), *contents])


def rewrite_json(path: Path, name: str, change: Callable[[Any], object], *, digests: bool = True) -> None:
    def changed(files: Files) -> None:
        document = json.loads(files[name])
        change(document)
        files[name] = json.dumps(document).encode()

    rewrite(path, changed, digests=digests)


def weights_name(files: Mapping[str, bytes]) -> str:
    (name,) = (name for name in files if name.endswith(".safetensors"))
    return name


def exchange_weights(path: Path, content: bytes) -> None:
    """Other weights, which every digest names."""

    def changed(files: Files) -> None:
        files[weights_name(files)] = content
        model = json.loads(files[f"{FOLD}/model.json"])
        model["weights"]["final"]["sha256"] = hashlib.sha256(content).hexdigest()
        files[f"{FOLD}/model.json"] = json.dumps(model).encode()

    rewrite(path, changed)


def test_the_tools_of_these_tests_make_good_bundles(path: Path, good: bytes) -> None:
    rewrite(path, lambda files: None, digests=False)
    assert path.read_bytes() == good
    rewrite(path, lambda files: None)
    use(path)


# -- damage -----------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_flipped_byte_is_noticed(path: Path, good: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    refused(path)


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_cut_is_noticed(path: Path, good: bytes, data: st.DataObject) -> None:
    path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    refused(path, "this is no bundle|cut off")


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_regions_that_are_zero_or_exchanged_are_noticed(path: Path, good: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(good) - 1))
    length = data.draw(st.integers(1, 5000))
    part = good[start : start + length]
    changed = (
        good[:start]
        + data.draw(st.sampled_from([bytes(len(part)), part[::-1], b""]))
        + good[start + length :]
    )
    if changed != good:
        path.write_bytes(changed)
        refused(path)


@given(st.binary(max_size=400))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(path: Path, content: bytes) -> None:
    for start in (b"", b"PK\x03\x04", b"PK\x05\x06"):
        path.write_bytes(start + content)
        refused(path)


# -- other archives ---------------------------------------------------------------------------------------------------


def repacked(path: Path, **options: Any) -> None:
    """The same contents, packed by another program."""
    files = files_of(path)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_compressed_archives_are_refused(path: Path) -> None:
    repacked(path, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed, which those of a bundle never are")


def test_archives_of_other_programs_are_refused(path: Path) -> None:
    repacked(path)
    refused(path, "not as nnrules writes one")


def test_a_bomb_is_refused_before_anything_is_unpacked(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * 50_000_000)
    refused(path, "compressed")


def entry(name: str, *, mode: int = stat.S_IFREG | 0o644, content: bytes = b"x") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        files = files_of(path)
        with zipfile.ZipFile(path, "w") as archive:
            for known, kept in files.items():
                archive.writestr(known, kept)
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = mode << 16
            archive.writestr(info, content)

    return write


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (entry("/etc/passwd"), "begins at the root of a disk"),
        (entry("C:/windows/system.ini"), "begins at the root of a disk"),
        (entry("../outside.txt"), "leads out of the archive"),
        (entry("models/../../outside.txt"), "leads out of the archive"),
        (entry("models\\..\\outside.txt"), "backslash"),
        (entry("models/"), "no name of a file"),
        (entry(".hidden"), "no name of a file"),
        (entry("models/über.txt"), "no name of a file"),
        (entry("models/a\nb"), "no name of a file"),
        (entry("models/a\x1b[2J"), "no name of a file"),
        (entry("con"), "device"),
        (entry("models/NUL.txt"), "device"),
        (entry("models/x."), "ends with a point"),
        (entry("PLAN.json"), "stands twice"),
        (entry("link", mode=stat.S_IFLNK | 0o777, content=b"/etc/passwd"), "this is a link"),
        (entry("pipe", mode=stat.S_IFIFO | 0o644), "no plain file"),
        (entry("device", mode=stat.S_IFCHR | 0o644), "no plain file"),
        (entry("run_me.py", content=b"raise SystemExit"), "not as nnrules writes one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_that_no_bundle_has(path: Path, spoil: Callable[[Path], None], text: str) -> None:
    spoil(path)
    refused(path, text)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(path: Path) -> None:
    entry("plan.json")(path)
    refused(path, "stands twice")


def patch(path: Path, place: int, content: bytes) -> None:
    changed = bytearray(path.read_bytes())
    changed[place : place + len(content)] = content
    path.write_bytes(changed)


def directory_of(path: Path) -> int:
    """Where the directory of the archive begins."""
    return int(struct.unpack("<I", path.read_bytes()[-6:-2])[0])


@pytest.mark.parametrize(
    ("place", "content", "text"),
    [
        (8, struct.pack("<H", 1), "encrypted"),
        (8, struct.pack("<H", 8), "not as nnrules writes one"),
        (10, struct.pack("<H", 99), "compressed"),
        (12, struct.pack("<H", 1), "not as nnrules writes one"),
        (20, struct.pack("<2I", 1 << 31, 1 << 31), "not as nnrules writes one"),
        (20, struct.pack("<2I", 0xFFFFFFFF, 0xFFFFFFFF), "directory is damaged|not as nnrules"),
        (24, struct.pack("<I", 1), "not as nnrules writes one"),
        (28, struct.pack("<H", 0xFFFF), "directory is damaged|no name"),
        (32, struct.pack("<H", 0xFFFF), "directory is damaged|not as nnrules"),
        (42, struct.pack("<I", 7), "not as nnrules writes one"),
    ],
)
def test_a_directory_that_lies(path: Path, place: int, content: bytes, text: str) -> None:
    patch(path, directory_of(path) + place, content)
    refused(path, text)


def test_two_entries_with_the_same_bytes(path: Path, good: bytes) -> None:
    """Overlapping entries, by which small archives unpack to large ones."""
    start = directory_of(path)
    first_bytes = 46 + struct.unpack_from("<H", good, start + 28)[0]
    record = bytearray(good[start : start + first_bytes])
    record[46 : 46 + 13] = b"manifest.jso2"
    end = bytearray(good[-22:])
    count, size = struct.unpack_from("<HI", end, 10)
    struct.pack_into("<2HI", end, 8, count + 1, count + 1, size + first_bytes)
    path.write_bytes(good[:-22] + record + end)
    refused(path, "not as nnrules writes one")


def test_a_directory_that_would_fill_memory(path: Path, good: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(good[:100])
        stream.truncate(3 << 30)
        stream.seek(3 << 30)
        stream.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, (3 << 30) - 100, 100, 0))
    refused(path, "larger than a bundle's can be")


def test_a_document_that_would_fill_memory(path: Path) -> None:
    rewrite(path, lambda files: files.update({"README.md": b" " * (1 << 25) + b" "}))
    refused(path, "larger than such a document can be")


# -- contents ---------------------------------------------------------------------------------------------------------


def drop(name: str) -> Callable[[Files], object]:
    return lambda files: files.pop(name)


def add(name: str, content: bytes = b"x") -> Callable[[Files], object]:
    return lambda files: files.update({name: content})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (add("setup.py"), "names|wrong form|not allowed"),
        (add("models/extra.txt"), "names|wrong form|not allowed"),
        (add(f"{FOLD}/code.py"), "names|wrong form|not allowed"),
        (add("models/2d/fold_0/model.json"), "parts that no bundle has"),
        (add(f"{FOLD}/more.safetensors"), "weights that no network of the bundle has"),
        (drop("plan.json"), "parts of the bundle are missing"),
        (drop("README.md"), "parts of the bundle are missing"),
        (drop(f"{FOLD}/model.json"), "parts of the bundle are missing"),
        (lambda files: files.pop(weights_name(files)), "not in the bundle"),
        (add("README.md", b"\xff\xfe"), "no text in UTF-8"),
        (add("plan.json", b"{"), "not valid JSON"),
        (add("plan.json", b"[" * 100_000), "nested too deeply|not valid JSON"),
        (add(f"{FOLD}/model.json", b"[]"), "model.json"),
        (add("empirical.json", b"{}"), "empirical.json"),
    ],
)
def test_contents_that_no_bundle_has(path: Path, change: Callable[[Files], object], text: str) -> None:
    """Even with the right digests."""
    rewrite(path, change)
    with pytest.raises(NnrulesError, match=text):
        use(path)
    assert list(path.parent.iterdir()) == [path]


def test_contents_that_the_manifest_does_not_name(path: Path) -> None:
    rewrite(path, add("setup.py"), digests=False)
    refused(path, "what the manifest does not name; got setup.py")
    rewrite(path, drop("setup.py"), digests=False)
    rewrite(path, drop("LICENSE"), digests=False)
    refused(path, "what the manifest names is missing; got LICENSE")


def test_contents_that_are_not_those_of_the_manifest(path: Path) -> None:
    rewrite(path, add("LICENSE", b"SPDX-License-Identifier: XYZ\n"), digests=False)
    refused(path, r"LICENSE: this is not what was put into the bundle; got SHA-256")
    rewrite(path, add("LICENSE", b"longer than before, much longer than it was before"), digests=False)
    refused(path, "another size than the manifest says")


def first(document: dict[str, Any]) -> dict[str, Any]:
    return document["configurations"][NAME]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(schema_version="2.0"), "of another major version; got 2.0; expected 1.0"),
        (lambda d: d.update(schema_version=1), "schema_version"),
        (lambda d: d.update(surprise=1), "unknown field"),
        (lambda d: d.update(members=["2d"]), "no networks of a member"),
        (lambda d: d.update(plan_hash="sha256:" + "0" * 64), "not the plan of the bundle"),
        (lambda d: first(d).update(network_digest="sha256:" + "0" * 64), "another network"),
        (lambda d: first(d).update(folds=[0, 1]), "parts of the bundle are missing"),
        (lambda d: first(d).update(folds=[]), "too few items"),
        (lambda d: first(d).update(folds=["../../x"]), "folds"),
        (lambda d: first(d).update(checkpoint="best"), "the bundle has other weights"),
        (lambda d: d["configurations"].update({"../x": first(d)}), "not allowed|wrong form"),
        (lambda d: d["configurations"].update(con=first(d)), "names that a bundle cannot hold"),
        (lambda d: d["content"].update({"../x": {"size": 1, "sha256": "0" * 64}}), "not allowed|wrong form"),
        (lambda d: d.update(name="x" * 1000), "name"),
    ],
)
def test_a_manifest_that_lies(path: Path, change: Callable[[Any], object], text: str) -> None:
    rewrite_json(path, "manifest.json", change, digests=False)
    refused(path, text)


def test_a_minor_version_of_tomorrow_is_read(path: Path) -> None:
    rewrite_json(path, "manifest.json", lambda d: d.update(schema_version="1.7"), digests=False)
    use(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(fold=1), "another network than the manifest"),
        (lambda d: d.update(configuration="2d"), "another network than the manifest"),
        (lambda d: d["weights"]["final"].update(sha256="0" * 64), "not in the bundle"),
        (lambda d: d["weights"]["final"].update(file="other.safetensors"), "not in the bundle"),
        (lambda d: d["weights"]["final"].update(file="../../plan.json"), "wrong form"),
        (lambda d: d["weights"].update(best=d["weights"]["final"]), "other weights"),
        (lambda d: d.update(mirror_axes=[7]), "mirror_axes"),
    ],
)
def test_a_model_document_that_lies(path: Path, change: Callable[[Any], object], text: str) -> None:
    rewrite_json(path, f"{FOLD}/model.json", change)
    refused(path, text)


def test_another_plan(path: Path) -> None:
    rewrite_json(path, "plan.json", lambda plan: plan["training"].update(epochs=3))
    refused(path, "not the plan of the bundle")

    def other_network(files: Files) -> None:
        document = json.loads(files["plan.json"])
        document["configurations"][NAME]["architecture"]["nonlinearity"]["negative_slope"] = 0.5
        files["plan.json"] = json.dumps(document).encode()
        manifest = json.loads(files["manifest.json"])
        manifest["plan_hash"] = Plan(document).hash
        files["manifest.json"] = json.dumps(manifest).encode()

    rewrite(path, other_network)
    refused(path, "of another plan")


def test_a_choice_of_other_members(path: Path) -> None:
    def changed(files: Files) -> None:
        text = files["empirical.json"].decode().replace(f'"{NAME}"', '"2d"')
        files["empirical.json"] = text.encode()

    rewrite(path, changed)
    refused(path, "another choice than the manifest's|candidates")


def test_a_cascade_without_its_first_stage(
    tmp_path: Path, cascade_plan: Plan, make_work: Callable[..., Workspace]
) -> None:
    first_stage, second = "3d_lowres", "3d_cascade_fullres"
    work = make_work(tmp_path / "work", cascade_plan, {first_stage: (0,), second: (0,)})
    (tmp_path / "alone").mkdir()
    path = tmp_path / "alone" / "c.nnrules"
    write_bundle(work, path, configurations=[second])

    def changed(files: Files) -> None:
        for name in [name for name in files if first_stage in name]:
            del files[name]
        manifest = json.loads(files["manifest.json"])
        del manifest["configurations"][first_stage]
        files["manifest.json"] = json.dumps(manifest).encode()

    rewrite(path, changed)
    refused(path, f"{second} needs the networks of {first_stage}")


# -- weights ----------------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle that creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_pickles_in_place_of_weights_are_never_opened(path: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"weights": Bomb(mark)}, tmp_path / "bomb.pt")
    for content in (pickle.dumps(Bomb(mark)), (tmp_path / "bomb.pt").read_bytes()):
        exchange_weights(path, content)
        refused(path, "this is a pickle")
    assert not mark.exists()


def test_weights_of_another_network(path: Path, tmp_path: Path) -> None:
    name = weights_name(files_of(path))
    (tmp_path / "w.safetensors").write_bytes(files_of(path)[name])
    tensors = load_file(tmp_path / "w.safetensors")
    key = sorted(tensors)[0]
    for changed, text in (
        ({k: v for k, v in tensors.items() if k != key}, "is missing"),
        ({**tensors, "more": torch.zeros(1)}, "more is unknown"),
        ({**tensors, key: tensors[key] * float("nan")}, "not finite"),
    ):
        save_file(changed, tmp_path / "w.safetensors")
        exchange_weights(path, (tmp_path / "w.safetensors").read_bytes())
        assert name in refused(path, text)
    for content in (b"", b"text", struct.pack("<Q", 1 << 60) + b"{}"):
        exchange_weights(path, content)
        refused(path, "damaged or cut off")


def test_a_checksum_of_the_archive_that_lies(path: Path) -> None:
    """Digests are right, and other programs would call the archive damaged."""
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("README.md")
    for place in (info.header_offset + 14, good.index(struct.pack("<I", info.CRC), directory_of(path))):
        patch(path, place, struct.pack("<I", zlib.crc32(b"other")))
    refused(path, "CRC-32")
