"""Which cases train and which validate."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnrules.errors import PlanError, RunError
from nnrules.plan import Plan

from nnrules_runtime.folds.policy import Fold, FoldPolicy, split_folds
from nnrules_runtime.values import Section, reading


def section(
    *,
    num_folds: int = 5,
    seed: int = 12345,
    unit: str = "case",
    policy: str = "refuse",
    num_instances: int | None = None,
    configurations: list[str] | None = None,
    from_fold: int = 0,
    method: str = "shuffled_kfold",
) -> Section:
    folds = {
        "num_folds": num_folds,
        "assignment": {"method": method, "order": "sorted_ids", "seed": seed},
        "unit": unit,
        "too_few": {
            "policy": policy,
            "num_instances": num_instances,
            "configurations": configurations,
            "selection": None,
        },
        "extra": {"train_share": 0.8, "seed_offset": 12345, "from_fold": from_fold},
    }
    return Section({"folds": folds}, "", [])


def policy(**values: Any) -> FoldPolicy:
    return FoldPolicy.from_plan(section(**values))


def ids(number: int) -> list[str]:
    return [f"case_{index:03d}" for index in range(number)]


def test_twelve_cases_are_dealt_as_scikit_learn_deals_them() -> None:
    # Recorded from scikit-learn's KFold(5, shuffle=True, random_state=12345) for 12 cases.
    expected = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]
    folds = split_folds(section(), ids(12))
    assert [[ids(12).index(case) for case in fold.validation] for fold in folds] == expected


@given(
    st.lists(st.text("abcXYZ019_-. é", min_size=1, max_size=6), min_size=2, max_size=60, unique=True),
    st.integers(2, 6),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_every_case_validates_once_whatever_the_order(
    names: list[str], num_folds: int, seed: int, random: Any
) -> None:
    if len(names) < num_folds:
        return
    folds = policy(num_folds=num_folds, seed=seed).split(names)
    assert sorted(case for fold in folds for case in fold.validation) == sorted(names)
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert fold.held_out
        assert list(fold.train) == sorted(set(names) - set(fold.validation))
        assert list(fold.validation) == sorted(fold.validation)
    random.shuffle(names)
    assert policy(num_folds=num_folds, seed=seed).split(names) == folds


@given(st.lists(st.integers(0, 8), min_size=5, max_size=40), st.integers(2, 4))
def test_a_group_never_straddles(members: list[int], num_folds: int) -> None:
    names = ids(len(members))
    groups = {
        case: (f"patient {member}" if member else None) for case, member in zip(names, members, strict=True)
    }
    folds = policy(unit="group", num_folds=num_folds, policy="fewer_folds").fold("all", names, groups)
    assert folds.train == tuple(names)
    num_units = len(set(members) - {0}) + members.count(0)
    if num_units < num_folds:
        return
    split = policy(unit="group", num_folds=num_folds).split(names, groups)
    assert sorted(case for fold in split for case in fold.validation) == names
    for fold in split:
        train = {groups[case] for case in fold.train} - {None}
        validation = {groups[case] for case in fold.validation} - {None}
        assert not train & validation


def test_groups_are_dealt_like_cases_by_their_names() -> None:
    cases = [f"{letter}{number}" for letter in "lkjihgfedcba" for number in (1, 2)]
    groups = {case: case[0] for case in cases}
    folds = policy(unit="group").split(cases, groups)
    expected = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]
    for fold, indices in zip(folds, expected, strict=True):
        assert {case[0] for case in fold.validation} == {"abcdefghijkl"[index] for index in indices}
        assert len(fold.validation) == 2 * len(indices)


def test_a_case_without_group_is_no_member_of_the_group_of_its_name() -> None:
    groups = {"a1": "b", "a2": "b"}
    units = policy(unit="group", num_folds=2)._units(["a1", "a2", "b", "c"], groups)
    assert sorted(units) == [("a1", "a2"), ("b",), ("c",)]


def test_groups_are_not_read_where_cases_are_the_unit() -> None:
    groups = dict.fromkeys(ids(12), "one")
    assert policy().split(ids(12), groups) == policy().split(ids(12))


def test_too_few_cases_are_refused_with_the_ways_on() -> None:
    with pytest.raises(
        RunError, match=r"fewer cases than folds; got 3 cases; expected at least 5.*--fold all.*=3"
    ):
        policy().split(ids(3))
    with pytest.raises(RunError, match=r"fewer groups than folds; got 1 groups \(12 cases\)"):
        policy(unit="group").split(ids(12), dict.fromkeys(ids(12), "one"))
    with pytest.raises(RunError, match="got 1 cases"):
        policy(policy="fewer_folds").split(ids(1))


def test_too_few_cases_are_all_used_by_every_model() -> None:
    all_cases = policy(policy="all_cases", num_instances=5, configurations=["3d_fullres"])
    folds = all_cases.split(ids(3))
    assert folds == [
        Fold(name=number, train=tuple(ids(3)), validation=tuple(ids(3)), held_out=False)
        for number in range(5)
    ]
    assert all_cases.fold(4, ids(3), configuration="3d_fullres") == folds[4]
    with pytest.raises(RunError, match=r"configuration 2d: with only 3 cases .* expected 3d_fullres"):
        all_cases.fold(0, ids(3), configuration="2d")
    assert all_cases.fold(0, ids(12), configuration="2d").held_out


def test_too_few_cases_make_fewer_folds() -> None:
    folds = policy(policy="fewer_folds").split(ids(3))
    assert [len(fold.validation) for fold in folds] == [1, 1, 1]


def test_fold_all_trains_and_validates_on_everything() -> None:
    fold = policy().fold("all", ids(3))
    assert fold == Fold(name="all", train=tuple(ids(3)), validation=tuple(ids(3)), held_out=False)
    with pytest.raises(RunError, match="got 0 cases"):
        policy().fold("all", [])


def test_a_fold_beyond_the_split_is_a_random_one() -> None:
    # Recorded from nnunetv2 2.8.1 for 10 cases and fold 7.
    fold = policy().fold(7, ids(10))
    assert fold.validation == ("case_003", "case_005")
    assert set(fold.train) | set(fold.validation) == set(ids(10))
    assert len(policy().fold(5, ids(21)).train) == 16, "80 % are rounded down"


def test_folds_that_do_not_exist_are_refused() -> None:
    three = policy(num_folds=3, from_fold=5)
    assert three.fold(5, ids(10)).held_out
    for fold in (3, 4, -1, "5"):
        with pytest.raises(RunError, match=r'expected 0 to 2, 5 and above .* or "all"'):
            three.fold(fold, ids(10))
    with pytest.raises(RunError, match="leaves nothing to train on"):
        policy(policy="all_cases", num_instances=1).fold(1, ids(1))


@pytest.mark.parametrize("groups", [None, {"a": "x"}])
def test_the_split_takes_any_iterable(groups: Any) -> None:
    assert split_folds(section(num_folds=2), iter("abcd"), groups) == split_folds(
        section(num_folds=2), "dcba"
    )


def test_unknown_values_are_refused_together(hippocampus_plan: Plan) -> None:
    document = {**hippocampus_plan.document, "folds": {**hippocampus_plan.document["folds"], "unit": "site"}}
    document["folds"]["assignment"] = {"method": "stratified", "order": "sorted_ids", "seed": 1}
    with (
        pytest.raises(PlanError, match=r"folds.assignment.method(?s:.*)folds.unit"),
        reading(Plan(document)) as root,
    ):
        FoldPolicy.from_plan(root)


def _names(folds: Sequence[Fold]) -> list[int | str]:
    return [fold.name for fold in folds]


def test_folds_are_numbered() -> None:
    assert _names(policy().split(ids(7))) == [0, 1, 2, 3, 4]


# -- stratified, held out, listed --------------------------------------------------------------------------------------


def stratified(**values: Any) -> FoldPolicy:
    return FoldPolicy.from_plan(section(method="stratified_by_class", **values))


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from([(1,), (2,), (3,)])), st.integers(0, 6)), min_size=5, max_size=40
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_stratified_folds_are_folds(cases: list[tuple[Any, int]], by_group: bool, random: Any) -> None:
    names = ids(len(cases))
    presence = {name: tuple(shown) for name, (shown, _) in zip(names, cases, strict=True)}
    groups = {
        name: (f"patient {number}" if number else None)
        for name, (_, number) in zip(names, cases, strict=True)
    }
    policy_ = stratified(unit="group" if by_group else "case", num_folds=2, policy="fewer_folds")
    if by_group and len({groups[name] or name for name in names}) < 2:
        return
    folds = policy_.split(names, groups, presence)
    assert sorted(case for fold in folds for case in fold.validation) == names
    for fold in folds:
        assert not set(fold.train) & set(fold.validation)
        if by_group:
            trained, validated = (
                {groups[case] for case in part} - {None} for part in (fold.train, fold.validation)
            )
            assert not trained & validated
    shuffled = list(names)
    random.shuffle(shuffled)
    assert policy_.split(shuffled, groups, presence) == folds


def test_a_class_of_five_cases_is_validated_in_every_fold() -> None:
    names = ids(30)
    presence: dict[str, tuple[tuple[int, ...], ...]] = dict.fromkeys(names, ((1,),))
    for name in names[:5]:
        presence[name] = ((1,), (2,))
    plain = policy().split(names)
    assert any(not set(fold.validation) & set(names[:5]) for fold in plain), "the plain split misses it"
    folds = stratified().split(names, None, presence)
    assert [len(set(fold.validation) & set(names[:5])) for fold in folds] == [1] * 5
    assert [len(fold.validation) for fold in folds] == [6] * 5
    assert folds != plain
    with pytest.raises(ValueError, match="say which"):
        stratified().split(names)


def test_the_outline_needs_no_presence() -> None:
    assert stratified().outline(ids(30)) == (5, True)
    assert policy(policy="fewer_folds").outline(ids(3)) == (3, True)
    assert policy(policy="hold_out").outline(ids(3)) == (1, True)
    assert policy(policy="all_cases", num_instances=5).outline(ids(3)) == (5, False)
    with pytest.raises(RunError, match="fewer cases than folds"):
        policy().outline(ids(3))


def test_what_few_cases_mean_for_a_choice() -> None:
    assert not policy().holds_nothing_out(2)
    assert [policy().expected_folds(number) for number in (2, 5)] == [5, 5]
    everything = policy(policy="all_cases", num_instances=3)
    assert everything.holds_nothing_out(4)
    assert not everything.holds_nothing_out(5)
    assert [policy(policy="fewer_folds").expected_folds(number) for number in (2, 5, 9)] == [2, 5, 5]
    assert [policy(policy="hold_out").expected_folds(number) for number in (2, 5, 9)] == [1, 5, 5]
    groups = {"case_000": "a", "case_001": "a", "case_002": None}
    assert policy(unit="group").num_units(ids(3), groups) == 2
    assert policy().num_units(ids(3), groups) == 3


@given(st.integers(2, 4), st.integers(0, 1000))
def test_few_cases_are_held_out_once(number: int, seed: int) -> None:
    (fold,) = policy(policy="hold_out", seed=seed).split(ids(number))
    assert fold.name == 0
    assert fold.held_out
    assert sorted((*fold.train, *fold.validation)) == ids(number)
    assert len(fold.train) == max(1, int(0.8 * number))
    assert policy(policy="hold_out", seed=seed).fold(0, ids(number)) == fold


def test_one_case_cannot_be_held_out() -> None:
    with pytest.raises(
        RunError, match=r"got 1 cases; expected at least 5. Train --fold all; or .*=all_cases"
    ):
        policy(policy="hold_out").split(ids(1))


def test_listed_folds_take_the_place_of_the_split() -> None:
    listed = (Fold(name=0, train=("case_000",), validation=("case_001",)),)
    assert policy().fold(0, ids(10), listed=listed) is listed[0]
    # Beyond the file nnU-Net draws from all cases: recorded from nnunetv2 2.8.1 for 10 cases and fold 7.
    beyond = policy().fold(7, ids(10), listed=listed)
    assert beyond.validation == ("case_003", "case_005")
    assert beyond.is_random
    assert policy().fold("all", ids(10), listed=listed).train == tuple(ids(10))
    # Too few cases for the plan's folds are enough for those of the file.
    assert policy().fold(0, ids(2), listed=listed) is listed[0]
    with pytest.raises(RunError, match=r"expected 0 to 0, 5 and above"):
        policy(from_fold=5).fold(1, ids(10), listed=listed)


def test_a_fold_is_recorded_by_its_cases() -> None:
    first, second = policy().split(ids(10))[:2]
    assert first.fields() != second.fields()
    assert first.fields() == policy().fold(0, reversed(ids(10))).fields()
    assert first.fields()["split.train"].startswith("8 cases, digest ")
    assert set(first.fields()) == {"split.train", "split.validation"}
