# ruff: noqa: E501 - rules in one line read like a table
import inspect
import pickle

import pytest
from nnrules import errors
from nnrules.errors import EvaluationError, ImageError, NnrulesError, Problem, RefusedError


def test_a_problem_reads_as_one_sentence_and_a_fix() -> None:
    full = Problem(
        where="a.yaml:3:4", what="unknown name", got="x", expected="y", fix="Use y.", excerpt="3 | x\n  | ^"
    )
    assert str(full) == "a.yaml:3:4: unknown name; got x; expected y. Use y.\n3 | x\n  | ^"
    assert str(Problem(where="here", what="it is wrong")) == "here: it is wrong."
    assert full.to_json() == {
        "where": "a.yaml:3:4", "what": "unknown name", "got": "x", "expected": "y", "fix": "Use y.", "excerpt": "3 | x\n  | ^"
    }  # fmt: skip
    assert Problem(where="here", what="it is wrong").to_json() == {"where": "here", "what": "it is wrong"}


def test_an_error_shows_all_its_problems() -> None:
    one, two = Problem(where="a", what="x"), Problem(where="b", what="y")
    assert str(NnrulesError([one, two])) == "a: x.\nb: y."
    assert NnrulesError(one).problems == (one,)


CLASSES = [
    value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, NnrulesError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_cross_process_borders(kind: type[NnrulesError]) -> None:
    problems = [Problem(where="a", what="x", fix="z"), Problem(where="b", what="y")]
    again = pickle.loads(pickle.dumps(kind(problems)))
    assert type(again) is kind
    assert again.problems == tuple(problems)


def test_the_tree_is_the_one_in_the_docstring() -> None:
    assert {kind.__name__ for kind in CLASSES} == set(errors.__all__) - {"Problem"}
    assert all(kind.__name__ in str(errors.__doc__) for kind in CLASSES)
    assert issubclass(EvaluationError, errors.RuleError)
    assert issubclass(errors.RuleError, errors.PackError)
    assert issubclass(ImageError, errors.DatasetError)
    assert not issubclass(RefusedError, errors.PackError)
    assert errors.__all__ == sorted(errors.__all__)
