"""Model folders: written whole, verified when read, bound to what the weights depend on."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import ModelError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.network import UNet, build_network, initialize
from nnrules_runtime.network.identity import network_digest, network_fields
from nnrules_runtime.network.model import read_model, trained_folds, write_model, write_plan
from nnrules_runtime.values import reading

NAME = "3d_fullres"
SAME_NETWORK = {
    "training.epochs": 7,
    "training.optimizer.initial_learning_rate": 0.5,
    f"configurations.{NAME}.loss.batch_dice": None,
    f"configurations.{NAME}.inference.window.step": 0.25,
    f"configurations.{NAME}.batch_size": 5,
    "dataset.name": "Renamed",
    f"configurations.{NAME}.architecture.dropout_probability": 0.1,
    f"configurations.{NAME}.architecture.initialization.negative_slope": 0.5,
}
OTHER_NETWORK = {
    f"configurations.{NAME}.spacing": [9.0, 9.0, 9.0],
    f"configurations.{NAME}.architecture.nonlinearity.negative_slope": 0.2,
    f"configurations.{NAME}.resampling.data.order": 1,
    "channels": [],
    "dataset.labels": {"background": 0, "other": 1, "tumour": 2},
    "preprocessing.crop.fill_holes": None,
}


@pytest.fixture(scope="module")
def plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    fingerprint = make_fingerprint(shape=((20, 24, 24),) * 3, spacing=((1.0, 1.0, 1.0),) * 3)
    made = make_plan(fingerprint, load_pack("nnunet@2.8.0"))
    stages = made.get(f"configurations.{NAME}.architecture.num_stages")
    overrides = {f"configurations.{NAME}.architecture.features_per_stage": [2] * stages}
    return make_plan(fingerprint, load_pack("nnunet@2.8.0"), overrides=overrides)


def changed(plan: Plan, path: str, value: Any) -> Plan:
    """The plan with one field changed; a flag is turned round where no value is given."""
    document = copy.deepcopy(dict(plan.document))
    *parents, last = path.split(".")
    target = document
    for part in parents:
        target = target[part]
    target[last] = (not target[last]) if value is None else value
    return Plan(document)


def network(plan: Plan, seed: int = 1) -> UNet:
    with reading(plan) as root:
        section = root.section("configurations").section(NAME)
        made = build_network(section)
        initialize(made, section, torch.Generator().manual_seed(seed))
    return made


@pytest.fixture
def models(tmp_path: Path, plan: Plan) -> Path:
    """The folder of a configuration with two folds."""
    folder = tmp_path / "models" / NAME
    for fold in (0, 1):
        write_model(
            folder / f"fold_{fold}", network(plan, fold), plan=plan, configuration=NAME, fold=fold, epoch=3
        )
    return folder


def test_a_model_comes_back(models: Path, plan: Plan) -> None:
    model = read_model(models / "fold_1")
    assert (model.configuration, model.fold, model.checkpoint, model.epoch) == (NAME, 1, "final", 3)
    assert model.mirror_axes == tuple(plan.configurations[NAME]["mirror_axes"])
    assert model.plan.hash == plan.hash
    loaded = model.network()
    assert not loaded.training
    wanted = network(plan, 1).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())
    assert sorted(path.name for path in models.iterdir()) == ["fold_0", "fold_1", "plan.json"]
    names = sorted(path.name for path in (models / "fold_1").iterdir())
    assert names == [model.file.name, "model.json"]


def test_best_and_final_lie_side_by_side_and_are_replaced(models: Path, plan: Plan) -> None:
    folder = models / "fold_0"
    final = read_model(folder).file
    for seed in (7, 8):
        write_model(
            folder, network(plan, seed), plan=plan, configuration=NAME, fold=0, checkpoint="best", epoch=seed
        )
    assert read_model(folder).file == final
    best = read_model(folder, "best")
    assert best.epoch == 8
    assert torch.equal(best.network().heads[0].weight, network(plan, 8).heads[0].weight)
    assert len(list(folder.iterdir())) == 3


def test_a_crash_before_the_document_leaves_the_old_model(
    models: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnrules_runtime.network.model.write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        write_model(models / "fold_0", network(plan, 9), plan=plan, configuration=NAME, fold=0)
    monkeypatch.undo()
    assert torch.equal(
        read_model(models / "fold_0").network().heads[0].weight, network(plan, 0).heads[0].weight
    )
    write_model(models / "fold_0", network(plan, 9), plan=plan, configuration=NAME, fold=0)
    assert len(list((models / "fold_0").iterdir())) == 2


def test_folds_are_found_in_order(models: Path, plan: Plan) -> None:
    for fold in (10, "all"):
        write_model(models / f"fold_{fold}", network(plan), plan=plan, configuration=NAME, fold=fold)
    (models / "fold_3").mkdir()
    (models / "fold_x").mkdir()
    assert list(trained_folds(models)) == [0, 1, 10, "all"]


@pytest.mark.parametrize(("path", "value"), SAME_NETWORK.items(), ids=SAME_NETWORK)
def test_what_weights_do_not_depend_on_may_change(models: Path, plan: Plan, path: str, value: Any) -> None:
    other = changed(plan, path, value)
    assert other.hash != plan.hash
    assert network_digest(other, NAME) == network_digest(plan, NAME)
    assert read_model(models / "fold_0", plan=other).plan is other


@pytest.mark.parametrize(("path", "value"), OTHER_NETWORK.items(), ids=OTHER_NETWORK)
def test_what_weights_depend_on_is_named(models: Path, plan: Plan, path: str, value: Any) -> None:
    other = changed(plan, path, value)
    with pytest.raises(ModelError, match="of another plan") as caught:
        read_model(models / "fold_0", plan=other)
    assert all(path in problem.where for problem in caught.value.problems)


def test_the_plan_beside_folds_follows_harmless_changes_only(models: Path, plan: Plan) -> None:
    more = changed(plan, "training.epochs", 12)
    write_plan(models, more, NAME)
    assert read_model(models / "fold_0").plan.hash == more.hash
    other = changed(plan, f"configurations.{NAME}.resampling.data.order", 1)
    with pytest.raises(ModelError, match=r"resampling\.data\.order"):
        write_plan(models, other, NAME)
    assert read_model(models / "fold_0").plan.hash == more.hash
    with pytest.raises(ModelError, match="no such configuration"):
        write_plan(models, changed(more, "training.epochs", 13), "2d_of_another_name")


def test_weights_of_another_plan_are_kept_although_they_are_refused(models: Path, plan: Plan) -> None:
    other = changed(plan, f"configurations.{NAME}.resampling.data.order", 1)
    with pytest.raises(ModelError, match="of another plan"):
        write_model(models / "fold_2", network(plan), plan=other, configuration=NAME, fold=2)
    with pytest.raises(ModelError, match="of another plan"):
        read_model(models / "fold_2")
    document = json.loads((models / "fold_2" / "model.json").read_text())
    assert document["network_digest"] == network_digest(other, NAME)


def test_a_missing_plan_is_said_unless_one_is_given(models: Path, plan: Plan) -> None:
    (models / "plan.json").unlink()
    with pytest.raises(ModelError, match="plan of this model is missing"):
        read_model(models / "fold_0")
    assert read_model(models / "fold_0", plan=plan).fold == 0
    plan.save(models / "fold_0" / "plan.json")
    assert read_model(models / "fold_0").fold == 0


def test_fields_of_other_configurations_do_not_matter(plan: Plan) -> None:
    assert len(plan.configurations) > 1
    for path in network_fields(plan, NAME):
        root, _, rest = path.partition(".")
        assert root != "configurations" or rest.startswith(NAME), path
