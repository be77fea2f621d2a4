"""``nnrules run all`` and ``nnrules run status``: their options; what they do is in tests/integration/runtime."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from nnrules.cli import run
from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.cli import app


@pytest.fixture
def inputs(tiny_plan: Callable[..., Plan], tiny_dataset: Dataset, tmp_path: Path) -> list[str]:
    """A plan and a dataset, and a work folder that is not there yet."""
    tiny_plan().save(tmp_path / "plan.json")
    return [str(tmp_path / "plan.json"), str(tiny_dataset.path), "--work", str(tmp_path / "work")]


FIELDS = (
    "param_type_name",
    "opts",
    "secondary_opts",
    "default",
    "required",
    "multiple",
    "metavar",
    "min",
    "help",
)


def parameters(command: str) -> dict[str, dict[str, Any]]:
    """The arguments and options of a command, as typer has understood them."""
    group: Any = typer.main.get_command(app)
    found = group.commands[command].params
    return {entry.name: {field: getattr(entry, field, None) for field in FIELDS} for entry in found}


def test_status_takes_what_the_run_is_asked() -> None:
    """All that decides which steps there are; but neither how they are executed nor what is done with them."""
    of_run, of_status = parameters("all"), parameters("status")
    only_run = {"device", "precision", "threads", "workers", "dry_run", "redo"}
    assert of_run.keys() - of_status.keys() == only_run
    assert [name for name in of_run if name not in only_run] == list(of_status)
    assert "run all" in of_status.pop("seed")["help"]
    assert {name: of_run[name] for name in of_status} == of_status


def test_the_plan_and_the_dataset_are_arguments_and_the_rest_has_defaults() -> None:
    found = parameters("all")
    assert [name for name, entry in found.items() if entry["param_type_name"] == "argument"] == [
        "plan",
        "dataset",
    ]
    assert [name for name, entry in found.items() if entry["required"]] == ["plan", "dataset"]
    assert found["set_"]["opts"] == ["--set"]
    assert found["work"]["default"] == Path("work")


@pytest.mark.parametrize("command", ["all", "status"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--refit", "some"], "--refit: no such choice; got some; expected cv or all"),
        (
            ["--folds", "first"],
            "--folds: these are no folds; got first; expected numbers such as 0,1,2, or all",
        ),
        (["--folds", "10"], "--folds: there is no such fold; got 10"),
        (["--configurations", "4d"], "the plan has no such configuration; got 4d"),
        (["--set", "training.epoch=2"], "expected training.epochs"),
    ],
)
def test_wrong_options_are_refused(
    *,
    command: str,
    options: list[str],
    message: str,
    inputs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["run", command, *inputs, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work" / "models").exists()


def test_options_choose_the_steps(inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    some = [
        "--configurations",
        " 2d, 3d_fullres ",
        "--folds",
        "1,0",
        "--set",
        "training.epochs=1",
        "--seed",
        "5",
    ]
    assert run(["run", "status", *inputs, *some, "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    names = {entry["step"] for entry in steps}
    assert {name for name in names if name.startswith("train-")} == {
        f"train-{configuration}-{fold}" for configuration in ("2d", "3d_fullres") for fold in (0, 1)
    }
    assert {entry["status"] for entry in steps} == {"to be done"}
    assert run(["run", "status", *inputs, *some]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "status", "time", "memory"]
    assert len([line for line in lines if "to be done" in line]) == len(steps)
