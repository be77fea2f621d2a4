"""Both stages of a cascade, trained: who predicts which case, what the second stage gets, what is made again."""

import copy
import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.dataset import Dataset
from nnrules.errors import ModelError, PlanError, RunError, StoreError
from nnrules.image_io import read_label
from nnrules.plan import Plan

from nnrules_runtime.augment import previous_stage as augmentations
from nnrules_runtime.folds.division import Division
from nnrules_runtime.folds.policy import FoldPolicy
from nnrules_runtime.network.model import read_model
from nnrules_runtime.network.weights import read_weights
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.resampling import zoom
from nnrules_runtime.train import case_predictions
from nnrules_runtime.train.cascade import StageLink, stages_of, weights_for
from nnrules_runtime.train.first_stage import FirstStage
from nnrules_runtime.train.previous_stage import PreviousStageStore
from nnrules_runtime.train.run import TrainingOptions, TrainingResult, train_fold
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

LOW, HIGH = "3d_lowres", "3d_cascade_fullres"
ONE_EPOCH = {"epochs": 1, "num_iterations_per_epoch": 2, "num_validation_iterations_per_epoch": 1}
Train = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def train(
    cascade_plan: Callable[..., Plan], tiny_dataset: Dataset, cpu_profile: Callable[..., Profile]
) -> Train:
    def run(
        workspace: Workspace,
        configuration: str,
        fold: int | str = 0,
        *,
        plan: Plan | None = None,
        dataset: Dataset | None = None,
        profile: Profile | None = None,
        **options: Any,
    ) -> TrainingResult:
        return train_fold(
            plan or cascade_plan(**ONE_EPOCH),
            dataset or tiny_dataset,
            configuration,
            fold,
            workspace,
            profile=profile or cpu_profile(),
            options=TrainingOptions(**options),
        )

    return run


@pytest.fixture(scope="module")
def first_stage(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Both folds of the first stage, trained and validated; not to be changed."""
    workspace = Workspace(tmp_path_factory.mktemp("first"))
    for fold in range(2):
        assert train(workspace, LOW, fold).outcome.finished
    return workspace


@pytest.fixture
def copied(first_stage: Workspace, tmp_path: Path) -> Workspace:
    """A copy that may be changed."""
    shutil.copytree(first_stage.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def holders(plan: Plan, dataset: Dataset) -> dict[str, int]:
    with reading(plan) as root:
        return Division.of(FoldPolicy.from_plan(root), dataset).holders()


def times(workspace: Workspace) -> dict[str, int]:
    """When each case's segmentation was written."""
    folder = workspace.previous_stage(HIGH)
    return {path.name: (path / "stage.json").stat().st_mtime_ns for path in folder.iterdir()}


def final(result: TrainingResult) -> dict[str, torch.Tensor]:
    document = json.loads((result.folder / "model.json").read_text())
    return read_weights(result.folder / document["weights"]["final"]["file"])[0]


# -- the first stage hands on ----------------------------------------------------------------------------------------


def test_each_case_is_predicted_by_the_model_that_did_not_train_on_it(
    first_stage: Workspace,
    cascade_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
) -> None:
    plan = cascade_plan(**ONE_EPOCH)
    found = PreviousStageStore(first_stage.previous_stage(HIGH))
    low = CaseStore(first_stage.preprocessed(LOW))
    models = [read_model(first_stage.fold(LOW, fold), plan=plan) for fold in range(2)]
    predictors = [Predictor(model, profile=cpu_profile()) for model in models]
    held = holders(plan, tiny_dataset)
    assert len(held) == 10
    assert not first_stage.preprocessed("3d_fullres").exists(), (
        "the second stage's cases need not be there yet"
    )
    for case_id, number in held.items():
        origin = found.origin(case_id)
        assert origin is not None
        assert origin.fold == number
        assert origin.weights.startswith(models[number].file.name.split(".")[1])
        case = low.case(case_id)
        assert case.shape == (9, 11, 10)
        logits = predictors[number].logits(case.image()).float().numpy()
        # nnunetv2 2.8.1: logits interpolated linearly in all axes, then the largest.
        expected = zoom(logits, (18, 22, 20), 1).argmax(axis=0)
        labels = found.read(case_id, (0, 0, 0), found.shape(case_id))
        assert labels.shape == expected.shape
        assert np.mean(labels != expected) < 1e-3  # ties and rounding


def test_what_is_handed_on_is_not_made_again(copied: Workspace, train: Train) -> None:
    before = times(copied)
    again = train(copied, LOW, 0)
    assert again.summary is None, "nothing was to be done"
    assert times(copied) == before
    gone = sorted(before)[0]
    shutil.rmtree(copied.previous_stage(HIGH) / gone)
    for fold in range(2):
        train(copied, LOW, fold)
    after = times(copied)
    assert {name for name in before if before[name] != after[name]} == {gone}


def test_folds_beyond_the_split_and_all_cases_hand_nothing_on(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tmp_path)
    with caplog.at_level(logging.INFO):
        assert train(workspace, LOW, 5).summary is not None
    assert "fold 5 is beyond the folds of the split" in caplog.text
    assert train(workspace, LOW, "all").summary is not None
    assert not workspace.previous_stage(HIGH).exists()


# -- the second stage ------------------------------------------------------------------------------------------------


def test_the_second_stage_trains_and_validates(
    copied: Workspace,
    train: Train,
    cascade_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
) -> None:
    before = times(copied)
    result = train(copied, HIGH, 0)
    assert result.outcome.finished
    assert result.summary is not None
    assert times(copied) == before
    plan = cascade_plan(**ONE_EPOCH)
    held = holders(plan, tiny_dataset)
    assert [entry.case.id for entry in result.summary.cases] == sorted(
        case for case in held if held[case] == 0
    )
    predictor = Predictor(read_model(result.folder, plan=plan), profile=cpu_profile())
    assert predictor.networks[0].architecture.num_inputs == 3  # type: ignore[union-attr]
    store = CaseStore(copied.preprocessed("3d_fullres"))
    stage = PreviousStageStore(copied.previous_stage(HIGH))
    for entry in result.summary.cases:
        case = store.case(entry.case.id)
        previous = stage.read(entry.case.id, (0, 0, 0), case.shape)
        expected = predictor.predict_prepared(case.image(), case.geometry, previous=previous)
        found, _ = read_label(result.folder / "validation" / f"{entry.case.id}.nii.gz")
        np.testing.assert_array_equal(found, expected)


def test_what_the_first_stage_did_not_hand_on_is_made(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, first_stage: Workspace
) -> None:
    workspace = Workspace(tmp_path)
    for fold in range(2):
        train(workspace, LOW, fold, validate=False)
    assert not workspace.previous_stage(HIGH).exists()
    with caplog.at_level(logging.INFO):
        train(workspace, HIGH, 1, validate=False)
    assert "3d_lowres fold 0 predicts 5 cases that it did not train on for 3d_cascade_fullres" in caplog.text
    made, handed_on = (PreviousStageStore(where.previous_stage(HIGH)) for where in (workspace, first_stage))
    for name in times(first_stage):
        # The same seed gives the same weights, and either way of making them the same segmentation.
        assert made.origin(name) == handed_on.origin(name)
        shape = made.shape(name)
        np.testing.assert_array_equal(
            made.read(name, (0, 0, 0), shape), handed_on.read(name, (0, 0, 0), shape)
        )


def test_only_what_changed_is_made_again(copied: Workspace, train: Train) -> None:
    before = times(copied)
    train(copied, LOW, 0, restart=True, validate=False, plan=_with_seed(copied, 8))
    train(copied, HIGH, "all", validate=False)
    after = times(copied)
    held = {name for name in before if before[name] != after[name]}
    origins = PreviousStageStore(copied.previous_stage(HIGH))
    assert held == {name for name in before if (origin := origins.origin(name)) and origin.fold == 0}
    assert len(held) == 5


def _with_seed(workspace: Workspace, seed: int) -> Plan:
    document = copy.deepcopy(dict(Plan.load(workspace.models(LOW) / "plan.json").document))
    document["training"]["seed"] = seed
    return Plan.from_document(document)


def test_workers_read_the_previous_stage_too(
    copied: Workspace, train: Train, cpu_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    other = Workspace(tmp_path / "other")
    shutil.copytree(copied.root, other.root)
    alone = final(train(copied, HIGH, 0, validate=False))
    helped = final(train(other, HIGH, 0, validate=False, profile=cpu_profile(num_workers=1)))
    assert alone.keys() == helped.keys()
    for name, tensor in alone.items():
        assert torch.equal(tensor, helped[name]), name


def test_its_channels_are_augmented_in_training_only(
    copied: Workspace, train: Train, cascade_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = copy.deepcopy(dict(cascade_plan(**ONE_EPOCH).document))
    transforms = document["configurations"][HIGH]["augmentation"]["transforms"]
    for name in ("previous_stage_operators", "previous_stage_components"):
        transforms[name] |= {"probability": 1, "label_probability": 1}
    calls: list[tuple[str, int]] = []
    operator, components = augmentations.apply_operator, augmentations.remove_components

    def operators(channels: torch.Tensor, *arguments: Any, **options: Any) -> None:
        calls.append(("operators", len(channels)))
        operator(channels, *arguments, **options)

    def remove(channels: torch.Tensor, *arguments: Any, **options: Any) -> None:
        calls.append(("components", len(channels)))
        components(channels, *arguments, **options)

    monkeypatch.setattr(augmentations, "apply_operator", operators)
    monkeypatch.setattr(augmentations, "remove_components", remove)
    train(copied, HIGH, 0, plan=Plan.from_document(document), validate=False)
    # Two iterations of two samples, two labels each; none in the validation iteration.
    assert calls.count(("operators", 2)) == 8
    assert calls.count(("components", 2)) == 8
    assert len(calls) == 16


def test_all_cases_train_with_what_held_out_models_say(
    copied: Workspace, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    before = times(copied)
    with caplog.at_level(logging.INFO):
        result = train(copied, HIGH, "all", validate=False)
    assert "10 cases train" in caplog.text
    assert result.outcome.finished
    assert times(copied) == before


# -- what is refused -------------------------------------------------------------------------------------------------


def test_missing_folds_are_named_with_the_command(train: Train, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(RunError, match=r"no folds 0, 1 of 3d_lowres.*--fold 0 --work .* with --fold 1\."):
        train(workspace, HIGH, 0)
    assert not tmp_path.joinpath("preprocessed").exists(), "before anything is prepared"
    train(workspace, LOW, 0, validate=False)
    with pytest.raises(
        RunError, match=r"no fold 1 of 3d_lowres\. Train first: `nnrules run train .* --fold 1 --work"
    ):
        train(workspace, HIGH, 0)
    # A training that has stopped is none that has ended.
    train(workspace, LOW, 1, max_seconds=0)
    with pytest.raises(RunError, match="no fold 1 of 3d_lowres"):
        train(workspace, HIGH, 0)


def test_other_cases_than_the_first_stage_had_are_refused(
    copied: Workspace, train: Train, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    ids = [case.id for case in tiny_dataset.cases]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ids[:5], "val": ids[5:]}, {"train": ids[5:], "val": ids[:5]}]))
    with pytest.raises(
        ModelError, match=r"fold_0: split.train: this fold of the first stage was trained with other"
    ):
        train(copied, HIGH, 0, splits=splits)
    fewer = dataclasses.replace(tiny_dataset, cases=tiny_dataset.cases[:9])
    with pytest.raises(ModelError, match="with other cases than it has now"):
        train(copied, HIGH, 0, dataset=fewer)


def test_cases_that_no_model_held_out_are_refused(
    first_stage: Workspace, cascade_plan: Callable[..., Plan], tiny_dataset: Dataset
) -> None:
    plan = cascade_plan(**ONE_EPOCH)
    with reading(plan) as root:
        policy = FoldPolicy.from_plan(root)
    policy = dataclasses.replace(policy, num_folds=20, too_few="all_cases", num_instances=2)
    division = Division.of(policy, tiny_dataset)
    with pytest.raises(
        RunError, match=r"no fold holds these cases out; got c0, c1, c2, c3, c4, … \(10 of 10\)"
    ):
        FirstStage.find(plan, HIGH, first_stage, division=division, case_ids=division.case_ids)


def test_a_segmentation_that_does_not_fit_is_refused(copied: Workspace, train: Train) -> None:
    store = PreviousStageStore(copied.previous_stage(HIGH))
    origin = store.origin("c3")
    assert origin is not None
    store.write("c3", np.zeros((4, 4, 4), np.int16), origin, patch_is_2d=False)
    with pytest.raises(
        StoreError, match=r"c3: .*does not fit the image; got \(4, 4, 4\) voxels; expected \(18, 22, 20\)"
    ):
        train(copied, HIGH, 0)


def test_stages_with_other_axes_are_refused(cascade_plan: Callable[..., Plan]) -> None:
    document = copy.deepcopy(dict(cascade_plan().document))
    document["configurations"][LOW] |= {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    with pytest.raises(PlanError, match="axes in one order"), reading(Plan.from_document(document)) as root:
        StageLink.from_plan(root, HIGH)


# -- nnU-Net 1.0 -----------------------------------------------------------------------------------------------------


def test_the_best_weights_of_version_1(
    cascade_plan: Callable[..., Plan],
    train: Train,
    tmp_path: Path,
    cpu_profile: Callable[..., Profile],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """nnunet 1.0: best weights, probabilities interpolated linearly and never apart; validation never apart."""
    plan = cascade_plan(
        "nnunet@1.0.0", epochs=2, num_iterations_per_epoch=2, num_validation_iterations_per_epoch=1
    )
    assert plan.configurations[HIGH]["cascade"]["input"]["checkpoint"] == "best"
    workspace = Workspace(tmp_path)
    for fold in range(2):
        train(workspace, LOW, fold, plan=plan)
    found = PreviousStageStore(workspace.previous_stage(HIGH))
    with reading(plan) as root:
        link = StageLink.from_plan(root, HIGH)
    low = CaseStore(workspace.preprocessed(LOW))
    for case_id in low.ids[:3]:
        origin = found.origin(case_id)
        assert origin is not None
        folder = workspace.fold(LOW, origin.fold)
        chosen = weights_for(link, folder)
        assert chosen is not None
        weights = json.loads((folder / "model.json").read_text())["weights"]
        name = "best" if "best" in weights else "final"
        assert chosen == (name, weights[name]["sha256"])
        assert origin.weights == chosen[1]
        predictor = Predictor(read_model(folder, chosen[0], plan=plan), profile=cpu_profile())
        probabilities = predictor.logits(low.case(case_id).image()).float().numpy()
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-3)
        expected = zoom(probabilities, (18, 22, 20), 1).argmax(axis=0)
        labels = found.read(case_id, (0, 0, 0), found.shape(case_id))
        assert np.mean(labels != expected) < 1e-3
    assert train(workspace, HIGH, 0, plan=plan).summary is not None


def test_without_best_weights_the_final_ones_predict(
    copied: Workspace, cascade_plan: Callable[..., Plan]
) -> None:
    plan = cascade_plan(**ONE_EPOCH)
    with reading(plan) as root:
        link = dataclasses.replace(StageLink.from_plan(root, HIGH), checkpoint="best")
    path = copied.fold(LOW, 0) / "model.json"
    document = json.loads(path.read_text())
    document["weights"].pop("best", None)
    path.write_text(json.dumps(document))
    assert weights_for(link, path.parent) == ("final", document["weights"]["final"]["sha256"])
    assert weights_for(link, path.parent.parent) is None


def test_validation_cases_are_exported_as_the_plan_says(
    cascade_plan: Callable[..., Plan], copied: Workspace, cpu_profile: Callable[..., Profile], train: Train
) -> None:
    """`cascade.validation_export`: version 1.0 never takes an axis apart there."""
    folder = train(copied, HIGH, 0, validate=False).folder
    document = copy.deepcopy(dict(cascade_plan(**ONE_EPOCH).document))
    for value, is_apart in (("as_prediction", True), ("never", False)):
        document["configurations"][HIGH]["cascade"]["validation_export"]["separate_axis"] = value
        model = read_model(folder, plan=Plan.from_document(document))
        predictor = case_predictions._predictor(model, cpu_profile())
        assert (predictor.exporter.resampler.separate is not None) == is_apart


@pytest.mark.parametrize(
    "pack",
    ["nnunet@0.6.0", "nnunet@1.0.0", "nnunet@1.7.0", "nnunet@2.8.0", "nnunet-resenc@2.8.0", "preprint@2.0.0"],
)
def test_every_pack_has_a_cascade_that_can_be_executed(pack: str, cascade_plan: Callable[..., Plan]) -> None:
    with reading(cascade_plan(pack)) as root:
        link = StageLink.from_plan(root, HIGH)
    # Blueprints, section 11: the text and nnunet 1.0 take the best weights, later versions the final ones.
    expected = "best" if pack in ("nnunet@0.6.0", "nnunet@1.0.0", "preprint@2.0.0") else "final"
    assert (link.first, link.second, link.checkpoint) == (LOW, HIGH, expected)


def test_the_stages_of_a_configuration(cascade_plan: Callable[..., Plan]) -> None:
    assert stages_of(cascade_plan(), HIGH) == (LOW, HIGH)
    assert stages_of(cascade_plan(), LOW) == (LOW,)
