"""Preprocessing of a dataset: what is done, what is left alone, and what happens to what fails."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nnrules.dataset import load_dataset
from nnrules.errors import ImageError, RunError, StoreError, UsageError

from nnrules_runtime.preprocess import dataset as dataset_module
from nnrules_runtime.preprocess.dataset import (
    open_store,
    preprocess_configurations,
    preprocess_dataset,
    store_folder,
)
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.preprocess.store_lock import LOCK_FILE
from nnrules_runtime.workspace import Workspace

NAMES = ["2d", "3d_fullres"]


@pytest.fixture(scope="module")
def plan(dataset, plan_for):
    return plan_for(dataset)


@pytest.fixture
def own(tmp_path, dataset):
    """A copy of the dataset whose files may be changed."""
    shutil.copytree(dataset.path.parent, tmp_path / "own")
    return load_dataset(tmp_path / "own")


def cases_of(store):
    return {case.id: (case.key, case.image().tobytes(), case.label().tobytes()) for case in store}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stored_cases_are_those_of_the_recipe(tmp_path, dataset, plan, recipe_of, num_workers):
    store = preprocess_dataset(plan, dataset, "3d_fullres", Workspace(tmp_path), num_workers=num_workers)
    assert store.ids == ("c0", "c1", "c2", "c3")
    recipe = recipe_of(plan)
    for case, stored in zip(dataset.cases, store, strict=True):
        expected = recipe.run(*CaseReader(False).pair(case.image_paths, case.label_path))
        assert np.array_equal(stored.image(), expected.image)
        assert np.array_equal(stored.label(), expected.label)
        assert stored.geometry == expected.geometry
        assert stored.locations().counts == {key: len(value) for key, value in expected.locations.items()}
    assert open_store(plan, "3d_fullres", Workspace(tmp_path)).ids == store.ids


def test_number_of_workers_does_not_matter(tmp_path, dataset, plan):
    stores = []
    for number in (0, 1, 3):
        workspace = Workspace(tmp_path / str(number))
        preprocess_configurations(plan, dataset, NAMES, workspace, num_workers=number)
        stores.append([cases_of(open_store(plan, name, workspace)) for name in NAMES])
    assert stores[0] == stores[1] == stores[2]


def test_second_run_does_only_what_changed(tmp_path, own, plan):
    workspace = Workspace(tmp_path)

    def done(dataset=own, plan=plan):
        summaries = preprocess_configurations(plan, dataset, NAMES, workspace, num_workers=0)
        return [(summary.num_done, summary.num_unchanged) for summary in summaries]

    assert done() == [(4, 0), (4, 0)]
    untouched = {path: path.stat().st_mtime_ns for path in (tmp_path / "preprocessed").rglob("*.b2nd")}
    assert len(untouched) == 24
    assert done() == [(0, 4), (0, 4)]
    assert untouched == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "preprocessed").rglob("*.b2nd")
    }
    # The content counts and not the time.
    for path in (own.path.parent / "imagesTr").iterdir():
        os.utime(path)
    assert done() == [(0, 4), (0, 4)]
    shutil.copy(own.cases[0].image_paths[0], own.cases[2].image_paths[0])
    shutil.copy(own.cases[0].label_path, own.cases[2].label_path)
    assert done() == [(1, 3), (1, 3)]
    (workspace.preprocessed("2d") / "c1" / "label.b2nd").write_bytes(b"short")
    assert done() == [(1, 3), (0, 4)]
    shutil.rmtree(workspace.preprocessed("3d_fullres") / "c3")
    assert done() == [(0, 4), (1, 3)]


def test_plan_that_changes_what_preprocessing_reads(tmp_path, dataset, plan, plan_for):
    workspace = Workspace(tmp_path)
    preprocess_dataset(plan, dataset, "3d_fullres", workspace, num_workers=0)
    other = plan_for(dataset, preprocessing__storage__image_dtype="float16")
    with pytest.raises(StoreError, match="another plan"):
        open_store(other, "3d_fullres", workspace)
    same = plan_for(dataset, training__epochs=7)
    assert preprocess_configurations(same, dataset, ["3d_fullres"], workspace)[0].num_unchanged == 4
    assert preprocess_configurations(other, dataset, ["3d_fullres"], workspace)[0].num_done == 4
    open_store(other, "3d_fullres", workspace)


def test_cases_that_fail_are_all_named_and_the_others_done(tmp_path, own, plan):
    own.cases[1].image_paths[0].write_bytes(b"not an image")
    shutil.copy(own.cases[0].label_path, own.cases[3].label_path)
    with pytest.raises(RunError) as caught:
        preprocess_dataset(plan, own, "3d_fullres", Workspace(tmp_path), num_workers=2)
    assert {problem.where.split(":")[0] for problem in caught.value.problems} == {"c1", "c3"}
    assert "image and label differ in shape" in str(caught.value)
    with pytest.raises(StoreError) as missing:
        open_store(plan, "3d_fullres", Workspace(tmp_path))
    assert [problem.where.split(":")[0] for problem in missing.value.problems] == ["c1", "c3"]
    folder = Workspace(tmp_path).preprocessed("3d_fullres")
    assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "c0", "c2", "store.json"]


def test_case_that_no_longer_belongs_to_the_dataset(tmp_path, own, plan):
    workspace = Workspace(tmp_path)
    preprocess_dataset(plan, own, "3d_fullres", workspace, num_workers=0)
    own.cases[0].label_path.unlink()
    fewer = load_dataset(own.path)
    assert preprocess_dataset(plan, fewer, "3d_fullres", workspace, num_workers=0).ids == ("c1", "c2", "c3")


def test_groups_travel_with_the_store(tmp_path, own, plan):
    document = json.loads(own.path.read_text())
    document["nnrules"] = {"groups": {"c0": "p", "c1": "p", "c2": "q", "c3": "q"}}
    own.path.write_text(json.dumps(document))
    store = preprocess_dataset(plan, load_dataset(own.path), "2d", Workspace(tmp_path), num_workers=0)
    assert dict(store.groups) == {"c0": "p", "c1": "p", "c2": "q", "c3": "q"}


def test_dataset_that_the_plan_is_not_for(tmp_path, own, plan):
    document = json.loads(own.path.read_text())
    document["channel_names"] = {"0": "CT"}
    document["labels"]["more"] = 3
    own.path.write_text(json.dumps(document))
    with pytest.raises(UsageError) as caught:
        preprocess_dataset(plan, load_dataset(own.path), "3d", Workspace(tmp_path))
    text = str(caught.value)
    assert "no such configuration" in text
    assert "other channel names" in text
    assert "other label values" in text
    assert not (tmp_path / "preprocessed").exists()


def test_configurations_that_preprocess_alike_share_a_folder(tmp_path, dataset, plan, plan_for):
    from nnrules.plan import Plan

    document = dict(plan.document)
    full = document["configurations"]["3d_fullres"]
    document["configurations"] = {
        "2d": document["configurations"]["2d"],
        "3d_cascade_fullres": {**full, "inherits_from": "3d_fullres", "batch_size": 5},
        "3d_fullres": full,
    }
    shared = Plan(document)
    workspace = Workspace(tmp_path)
    names = ["3d_cascade_fullres", "3d_fullres"]
    (summary,) = preprocess_configurations(shared, dataset, names, workspace, num_workers=0)
    assert summary.configurations == tuple(names)
    assert {store_folder(shared, name, workspace) for name in names} == {workspace.preprocessed("3d_fullres")}


def test_what_an_interrupted_run_left_is_removed(tmp_path, dataset, plan):
    folder = Workspace(tmp_path).preprocessed("3d_fullres")
    for name in (".c0.abc.tmp", ".c1.12.old"):
        (folder / name).mkdir(parents=True)
        (folder / name / "image.b2nd").touch()
    preprocess_dataset(plan, dataset, "3d_fullres", Workspace(tmp_path), num_workers=0)
    assert not list(folder.glob(".c*"))


def test_two_runs_in_one_folder(tmp_path, dataset, plan, held_elsewhere):
    folder = Workspace(tmp_path).preprocessed("3d_fullres")
    folder.mkdir(parents=True)
    with (
        held_elsewhere(folder, LOCK_FILE) as holder,
        pytest.raises(RunError, match=rf"another process is preprocessing.*got process {holder.pid} on"),
    ):
        preprocess_dataset(plan, dataset, "3d_fullres", Workspace(tmp_path))
    preprocess_dataset(plan, dataset, "3d_fullres", Workspace(tmp_path), num_workers=0)


def test_estimate_is_logged_first(tmp_path, dataset, plan, caplog, monkeypatch):
    monkeypatch.setattr(dataset_module, "available_bytes", lambda: 10)
    with caplog.at_level("INFO"):
        preprocess_dataset(plan, dataset, "3d_fullres", Workspace(tmp_path))
    assert "4 cases to do; 1 process, up to 0." in caplog.messages[0]
    assert "GB on disk" in caplog.messages[0]
    assert any("runs alone" in message for message in caplog.messages)
    assert "the first case took" in caplog.messages[-1]


def test_file_that_disappears(tmp_path, own, plan):
    own.cases[0].image_paths[0].unlink()
    with pytest.raises(RunError, match=r"c0: .*c0_0000\.nii\.gz"):
        preprocess_dataset(plan, own, "3d_fullres", Workspace(tmp_path), num_workers=0)


@pytest.mark.parametrize(
    "direction", [(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0), (0, 1.0, 0, 0, 0, -1.0, -1.0, 0, 0)]
)
def test_canonical_orientation_and_back(tmp_path, write_dataset, direction):
    folder = write_dataset(tmp_path, num_cases=1, direction=direction)
    (case,) = load_dataset(folder).cases
    stored, canonical = CaseReader(False), CaseReader(True)
    as_stored, spacing, in_file = stored.image(case.image_paths)
    turned, turned_spacing, same = canonical.image(case.image_paths)
    assert same == in_file
    assert canonical.grid(in_file) == (turned.shape[1:], turned_spacing)
    assert sorted(turned_spacing) == sorted(spacing)
    assert np.array_equal(canonical.as_in_file(turned, in_file), as_stored)
    assert np.array_equal(canonical.as_in_file(turned[0], in_file), as_stored[0])
    assert np.array_equal(stored.as_in_file(as_stored, in_file), as_stored)
    _, label, _ = stored.pair(case.image_paths, case.label_path)
    _, turned_label, _ = canonical.pair(case.image_paths, case.label_path)
    assert np.array_equal(canonical.as_in_file(turned_label, in_file), label)


def test_both_files_of_a_case_are_named(own):
    case = own.cases[0]
    case.image_paths[0].write_bytes(b"x")
    case.label_path.write_bytes(b"x")
    with pytest.raises(ImageError) as caught:
        CaseReader(False).pair(case.image_paths, case.label_path)
    assert len(caught.value.problems) == 2


SCRIPT = """
import sys, time
from pathlib import Path
from nnrules.dataset import load_dataset
from nnrules.plan import Plan
from nnrules_runtime.preprocess.dataset import preprocess_dataset
from nnrules_runtime.workspace import Workspace

if __name__ == "__main__":
    plan, data, work = map(Path, sys.argv[1:])
    preprocess_dataset(Plan.load(plan), load_dataset(data), "3d_fullres", Workspace(work), num_workers=2)
"""


def test_killed_parent_leaves_no_process_and_the_next_run_goes_on(tmp_path, write_dataset, plan_for):
    dataset = load_dataset(write_dataset(tmp_path / "data", num_cases=12, shape=(40, 90, 90)))
    plan = plan_for(dataset)
    plan.save(tmp_path / "plan.json")
    (tmp_path / "run.py").write_text(SCRIPT)
    arguments = [sys.executable, tmp_path / "run.py", tmp_path / "plan.json", dataset.path, tmp_path / "work"]
    process = subprocess.Popen(arguments, start_new_session=True)
    folder = Workspace(tmp_path / "work").preprocessed("3d_fullres")
    deadline = time.monotonic() + 60
    while len(list(folder.glob("c*/case.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    while _session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _session(process.pid) == []
    summary = preprocess_configurations(
        plan, dataset, ["3d_fullres"], Workspace(tmp_path / "work"), num_workers=0
    )
    assert summary[0].num_done + summary[0].num_unchanged == 12
    assert summary[0].num_unchanged >= 3
    assert not list(folder.glob(".*.tmp"))
    open_store(plan, "3d_fullres", Workspace(tmp_path / "work"))


def _session(number: int) -> list[int]:
    """Processes of a session that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, NotADirectoryError):
            continue
        if fields and fields[3] == str(number) and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def test_images_without_a_label_map_are_said(tmp_path, own, plan, caplog):
    (own.path.parent / "labelsTr" / "c2.nii.gz").unlink()
    with caplog.at_level("WARNING"):
        store = preprocess_dataset(
            plan, load_dataset(own.path), "3d_fullres", Workspace(tmp_path), num_workers=0
        )
    assert store.ids == ("c0", "c1", "c3")
    assert "1 of 4 images have no label map and are left out: c2" in caplog.text
