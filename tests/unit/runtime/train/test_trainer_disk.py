"""A disk that fills up in the midst of a training costs nothing but time."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nnrules.dataset import Dataset
from nnrules.errors import NnrulesError
from nnrules.plan import Plan

from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
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
    tiny_dataset: Dataset,
    tiny_store: CaseStore,
    cpu_profile: Callable[..., Profile],
) -> None:
    checkpoints = {**tiny_plan().document["training"]["checkpoints"], "every_num_epochs": 1}
    job = Job(
        plan=tiny_plan(checkpoints=checkpoints),
        configuration="3d_fullres",
        fold=0,
        dataset=tiny_dataset,
        store=tiny_store,
        workspace=Workspace(small_disk),
        profile=cpu_profile(),
        max_seconds=0.0,
    )
    assert not run_job(job).finished
    path = job.folder / CHECKPOINT_FILE
    before = path.read_bytes()

    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - kilobytes_free * 1024)
    longer = Job(**{name: getattr(job, name) for name in job.__slots__} | {"max_seconds": None})
    with pytest.raises(NnrulesError, match=r"No space left on device") as caught:
        run_job(longer)
    assert str(small_disk) in str(caught.value)
    # With some room the best weights fit, and the next checkpoint does not.
    assert path.read_bytes() == before
    assert read_checkpoint(path).iteration == 1
    assert not list(job.folder.glob(".*.tmp"))

    filler.unlink()
    assert run_job(longer).finished
