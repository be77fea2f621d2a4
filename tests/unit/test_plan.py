"""The plan document: paths, leaves, loading, contradictions."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.planning import make_plan
from nnrules.errors import PlanError, UsageError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import PLAN_SCHEMA_VERSION, Plan, leaves, value_at


@pytest.fixture(scope="module")
def plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    return make_plan(make_fingerprint([[300, 512, 512]] * 5, [[1.0, 0.8, 0.8]] * 5))


def changed(plan: Plan, path: str, value: Any) -> Any:
    document = json.loads(json.dumps(dict(plan.document)))
    holder, _, last = path.rpartition(".")
    (value_at(document, holder) if holder else document)[last] = value
    return document


def test_leaves_and_paths_are_inverse(plan: Plan) -> None:
    found = dict(plan.leaves())
    assert len(found) > 500
    for path, value in found.items():
        assert value_at(plan.document, path) == value
        assert plan.get(path) == value
        assert not isinstance(value, dict) or not value
    assert not any(path.startswith("provenance") for path in found)
    assert {
        "configurations.2d.patch_size",
        "channels[0].name",
        "configurations.2d.loss.terms[0].name",
    } <= set(found)


def test_leaves_of_small_documents() -> None:
    assert list(leaves({"a": {"b": 1}, "c": [1, 2], "d": [{"e": 3}, 4], "f": {}, "g": []})) == [
        ("a.b", 1), ("c", [1, 2]), ("d[0].e", 3), ("d[1]", 4), ("f", {}), ("g", [])
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["a.c", "a.b.c", "d[2]", "d[0].f", "a[0]", "d.e", "x"])
def test_paths_that_lead_nowhere(path: str) -> None:
    with pytest.raises(KeyError):
        value_at({"a": {"b": 1}, "d": [{"e": 3}]}, path)


def test_a_missing_field_is_an_error_with_a_fix(plan: Plan) -> None:
    with pytest.raises(PlanError, match="the plan has no such field"):
        plan.get("configurations.2d.patch")


def test_saving_and_loading(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.document == json.loads(json.dumps(dict(plan.document)))
    assert again.hash == plan.hash
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()
    with pytest.raises(PlanError, match="no such file"):
        Plan.load(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PlanError):
        Plan.load(tmp_path / "list.json")


def test_the_hash_ignores_provenance_and_nothing_else(plan: Plan) -> None:
    other = changed(plan, "provenance.engine", "9.9")
    assert Plan(other).hash == plan.hash
    for path, value in list(plan.leaves())[::40]:
        if "[" in path:
            continue
        assert Plan(changed(plan, path, "other" if value != "other" else 1)).hash != plan.hash, path


def test_versions(plan: Plan) -> None:
    major = PLAN_SCHEMA_VERSION.split(".")[0]
    with pytest.raises(PlanError, match="another major version"):
        Plan.from_document(changed(plan, "schema_version", f"{int(major) + 1}.0"))


CONTRADICTIONS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("patch_size", lambda value: [edge + 1 for edge in value], "the strides do not divide the patch"),
    ("patch_size", lambda value: value[:2], "too few items"),
    ("spacing", lambda value: [*value, 1.0], "too many items"),
    ("median_shape", lambda value: value[:2], "too few items"),
    ("architecture.features_per_stage", lambda value: value[:-1], "wrong number of entries"),
    ("architecture.strides", lambda value: [[1, 1], *value[1:]], "too few items"),
    ("architecture.kernel_sizes", lambda value: value[:-1], "wrong number of entries"),
    ("architecture.blocks_per_stage_decoder", lambda value: [*value, 2], "wrong number of entries"),
    ("transpose_forward", lambda value: [0, 0, 1], "a value stands twice"),
    ("transpose_backward", lambda value: [2, 0, 1], "this does not undo transpose_forward"),
    ("architecture.num_stages", lambda value: value + 1, "wrong number of entries"),
    ("augmentation.order", lambda value: [*value, "previous_stage_one_hot"], "a field is missing"),
]


@pytest.mark.parametrize(
    ("field", "change", "what"), CONTRADICTIONS, ids=[f"{f}-{w}" for f, _, w in CONTRADICTIONS]
)
def test_contradictions_are_found(plan: Plan, field: str, change: Callable[[Any], Any], what: str) -> None:
    path = f"configurations.3d_fullres.{field}"
    with pytest.raises(PlanError) as caught:
        Plan.from_document(changed(plan, path, change(copy.deepcopy(plan.get(path)))), where="my.json")
    assert any(what in problem.what for problem in caught.value.problems), str(caught.value)
    assert all(
        problem.where.startswith("my.json: configurations.3d_fullres") for problem in caught.value.problems
    )


def test_the_nearest_patch_is_named(plan: Plan) -> None:
    path = "configurations.3d_fullres.patch_size"
    wrong = [plan.get(path)[0] - 1, *plan.get(path)[1:]]
    with pytest.raises(PlanError, match=r"The nearest larger patch is \[96, 160, 160\]"):
        Plan.from_document(changed(plan, path, wrong))


def test_links_between_stages(plan: Plan) -> None:
    with pytest.raises(PlanError, match="this stage is not in the plan"):
        Plan.from_document(changed(plan, "configurations.3d_cascade_fullres.previous_stage", "nothing"))
    with pytest.raises(PlanError, match="one entry a channel is needed"):
        Plan.from_document(changed(plan, "channels", plan.document["channels"] * 2))


def test_an_unknown_field_is_refused(plan: Plan) -> None:
    with pytest.raises(PlanError, match="an unknown field"):
        Plan.from_document(changed(plan, "configurations.2d.mine", 3))


@pytest.mark.parametrize("memory", [0, -1, float("nan"), float("inf"), 5000])
def test_memory_must_be_an_amount(make_fingerprint: Callable[..., Fingerprint], memory: float) -> None:
    with pytest.raises(UsageError, match="not an amount of GPU memory"):
        make_plan(make_fingerprint(), gpu_memory_gb=memory)
