"""A folder with one of everything that nnrules reads, for each case to spoil.

data/                a dataset of two tiny cases, nnU-Net v2's layout
fingerprint.json     forty cases
nnunet.json          the same as nnU-Net v2's own dataset_fingerprint.json; its dataset.json is data/dataset.json
plan.json            made from fingerprint.json

``trained_inputs`` is another folder, for the commands of the runtime; see there.
"""

import copy
import gzip
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.cli import run
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

Spoil = Callable[[Mapping[str, Any]], None]

NUM_CASES = 40
SHAPE = (4, 5, 6)
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def filled(
    *,
    shape: tuple[int, int, int] = SHAPE,
    kind: str = "int16",
    values: Mapping[tuple[int, int, int], float] | None = None,
    fill: float = 0,
) -> np.ndarray:
    """An image or label map (zyx) that holds ``fill`` but for ``values``."""
    array = np.full(shape, fill, dtype=kind)
    for place, value in (values or {}).items():
        array[place] = value
    return array


def fingerprint_document() -> dict[str, Any]:
    """Forty cases like the hippocampus."""
    statistics = dict.fromkeys(("min", "percentile_00_5", "mean", "median"), 0.0)
    statistics |= {"std": 1.0, "max": 2.0, "percentile_99_5": 2.0}
    return {
        "schema_version": "1.0",
        "created_by": "tests",
        "dataset": {
            "name": "corpus",
            "channel_names": ["MRI"],
            "labels": {"background": 0, "anterior": 1, "posterior": 2},
            "num_training": 260,
            "file_ending": ".nii.gz",
        },
        "extractors": {"geometry": 1},
        "cases": {
            "id": [f"case_{number:02d}" for number in range(NUM_CASES)],
            "shape": [[36, 50, 35]] * NUM_CASES,
            "spacing": [[1.0, 1.0, 1.0]] * NUM_CASES,
        },
        "crop": {"median_size_ratio": 1.0},
        "intensity": {"method": "published", "channels": [statistics]},
    }


def _write_dataset(folder: Path, write_volume: Callable[..., None]) -> None:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for case in ("a", "b"):
        label = filled(kind="uint8", values={(1, 2, 3): 1, (2, 2, 3): 2})
        write_volume(folder / "imagesTr" / f"{case}_0000.nii.gz", filled(fill=7, values={(1, 2, 3): 50}))
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", label)
    document = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(document))


@pytest.fixture(scope="session")
def good_inputs(tmp_path_factory: pytest.TempPathFactory, write_volume: Callable[..., None]) -> Path:
    """The folder before anything is spoilt; made once, only ever copied."""
    folder = tmp_path_factory.mktemp("good")
    _write_dataset(folder / "data", write_volume)
    document = fingerprint_document()
    (folder / "fingerprint.json").write_text(json.dumps(document))
    make_plan(Fingerprint.from_document(document)).save(folder / "plan.json")
    nnunet = {
        "spacings": document["cases"]["spacing"],
        "shapes_after_crop": document["cases"]["shape"],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": document["intensity"]["channels"][0]},
    }
    (folder / "nnunet.json").write_text(json.dumps(nnunet))
    return folder


@pytest.fixture
def workspace(good_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the good inputs, and the current folder."""
    folder = tmp_path / "work"
    shutil.copytree(good_inputs, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def spoil(workspace: Path, write_volume: Callable[..., None]) -> Spoil:
    """Apply what an entry of the corpus says about its files; see ``corpus/README.md``."""

    def apply(entry: Mapping[str, Any]) -> None:
        for name, text in entry.get("files", {}).items():
            path = workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        for name, changes in entry.get("edit", {}).items():
            path = workspace / name
            document = json.loads(path.read_text())
            for place, value in changes.items():
                put(document, place, value)
            path.write_text(json.dumps(document))
        for name, options in entry.get("image", {}).items():
            (workspace / name).parent.mkdir(parents=True, exist_ok=True)
            spacing = tuple(options.get("spacing", (1.0, 1.0, 1.0)))
            write_volume(workspace / name, filled(**_volume_options(options)), spacing=spacing)
        for name, options in entry.get("bytes", {}).items():
            _change_bytes(workspace / name, **options)
        for name in entry.get("remove", []):
            path = workspace / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in entry.get("folder", []):
            (workspace / name).mkdir(parents=True)

    return apply


def put(document: Any, place: str, value: Any) -> None:
    """Set a place such as ``cases.spacing[3]``; the text ``(absent)`` removes it."""
    parts = [int(index) if index else name for name, index in _PART.findall(place)]
    holder = document
    for part in parts[:-1]:
        holder = holder[part]
    if value == "(absent)":
        del holder[parts[-1]]
    else:
        holder[parts[-1]] = copy.deepcopy(value)


def _volume_options(options: Mapping[str, Any]) -> dict[str, Any]:
    values = {tuple(map(int, place.split())): value for place, value in options.get("values", {}).items()}
    plain = {name: options[name] for name in ("kind", "fill") if name in options}
    shape = {"shape": tuple(options["shape"])} if "shape" in options else {}
    return {**shape, **plain, "values": values}


def _change_bytes(path: Path, *, keep: int | None = None, at: Mapping[int, str] | None = None) -> None:
    """Cut a file, or overwrite bytes (hex) at offsets of what a .gz file holds unpacked."""
    content = path.read_bytes()
    if at:
        unpacked = bytearray(gzip.decompress(content))
        for offset, digits in at.items():
            changed = bytes.fromhex(digits)
            unpacked[offset : offset + len(changed)] = changed
        content = gzip.compress(bytes(unpacked))
    path.write_bytes(content[:keep])


@pytest.fixture(scope="session")
def short() -> str:
    """Options of a training that takes a second; ``SHORT`` in the commands of tests and ``corpus_runtime``."""
    return (
        "--set training.epochs=1 --set training.num_iterations_per_epoch=1 "
        "--set training.num_validation_iterations_per_epoch=1 "
        "--device cpu --precision float32 --no-compile --threads 1 --workers 0"
    )


@pytest.fixture(scope="session")
def trained_inputs(
    tmp_path_factory: pytest.TempPathFactory,
    write_boxes: Callable[..., Path],
    shrink: Callable[..., None],
    short: str,
) -> Path:
    """A folder with one of everything that the runtime reads; made once, only ever copied.

    ==================  =================================================================================
    ``data/``           five images of 20 x 24 x 18 voxels, one channel, two classes
    ``plan.json``       its plan with a network of few features and patches of 16 voxels
    ``work/``           fold 0 of 3d_fullres preprocessed and trained to its end
    ``stopped/``        the same training, stopped at a checkpoint
    ``images/``         two of the images
    ``predictions/``    their segmentations
    ``references/``     their labels
    ==================  =================================================================================
    """
    folder = tmp_path_factory.mktemp("trained")
    data = write_boxes(folder / "data", name="Tiny")
    for name in ("images", "references"):
        (folder / name).mkdir()
    assert run(["plan", str(data), "-o", str(folder / "plan.json")]) == 0
    plan = json.loads((folder / "plan.json").read_text())
    for configuration in plan["configurations"].values():
        shrink(configuration)
    (folder / "plan.json").write_text(json.dumps(plan))
    for number in (0, 1):
        shutil.copy(data / "imagesTr" / f"c{number}_0000.nii.gz", folder / "images")
        shutil.copy(data / "labelsTr" / f"c{number}.nii.gz", folder / "references")
    train = [
        "run",
        "train",
        str(folder / "plan.json"),
        str(data),
        "-c",
        "3d_fullres",
        *short.split(),
        "--json",
    ]
    assert run([*train, "--work", str(folder / "work")]) == 0
    assert run([*train, "--work", str(folder / "stopped"), "--max-minutes", "0"]) == 3
    predict = ["run", "predict", str(folder / "work"), str(folder / "images"), str(folder / "predictions")]
    assert run([*predict, "--threads", "1", "--json"]) == 0
    return folder


@pytest.fixture
def runtime_copy(trained_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the inputs of the runtime, and the current folder."""
    folder = tmp_path / "runtime"
    shutil.copytree(trained_inputs, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder, hidden ones too.

    Locks hold nothing, and measurements that ``fingerprint`` keeps of whole cases do not count.
    """

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
            and path.suffix != ".lock"
            and not (path.suffix == ".npz" and path.parent.name.endswith(".cache"))
        }

    return read


@pytest.fixture(scope="session")
def check_says() -> Callable[[Mapping[str, Any], str], None]:
    """``check_says(entry, text)``: the text has all fragments that an entry of the corpus asks for."""

    def one_line(text: object) -> str:
        return " ".join(str(text).split())

    def check(entry: Mapping[str, Any], text: str) -> None:
        said = one_line(text)
        missing = [fragment for fragment in map(one_line, entry["says"]) if fragment not in said]
        assert not missing, f"{missing} not in\n{text}"

    return check
