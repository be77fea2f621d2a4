"""Checkpoints are whole, of this training, and data only."""

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.errors import ModelError, RunError

from nnrules_runtime.train.checkpoint import (
    Checkpoint,
    check_same_training,
    read_checkpoint,
    training_fields,
    write_checkpoint,
)


def made(**changes: Any) -> Checkpoint:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(4, 3, 3, 3, 3, generator=generator)
    values: dict[str, Any] = {
        "fields": {
            "fold": 0,
            "training.epochs": 10,
            "channels[0].name": "CT",
            "configurations.a.patch_size": [4, 4, 4],
        },
        "seed": 2**63 - 25,
        "profile": {"device": "cpu", "precision": "float32"},
        "torch_version": torch.__version__,
        "epoch": 3,
        "iteration": 7,
        "losses": torch.tensor([0.1, -0.25]),
        "num_iterations": 37,
        "num_skipped": 1,
        "seconds": 12.5,
        "average_dice": 0.1 + 0.2,
        "best_dice": None,
        "network": {"weight": weight.to(memory_format=torch.channels_last_3d), "bias": torch.zeros(4)},
        "optimizer": {
            "state": {0: {"momentum_buffer": weight * 2}},
            "param_groups": [{"lr": 0.01, "params": [0]}],
        },
        "scaler": {},
    }
    return Checkpoint(**(values | changes))


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = made()
    write_checkpoint(tmp_path / "checkpoint.pt", before)
    after = read_checkpoint(tmp_path / "checkpoint.pt")
    for field in dataclasses.fields(Checkpoint):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.name in ("network", "losses", "optimizer"):
            continue
        assert new == old, field.name
    assert torch.equal(after.losses, before.losses)
    for name, tensor in before.network.items():
        assert torch.equal(after.network[name], tensor)
        assert after.network[name].stride() == tensor.stride()
    assert torch.equal(
        after.optimizer["state"][0]["momentum_buffer"], before.optimizer["state"][0]["momentum_buffer"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: float) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, made())
    content = bytearray(path.read_bytes())
    tensor = made().optimizer["state"][0]["momentum_buffer"].numpy().tobytes()
    start = bytes(content).index(tensor[:64])
    content[start + int(place * len(tensor))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint.pt: this checkpoint is damaged.*--restart"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, made())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="no checkpoint, or a damaged one"):
        read_checkpoint(path)


class Malice:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.system, (f"touch {self.mark}",))


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    path, mark = tmp_path / "checkpoint.pt", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"network": Malice(mark)}))
    with pytest.raises(ModelError, match="a pickle"):
        read_checkpoint(path)
    torch.save({"network": Malice(mark)}, path)
    with pytest.raises(ModelError, match="nothing in it was executed"):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 99}, "another format"),
        ({"format": 1, "epoch": 3}, "parts of this checkpoint are missing"),
        ([1, 2], "no checkpoint of a training"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_on_a_full_disk_the_checkpoint_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, made(epoch=1))
    original = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return original(Path("/dev/full") if mode == "wb" else self, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        big = {"weight": torch.zeros(1_000_000)}
        with pytest.raises(RunError, match="No space left on device"):
            write_checkpoint(path, made(epoch=2, network=big))
    assert read_checkpoint(path).epoch == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_another_plan_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    checkpoint = made()
    check_same_training(checkpoint.fields, checkpoint.fields, tmp_path)
    changed = {**checkpoint.fields, "training.epochs": 20}
    with pytest.raises(
        ModelError, match=r"training.epochs: .*got 10; expected 20(.|\n)*of another plan.*--restart"
    ):
        check_same_training(checkpoint.fields, changed, tmp_path)
    with pytest.raises(ModelError, match=r"fold: .*got 0; expected 1"):
        check_same_training(checkpoint.fields, {**checkpoint.fields, "fold": 1}, tmp_path)
    many = {f"training.field{number}": number for number in range(30)}
    with pytest.raises(ModelError) as caught:
        check_same_training(checkpoint.fields, many, tmp_path)
    assert len(caught.value.problems) == 11
    assert "24 more differences" in str(caught.value)


def test_only_what_training_reads_is_compared(hippocampus_plan: Any) -> None:
    fields = training_fields(hippocampus_plan, "3d_fullres", 0)
    assert fields["training.epochs"] == 1000
    assert fields["configurations.3d_fullres.patch_size"] == [40, 56, 40]
    assert not any(
        ".inference." in name or name.startswith(("configurations.2d", "provenance")) for name in fields
    )
