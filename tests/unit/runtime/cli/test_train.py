"""``nnrules run train``: options, exit codes, messages."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.cli import run
from nnrules.plan import Plan

SHORT = [
    "--set", "training.epochs=1",
    "--set", "training.num_iterations_per_epoch=2",
    "--set", "training.num_validation_iterations_per_epoch=1",
    "--device", "cpu", "--precision", "float32", "--no-compile", "--threads", "1", "--workers", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, write_boxes: Callable[..., Path]) -> Path:
    return write_boxes(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def plan(dataset: Path, tmp_path_factory: pytest.TempPathFactory, shrink: Callable[..., None]) -> Path:
    """A plan whose network is so small that a training takes a second."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    assert run(["plan", str(dataset), "-o", str(path)]) == 0
    document = json.loads(path.read_text())
    shrink(document["configurations"]["3d_fullres"])
    Plan.from_document(document)
    path.write_text(json.dumps(document))
    return path


def command(plan: Path, dataset: Path, work: Path, *more: str) -> list[str]:
    return ["run", "train", str(plan), str(dataset), "-c", "3d_fullres", "--work", str(work), *SHORT, *more]


def test_a_training_from_the_command_line(
    plan: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(plan, dataset, tmp_path, "--seed", "3", "--json")) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["finished"]
    assert document["epochs_done"] == 1
    assert "dice" in document["validation"]
    folder = Path(document["folder"])
    assert folder == tmp_path / "models" / "3d_fullres" / "fold_0"
    facts = json.loads((folder / "training.json").read_text())
    assert facts["overrides"]["training.epochs"] == 1
    assert (facts["seed"], facts["profile"]["deterministic"]) == (3, True)
    stored = json.loads((folder.parent / "plan.json").read_text())
    assert stored["training"]["epochs"] == 1
    # Again: nothing is left to do.
    assert run(command(plan, dataset, tmp_path, "--seed", "3")) == 0
    assert "mean foreground Dice" in capsys.readouterr().out


def test_a_training_that_stopped_has_an_exit_code_of_its_own(
    plan: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(plan, dataset, tmp_path, "--max-minutes", "0")) == 3
    assert "the same command continues" in capsys.readouterr().out
    assert run(command(plan, dataset, tmp_path)) == 0


def test_folds_of_ones_own_and_probabilities(
    plan: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = tmp_path / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["c0", "c1"], "val": ["c4"]}]))
    assert run(command(plan, dataset, tmp_path / "work", "--splits", str(splits), "--probabilities")) == 0
    assert "mean foreground Dice" in capsys.readouterr().out
    validation = tmp_path / "work" / "models" / "3d_fullres" / "fold_0" / "validation"
    assert {path.name for path in validation.iterdir() if not path.name.startswith(".")} == {
        "c4.nii.gz", "c4.npz", "summary.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fold", "first"], "--fold: no such fold; got first"),
        (["-c", "3d_lowres"], "the plan has no such configuration"),
        (["--set", "training.epoch=2"], "expected training.epochs"),
        (["--set", "training.epochs=0", "--fold", "1"], "epochs"),
        (["--device", "cuda:7"], "this device is not here"),
        (["--precision", "float8"], "unknown precision"),
        (["--weights", "missing.safetensors"], "missing.safetensors"),
        (["--max-minutes", "-1"], "--max-minutes"),
        (["--splits", "missing.json"], "missing.json: no such file"),
        (["--probabilities", "--no-validation"], "--probabilities: these are made by validation"),
    ],
)
def test_wrong_options_are_refused(
    *,
    plan: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    arguments = command(plan, dataset, tmp_path, *more)
    if "training.epochs=0" in more:
        arguments.remove("training.epochs=1")
        arguments.remove("--set")
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_at_a_checkpoint(
    plan: Path, dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = command(plan, dataset, tmp_path, "--no-validation")
    arguments[arguments.index("training.num_iterations_per_epoch=2")] = (
        "training.num_iterations_per_epoch=100000"
    )
    arguments[arguments.index("--workers") + 1] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "nnrules", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "cases train" in line:
            break
    time.sleep(2)
    # As a terminal or a scheduler does: to all processes of the group, workers included.
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert f"stopped by signal {number.name}" in out
    assert (tmp_path / "models" / "3d_fullres" / "fold_0" / "checkpoint.pt").is_file()
