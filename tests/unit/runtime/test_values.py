"""Reading a plan: known values come through, unknown ones are all refused at once."""

import pytest
from nnrules.errors import PlanError, Problem
from nnrules.plan import Plan

from nnrules_runtime.values import Section, reading

DOCUMENT = {
    "loss": {"dice": {"activation": "tanh", "smooth": 1e-5}, "terms": [{"name": "dice"}, {"name": "hinge"}]},
    "steps": ["crop", "resample"],
    "nothing": None,
}


def section() -> tuple[Section, list[Problem]]:
    problems: list[Problem] = []
    return Section(DOCUMENT, "", problems), problems


def test_a_known_choice_gives_its_code() -> None:
    root, problems = section()
    assert root.choice("steps", {("crop", "resample"): "code"}) == "code"
    assert root.section("loss").sections("terms")[0].require("name", "dice", "cross_entropy") == "dice"
    assert not problems


def test_an_unknown_choice_names_its_path_and_all_known_values() -> None:
    root, problems = section()
    dice = root.section("loss").section("dice")
    assert dice.choice("activation", {"softmax": 1, "sigmoid": 2}) == 1  # reading goes on
    (problem,) = problems
    assert problem.where == "plan: loss.dice.activation"
    assert problem.got == "'tanh'"
    assert problem.expected == "one of 'softmax', 'sigmoid'"


def test_entries_of_lists_have_their_index_in_the_path() -> None:
    root, problems = section()
    for term in root.section("loss").sections("terms"):
        term.require("name", "dice")
    assert [problem.where for problem in problems] == ["plan: loss.terms[1].name"]


def test_what_is_missing_is_noted_and_asked_for_once() -> None:
    root, problems = section()
    for _ in range(2):
        assert root.value("speed") is None
        assert root.section("engine").path == "engine"
    assert [problem.where for problem in problems] == ["plan: speed", "plan: engine"]


def test_null_is_absent() -> None:
    root, problems = section()
    assert "nothing" not in root
    assert "steps" in root
    assert root.optional("nothing") is None
    assert root.value("nothing") is None
    assert not problems


def test_all_problems_are_raised_when_reading_ends() -> None:
    with pytest.raises(PlanError) as error, reading(Plan(DOCUMENT)) as root:
        loss = root.section("loss")
        loss.section("dice").require("activation", "softmax")
        loss.sections("terms")[1].require("name", "dice")
    assert len(error.value.problems) == 2


def test_what_fails_after_an_unknown_value_does_not_hide_it() -> None:
    with pytest.raises(PlanError) as error, reading(Plan(DOCUMENT)) as root:
        root.section("loss").section("dice").require("activation", "softmax")
        raise ZeroDivisionError
    assert len(error.value.problems) == 1
    with pytest.raises(ZeroDivisionError), reading(Plan(DOCUMENT)):
        raise ZeroDivisionError
