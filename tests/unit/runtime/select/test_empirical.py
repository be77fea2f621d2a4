"""``empirical.json``: written checked, read checked."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from nnrules.errors import ModelError, NnrulesError

from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.select.empirical import Candidate, Empirical, Skipped
from nnrules_runtime.select.scoring import Scores
from nnrules_runtime.select.suppression import Trial

STEP = Step(name="all foreground", labels=(1, 2), components=Components(connectivity="full"))


def scores(*values: float) -> Scores:
    mean = math.fsum(values) / len(values)
    return Scores(dice=dict(zip("ab", values, strict=True)), mean=mean, score=mean)


def empirical(**changes: Any) -> Empirical:
    trial = Trial(
        step=STEP,
        before={"a": 0.5, "b": math.nan},
        after={"a": 0.75, "b": math.nan},
        mean_before=math.nan,
        mean_after=math.nan,
        accepted=True,
    )
    pair = Candidate(
        members=("2d", "3d_fullres"),
        scores=scores(0.5, 0.75),
        trials=(trial,),
        postprocessing=Postprocessing((STEP,)),
        postprocessed=scores(0.75, 0.75),
    )
    values: dict[str, Any] = {
        "members": pair.members,
        "folds": {"2d": (0, 1), "3d_fullres": (0, "all")},
        "postprocessing": pair.postprocessing,
        "plan_hash": "sha256:" + "0" * 64,
        "chosen_by": "score",
        "candidates": (Candidate(members=("2d",), scores=scores(0.25, math.nan)), pair),
        "tied": (("2d",), ("2d", "3d_fullres")),
        "skipped": (
            Skipped(members=("3d_lowres",), reason="the plan does not have it"),
            Skipped(
                members=("2d", "3d_lowres"), reason="no probabilities", detail="of c1", fix="Make them in /w."
            ),
        ),
        "scored_folds": {"2d": (0, 1), "3d_fullres": (0, 1)},
        "num_cases": 2,
        "case_ids": ("c1", "c2"),
    }
    return Empirical(**(values | changes))


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "empirical.json"
    empirical().save(path)
    found = Empirical.load(path)
    assert found.to_json() == empirical().to_json()
    assert found.members == ("2d", "3d_fullres")
    assert found.folds == {"2d": (0, 1), "3d_fullres": (0, "all")}
    assert found.postprocessing.steps == (STEP,)
    assert found.chosen.trials is not None
    assert math.isnan(found.chosen.trials[0].mean_after)
    assert "NaN" not in path.read_text()
    first = path.read_bytes()
    found.save(path)
    assert path.read_bytes() == first


def test_case_ids_and_paths_can_be_left_out() -> None:
    document = empirical().without_case_ids().to_json()
    assert "c1" not in json.dumps(document)
    assert "/w" not in json.dumps(document)
    assert document["skipped"][1]["reason"] == "no probabilities"
    assert document["validation"]["num_cases"] == 2
    assert Empirical.from_json(document).case_ids is None


def test_what_is_skipped_is_said_in_a_line() -> None:
    lines = [str(entry) for entry in empirical().skipped]
    assert lines == [
        "3d_lowres does not compete: the plan does not have it.",
        "2d + 3d_lowres does not compete: no probabilities (of c1). Make them in /w.",
    ]


def edited(*places: tuple[tuple[Any, ...], Any]) -> Any:
    document = json.loads(json.dumps(empirical().to_json()))
    for path, value in places:
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("members",), ["3d_lowres"], "members"),
        (("folds",), {"2d": [0]}, "folds"),
        (("postprocessing",), {"steps": []}, "postprocessing"),
        (("validation", "num_cases"), 3, "validation.num_cases"),
        (("validation", "folds"), {"2d": [0, 1]}, "validation.folds"),
        (("chosen_by",), "luck", "chosen_by"),
        (("schema_version",), "2.0", "schema_version"),
        (("plan_hash",), "abc", "plan_hash"),
        (("candidates", 0, "scores", "mean"), 1.5, "candidates[0].scores"),
        (("candidates", 1, "trials", 0, "step", "connectivity"), "edge", "step.connectivity"),
        (("postprocessing", "steps", 0, "labels"), [0], "steps[0].labels"),
        (("more",), 1, "$"),
    ],
)
def test_damaged_documents_are_refused(path: tuple[Any, ...], value: Any, where: str) -> None:
    with pytest.raises(ModelError) as caught:
        Empirical.from_json(edited((path, value)), where="file")
    assert any(where in problem.where for problem in caught.value.problems), caught.value


def test_all_problems_at_once() -> None:
    document = edited((("members",), ["3d_lowres"]), (("validation", "num_cases"), 3))
    with pytest.raises(ModelError) as caught:
        Empirical.from_json(document)
    assert len(caught.value.problems) == 4  # the choice, its folds, what was scored, the number of cases


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        Empirical.load(tmp_path / "empirical.json")
    (tmp_path / "empirical.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        Empirical.load(tmp_path / "empirical.json")


def test_nothing_invalid_is_written(tmp_path: Path) -> None:
    with pytest.raises(NnrulesError):
        empirical(plan_hash="abc").save(tmp_path / "empirical.json")
    assert list(tmp_path.iterdir()) == []
