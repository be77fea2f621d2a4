# ruff: noqa: E501 - rules in one line read like a table
"""Differences between plans: causes, consequences, what must run again."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.diff import PlanDiff, diff_plans
from nnrules.engine.model import Pack
from nnrules.engine.origins import origin_of
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import NnrulesError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from nnrules.report.terminal import console, diff_view

DEMO = Path(__file__).resolve().parents[3] / "nnrules" / "demo" / "data" / "fingerprints"


@pytest.fixture(scope="module")
def liver() -> Fingerprint:
    return Fingerprint.load(DEMO / "D03_liver.json")


@pytest.fixture(scope="module")
def overlay(write_pack: Callable[..., Path]) -> Callable[..., Pack]:
    def make(text: str, base: str = "nnunet@2.8.0") -> Pack:
        return load_pack(write_pack(f"title: Mine\nextends: {base}\n{text}", head=""))

    return make


def paths(changes: Any) -> set[str]:
    return {change.path for change in changes}


def shown(diff: PlanDiff) -> str:
    screen = console()
    with screen.capture() as capture:
        screen.print(diff_view(diff))
    return capture.get()


def test_a_plan_does_not_differ_from_itself(liver: Fingerprint) -> None:
    plan, again = make_plan(liver), make_plan(liver)
    diff = diff_plans(plan, again)
    assert diff.is_empty
    assert diff.rerun == "none"
    assert diff.context == {}
    assert diff.to_json() == {"same": True, "context": {}, "causes": [], "consequences": [], "rerun": "none"}
    assert "No difference" in shown(diff)


def test_equal_plans_of_different_packs_are_the_same_work(
    liver: Fingerprint, overlay: Callable[..., Pack]
) -> None:
    pack = overlay("params: {min_batch: {value: 2, unit: samples, doc: the same}}\n")
    diff = diff_plans(make_plan(liver), make_plan(liver, pack), packs=(None, pack))
    assert diff.is_empty
    assert set(diff.context) == {"pack", "pack hash"}


def test_one_parameter_is_one_cause(liver: Fingerprint, overlay: Callable[..., Pack]) -> None:
    """Patches stay; batches may grow, and nothing else moves."""
    pack = overlay("params: {min_batch: {value: 3, unit: samples, doc: d}}\n")
    old, new = make_plan(liver), make_plan(liver, pack)
    diff = diff_plans(old, new, packs=(None, pack))
    # A patch must now fit three times, so patch and topology are decided anew, and the batch by its own minimum.
    for change in diff.causes:
        assert "min_batch 2 → 3" in change.why, change
        entry = origin_of(new, change.path)
        assert entry is not None
        assert "params:min_batch" in entry["reads"].values()
    assert "configurations.3d_fullres.patch_size" in paths(diff.causes)
    assert "configurations.3d_fullres.memory.feature_map_voxels" in paths(diff.consequences)
    assert not any("3d_cascade_fullres" in path for path in paths(diff.changes))


def test_a_changed_rule_is_a_cause(liver: Fingerprint, overlay: Callable[..., Pack]) -> None:
    pack = overlay(
        "rules:\n  - {id: training.epochs, title: t, kind: blueprint, decides: training.epochs, constant: 7, because: b}\n"
    )
    diff = diff_plans(make_plan(liver), make_plan(liver, pack), packs=(None, pack))
    (change,) = diff.changes
    assert (change.path, change.old, change.new, change.role) == ("training.epochs", 1000, 7, "cause")
    assert change.why == "rule training.epochs changed"
    assert change.rerun == diff.rerun == "train"
    assert re.fullmatch(r"training.epochs \(nnunet/2.8.0/training.yaml:\d+\)", str(change.rules[0]))
    assert re.fullmatch(r"training.epochs \(pack\d+.yaml:\d+\)", str(change.rules[1]))


def test_a_budget_is_a_cause_and_the_rest_follows(liver: Fingerprint) -> None:
    diff = diff_plans(make_plan(liver, gpu_memory_gb=8), make_plan(liver, gpu_memory_gb=11))
    assert diff.context == {"GPU memory (GB)": (8.0, 11.0)}
    patch = next(change for change in diff.changes if change.path == "configurations.3d_fullres.patch_size")
    assert patch.role == "cause"
    assert "the memory target" in patch.why
    assert all("the memory target" in change.why for change in diff.causes)
    assert diff.consequences
    assert all(change.why.startswith("follows from ") for change in diff.consequences)


def test_what_the_user_set_is_a_cause(liver: Fingerprint) -> None:
    old = make_plan(liver)
    spacing = [2.0, 0.8, 0.8]
    new = make_plan(liver, overrides={"target_spacing": spacing})
    diff = diff_plans(old, new)
    assert paths(diff.causes) == {"target_spacing"}
    (cause,) = diff.causes
    assert (cause.why, cause.new) == ("set by the user", spacing)
    assert diff.rerun == "preprocess"
    assert "configurations.3d_fullres.spacing" in paths(diff.consequences)
    back = diff_plans(new, old)
    assert paths(back.causes) == {"target_spacing"}


def test_a_leaf_that_the_user_set(liver: Fingerprint) -> None:
    diff = diff_plans(make_plan(liver), make_plan(liver, overrides={"training.optimizer.momentum": 0.9}))
    (change,) = diff.changes
    assert (change.path, change.why) == ("training.optimizer.momentum", "set by the user")


def test_another_fingerprint_is_a_cause(liver: Fingerprint) -> None:
    spleen = Fingerprint.load(DEMO / "D09_spleen.json")
    diff = diff_plans(make_plan(liver), make_plan(spleen))
    by_path = {change.path: change for change in diff.changes}
    assert by_path["dataset.name"].why == "a fact of the dataset"
    assert by_path["target_spacing"].role == "consequence" or "fingerprint" in by_path["target_spacing"].why
    assert "fingerprint" in diff.context


def test_a_configuration_that_only_one_plan_has_is_one_change(liver: Fingerprint) -> None:
    old = make_plan(liver)
    new = make_plan(liver, overrides={"configurations": ["2d", "3d_fullres"]})
    diff = diff_plans(old, new)
    gone = {
        change.path: (change.old, change.new)
        for change in diff.changes
        if change.new == "absent" and change.old == "planned"
    }
    assert gone == {
        "configurations.3d_lowres": ("planned", "absent"), "configurations.3d_cascade_fullres": ("planned", "absent")
    }  # fmt: skip


def test_across_packs_the_rules_are_named(liver: Fingerprint) -> None:
    diff = diff_plans(make_plan(liver, "nnunet@1.0.0"), make_plan(liver, "nnunet@2.8.0"))
    for file in ("patch.yaml", "architecture.yaml"):
        named = [c for c in diff.changes if c.rules[0] and c.rules[1] and file in c.rules[0]]
        assert named, file
        assert all(f"(nnunet/1.0.0/{file}:" in str(change.rules[0]) for change in named)
        assert any(f"(nnunet/2.8.0/{file}:" in str(change.rules[1]) for change in named)
    text = shown(diff)
    for part in ("causes", "consequences", "must run again", "nnunet/1.0.0/patch.yaml"):
        assert part in text
    document = json.loads(json.dumps(diff.to_json()))
    assert document["same"] is False
    assert len(document["causes"]) == len(diff.causes) > 0
    assert set(document["causes"][0]) == {"path", "old", "new", "role", "why", "rules", "kind", "rerun"}


def test_without_the_packs_a_diff_still_works(liver: Fingerprint, overlay: Callable[..., Pack]) -> None:
    """A rule file that is gone costs the counterfactual, not the diff."""
    pack = overlay("params: {min_batch: {value: 3, unit: samples, doc: d}}\n")
    diff = diff_plans(make_plan(liver), make_plan(liver, pack))
    assert "configurations.3d_fullres.patch_size" in paths(diff.causes)


def test_order_and_roles(liver: Fingerprint) -> None:
    diff = diff_plans(make_plan(liver, "nnunet@1.0.0"), make_plan(liver, "nnunet@2.8.0"))
    roles = [change.role for change in diff.changes]
    assert roles == sorted(roles)
    assert diff.changes == diff.causes + diff.consequences


def _changed(value: Any, name: str) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + max(1, value // 4)
    return value * 1.25 if isinstance(value, float) else f"{value}x"


def _readers(plan: Plan, param: str) -> set[str]:
    """Plan paths whose deciding rule reads a parameter, itself or by way of facts."""
    reference = f"params:{param}"
    facts = plan.provenance["facts"]
    through = {name for name, fact in facts.items() if reference in fact["reads"].values()}
    for _ in facts:
        through |= {
            n for n, fact in facts.items() if {f"facts:{t}" for t in through} & set(fact["reads"].values())
        }
    wanted = {reference} | {f"facts:{name}" for name in through}
    return {
        path
        for entry in plan.provenance["decisions"]
        for path in entry["decides"]
        if wanted & set(entry.get("reads", {}).values())
    }


@pytest.mark.parametrize("base", ["nnunet@2.8.0", "nnunet@1.0.0"])
def test_only_fields_whose_rule_reads_a_changed_parameter_are_causes(
    base: str, liver: Fingerprint, overlay: Callable[..., Pack]
) -> None:
    """For every parameter that the plan reads, changed by a quarter in an overlay."""
    old = make_plan(liver, base)
    tried = moved = 0
    for name, param in sorted(old.provenance["params"].items()):
        value = json.dumps(_changed(param["value"], name))
        pack = overlay(f"params: {{{name}: {{value: {value}, unit: '1', doc: d}}}}\n", base)
        preset = old.provenance["pack"]["preset"]
        try:
            # The preset of the base would set the parameter again, so the overlay is read without one where it can be.
            new = make_plan(liver, pack, check=False)
        except NnrulesError:
            continue
        tried += 1
        diff = diff_plans(old, new, packs=(load_pack(base, preset=preset), pack))
        moved += not diff.is_empty
        readers = _readers(old, name) | _readers(new, name)
        for change in diff.causes:
            if change.old in ("planned", "absent") or change.new in ("planned", "absent"):
                continue  # a configuration that came or went, with all of its fields
            origin = origin_of(new, change.path) or origin_of(old, change.path)
            assert origin is not None
            assert set(origin["decides"]) & readers, f"{name}: {change.path}: {change.why}"
    assert tried > 10
    assert moved > 5
