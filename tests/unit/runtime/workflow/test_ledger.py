"""Which steps are done, and why others are to be done again; on files that look like those of real steps."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.train.validation import SUMMARY_FILE, VALIDATION_FOLDER
from nnrules_runtime.workflow.contents import inputs_of
from nnrules_runtime.workflow.graph import build_graph, select
from nnrules_runtime.workflow.ledger import Ledger, Status
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph
from nnrules_runtime.workspace import Workspace

TRAIN, VALIDATE = "train-2d-0", "validate-2d-0"


@pytest.fixture
def settings(tiny_plan: Callable[..., Plan], tiny_dataset: Dataset, tmp_path: Path) -> Settings:
    return Settings(
        plan=tiny_plan(),
        dataset=tiny_dataset,
        workspace=Workspace(tmp_path / "work"),
        configurations=("2d",),
        folds=(0,),
    )


def graph_of(settings: Settings) -> Graph:
    return build_graph(settings, select(settings))


def leave(settings: Settings, digest: str = "1" * 64) -> None:
    """What a training and its validation leave."""
    folder = settings.workspace.fold("2d", 0)
    (folder / VALIDATION_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / "w.safetensors").write_bytes(b"weights")
    weights = {"final": {"file": "w.safetensors", "sha256": digest, "epoch": 1}}
    (folder / "model.json").write_text(json.dumps({"weights": weights}))
    (folder / VALIDATION_FOLDER / SUMMARY_FILE).write_text("{}")
    (folder / VALIDATION_FOLDER / "case.nii.gz").write_bytes(b"labels")


def note(settings: Settings, *names: str) -> None:
    graph, ledger = graph_of(settings), Ledger(settings)
    for name in names:
        ledger.write(graph[name], inputs_of(graph[name], graph, settings), seconds=1.0, peak_bytes=None)


def standing(settings: Settings, name: str) -> tuple[Status, str | None]:
    graph = graph_of(settings)
    found = Ledger(settings).standing(graph[name], graph)
    return found.status, found.reason


def test_nothing_is_done_at_first(settings: Settings) -> None:
    assert {standing(settings, step.name)[0] for step in graph_of(settings)} == {Status.OPEN}


def test_done(settings: Settings) -> None:
    leave(settings)
    note(settings, TRAIN, VALIDATE)
    assert standing(settings, TRAIN) == standing(settings, VALIDATE) == (Status.DONE, None)


def test_other_weights_ask_for_another_validation(settings: Settings) -> None:
    leave(settings)
    note(settings, TRAIN, VALIDATE)
    leave(settings, "2" * 64)
    assert standing(settings, TRAIN) == (Status.CHANGED, "its result was changed by something else")
    assert standing(settings, VALIDATE) == (Status.CHANGED, "changed: result of train 2d fold 0")


def changed_plan(settings: Settings, section: list[str], key: str, value: Any) -> Settings:
    document = json.loads(json.dumps(settings.plan.document))
    place = document
    for part in section:
        place = place[part]
    place[key] = value
    return dataclasses.replace(settings, plan=Plan.from_document(document))


def test_another_plan_changes_the_steps_that_read_the_field_and_no_others(settings: Settings) -> None:
    leave(settings)
    note(settings, TRAIN, VALIDATE)
    other = changed_plan(settings, ["configurations", "2d", "inference", "window"], "step", 0.25)
    assert standing(other, TRAIN)[0] is Status.DONE
    assert standing(other, VALIDATE) == (Status.CHANGED, "changed: plan: inference")
    other = changed_plan(settings, ["training"], "epochs", 99)
    assert standing(other, TRAIN) == (Status.CHANGED, "changed: plan: what training reads")
    assert standing(other, VALIDATE)[0] is Status.DONE
    other = changed_plan(settings, ["configurations", "3d_fullres"], "batch_size", 7)
    assert standing(other, TRAIN)[0] is Status.DONE


@pytest.mark.parametrize("path", ["w.safetensors", "model.json"])
def test_what_is_gone_is_made_again(settings: Settings, path: str) -> None:
    leave(settings)
    note(settings, TRAIN)
    (settings.workspace.fold("2d", 0) / path).unlink()
    assert standing(settings, TRAIN) == (Status.CHANGED, "part of its result is gone")


def test_a_prediction_that_was_removed_is_missed(settings: Settings) -> None:
    leave(settings)
    note(settings, VALIDATE)
    (settings.workspace.fold("2d", 0) / VALIDATION_FOLDER / "case.nii.gz").unlink()
    assert standing(settings, VALIDATE)[0] is Status.CHANGED


def test_files_of_the_dataset_that_were_touched_are_looked_at_again(settings: Settings) -> None:
    graph = graph_of(settings)
    before = inputs_of(graph["preprocess"], graph, settings)["images and labels"]
    path = settings.dataset.cases[0].image_paths[0]
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    try:
        assert inputs_of(graph["preprocess"], graph, settings)["images and labels"] != before
    finally:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": "0"}', '{"schema_version": "1.0"}'])
def test_a_damaged_record_counts_as_none(settings: Settings, text: str) -> None:
    leave(settings)
    note(settings, TRAIN)
    (settings.workspace.steps / f"{TRAIN}.json").write_text(text)
    assert standing(settings, TRAIN) == (Status.OPEN, None)


def test_a_step_that_left_too_little_is_not_noted(settings: Settings) -> None:
    with pytest.raises(RuntimeError, match="not all of its result"):
        note(settings, TRAIN)
