"""Every value of every plan has a rule, a line and inputs: no orphans. And every distinct decision can be explained."""

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.explain import explain
from nnrules.engine.origins import find_decision, index_decisions
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import NnrulesError, PlanError
from nnrules.fingerprint import Fingerprint
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet, read_nnunet_fingerprint
from nnrules.plan import Plan
from nnrules.resources import rules_directory

CHECKOUT = Path(__file__).resolve().parents[2]
REAL_PLANS = CHECKOUT.parent / "shared" / "golden" / "real_plans"
VARIANTS: tuple[tuple[str, str | None], ...] = (
    ("nnunet@2.8.0", None), ("nnunet@1.7.0", None), ("nnunet@1.0.0", None), ("nnunet@0.6.0", None),
    ("nnunet-resenc@2.8.0", "default"), ("nnunet-resenc@2.8.0", "M"), ("nnunet-resenc@2.8.0", "L"),
    ("nnunet-resenc@2.8.0", "XL"), ("preprint@2.0.0", None),
)  # fmt: skip
FACTS = ("dataset.", "channels[")


@cache
def recorded() -> list[Fingerprint]:
    with gzip.open(
        Path(__file__).parent / "data" / "planner_v2_public.json.gz", "rt", encoding="utf-8"
    ) as stream:
        cases = json.load(stream)["cases"]
    return [fingerprint_from_nnunet(case["fingerprint"], case["dataset_json"]) for case in cases]


@cache
def line_of(file: str, line: int) -> str:
    return (rules_directory() / file).read_text(encoding="utf-8").splitlines()[line - 1].strip()


def starts(entry: dict[str, Any]) -> bool:
    """Whether the named line really begins the rule, the case or the configuration."""
    text = line_of(entry["file"], entry["line"]).removeprefix("- ")
    if entry["rule"].startswith("configuration "):
        return text == f"{entry['rule'].removeprefix('configuration ')}:"
    return text == f"id: {entry['rule']}" or text.startswith(("when: ", "otherwise:"))


def orphans(plan: Plan) -> Iterator[str]:
    """Leaves without a decision, decisions without a line, references that lead nowhere."""
    index = index_decisions(plan)
    provenance = plan.provenance
    for path, _ in plan.leaves():
        found = find_decision(plan, index, path)
        if found is None:
            is_fact = path.startswith("dataset.") or (
                path.startswith("channels[") and path.endswith("].name")
            )
            if not is_fact and path != "schema_version":
                yield f"{path}: nothing decided it"
    for entry in provenance["decisions"]:
        name = entry["rule"]
        if not starts(entry):
            yield f"{name}: {entry['file']}:{entry['line']} does not begin it"
        if not entry["because"]:
            yield f"{name}: no reason"
        for path in entry["decides"]:
            try:
                plan.get(path)
            except PlanError:
                if path != "configurations":
                    yield f"{path}: decided by {name}, but not in the plan"
        for read, reference in entry.get("reads", {}).items():
            kind, _, rest = reference.partition(":")
            table = {"params": "params", "facts": "facts", "inputs": "inputs"}.get(kind)
            if table is None:
                configuration = reference.split(".")[1] if reference.startswith("configurations.") else None
                try:
                    plan.get(reference)
                except PlanError:
                    if configuration in plan.configurations or configuration is None:
                        yield f"{name}: reads {read} from {reference}, which is not there"
            elif rest not in provenance[table] and table == "params":
                yield f"{name}: parameter {rest} is not recorded"
            elif rest not in provenance[table] and "whens" not in entry and "override" not in entry:
                yield f"{name}: reads {read} from {reference}, which is not recorded"
    for table in ("params", "facts"):
        for name, entry in provenance[table].items():
            if not line_of(entry["file"], entry["line"]).startswith(
                (f"{name.rpartition('/')[2]}:", "L:", "M:", "XL:", "default:")
            ):
                yield f"{table} {name}: {entry['file']}:{entry['line']}"


def planned(fingerprint: Fingerprint, pack: str, preset: str | None, **options: Any) -> Plan | None:
    try:
        return make_plan(fingerprint, load_pack(pack, preset=preset), check=False, **options)
    except NnrulesError:
        return None


@pytest.mark.parametrize(("pack", "preset"), VARIANTS)
def test_no_orphans_in_plans_of_the_recorded_fingerprints(pack: str, preset: str | None) -> None:
    made = 0
    step = 2 if pack == "nnunet@2.8.0" else 8
    for fingerprint in recorded()[VARIANTS.index((pack, preset)) % step :: step]:
        plan = planned(fingerprint, pack, preset)
        if plan is None:
            continue
        made += 1
        found = list(orphans(plan))
        assert not found, f"{fingerprint.dataset.name}: " + "\n".join(found[:5])
    assert made >= 8


@pytest.mark.shared
def test_no_orphans_in_plans_of_real_datasets() -> None:
    if not REAL_PLANS.is_dir():
        pytest.skip("the real plans are not beside the checkout (../shared/golden/real_plans)")
    made = 0
    for source in sorted(REAL_PLANS.glob("*/dataset_fingerprint.json")):
        fingerprint = read_nnunet_fingerprint(source, source.with_name("dataset.json"))
        for pack, preset in VARIANTS:
            plan = planned(fingerprint, pack, preset)
            if plan is not None:
                made += 1
                assert not list(orphans(plan)), (source.parent.name, pack)
    assert made >= len(VARIANTS)


def test_the_search_for_orphans_finds_them() -> None:
    plan = make_plan(recorded()[7])
    document = json.loads(json.dumps(dict(plan.document)))
    document["configurations"]["2d"]["new_field"] = 3
    decisions = document["provenance"]["decisions"]
    decisions[5]["line"] += 1
    decisions[6]["because"] = ""
    del document["provenance"]["params"]["min_batch"]
    found = "\n".join(orphans(Plan(document)))
    for part in (
        "new_field: nothing decided it",
        "does not begin it",
        "no reason",
        "parameter min_batch is not recorded",
    ):
        assert part in found


def test_overridden_values_are_no_orphans() -> None:
    overrides = {
        "configurations.2d.batch_size": 5,
        "training.seed": 3,
        "configurations.*.loss.batch_dice": True,
    }
    plan = planned(recorded()[7], "nnunet@2.8.0", None, overrides=overrides)
    assert plan is not None
    assert not list(orphans(plan))
    assert explain(plan, "configurations.2d.batch_size").source == "override"


@pytest.mark.parametrize(("pack", "preset"), VARIANTS)
def test_every_distinct_decision_can_be_explained(pack: str, preset: str | None) -> None:
    """One plan with a cascade for each pack: title, reason, line, inputs, and rounds where there is a loop."""
    plan = next(
        plan
        for f in recorded()
        if (plan := planned(f, pack, preset)) is not None and "3d_lowres" in plan.configurations
    )
    seen = set()
    for entry in plan.provenance["decisions"]:
        for path in entry["decides"][:2]:
            key = (
                entry["rule"],
                entry["line"],
                path.split(".")[1] if path.startswith("configurations.") else "",
            )
            if path == "configurations" or key in seen:
                continue
            seen.add(key)
            explanation = explain(plan, path, flips=False)
            assert explanation.value == plan.get(path)
            assert explanation.because
            assert explanation.note is None, f"{path}: {explanation.note}"
            assert explanation.file is not None
            assert explanation.line is not None
            assert line_of(explanation.file, explanation.line), path
            json.dumps(explanation.to_json())
    assert len(seen) > 80
    for path in ("configurations.3d_fullres.patch_size", "configurations.3d_lowres.spacing"):
        rounds = explain(plan, path, flips=False).rounds
        assert rounds, path
        assert all(row.rows and row.stopped for row in rounds), path
        assert any(len(row.rows) > 1 for row in rounds), path
        assert all(len(values) == len(row.columns) for row in rounds for values in row.rows), path
    assert (
        explain(plan, "configurations.3d_cascade_fullres.patch_size", flips=False).inherited_from
        == "3d_fullres"
    )
