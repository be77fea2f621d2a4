"""Cases dealt so that each class is spread over the folds: laws, whatever the cases show."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from nnrules_runtime.folds.stratify import deal_by_class

Key = tuple[int, ...]
KEYS: list[Key] = [(1,), (2,), (3, 4), (5,)]

units = st.lists(st.sets(st.sampled_from(KEYS)), min_size=1, max_size=60)
disjoint_units = st.lists(st.sets(st.sampled_from(KEYS), max_size=1), min_size=1, max_size=60)
fold_counts = st.integers(1, 7)


def spread(places: Sequence[int], num_folds: int) -> int:
    """The difference between the fullest and the emptiest fold."""
    counts = Counter(places)
    found = [counts[fold] for fold in range(num_folds)]
    return max(found) - min(found)


@given(units, fold_counts)
def test_folds_have_equal_sizes_and_every_unit_one_fold(shown: list[set[Key]], num_folds: int) -> None:
    places = deal_by_class(shown, num_folds)
    assert len(places) == len(shown)
    assert set(places) <= set(range(num_folds))
    assert spread(places, num_folds) <= 1


@given(units, fold_counts)
def test_the_rarest_class_is_spread_evenly(shown: list[set[Key]], num_folds: int) -> None:
    counts = Counter(key for entry in shown for key in entry)
    if not counts:
        return
    rarest = min(counts, key=lambda key: (counts[key], key))
    showing = [
        fold for fold, entry in zip(deal_by_class(shown, num_folds), shown, strict=True) if rarest in entry
    ]
    assert spread(showing, num_folds) <= 1


@given(disjoint_units, fold_counts)
def test_every_class_is_spread_evenly_where_no_unit_shows_two(shown: list[set[Key]], num_folds: int) -> None:
    places = deal_by_class(shown, num_folds)
    for key in KEYS:
        showing = [fold for fold, entry in zip(places, shown, strict=True) if key in entry]
        assert spread(showing, num_folds) <= 1


@given(units, fold_counts)
def test_chance_has_no_part_in_it(shown: list[set[Key]], num_folds: int) -> None:
    again = [sorted(entry, reverse=True) for entry in shown]
    assert deal_by_class(again, num_folds) == deal_by_class(shown, num_folds)


def test_a_class_of_five_cases_is_in_each_of_five_folds() -> None:
    """By hand: the lesion is rare, the organ is everywhere, and five of twenty cases show both."""
    organ, lesion = (1,), (2,)
    shown = [{organ, lesion} if number % 4 == 0 else {organ} for number in range(20)]
    places = deal_by_class(shown, 5)
    assert sorted(places[::4]) == [0, 1, 2, 3, 4]
    assert Counter(places) == dict.fromkeys(range(5), 4)


def test_other_classes_decide_between_equal_folds() -> None:
    """Two rare classes that always come with a third: each of four folds gets one of its four units."""
    first, second, both = (1,), (2,), (3,)
    four = [{first, both}, {first, both}, {second, both}, {second, both}]
    assert sorted(deal_by_class(four, 4)) == [0, 1, 2, 3]
    # Six of the third class, two without any: 8 units in 2 folds, 4 and 4; of the third, 3 and 3.
    shown = [{first, both}, {first, both}, {second, both}, {second, both}, {both}, {both}, set(), set()]
    places = deal_by_class(shown, 2)
    assert sum(places) == 4
    assert sum(places[:6]) == 3
