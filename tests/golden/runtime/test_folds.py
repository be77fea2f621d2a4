"""Splits against those recorded from nnunetv2 2.8.1 (generate_crossval_split, nnUNetTrainer.do_split)."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnrules_runtime.folds.policy import FoldPolicy

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "f_splits.json"
REASON = "the recorded splits are not beside the checkout (../shared/golden/runtime/f_splits.json)"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_file(), reason=REASON),
]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(RECORDED.read_text())
    return document


def policy(num_folds: int, seed: int) -> FoldPolicy:
    return FoldPolicy(
        num_folds=num_folds,
        seed=seed,
        by_group=False,
        too_few="refuse",
        num_instances=None,
        configurations=None,
        chosen_by_validation=False,
        extra_train_share=0.8,
        extra_seed_offset=12345,
        extra_from=0,
    )


def test_splits_are_those_recorded(recorded: dict[str, Any], record_property: Any) -> None:
    """nnU-Net's trainer hands in sorted names. Where a recording has others, names are renamed to sort as given."""
    num_compared = 0
    for case, entry in recorded["cases"].items():
        names = entry["identifiers"]
        renamed = {name: f"{index:05d} {name}" for index, name in enumerate(names)}
        if sorted(names) == names:
            renamed = {name: name for name in names}
        folds = policy(entry["n_splits"], entry["seed"]).split(renamed.values())
        assert len(folds) == len(entry["splits"]), case
        for fold, expected in zip(folds, entry["splits"], strict=True):
            assert list(fold.train) == [renamed[name] for name in expected["train"]], (case, fold.name)
            assert list(fold.validation) == [renamed[name] for name in expected["val"]], (case, fold.name)
            num_compared += 1
    record_property("folds_compared_equal", num_compared)
    assert num_compared >= 80


def test_names_are_sorted_as_numpy_sorts_them(recorded: dict[str, Any]) -> None:
    entry = recorded["cases"]["odd_names_npsorted"]
    folds = policy(entry["n_splits"], entry["seed"]).split(reversed(entry["identifiers"]))
    assert [list(fold.validation) for fold in folds] == [split["val"] for split in entry["splits"]]


def test_folds_beyond_the_file_are_those_recorded(recorded: dict[str, Any], record_property: Any) -> None:
    """The recording lists training cases in the order of drawing; ours are sorted."""
    cases = recorded["fold_beyond_file"]["cases"]
    for case, entry in cases.items():
        fold = policy(5, 12345).fold(entry["fold"], entry["identifiers"])
        assert list(fold.train) == sorted(entry["train"]), case
        assert list(fold.validation) == sorted(entry["val"]), case
    record_property("folds_compared_equal", len(cases))
    assert cases
