"""A disk that fills up in the midst of a training costs nothing but time."""

import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nnrules.errors import NnrulesError
from nnrules.plan import Plan

from nnrules_runtime.train.checkpoint import CHECKPOINT_FILE, read_checkpoint
from nnrules_runtime.train.job import Job, run_job
from nnrules_runtime.workspace import Workspace

SIZE_MB = 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}M", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes_free", [0, 40, 150])
def test_a_full_disk_leaves_the_checkpoint_before(
    *,
    kilobytes_free: int,
    small_disk: Path,
    tiny_plan: Callable[..., Plan],
    job: Callable[..., Job],
) -> None:
    checkpoints = {**tiny_plan().document["training"]["checkpoints"], "every_num_epochs": 1}
    short = job(plan=tiny_plan(checkpoints=checkpoints), workspace=Workspace(small_disk), max_seconds=0.0)
    assert not run_job(short).finished
    path = short.folder / CHECKPOINT_FILE
    before = path.read_bytes()

    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - kilobytes_free * 1024)
    longer = dataclasses.replace(short, max_seconds=None)
    with pytest.raises(NnrulesError, match=r"No space left on device") as caught:
        run_job(longer)
    assert str(small_disk) in str(caught.value)
    # With some room the best weights fit, and the next checkpoint does not.
    assert path.read_bytes() == before
    assert read_checkpoint(path).iteration == 1
    assert not list(short.folder.glob(".*.tmp"))

    filler.unlink()
    assert run_job(longer).finished
