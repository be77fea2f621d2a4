"""Folds of a file of the user's own."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from nnrules.errors import RunError

from nnrules_runtime.folds.splits import read_splits

IDS = ("a1", "a2", "b1", "b2", "c1")
GROUPS = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": None}


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(value: Any) -> Path:
        path = tmp_path / "splits_final.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


def read(path: Path, *, by_group: bool = False) -> Any:
    return read_splits(path, IDS, GROUPS, by_group=by_group)


def test_folds_are_those_of_the_file_sorted(file: Any) -> None:
    folds = read(
        file([{"train": ["b2", "a1", "a2", "b1"], "val": ["c1"]}, {"train": ["c1"], "val": ["b2", "a1"]}])
    )
    assert [fold.name for fold in folds] == [0, 1]
    assert [(fold.train, fold.validation) for fold in folds] == [
        (("a1", "a2", "b1", "b2"), ("c1",)),
        (("c1",), ("a1", "b2")),
    ]
    assert all(fold.held_out and not fold.is_random for fold in folds)


def test_cases_in_no_fold_are_said(file: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(file([{"train": ["a1"], "val": ["b1"]}]))
    assert "3 of 5 cases are in no fold: a2, b2, c1" in caplog.text


def test_everything_wrong_is_named_at_once(file: Any) -> None:
    entries = [
        {"train": ["a1", "x"], "val": ["b1", "b1"]},
        {"train": ["a1", "a2"], "val": ["a2"]},
        {"train": [], "val": ["c1"]},
        {"train": ["c1"], "val": []},
    ]
    with pytest.raises(RunError) as caught:
        read(file(entries))
    texts = [str(problem) for problem in caught.value.problems]
    assert len(texts) == 5
    for text, expected in zip(
        texts,
        (
            r"[0].train: the dataset has no such case with a label map; got x.",
            r"[0].val: cases stand twice; got b1.",
            r"[1]: cases are in both train and val, so that their scores would say nothing; got a2.",
            r"[2].train: a fold needs training cases; got an empty list.",
            r"[3].val: a fold needs validation cases; got an empty list.",
        ),
        strict=True,
    ):
        assert expected in text


def test_groups_that_straddle_are_refused_where_the_plan_keeps_them_together(
    file: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = file([{"train": ["a1", "b1", "c1"], "val": ["a2", "b2"]}])
    with pytest.raises(RunError, match=r"\[0\]: groups have cases in both train and val; got a, b. Keep"):
        read(path, by_group=True)
    with caplog.at_level(logging.WARNING):
        assert len(read(path)) == 1
    assert "groups have cases in both train and val: a, b" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ([], "no list of folds; got an empty list"),
        ({"train": ["a1"], "val": ["b1"]}, "no list of folds; got dict"),
        ([["a1"], ["b1"]], r"\[0\].train: not a list of case ids; got \['a1'\]"),
        ([{"train": ["a1"]}], r"\[0\].val: not a list of case ids; got None"),
        ([{"train": ["a1"], "val": "b1"}], r"\[0\].val: not a list of case ids; got 'b1'"),
        ([{"train": [1], "val": ["b1"]}], r"\[0\].train: not a list of case ids; got \[1\]"),
    ],
)
def test_other_forms_are_refused(file: Any, content: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        read(file(content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read(tmp_path / "nothing.json")
