"""Dice over validation cases, of classes that are evaluated and of those that are only tried."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nnrules.errors import RunError
from nnrules.image_io import Geometry, write_image
from nnrules.plan import Plan

from nnrules_runtime.evaluate import EvaluatedClass, Evaluation, EvaluationCase, evaluate_cases
from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.select.scoring import CasePrediction, Scorer, Scores, job_bytes
from nnrules_runtime.values import reading

REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
SHAPE = (2, 6, 6)


def evaluation_of(plan: Plan) -> Evaluation:
    with reading(plan) as root:
        return Evaluation.from_plan(root)


@pytest.fixture
def cases(tmp_path: Path) -> list[CasePrediction]:
    random = np.random.default_rng(5)
    found = []
    for number in range(3):
        paths = []
        for kind in ("prediction", "reference"):
            (tmp_path / kind).mkdir(exist_ok=True)
            paths.append(tmp_path / kind / f"c{number}.nii.gz")
            labels = random.integers(0, 3, SHAPE).astype(np.uint8)
            geometry = Geometry(
                shape=SHAPE,
                spacing=(1.0, 1.0, 1.0),
                origin_xyz=(0.0, 0, 0),
                direction_xyz=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
                dimension=3,
                num_channels=1,
            )
            write_image(paths[-1], labels, geometry)
        case = EvaluationCase(id=f"c{number}", prediction=paths[0], reference=paths[1])
        found.append(CasePrediction(case=case))
    return found


def scored(scorer: Scorer, cases: list[CasePrediction], *variants: Postprocessing) -> list[Scores]:
    return scorer.scores(cases, variants or [Postprocessing.none()], title="scoring")


def test_as_the_evaluation_scores_files(
    cases: list[CasePrediction], make_choice_plan: Callable[..., Plan]
) -> None:
    plan = make_choice_plan()
    (found,) = scored(Scorer(evaluation_of(plan), num_workers=1), cases)
    summary = evaluate_cases(plan, [entry.case for entry in cases], num_workers=1)
    assert dict(found.dice) == {name: values["dice"] for name, values in summary.means().items()}
    assert found.mean == found.score == summary.foreground_mean()["dice"]


def test_mean_of_all_pairs(cases: list[CasePrediction], make_choice_plan: Callable[..., Plan]) -> None:
    """A class that one case lacks counts once less there, where class means come first."""
    evaluation = evaluation_of(make_choice_plan())
    case = cases[0].case
    lacking = np.zeros(SHAPE, np.uint8)
    lacking[0, 0, 0] = 1
    for path in (case.prediction, case.reference):
        write_image(
            path,
            lacking,
            Geometry(
                shape=SHAPE,
                spacing=(1.0, 1.0, 1.0),
                origin_xyz=(0.0, 0, 0),
                direction_xyz=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
                dimension=3,
                num_channels=1,
            ),
        )
    (found,) = scored(Scorer(evaluation, score="all_pairs", num_workers=1), cases)
    summary = evaluate_cases(evaluation, [entry.case for entry in cases], num_workers=1)
    values = [entry["dice"] for case in summary.cases for entry in case.values.values()]
    defined = [value for value in values if not math.isnan(value)]
    assert len(defined) == 5
    assert found.score == pytest.approx(np.mean(defined), abs=1e-15)
    assert found.mean == summary.foreground_mean()["dice"]
    assert found.score != found.mean


def test_classes_that_are_tried_but_not_evaluated(
    cases: list[CasePrediction], make_choice_plan: Callable[..., Plan]
) -> None:
    """They have a Dice of their own and count in no mean."""
    evaluation = evaluation_of(make_choice_plan(labels=REGIONS))
    tried = (EvaluatedClass("1", (1,)), EvaluatedClass("core", (2,)), EvaluatedClass("whole", (1,)))
    scorer = Scorer(evaluation, tried, num_workers=1)
    assert scorer.evaluated == ("whole", "core")
    assert [entry.name for entry in scorer.tried] == ["1", "core", "whole (labels 1)"]
    (found,) = scored(scorer, cases)
    assert list(found.dice) == ["whole", "core", "1", "whole (labels 1)"]
    assert found.dice["1"] == found.dice["whole (labels 1)"]
    assert found.mean == (found.dice["whole"] + found.dice["core"]) / 2


def test_variants_are_scored_apart(
    cases: list[CasePrediction], make_choice_plan: Callable[..., Plan]
) -> None:
    one = Step(name="organ", labels=(1,), components=Components(connectivity="face"))
    scorer = Scorer(evaluation_of(make_choice_plan()), num_workers=1)
    raw, processed, again = scored(
        scorer, cases, Postprocessing.none(), Postprocessing((one,)), Postprocessing.none()
    )
    assert raw == again
    assert processed.dice["organ"] != raw.dice["organ"]
    assert processed.dice["tumour"] == raw.dice["tumour"]


def test_the_order_of_cases_and_the_number_of_processes_change_nothing(
    cases: list[CasePrediction], make_choice_plan: Callable[..., Plan]
) -> None:
    evaluation = evaluation_of(make_choice_plan())
    (found,) = scored(Scorer(evaluation, num_workers=1), cases)
    assert scored(Scorer(evaluation, num_workers=1), cases[::-1]) == [found]
    assert scored(Scorer(evaluation, num_workers=2), cases) == [found]


def test_everything_that_is_wrong_is_said(
    cases: list[CasePrediction], make_choice_plan: Callable[..., Plan]
) -> None:
    cases[0].case.prediction.write_bytes(b"damaged")
    cases[2].case.reference.unlink()
    with pytest.raises(RunError) as caught:
        scored(Scorer(evaluation_of(make_choice_plan()), num_workers=1), cases)
    assert [problem.where.split(":")[0] for problem in caught.value.problems] == ["c0", "c2"]


def test_documents() -> None:
    scores = Scores(dice={"a": 0.5, "b": math.nan}, mean=math.nan, score=0.5)
    document = scores.to_json()
    assert document == {"dice": {"a": 0.5, "b": None}, "mean": None, "score": 0.5}
    assert Scores.from_json(document).to_json() == document


def test_memory_of_a_job(cases: list[CasePrediction]) -> None:
    assert job_bytes(cases[0]) == pytest.approx(20 * math.prod(SHAPE), rel=0.5)
