"""A disk that is full: a tmpfs of a few hundred kilobytes, in a mount namespace of its own.

Each command is told to write where nothing more fits. It must name the file, leave what was there as it was and
nothing half-written, and succeed as soon as there is room.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules import image_write
from nnrules.errors import ImageError
from nnrules.image_io import Geometry, read_image, write_image

# What to copy onto the disk, the bytes to leave, the command, the file that its message names.
SCENARIOS: dict[str, tuple[list[str], int, str, str]] = {
    "preprocess": ([], 60_000, "preprocess plan.json data -c 3d_fullres --work disk/work", "disk/work/preprocessed"),
    "train": (["stopped"], 0, "train plan.json data -c 3d_fullres --work disk/stopped SHORT", "disk/stopped/"),
    "train until the weights are written": (
        ["stopped"], 20_000, "train plan.json data -c 3d_fullres --work disk/stopped SHORT", "disk/stopped/models",
    ),
    "predict": (["predictions"], 0, "predict work images disk/predictions --threads 1", "disk/predictions"),
    "predict probabilities": (
        ["predictions"], 8_000, "predict work images disk/predictions --probabilities --threads 1", "disk/predictions",
    ),
    "evaluate": (
        ["predictions"], 0, "evaluate plan.json disk/predictions references", "disk/predictions/summary.json",
    ),
    "evaluate, as a table": (
        ["predictions"], 0, "evaluate plan.json predictions references --csv disk/table.csv", "disk/table.csv",
    ),
}  # fmt: skip
# Files that an interrupted training may go on writing, line by line.
GROWING = ("metrics.jsonl", "progress.png", "plan.json", ".lock")

CHILD = """
import contextlib, ctypes, hashlib, io, json, os, shutil, sys
from pathlib import Path
from nnrules.cli import run

def mount(target):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", str(target).encode(), b"tmpfs", 0, b"size=1500k"):
        print(json.dumps({"no mount": os.strerror(ctypes.get_errno())}))
        sys.exit(0)
    return lambda: libc.umount2(str(target).encode(), 2)

def files(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()
    }

def fill(path, left):
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(1024)):
            pass
    os.truncate(path, max(0, path.stat().st_size - left))

def call(command):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["run", *command.split(), "--json"])
    return code, err.getvalue()

results = {}
for name, (copied, left, command, _) in json.loads(sys.argv[1]).items():
    disk = Path("disk")
    disk.mkdir(exist_ok=True)
    unmount = mount(disk.resolve())
    for folder in copied:
        shutil.copytree(folder, disk / folder)
    if "--work disk/work" in command:
        (disk / "work").mkdir()
    fill(disk / "filler", left)
    before = files(disk)
    result = {"before": before}
    try:
        result["code"], result["said"] = call(command)
    except BaseException as exc:
        result["code"], result["said"] = 1, repr(exc)
    result["after"] = files(disk)
    (disk / "filler").unlink()
    result["code_with_room"], result["said_with_room"] = call(command)
    results[name] = result
    unmount()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(trained_inputs: Path, tmp_path_factory: pytest.TempPathFactory, short: str) -> dict[str, Any]:
    """What every scenario came to; they run one after the other in one process."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux and `unshare` for a small file system of its own")
    folder = tmp_path_factory.mktemp("disk") / "runtime"
    shutil.copytree(trained_inputs, folder)
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        sys.executable,
        "-c",
        CHILD,
        json.dumps(SCENARIOS).replace("SHORT", short),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
    if "unshare" in done.stderr.partition(":")[0]:
        pytest.skip(f"no namespace for a small file system: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "no mount" in found:
        pytest.skip(f"no small file system can be mounted here: {found['no mount']}")
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_full_disk(results: dict[str, Any], name: str) -> None:
    result = results[name]
    before, after = result["before"], result["after"]

    assert result["code"] == 2, result["said"]
    document = json.loads(result["said"][result["said"].index("{\n") :])
    said = json.dumps(document, ensure_ascii=False)
    assert SCENARIOS[name][3] in said
    assert "No space left on device" in said or "is the disk full?" in said
    assert "space" in " ".join(problem["fix"] for problem in document["errors"])
    changed = [path for path in before if after.get(path) != before[path] and not path.endswith(GROWING)]
    assert not changed, changed
    assert not [path for path in after if ".tmp" in path or ".old" in path], after.keys()
    # With room, the same command does all of it.
    assert result["code_with_room"] == 0, result["said_with_room"]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".png", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_an_image_that_is_not_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, kept: float
) -> None:
    """ITK reports no full disk for NIfTI and PNG; the file that was there stays."""
    path = tmp_path / f"image{ending}"
    geometry = Geometry(
        shape=(1, 40, 30), spacing=(1.0,) * 3, origin_xyz=(0.0,) * 2, direction_xyz=(1.0, 0.0, 0.0, 1.0),
        dimension=2, num_channels=1,
    )  # fmt: skip
    array = np.random.default_rng(0).integers(0, 255, (1, 40, 30)).astype(np.uint8)
    write_image(path, array, geometry)
    before = path.read_bytes()
    assert np.array_equal(read_image([path])[0][0], array)

    class Cut:
        """SimpleITK whose files end early, and which says so as ITK does: not at all, or with an error."""

        GetImageFromArray = staticmethod(sitk.GetImageFromArray)

        @staticmethod
        def WriteImage(image: sitk.Image, name: str, **options: Any) -> None:
            sitk.WriteImage(image, name, **options)
            os.truncate(name, int(kept * Path(name).stat().st_size))
            if ending in (".nrrd", ".mha"):
                raise RuntimeError("No space left on device")

    monkeypatch.setattr(image_write, "simpleitk", Cut)
    with pytest.raises(ImageError, match="No space left on device"):
        write_image(path, array, geometry)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
