"""Schedules: the plan's, and one that ends with its time."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnrules_runtime.train.batches import BatchKey
from nnrules_runtime.train.budget import BudgetSchedule, EpochSize, PlannedSchedule
from nnrules_runtime.train.keys import EpochKeys
from nnrules_runtime.train.sampling import Phase
from nnrules_runtime.train.schedule import LearningRate

SIZE = EpochSize(250, 50)


@dataclass
class Place:
    epoch: int = 0
    num_iterations: int = 0
    seconds: float = 0.0
    seconds_per_iteration: float | None = None


def schedules(seconds: float, epochs: int = 1000) -> tuple[PlannedSchedule, BudgetSchedule]:
    rate = LearningRate(0.01, 0.9, epochs)
    planned = PlannedSchedule(epochs, SIZE, rate)
    return planned, BudgetSchedule(seconds, planned, SIZE, rate)


def test_the_plan_has_its_epochs() -> None:
    planned, _ = schedules(60)
    assert planned.epoch_size(999, Place(999)) == SIZE
    assert planned.epoch_size(1000, Place(1000)) is None
    assert planned.learning_rate(Place(250)) == 0.01 * (1 - 0.25) ** 0.9
    assert planned.is_last(Place(999))
    assert not planned.is_last(Place(998))
    assert planned.seconds_left(Place(1, 250, 100.0)) == pytest.approx(99900)


def trained(
    seconds: float, each: float, epochs: int = 1000, validation: float = 1 / 3
) -> tuple[Place, list[float]]:
    """Simulate a training whose iterations take ``each`` seconds."""
    _, schedule = schedules(seconds, epochs)
    place, rates = Place(), []
    while (size := schedule.epoch_size(place.epoch, place)) is not None:
        for _ in range(size.num_iterations):
            if schedule.is_over(place, size):
                break
            rates.append(schedule.learning_rate(place))
            place.num_iterations += 1
            place.seconds += each
            place.seconds_per_iteration = each
        place.seconds += size.num_validation_iterations * each * validation
        place.epoch += 1
        assert place.epoch < 10_000
    return place, rates


@settings(deadline=None, max_examples=40)
@given(st.floats(60, 36_000), st.floats(0.05, 3.0))
def test_a_budget_is_used_and_not_exceeded(seconds: float, each: float) -> None:
    place, rates = trained(seconds, each)
    assert place.seconds <= seconds + 2 * each
    planned = 1000 * 250
    if place.num_iterations < planned and seconds > 200 * each:
        assert place.seconds > 0.9 * seconds
        assert rates[-1] < 0.01 * 0.15**0.9  # the decay has come to its end
    assert rates == sorted(rates, reverse=True)


def test_a_budget_has_several_epochs_even_if_short() -> None:
    place, _ = trained(600, 1.5)  # ten minutes on a small machine
    assert place.epoch >= 15


def test_a_generous_budget_is_the_plan() -> None:
    place, rates = trained(1e6, 0.1, epochs=4)
    assert place.num_iterations == 4 * 250
    assert rates[500] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[-1] == pytest.approx(0.01 * (1 / 1000) ** 0.9)


def test_keys_follow_the_schedule() -> None:
    planned = PlannedSchedule(2, EpochSize(3, 2), LearningRate(0.01, 0.9, 2))
    keys = list(EpochKeys(planned, Place(), epoch=0, iteration=1))
    train, validation = Phase.TRAIN, Phase.VALIDATION
    assert keys == [
        BatchKey(train, 0, 1), BatchKey(train, 0, 2), BatchKey(validation, 0, 0), BatchKey(validation, 0, 1),
        BatchKey(train, 1, 0), BatchKey(train, 1, 1), BatchKey(train, 1, 2),
        BatchKey(validation, 1, 0), BatchKey(validation, 1, 1),
    ]  # fmt: skip


def test_an_epoch_that_is_cut_goes_on_with_its_validation() -> None:
    planned = PlannedSchedule(1, EpochSize(5, 1), LearningRate(0.01, 0.9, 1))
    keys = EpochKeys(planned, Place(), epoch=0, iteration=0)
    next(keys)
    keys.end_training_of(0)
    assert list(keys) == [BatchKey(Phase.VALIDATION, 0, 0)]
