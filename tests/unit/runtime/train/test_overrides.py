"""``--set`` for one run: leaves of training, and nothing else."""

from collections.abc import Callable

import pytest
from nnrules.errors import PlanError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.train.overrides import parse_changes, with_training


def test_values_are_json_or_words() -> None:
    texts = [
        "training.epochs=6",
        "training.optimizer.nesterov=false",
        "training.mixed_precision.dtype=bfloat16",
    ]
    assert parse_changes(texts) == {
        "training.epochs": 6,
        "training.optimizer.nesterov": False,
        "training.mixed_precision.dtype": "bfloat16",
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["training.epochs"], "not an assignment"),
        (["=6"], "not an assignment"),
        (["a=1", "a=2"], "set twice"),
    ],
)
def test_what_is_no_assignment_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_changes(texts)


def test_the_schedule_follows_and_provenance_says_so(hippocampus_plan: Plan) -> None:
    before = hippocampus_plan.hash
    changed = with_training(
        hippocampus_plan, {"training.epochs": 6, "training.optimizer.initial_learning_rate": 0.02}
    )
    assert changed.get("training.epochs") == 6
    assert changed.get("training.optimizer.initial_learning_rate") == 0.02
    assert changed.provenance["overrides"]["training.epochs"] == 6
    assert hippocampus_plan.hash == before != changed.hash
    assert with_training(hippocampus_plan, {}) is hippocampus_plan


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("training.epoch", r"no such field; expected training.epochs"),
        ("configurations.2d.batch_size", r"only fields of training.*nnrules plan --set"),
        ("training.optimizer", "no such field"),
    ],
)
def test_other_fields_are_refused(hippocampus_plan: Plan, path: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_training(hippocampus_plan, {path: 3})


@pytest.mark.parametrize(
    ("path", "value"), [("training.epochs", 0), ("training.epochs", "many"), ("training.seed", -1)]
)
def test_the_schema_decides_about_values(tiny_plan: Callable[..., Plan], path: str, value: object) -> None:
    with pytest.raises(PlanError, match=path):
        with_training(tiny_plan(), {path: value})
