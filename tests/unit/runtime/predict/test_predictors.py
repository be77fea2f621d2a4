"""What predicts where: a work folder with and without a choice, a folder of models, a bundle."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.errors import ModelError, UsageError
from nnrules.plan import Plan

from nnrules_runtime import open_predictor
from nnrules_runtime.bundle import write_bundle
from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.predict.case_predictor import CasePredictor
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.select.empirical import Candidate, Empirical
from nnrules_runtime.workspace import Workspace

PROFILE = choose_profile(device="cpu", precision="float32", num_threads=1)
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
ALL = ("2d", "3d_fullres", FIRST, SECOND)
STEP = Step(name="organ", labels=(1,), components=Components(connectivity="full"))
TEXT = "only the largest component of organ stays"

MakePlan = Callable[..., Plan]
MakeWork = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(50, 10, shape or (10, 20, 18)).astype(np.float32)


def choose(
    work: Path,
    plan: Plan,
    folds: Mapping[str, tuple[int | str, ...]],
    *,
    steps: tuple[Step, ...] = (),
    others: tuple[Candidate, ...] = (),
) -> Empirical:
    """An ``empirical.json`` that says so."""
    members = tuple(folds)
    chosen = Candidate(members=members, scores=None, trials=(), postprocessing=Postprocessing(steps))
    empirical = Empirical(
        members=members,
        folds=folds,
        postprocessing=Postprocessing(steps),
        plan_hash=plan.hash,
        chosen_by="plan",
        candidates=(chosen, *others),
    )
    empirical.save(Workspace(work).empirical)
    return empirical


def opened(source: Path | str, **options: Any) -> CasePredictor:
    return open_predictor(source, profile=PROFILE, **options)


def folds_of(predictor: CasePredictor) -> list[tuple[str, list[int | str]]]:
    return [(single.configuration, [model.fold for model in single.models]) for single in predictor.singles]


@pytest.fixture
def plan(make_small_plan: MakePlan) -> Plan:
    return make_small_plan(cascade=True, changes={"postprocessing.applied": "automatically"})


@pytest.fixture
def work(make_work: MakeWork, plan: Plan, tmp_path: Path) -> Path:
    return make_work(tmp_path / "work", folds=(0, 1), configurations=ALL, plan=plan)


def test_the_only_configuration(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0, 1))
    image = noise()
    wanted = Predictor(work, profile=PROFILE).predict(image, (1, 1, 1))
    for source in (work, str(work), work / "models" / "3d_fullres"):
        np.testing.assert_array_equal(opened(source).predict(image, (1, 1, 1)), wanted)
    one = opened(work / "models" / "3d_fullres" / "fold_1")
    assert folds_of(one) == [("3d_fullres", [1])]


def test_several_without_a_choice(work: Path) -> None:
    with pytest.raises(ModelError, match=r"several configurations have been trained.*-c.*find-best"):
        opened(work)


def test_the_chosen_pair(work: Path, plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choose(work, plan, {"2d": (0,), "3d_fullres": (0, 1)}, steps=(STEP,))
    predictor = opened(work)
    assert folds_of(predictor) == [("2d", [0]), ("3d_fullres", [0, 1])]
    assert predictor.postprocessing == Postprocessing((STEP,))
    for line in (
        "2d + 3d_fullres: what the plan uses without cross-validation",
        f"postprocessing: {TEXT}",
        "2d: fold 0 (final)",
        "3d_fullres: folds 0 (final), 1 (final)",
    ):
        assert line in caplog.messages
    assert folds_of(opened(work, folds=[1])) == [("2d", [1]), ("3d_fullres", [1])]
    assert opened(work, postprocessing=False).postprocessing.steps == ()
    assert opened(work, configurations=["3d_fullres", "2d"]).postprocessing.steps == (STEP,)


def test_what_is_named_goes_before_what_was_chosen(work: Path, plan: Plan) -> None:
    flat = Candidate(members=("2d",), scores=None, trials=(), postprocessing=Postprocessing((STEP,)))
    undetermined = Candidate(members=(FIRST,), scores=None)
    choose(work, plan, {"3d_fullres": (0,)}, others=(flat, undetermined))
    predictor = opened(work, configurations="2d")
    assert folds_of(predictor) == [("2d", [0, 1])]
    # It was determined for this candidate, too.
    assert predictor.postprocessing.steps == (STEP,)
    assert opened(work, configurations=FIRST).postprocessing.steps == ()
    with pytest.raises(
        UsageError, match="no postprocessing has been determined for this model; got 3d_lowres"
    ):
        opened(work, configurations=FIRST, postprocessing=True)


def test_postprocessing_on_request(
    make_small_plan: MakePlan, make_work: MakeWork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plan = make_small_plan(changes={"postprocessing.applied": "on_request"})
    work = make_work(tmp_path, folds=(0,), plan=plan)
    with pytest.raises(UsageError, match=r"no postprocessing has been determined.*nnrules run find-best"):
        opened(work, postprocessing=True)
    choose(work, plan, {"3d_fullres": (0,)}, steps=(STEP,))
    assert opened(work).postprocessing.steps == ()
    assert f"not postprocessed, as the plan says on request; with --postprocessing: {TEXT}" in caplog.messages
    assert opened(work, postprocessing=True).postprocessing.steps == (STEP,)


def test_a_cascade_takes_all_folds_of_its_first_stage(work: Path, plan: Plan) -> None:
    predictor = opened(work, configurations=SECOND, folds=[1])
    assert folds_of(predictor) == [(FIRST, [0, 1]), (SECOND, [1])]
    inside = opened(work / "models" / SECOND / "fold_1")
    assert folds_of(inside) == folds_of(predictor)
    image = noise()
    np.testing.assert_array_equal(inside.predict(image, (1, 1, 1)), predictor.predict(image, (1, 1, 1)))
    choose(work, plan, {SECOND: (0, 1), FIRST: (0, 1)})
    both = opened(work)
    # The first stage is loaded once.
    assert folds_of(both) == [(FIRST, [0, 1]), (SECOND, [0, 1])]
    assert both.members[0].first is both.members[1].predictor


def test_a_second_stage_without_its_first(work: Path) -> None:
    (work / "models" / FIRST).rename(work / "elsewhere")
    with pytest.raises(ModelError, match="the first, 3d_lowres, is not beside it"):
        opened(work, configurations=SECOND)


def test_checkpoints_are_of_what_is_named(make_work: MakeWork, plan: Plan, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0,), configurations=(FIRST,), plan=plan)
    make_work(tmp_path, folds=(0,), configurations=(SECOND,), plan=plan, checkpoint="best")
    with pytest.raises(ModelError, match=r"this training has not ended.*--checkpoint best"):
        opened(work, configurations=SECOND)
    predictor = opened(work, configurations=SECOND, checkpoint="best")
    assert [single.models[0].checkpoint for single in predictor.singles] == ["final", "best"]


def test_a_bundle_predicts_as_its_work_folder(work: Path, plan: Plan, tmp_path: Path) -> None:
    empirical = choose(work, plan, {SECOND: (0, 1), "2d": (1,)}, steps=(STEP,))
    path = tmp_path / "model.nnrules"
    write_bundle(Workspace(work), path, plan=plan, empirical=empirical, licence="CC0-1.0")
    ours, bundled = opened(work), opened(path)
    assert folds_of(bundled) == folds_of(ours) == [(FIRST, [0, 1]), (SECOND, [0, 1]), ("2d", [1])]
    assert bundled.postprocessing == ours.postprocessing == Postprocessing((STEP,))
    image = noise()
    np.testing.assert_array_equal(bundled.predict(image, (1, 1, 1)), ours.predict(image, (1, 1, 1)))
    assert folds_of(opened(path, configurations="2d")) == [("2d", [1])]
    assert folds_of(opened(path, configurations=SECOND, folds=[0])) == [(FIRST, [0, 1]), (SECOND, [0])]
    with pytest.raises(ModelError, match="no such configuration; got 3d_fullres"):
        opened(path, configurations="3d_fullres")
    with pytest.raises(ModelError, match="the bundle has other weights; got best; expected final"):
        opened(path, configurations="2d", checkpoint="best")


def test_a_bundle_of_one_configuration(work: Path, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "model.nnrules"
    write_bundle(Workspace(work), path, plan=plan, configurations=["3d_fullres"], licence="CC0-1.0")
    image = noise()
    wanted = opened(work, configurations="3d_fullres").predict(image, (1, 1, 1))
    np.testing.assert_array_equal(opened(path).predict(image, (1, 1, 1)), wanted)


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent", "there is no such folder"), ("file.txt", "file.txt"), ("", "no fold has been")],
)
def test_no_source(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file.txt").write_text("no bundle")
    with pytest.raises(ModelError, match=said):
        opened(tmp_path / name)


def test_a_choice_that_was_changed_by_hand(work: Path, plan: Plan) -> None:
    choose(work, plan, {"2d": (0,)})
    path = Workspace(work).empirical
    path.write_text(path.read_text().replace('"2d"', '"3d"', 1))
    with pytest.raises(ModelError, match=r"empirical\.json"):
        opened(work)


def test_an_unknown_value_of_the_plan(make_small_plan: MakePlan, make_work: MakeWork, tmp_path: Path) -> None:
    from nnrules.errors import PlanError

    place = f"configurations.{SECOND}.cascade"
    plan = make_small_plan(
        cascade=True,
        changes={f"{place}.prediction.crop": "half", f"{place}.input.encoding": "levels"},
    )
    work = make_work(tmp_path, folds=(0,), configurations=(FIRST, SECOND), plan=make_small_plan(cascade=True))
    predictor = opened(work, configurations=SECOND)
    from nnrules_runtime.predict.case_predictor import Member

    first, second = predictor.singles
    second.plan = plan
    with pytest.raises(PlanError) as caught:
        CasePredictor([Member(second, first)])
    assert {problem.where.rpartition("cascade.")[2] for problem in caught.value.problems} == {
        "prediction.crop",
        "input.encoding",
    }
