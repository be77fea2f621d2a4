"""How the cases of a dataset are divided, and what is said about it."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.dataset import Dataset
from nnrules.engine.packs import available_packs, load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import RunError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.folds.division import Division
from nnrules_runtime.folds.policy import Fold, FoldPolicy
from nnrules_runtime.folds.presence import class_presence, warn_of_missing_classes
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.values import reading

PACKS = [f"{name}@{version}" for name, versions in available_packs().items() for version in versions]
LABELS = LabelSet(
    heads=((0,), (1,), (2,)),
    head_names=("background", "a", "b"),
    has_regions=False,
    regions_class_order=None,
    ignore_label=None,
    foreground_labels=(1, 2),
)


def grouped(dataset: Dataset, size: int = 2) -> Dataset:
    """The cases in groups of some."""
    cases = [
        dataclasses.replace(case, group=f"patient {number // size}")
        for number, case in enumerate(dataset.cases)
    ]
    return dataclasses.replace(dataset, cases=tuple(cases))


def policy_of(plan: Plan) -> FoldPolicy:
    with reading(plan) as root:
        return FoldPolicy.from_plan(root)


def changed(policy: FoldPolicy, **values: object) -> FoldPolicy:
    return dataclasses.replace(policy, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("pack", PACKS)
def test_every_pack_keeps_groups_together(
    pack: str, make_fingerprint: Callable[..., Fingerprint], tiny_dataset: Dataset
) -> None:
    shapes, spacings = [(36, 50, 35)] * 10, [(1.0, 1.0, 1.0)] * 10
    groups = [f"patient {number // 2}" for number in range(10)]
    for group, by_group in ((groups, True), ([None] * 10, False)):
        fingerprint = make_fingerprint(shapes, spacings, channels=("MRI",), cases={"group": group})
        assert policy_of(make_plan(fingerprint, load_pack(pack))).by_group == by_group
    fingerprint = make_fingerprint(shapes, spacings, channels=("MRI",), cases={"group": groups})
    dataset = grouped(tiny_dataset)
    division = Division.of(policy_of(make_plan(fingerprint, load_pack(pack))), dataset)
    assert (division.num_folds, division.held_out) == (5, True)
    assert [len(fold.validation) for fold in division.folds()] == [2] * 5
    group_of = {case.id: case.group for case in dataset.cases}
    for fold in division.folds():
        assert not {group_of[case] for case in fold.train} & {group_of[case] for case in fold.validation}


def test_groups_that_the_plan_does_not_know_of_are_said(
    hippocampus_plan: Plan, tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Division.of(policy_of(hippocampus_plan), tiny_dataset)
        assert not caplog.text
        Division.of(policy_of(hippocampus_plan), grouped(tiny_dataset))
    assert "plan again to keep them together" in caplog.text


def test_holders_are_the_folds_that_validate(hippocampus_plan: Plan, tiny_dataset: Dataset) -> None:
    division = Division.of(policy_of(hippocampus_plan), tiny_dataset)
    holders = division.holders()
    assert set(holders) == {case.id for case in tiny_dataset.cases}
    for case_id, number in holders.items():
        assert case_id in division.fold(number).validation
    everything = changed(division.policy, num_folds=20, too_few="all_cases", num_instances=3)
    assert Division.of(everything, tiny_dataset).holders() == {}


def test_the_first_of_several_holders_counts(
    hippocampus_plan: Plan, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"train": ["c0"], "val": ["c1"]}, {"train": ["c2"], "val": ["c1", "c0"]}]))
    division = Division.of(policy_of(hippocampus_plan), tiny_dataset, splits=path)
    assert division.holders() == {"c1": 0, "c0": 1}
    assert (division.num_folds, division.held_out, division.source) == (2, True, "mine.json")
    assert division.fold(1).train == ("c2",)
    assert division.fold(2).is_random
    assert len(division.folds()) == 2


def test_folds_by_class_need_the_store(
    hippocampus_plan: Plan, tiny_dataset: Dataset, tiny_store: CaseStore, tmp_path: Path
) -> None:
    policy = changed(policy_of(hippocampus_plan), stratified=True)
    assert Division.needs_store(policy, None)
    assert not Division.needs_store(policy, tmp_path / "splits.json")
    assert not Division.needs_store(policy_of(hippocampus_plan), None)
    assert Division.of(policy, tiny_dataset).num_folds == 5
    division = Division.of(policy, tiny_dataset, store=tiny_store)
    assert sorted(case for fold in division.folds() for case in fold.validation) == list(division.case_ids)


def test_too_few_cases_are_refused_as_ever(hippocampus_plan: Plan, tiny_dataset: Dataset) -> None:
    division = Division.of(changed(policy_of(hippocampus_plan), num_folds=11), tiny_dataset)
    with pytest.raises(RunError, match="got 10 cases; expected at least 11"):
        division.folds()
    assert division.fold("all").train == division.case_ids


def test_classes_are_those_of_the_label_maps(tiny_store: CaseStore) -> None:
    assert class_presence(tiny_store, tiny_store.ids) == dict.fromkeys(tiny_store.ids, ((1,), (2,)))


def test_missing_classes_are_said(caplog: pytest.LogCaptureFixture) -> None:
    fold = Fold(name=3, train=("x", "y"), validation=("z",))

    def said(**presence: tuple[tuple[int, ...], ...]) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_missing_classes(fold, presence, LABELS)
        return "\n".join(record.getMessage() for record in caplog.records)

    both = ((1,), (2,))
    assert not said(x=both, y=(), z=both)
    assert "fold 3: no case shows b: the network cannot learn it" in said(x=((1,),), y=(), z=((1,),))
    assert "fold 3: no training case shows b (only z)" in said(x=((1,),), y=(), z=both)
    text = said(x=both, y=((1,),), z=())
    assert text == "fold 3: no validation case shows a (only x, y), b (only x): it is not scored here"
