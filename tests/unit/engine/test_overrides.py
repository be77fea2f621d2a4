# ruff: noqa: E501 - rules in one line read like a table
"""``--set PATH=VALUE``: reading assignments, finding the decision, wholes, leaves, groups, wildcards."""

from typing import Any

import pytest
from nnrules.engine.explain import explain
from nnrules.engine.origins import origin_of
from nnrules.engine.overrides import parse_assignment, resolve_overrides
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import compiled, make_plan
from nnrules.errors import PlanError, UsageError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan


@pytest.fixture(scope="module")
def fingerprint(make_fingerprint: Any) -> Fingerprint:
    made: Fingerprint = make_fingerprint([[120, 512, 512]] * 5, [[2.0, 0.8, 0.8]] * 5)
    return made


def planned(fingerprint: Fingerprint, **overrides: Any) -> Plan:
    return make_plan(fingerprint, overrides=overrides)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a.b=3", ("a.b", 3)), ("a= 2.5 ", ("a", 2.5)), ("a=[1, 2]", ("a", [1, 2])), ("a=1,2,3", ("a", [1, 2, 3])),
        ("a=true", ("a", True)), ("a=null", ("a", None)), ("a=adam", ("a", "adam")), ('a="3"', ("a", "3")),
        ("a=x,y", ("a", ["x", "y"])), ("a=b=c", ("a", "b=c")), ('a={"b": 1}', ("a", {"b": 1})), ("a=", ("a", "")),
    ],
)  # fmt: skip
def test_assignments(text: str, wanted: tuple[str, Any]) -> None:
    assert parse_assignment(text) == wanted


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a", "not an assignment"), ("=3", "not an assignment"), ("a=[1,", "not valid JSON"), ("a=NaN", "must be finite"),
        ("a=Infinity", "must be finite"), ("a=[1e999]", "must be finite"), ('a={"b": [-Infinity]}', "must be finite"),
        ("a=1,NaN", "must be finite"), ("a={x}", "not valid JSON"),
    ],
)  # fmt: skip
def test_wrong_assignments(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse_assignment(text)


def test_what_depends_on_a_field_follows(fingerprint: Fingerprint) -> None:
    plan = planned(fingerprint, target_spacing=[0.5, 4.0, 0.5])
    fullres = plan.configurations["3d_fullres"]
    assert fullres["transpose_forward"] == [1, 0, 2]
    assert fullres["spacing"] == [4.0, 0.5, 0.5]
    assert fullres["median_shape"] == [round(512 * 0.8 / 4), round(120 * 2 / 0.5), round(512 * 0.8 / 0.5)]
    assert plan.provenance["overrides"] == {"target_spacing": [0.5, 4.0, 0.5]}


def test_a_member_of_a_group_takes_the_others_along(fingerprint: Fingerprint) -> None:
    plan = planned(fingerprint, **{"configurations.3d_fullres.patch_size": [64, 64, 64]})
    fullres = plan.configurations["3d_fullres"]
    assert fullres["patch_size"] == [64, 64, 64]
    product = [1, 1, 1]
    for stride in fullres["architecture"]["strides"]:
        product = [a * b for a, b in zip(product, stride, strict=True)]
    assert all(edge % divisor == 0 for edge, divisor in zip([64, 64, 64], product, strict=True))
    assert fullres["architecture"]["num_stages"] == len(fullres["architecture"]["kernel_sizes"])
    entry = origin_of(plan, "configurations.3d_fullres.architecture.strides")
    assert entry is not None
    assert entry["override"] == "configurations.3d_fullres.patch_size"
    assert entry["because"] == "the network follows from the patch that the user set"
    forward = planned(fingerprint, **{"configurations.2d.transpose_forward": [2, 0, 1]})
    assert forward.get("configurations.2d.transpose_backward") == [1, 2, 0]


def test_an_invalid_patch_is_refused_with_the_nearest_valid_one(fingerprint: Fingerprint) -> None:
    with pytest.raises(PlanError) as caught:
        planned(fingerprint, **{"configurations.3d_fullres.patch_size": [65, 64, 64]})
    (problem,) = caught.value.problems
    assert problem.where == "configurations.3d_fullres.patch_size"
    assert problem.got == "65 × 64 × 64"
    assert problem.fix == "The nearest valid value is 72 × 64 × 64."


def test_a_member_without_a_branch_is_refused_and_names_the_group(fingerprint: Fingerprint) -> None:
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    with pytest.raises(PlanError) as caught:
        planned(fingerprint, **{"configurations.3d_fullres.architecture.strides": strides})
    (problem,) = caught.value.problems
    assert "rule 'patch.size_and_topology' decides this together with" in problem.what
    assert "configurations.3d_fullres.architecture.kernel_sizes" in problem.what
    assert str(problem.fix).startswith("Set configurations.3d_fullres.patch_size instead: the others follow.")


def test_a_whole_group_is_taken_as_it_is(fingerprint: Fingerprint) -> None:
    base = "configurations.3d_fullres."
    group = {
        f"{base}patch_size": [32, 64, 64], f"{base}architecture.strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
        f"{base}architecture.kernel_sizes": [[3, 3, 3]] * 3,
    }  # fmt: skip
    plan = planned(fingerprint, **group)
    for path, value in group.items():
        assert plan.get(path) == value
    assert plan.get(f"{base}architecture.num_stages") == 3
    assert plan.get(f"{base}architecture.features_per_stage") == [32, 64, 128]


def test_confirming_a_member_keeps_the_rest_of_the_group(fingerprint: Fingerprint) -> None:
    plan = planned(fingerprint)
    for field in ("architecture.strides", "architecture.kernel_sizes", "patch_size"):
        path = f"configurations.3d_fullres.{field}"
        again = planned(fingerprint, **{path: plan.get(path)})
        assert again.hash == plan.hash
        assert explain(again, path).source == "override"


def test_leaves_of_records(fingerprint: Fingerprint) -> None:
    plan = planned(fingerprint, **{"training.optimizer.momentum": 0.9, "training.optimizer.nesterov": False})
    assert plan.get("training.optimizer") == {
        **planned(fingerprint).get("training.optimizer"), "momentum": 0.9, "nesterov": False
    }  # fmt: skip
    # A decision is not changed for good: the next plan is as before.
    assert planned(fingerprint).get("training.optimizer.momentum") == 0.99


def test_wildcards_reach_every_configuration_that_has_the_field(fingerprint: Fingerprint) -> None:
    plan = planned(fingerprint, **{"configurations.*.architecture.dropout_probability": 0.25})
    assert {entry["architecture"]["dropout_probability"] for entry in plan.configurations.values()} == {0.25}
    plan = planned(fingerprint, **{"configurations.*.transpose_forward": [0, 1, 2]})
    assert all(entry["transpose_forward"] == [0, 1, 2] for entry in plan.configurations.values())
    # Configurations that this dataset does not get are no mistake here, and one by one they are.
    small = Fingerprint.from_document(
        {**fingerprint.document, "cases": {**fingerprint.document["cases"], "shape": [[40, 64, 64]] * 5}}
    )
    assert (
        "3d_lowres"
        not in planned(small, **{"configurations.*.architecture.norm.epsilon": 1e-3}).configurations
    )
    with pytest.raises(
        PlanError, match=r"configurations\.3d_lowres\.batch_size: this is not part of the plan"
    ):
        planned(small, **{"configurations.3d_lowres.batch_size": 4})


def test_channels(make_fingerprint: Any) -> None:
    fingerprint = make_fingerprint(channels=["CT", "PET"])
    plan = planned(fingerprint, **{"channels[1].normalization.scheme": "none"})
    assert plan.get("channels[1].normalization.scheme") == "none"
    assert plan.get("channels[0].normalization.scheme") == "ct"
    with pytest.raises(PlanError, match=r"channels\[7\].normalization.*not part of the plan"):
        planned(fingerprint, **{"channels[7].normalization.scheme": "none"})


@pytest.mark.parametrize(
    ("path", "what", "fix"),
    [
        ("configurations.3d_fullres.pach_size", "no rule of this pack decides this field", "configurations.3d_fullres.patch_size"),
        ("training.optimiser", "no rule", "training.optimizer"),
        ("configurations.3d_cascade_fullres.patch_size", "takes this from 3d_fullres", "configurations.3d_fullres.patch_size"),
        ("configurations.nothing.patch_size", "no rule", None),
        ("configurations.*.nothing_here", "no rule", None),
        ("dataset.name", "no rule", None),
    ],
)  # fmt: skip
def test_unknown_fields(fingerprint: Fingerprint, path: str, what: str, fix: str | None) -> None:
    with pytest.raises(PlanError) as caught:
        planned(fingerprint, **{path: 3})
    (problem,) = caught.value.problems
    assert problem.where == path
    assert what in problem.what
    if fix:
        assert fix in str(problem.fix)


def test_all_unknown_fields_at_once(fingerprint: Fingerprint) -> None:
    with pytest.raises(PlanError) as caught:
        resolve_overrides(compiled(load_pack()), {"a": 1, "b": 2, "training.epochs": 3})
    assert [problem.where for problem in caught.value.problems] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.epochs", "many"), ("training.epochs", True), ("configurations.2d.patch_size", [64, 64, 64]),
        ("configurations.2d.patch_size", 64), ("configurations.2d.patch_size", [64, "x"]), ("training.optimizer", {"name": "x"}),
        ("training.optimizer.momentum", "high"), ("configurations", "2d"), ("augmentation", 3),
        ("configurations.2d.architecture.norm.nothing", 3), ("configurations.2d.architecture.norm.name.deeper", 3),
    ],
)  # fmt: skip
def test_wrong_types_and_places(fingerprint: Fingerprint, path: str, value: Any) -> None:
    with pytest.raises(PlanError) as caught:
        planned(fingerprint, **{path: value})
    assert all(problem.where for problem in caught.value.problems)


def test_an_override_that_makes_the_plan_contradict_itself_is_refused(fingerprint: Fingerprint) -> None:
    with pytest.raises(PlanError, match=r"plan: training\.epochs: not allowed here; got -1"):
        planned(fingerprint, **{"training.epochs": -1})
    with pytest.raises(PlanError, match=r"expected the field .previous_stage_one_hot"):
        planned(fingerprint, **{"configurations.2d.augmentation.order": ["mirror", "previous_stage_one_hot"]})


@pytest.mark.parametrize("axes", [[0, 1], [], [2, 0, 1]])
def test_a_list_that_no_rule_reads_may_have_another_length(fingerprint: Fingerprint, axes: list[int]) -> None:
    plan = planned(fingerprint, **{"configurations.3d_fullres.mirror_axes": axes})
    assert plan.configurations["3d_fullres"]["mirror_axes"] == axes
    assert plan.configurations["2d"]["mirror_axes"] == [0, 1]


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("mirror_axes", [0, 3], "got 3; expected <= 2"), ("mirror_axes", [1, 1], "a value stands twice"),
        ("mirror_axes", ["x"], "wrong type"), ("mirror_axes", 1, "wrong type"),
        ("spacing", [1.0, 1.0], "wrong type"), ("batch_size", [2, 2], "wrong type"),
    ],
)  # fmt: skip
def test_other_lengths_and_types_are_refused(
    fingerprint: Fingerprint, field: str, value: Any, what: str
) -> None:
    with pytest.raises(PlanError, match=what) as caught:
        planned(fingerprint, **{f"configurations.3d_fullres.{field}": value})
    places = [problem.where for problem in caught.value.problems]
    assert len(places) == len(set(places))
