"""Files that would run code if they were trusted, in place of weights, checkpoints and preprocessed cases."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from nnrules.cli import run

pytestmark = pytest.mark.usefixtures("torch_as_before")

TRAIN = "run train plan.json data -c 3d_fullres SHORT"
FOLD = Path("models/3d_fullres/fold_0")
STORE = Path("work/preprocessed/3d_fullres")


class Bomb:
    """A pickle that creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.mark}",))


@pytest.fixture
def workspace(runtime_copy: Path) -> Path:
    return runtime_copy


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What a bomb would create; it must never be there."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], short: str) -> Callable[..., None]:
    def check(command: str, *says: str) -> None:
        assert run([*command.replace("SHORT", short).split(), "--json"]) == 2
        err = capfd.readouterr().err
        document = json.loads(err[err.index("{\n") :])
        said = json.dumps(document, ensure_ascii=False)
        assert all(problem.get("fix") for problem in document["errors"]), said
        missing = [fragment for fragment in says if fragment not in said]
        assert not missing, f"{missing} not in {said}"

    return check


def plant(path: Path, mark: Path, kind: str) -> None:
    """Write a bomb as torch or as pickle would."""
    if kind == "torch":
        torch.save({"weights": Bomb(mark)}, path)
    elif kind == "torch, old":
        torch.save({"weights": Bomb(mark)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))


KINDS = pytest.mark.parametrize("kind", ["pickle", "torch", "torch, old"])


@KINDS
def test_checkpoint(workspace: Path, mark: Path, refused: Callable[..., None], kind: str) -> None:
    path = "stopped" / FOLD / "checkpoint.pt"
    plant(path, mark, kind)
    before = path.read_bytes()
    refused(f"{TRAIN} --work stopped", str(path), "nothing in it was executed", "--restart")
    assert path.read_bytes() == before


@KINDS
@pytest.mark.parametrize("name", ["bomb.pth", "bomb.safetensors"])
def test_weights_to_begin_with(
    workspace: Path, mark: Path, refused: Callable[..., None], kind: str, name: str
) -> None:
    plant(workspace / name, mark, kind)
    refused(f"{TRAIN} --work new --weights {name}", name)
    assert not (workspace / "new").exists()


@KINDS
def test_model(workspace: Path, mark: Path, refused: Callable[..., None], kind: str) -> None:
    """Even where ``model.json`` vouches for the file."""
    (path,) = ("work" / FOLD).glob("final.*.safetensors")
    plant(path, mark, kind)
    model = "work" / FOLD / "model.json"
    document = json.loads(model.read_text())
    document["weights"]["final"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    model.write_text(json.dumps(document))
    refused("run predict work images out --threads 1", str(path), "this is a pickle")
    assert not (workspace / "out").exists()


@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "locations.b2nd"])
@pytest.mark.parametrize("kind", ["pickle", "cut", "missing", "lazy"])
def test_preprocessed_files_that_are_others_are_made_anew(
    workspace: Path, mark: Path, short: str, name: str, kind: str
) -> None:
    """Training looks at the files' sizes and preprocesses such cases again; nothing in them is executed."""
    before = {path: path.read_bytes() for path in STORE.glob("c*/*.b2nd")}
    damaged = STORE / "c1" / name
    if kind == "pickle":
        plant(damaged, mark, kind)
    elif kind == "cut":
        damaged.write_bytes(before[damaged][: len(before[damaged]) // 2])
    elif kind == "lazy":
        plant_lazy(damaged)
    else:
        damaged.unlink()
    assert run([*TRAIN.replace("SHORT", short).split(), "--work", "work", "--restart"]) == 0
    assert {path: path.read_bytes() for path in STORE.glob("c*/*.b2nd")} == before
    assert not (workspace / "EXECUTED").exists()


@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "locations.b2nd"])
def test_one_wrong_byte_in_preprocessed_files(
    workspace: Path, refused: Callable[..., None], short: str, name: str
) -> None:
    """It is found when it is read, and what the message advises helps."""
    before = {path: path.read_bytes() for path in STORE.glob("c*/*.b2nd")}
    for path in STORE.glob(f"c*/{name}"):
        middle = len(before[path]) // 2
        path.write_bytes(
            before[path][:middle] + bytes([before[path][middle] ^ 1]) + before[path][middle + 1 :]
        )
    refused(
        f"{TRAIN} --work work --restart",
        name,
        "Remove work/preprocessed/3d_fullres/c",
        "nnrules run preprocess",
    )
    for folder in STORE.glob("c*"):
        shutil.rmtree(folder)
    assert run(["run", "preprocess", "plan.json", "data", "-c", "3d_fullres", "--work", "work"]) == 0
    assert {path: path.read_bytes() for path in STORE.glob("c*/*.b2nd")} == before
    assert run([*TRAIN.replace("SHORT", short).split(), "--work", "work", "--restart"]) == 0


def plant_lazy(path: Path) -> None:
    """An array whose values Blosc2 would compute with code that stands in the file."""
    operand = path.with_name("operand.b2nd")
    array = blosc2.asarray(np.zeros((4, 4), np.float32), urlpath=str(operand), mode="w")
    path.unlink()

    def compute(inputs: Any, output: Any, offset: Any) -> None:
        import os

        os.system("touch EXECUTED")
        output[:] = inputs[0]

    blosc2.lazyudf(compute, (array,), dtype=np.float32).save(str(path))


def test_an_array_that_computes_itself(workspace: Path) -> None:
    """Even where ``case.json`` vouches for the file."""
    from nnrules_runtime.preprocess.store_arrays import open_array

    path = workspace / STORE / "c1" / "image.b2nd"
    plant_lazy(path)
    with pytest.raises(ValueError, match="LazyArray"):
        open_array(path)
    assert not (workspace / "EXECUTED").exists()
