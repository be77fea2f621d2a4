"""Wrong arguments from Python: the same errors as at the command line, never another exception."""

from pathlib import Path
from typing import Any

import pytest
from nnrules.dataset import load_dataset
from nnrules.documents import canonical_json, write_json
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import (
    DatasetError,
    FingerprintError,
    NnrulesError,
    PackError,
    PlanError,
    RuleError,
    UsageError,
)  # fmt: skip
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan


@pytest.fixture
def fingerprint(workspace: Path) -> Fingerprint:
    return Fingerprint.load(workspace / "fingerprint.json")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gpu_memory_gb": 0}, UsageError),
        ({"gpu_memory_gb": float("nan")}, UsageError),
        ({"gpu_memory_gb": float("inf")}, UsageError),
        ({"gpu_memory_gb": 10**400}, UsageError),
        ({"gpu_memory_gb": "8"}, UsageError),
        ({"gpu_memory_gb": True}, UsageError),
        ({"pack": "nnunte"}, PackError),
        ({"pack": ""}, PackError),
        ({"pack": Path("nothing.yaml")}, PackError),
        ({"preset": "XXL"}, PackError),
        ({"overrides": {"nothing": 1}}, PlanError),
        ({"overrides": {"": 1}}, PlanError),
        ({"overrides": {"configurations.3d_fullres.patch_size": None}}, PlanError),
        ({"overrides": {"configurations.3d_fullres.batch_size": float("nan")}}, NnrulesError),
        ({"overrides": {"configurations.3d_fullres.batch_size": 10**400}}, NnrulesError),
        ({"overrides": {"configurations.3d_fullres.patch_size": (40, 56, 40, 8)}}, PlanError),
        ({"overrides": {"configurations.3d_fullres.batch_size": object()}}, PlanError),
    ],
)
def test_make_plan(fingerprint: Fingerprint, arguments: dict[str, Any], error: type[NnrulesError]):
    with pytest.raises(error) as caught:
        make_plan(fingerprint, **arguments)
    assert all(problem.where and problem.what for problem in caught.value.problems)


def test_a_preset_needs_a_pack_by_name(fingerprint: Fingerprint):
    with pytest.raises(UsageError, match="preset"):
        make_plan(fingerprint, load_pack("nnunet-resenc@2.8.0", preset="L"), preset="M")


@pytest.mark.parametrize("document", [None, 3, [], {}, {"cases": None}, {"cases": {"id": [{}]}}])
def test_documents_of_any_form(document: Any):
    with pytest.raises(FingerprintError):
        Fingerprint.from_document(document)
    with pytest.raises(PlanError):
        Plan.from_document(document)


@pytest.mark.parametrize(
    "path", ["", ".", "[", "channels[", "channels[99]", "channels[-1]", "a..b", "channels[0].name.x"]
)
def test_plan_paths_of_any_form(workspace: Path, path: str):
    with pytest.raises(PlanError):
        Plan.load(workspace / "plan.json").get(path)


def test_a_plan_cannot_be_saved_into_nothing(workspace: Path):
    plan = Plan.load(workspace / "plan.json")
    with pytest.raises(NnrulesError, match="cannot write here"):
        plan.save(workspace / "nowhere" / "plan.json")


def test_a_dataset_that_is_not_there(workspace: Path):
    with pytest.raises(DatasetError, match="no such file"):
        load_dataset(workspace / "nothing")


def test_errors_of_rules_name_every_place(workspace: Path):
    (workspace / "my.yaml").write_text("title: A\nextends: nnunet@2.8.0\nrules: 3\nparams: 4\n")
    with pytest.raises(RuleError) as caught:
        load_pack(workspace / "my.yaml")
    assert [problem.where for problem in caught.value.problems] == ["my.yaml:4:9", "my.yaml:3:8"]


def test_a_document_that_json_cannot_hold_leaves_no_file(workspace: Path):
    before = sorted(workspace.iterdir())
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(workspace / "out.json", {"a": float("nan")})
    assert sorted(workspace.iterdir()) == before
    assert canonical_json({}) == "{}\n"
