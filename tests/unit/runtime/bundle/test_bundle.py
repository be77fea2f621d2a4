"""Bundles: made, opened, and the same as the work folder that they were made from."""

import logging
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.errors import ModelError, NnrulesError, RunError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.bundle import Bundle, open_bundle, write_bundle
from nnrules_runtime.network.model import read_model
from nnrules_runtime.predict.models import find_first_stage, read_models
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.workspace import Workspace

Make = Callable[..., Workspace]
Choose = Callable[..., Empirical]
THREE = "3d_fullres"


def with_training(plan: Plan, **values: Any) -> Plan:
    """The plan with other settings of training, as ``--set training.…``."""
    document = dict(plan.document)
    return Plan.from_document({**document, "training": {**document["training"], **values}})


@pytest.fixture
def work(tmp_path: Path, plan: Plan, make_work: Make) -> Workspace:
    return make_work(tmp_path / "work", plan, {"2d": (0, 1), THREE: (0, 1, "all")})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "brain.nnrules"


def same_network(bundle: Bundle, workspace: Workspace) -> None:
    """The networks of a bundle are those of the work folder, to the bit."""
    for name, folds in bundle.folds.items():
        models = bundle.models(name)
        assert tuple(model.fold for model in models) == folds
        for model in models:
            original = read_model(workspace.fold(name, model.fold), model.checkpoint)
            assert (model.epoch, model.mirror_axes) == (original.epoch, original.mirror_axes)
            wanted = original.network().state_dict()
            network = model.network()
            assert not network.training
            assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_a_configuration_chosen_by_hand(work: Workspace, plan: Plan, out: Path) -> None:
    bundle = write_bundle(work, out, configurations=[THREE], licence="CC-BY-4.0", name="Two lobes")
    assert (bundle.members, bundle.folds) == ((THREE,), {THREE: (0, 1)})
    assert (bundle.empirical, bundle.plan.hash) == (None, plan.hash)
    assert (bundle.manifest.name, bundle.manifest.licence) == ("Two lobes", "CC-BY-4.0")
    assert bundle.licence_text == "SPDX-License-Identifier: CC-BY-4.0\n"
    same_network(bundle, work)
    assert sorted(bundle.verify()) == sorted(bundle.manifest.content)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {"manifest.json", *bundle.manifest.content}
        (stored,) = (name for name in archive.namelist() if re.search(r"fold_1/.*safetensors", name))
        assert archive.read(stored) == (work.fold(THREE, 1) / Path(stored).name).read_bytes()


def test_the_choice_and_its_postprocessing(
    work: Workspace, plan: Plan, out: Path, make_choice: Choose
) -> None:
    choice = make_choice(plan, ("2d", THREE), (1, 0))
    bundle = write_bundle(work, out, empirical=choice, licence="MIT")
    assert bundle.members == ("2d", THREE)
    assert bundle.folds == {"2d": (1, 0), THREE: (1, 0)}
    assert bundle.empirical is not None
    assert bundle.empirical.postprocessing == choice.postprocessing
    assert bundle.empirical.folds == bundle.folds
    assert bundle.empirical.case_ids is None
    same_network(bundle, work)


def test_the_folds_that_predict_may_be_others_than_those_of_the_choice(
    work: Workspace, plan: Plan, out: Path, make_choice: Choose
) -> None:
    """As after ``--refit all``: chosen by cross-validation, trained again on all cases."""
    bundle = write_bundle(work, out, empirical=make_choice(plan, (THREE,), (0, 1)), folds=["all"])
    assert bundle.folds == {THREE: ("all",)}
    assert bundle.empirical is not None
    assert bundle.empirical.folds == bundle.folds
    assert bundle.empirical.scored_folds[THREE] == (0, 1)
    same_network(bundle, work)


def test_another_candidate_than_the_choice_has_what_was_determined_for_it(
    work: Workspace, plan: Plan, out: Path, make_choice: Choose
) -> None:
    choice = make_choice(plan, ("2d",), (0, 1))
    bundle = write_bundle(work, out, empirical=choice, configurations=[THREE])
    assert (bundle.members, bundle.empirical) == ((THREE,), None)
    (of_three,) = make_choice(plan, (THREE,), (0, 1)).candidates[1:]
    scored = dict.fromkeys(("2d", THREE), (0, 1))
    both = replace(choice, candidates=(of_three, choice.chosen), scored_folds=scored)
    bundle = write_bundle(work, out, empirical=both, configurations=[THREE], folds=[1])
    assert bundle.empirical is not None
    assert (bundle.members, bundle.empirical.members) == ((THREE,), (THREE,))
    assert bundle.empirical.folds == {THREE: (1,)}
    assert bundle.empirical.chosen_by == "hand"
    assert bundle.empirical.postprocessing == of_three.postprocessing
    assert "chosen by hand among these candidates" in bundle.card
    assert "| 3d_fullres (chosen) | 0.7500 |" in bundle.card
    pair = make_choice(plan, ("2d", THREE), (0, 1))
    assert write_bundle(work, out, empirical=pair, configurations=[THREE, "2d"]).members == ("2d", THREE)


def test_a_cascade_brings_its_first_stage(
    tmp_path: Path, cascade_plan: Plan, make_work: Make, out: Path
) -> None:
    first, second = "3d_lowres", "3d_cascade_fullres"
    work = make_work(tmp_path / "work", cascade_plan, {first: (0, 1, 2, "all"), second: (0, "all")})
    bundle = write_bundle(work, out, configurations=[second])
    assert (bundle.members, bundle.folds) == ((second,), {first: (0, 1, 2), second: (0,)})
    same_network(bundle, work)
    bundle = write_bundle(work, out, configurations=[second], folds=["all"])
    assert bundle.folds == {first: ("all",), second: ("all",)}
    # A member may be the first stage of another one, too: it has folds for either, as in the work folder.
    both = write_bundle(work, out, configurations=[first, second], folds=[0])
    assert both.folds == {first: (0, 1, 2), second: (0,)}
    assert [model.fold for model in both.models(first)] == [0]
    assert [model.fold for model in both.first_stage(both.models(second))] == [0, 1, 2]
    in_work = find_first_stage(read_models([work.fold(second, 0)]))
    assert [path.name for path in in_work] == ["fold_0", "fold_1", "fold_2"]
    bundle = write_bundle(work, out, configurations=[second], folds=["all"])
    shutil.rmtree(work.models(first))
    with pytest.raises(ModelError, match=first):
        write_bundle(work, out, configurations=[second])
    assert open_bundle(out).folds == bundle.folds


def test_the_same_content_gives_the_same_bytes(
    work: Workspace, plan: Plan, out: Path, make_choice: Choose, tmp_path: Path
) -> None:
    choice = make_choice(plan, (THREE,), (0, 1))
    write_bundle(work, out, empirical=choice, licence="MIT")
    first = out.read_bytes()
    copied = tmp_path / "another place"
    shutil.copytree(work.root, copied)
    for path in copied.rglob("*"):
        os.utime(path, (0, 0))
    again = tmp_path / out.name
    write_bundle(Workspace(copied), again, empirical=choice, licence="MIT")
    assert again.read_bytes() == first


def test_nothing_tells_of_patients_or_of_places(
    work: Workspace, plan: Plan, out: Path, make_choice: Choose
) -> None:
    for name in ("2d", THREE):
        (work.fold(name, 0) / "training.json").write_text(
            '{"seconds": 7200.0, "iterations": 250, "torch": "2.6.0", "began_with": "/our/disk/x.safetensors", '
            '"profile": {"device": "cuda", "precision": "float16"}, "cases": ["patient-001"]}'
        )
    choice = make_choice(plan, ("2d", THREE), (0,))
    bundle = write_bundle(work, out, empirical=choice)
    content = out.read_bytes()
    assert choice.case_ids
    for secret in (*choice.case_ids, "/our/disk", str(work.root), str(out.parent)):
        assert secret.encode() not in content
    assert "cuda, float16, torch 2.6.0; 250 iterations; 2.0 h in all" in bundle.card


def test_the_checkpoint_is_the_plans_or_the_one_that_was_asked_for(
    tmp_path: Path, plan: Plan, make_work: Make, out: Path
) -> None:
    work = make_work(tmp_path / "work", plan, {THREE: (0, 1)})
    make_work(tmp_path / "work", plan, {THREE: (0, 1)}, checkpoint="best")
    for checkpoint in ("best", "final"):
        bundle = write_bundle(work, out, checkpoint=checkpoint)  # type: ignore[arg-type]
        assert {model.checkpoint for model in bundle.models(THREE)} == {checkpoint}
        assert len([name for name in bundle.manifest.content if name.endswith(".safetensors")]) == 2
    assert write_bundle(work, out).models(THREE)[0].checkpoint == "final"


def test_what_is_not_in_a_bundle_is_named(work: Workspace, out: Path) -> None:
    bundle = write_bundle(work, out, configurations=[THREE])
    with pytest.raises(ModelError, match="no such configuration; got 2d; expected one of 3d_fullres"):
        bundle.models("2d")
    with pytest.raises(ModelError, match="no such fold; got 2, all; expected one of 0, 1"):
        bundle.models(THREE, [0, 2, "all"])
    assert [model.fold for model in bundle.models(THREE, [1])] == [1]


def test_models_cross_processes_and_say_where_they_are(work: Workspace, out: Path) -> None:
    (model, _) = write_bundle(work, out, configurations=[THREE]).models(THREE)
    assert str(model.folder) == str(out / "models" / THREE / "fold_0")
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.network().heads[0].weight, model.network().heads[0].weight)


def test_weights_are_read_when_they_are_wanted(work: Workspace, out: Path) -> None:
    bundle = write_bundle(work, out, configurations=[THREE])
    models = bundle.models(THREE)
    out.write_bytes(b"")
    with pytest.raises(ModelError, match="cut off after it was opened") as caught:
        models[0].network()
    assert str(models[0].file) in str(caught.value)
    out.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        models[0].network()


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_licence_is_asked_for(work: Workspace, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nnrules_runtime"):
        write_bundle(work, out, configurations=["2d"], licence="Apache-2.0")
        assert caplog.text == ""
        bundle = write_bundle(work, out, configurations=["2d"])
    assert "no licence" in caplog.text
    assert (bundle.manifest.licence, bundle.licence_text) == (None, None)
    assert "Ask the authors" in bundle.card


def test_several_configurations_need_a_choice(work: Workspace, out: Path) -> None:
    with pytest.raises(ModelError, match="several configurations have been trained"):
        write_bundle(work, out)
    with pytest.raises(UsageError, match=r"no such configuration; expected one of 2d, 3d_fullres"):
        write_bundle(work, out, plan=Plan.load(work.models("2d") / "plan.json"), configurations=["4d"])
    with pytest.raises(ModelError, match="4d"):
        write_bundle(work, out, configurations=["4d"])
    with pytest.raises(ModelError, match="fold_7"):
        write_bundle(work, out, configurations=["2d"], folds=[0, 7])
    assert list(out.parent.iterdir()) == []


def test_members_of_several_plans(tmp_path: Path, plan: Plan, make_work: Make, out: Path) -> None:
    """Shorter trainings are no other plan; another preprocessing or inference is."""
    shorter = with_training(plan, epochs=7)
    work = make_work(tmp_path / "work", plan, {"2d": (0,)})
    make_work(tmp_path / "work", shorter, {THREE: (0,)})
    bundle = write_bundle(work, out, configurations=["2d", THREE])
    assert bundle.plan.hash == plan.hash
    assert write_bundle(work, out, configurations=["2d", THREE], plan=shorter).plan.hash == shorter.hash
    document = dict(plan.document)
    other = Plan.from_document({**document, "dataset": {**document["dataset"], "file_ending": ".nrrd"}})
    make_work(tmp_path / "work", other, {THREE: (0,)})
    with pytest.raises(ModelError, match=r"dataset\.file_ending"):
        write_bundle(work, out, configurations=["2d", THREE])
    assert write_bundle(work, out, configurations=["2d", THREE], plan=other).plan.hash == other.hash


def test_weights_of_another_plan_are_refused(work: Workspace, plan: Plan, out: Path) -> None:
    document = dict(plan.document)
    labels = {"background": 0, "organ": 1, "vessel": 2}
    dataset = {**document["dataset"], "labels": labels, "label_order": list(labels)}
    other = Plan.from_document({**document, "dataset": dataset})
    with pytest.raises(ModelError, match="of another plan"):
        write_bundle(work, out, plan=other, configurations=["2d"])
    (weights,) = work.fold("2d", 0).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not the weights"):
        write_bundle(work, out, configurations=["2d"])


def test_a_failure_leaves_the_bundle_that_was_there(
    work: Workspace, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(work, out, configurations=["2d"])
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnrules_runtime.files._sync_file", full)
    with pytest.raises(RunError, match="No space left"):
        write_bundle(work, out, configurations=[THREE])
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(NnrulesError, match="cannot write here"):
        write_bundle(work, out.parent, configurations=[THREE])


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "no such bundle"), (b"", "this is no bundle"), (b"\x80\x04}.", "this is no bundle")],
)
def test_other_files_are_no_bundles(out: Path, content: bytes | None, text: str) -> None:
    if content is not None:
        out.write_bytes(content)
    with pytest.raises(ModelError, match=text):
        open_bundle(out)
    with pytest.raises(ModelError, match="this is no file"):
        open_bundle(out.parent)
