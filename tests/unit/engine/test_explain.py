# ruff: noqa: E501 - rules in one line read like a table
"""Explanations: sources, places, inputs, cases not taken, rounds, flips, and what cannot be shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.explain import explain, pack_of
from nnrules.engine.origins import field_origins, origin_of
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import PackError, PlanError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from nnrules.report.terminal import console, explanation_view, leaves_view, plan_view
from nnrules.resources import rules_directory

DEMO = Path(__file__).resolve().parents[3] / "nnrules" / "demo" / "data" / "fingerprints"
PATCH = "configurations.3d_fullres.patch_size"


@pytest.fixture(scope="module")
def liver() -> Fingerprint:
    return Fingerprint.load(DEMO / "D03_liver.json")


@pytest.fixture(scope="module")
def plan(liver: Fingerprint) -> Plan:
    return make_plan(liver)


def source_line(file: str | None, line: int | None) -> str:
    assert file is not None
    assert line is not None
    return (rules_directory() / file).read_text(encoding="utf-8").splitlines()[line - 1].strip()


def printed(view: Any) -> str:
    screen = console()
    with screen.capture() as capture:
        screen.print(view)
    return capture.get()


def test_a_decided_value(plan: Plan) -> None:
    found = explain(plan, PATCH)
    assert (found.source, found.rule, found.kind, found.pack) == (
        "rule", "patch.size_and_topology", "inferred", "nnunet@2.8.0"
    )  # fmt: skip
    assert found.title
    assert source_line(found.file, found.line).startswith("patch_size:")  # the member, not the group
    inputs = {entry.name: (entry.value, entry.origin) for entry in found.inputs}
    assert inputs["budget.gpu_memory_gb"] == (8.0, "budget")
    assert inputs["config.spacing"] == (
        plan.get("configurations.3d_fullres.spacing"), "decided: configurations.3d_fullres.spacing"
    )  # fmt: skip
    assert inputs["dataset.num_labels"] == (3, "fingerprint")
    assert inputs["min_batch"][1].startswith("parameter, nnunet/2.8.0/patch.yaml:")
    assert str(found.value) in str(json.loads(json.dumps(found.to_json()))["value"])


def test_the_rounds_of_the_loop_end_in_the_value(plan: Plan) -> None:
    found = explain(plan, PATCH, flips=False)
    (rounds,) = [table for table in found.rounds if table.function == "fit_patch"]
    last = dict(zip(rounds.columns, rounds.rows[-1], strict=True))
    first = dict(zip(rounds.columns, rounds.rows[0], strict=True))
    assert last["net.patch"] == found.value
    assert all(a >= b for a, b in zip(first["net.patch"], last["net.patch"], strict=True))
    assert rounds.stopped == "the smallest batch fits the memory"
    entry = origin_of(plan, PATCH)
    assert entry is not None
    assert entry["rounds"] == {"fit_patch": len(rounds.rows) - 1}
    assert not found.flips


def test_a_value_behind_a_fact_shows_the_loop_of_the_fact(plan: Plan) -> None:
    found = explain(plan, "configurations.3d_lowres.spacing", flips=False)
    (rounds,) = [table for table in found.rounds if table.function == "coarsen"]
    low = [dict(zip(rounds.columns, row, strict=True))["low"] for row in rounds.rows]
    assert low[-1] == found.value
    assert low[0] == plan.get("configurations.3d_fullres.spacing")


def test_cases_that_were_not_taken(plan: Plan) -> None:
    found = explain(plan, "target_spacing", flips=False)
    assert [case.outcome for case in found.untaken] == ["did not hold", "did not hold"]
    assert all(case.when in source_line(*_split(case.place)) for case in found.untaken)
    first = explain(plan, "configurations.3d_lowres.loss.batch_dice", flips=False)
    assert [case.outcome for case in first.untaken] == ["not looked at"]


def _split(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line)


def test_part_of_a_record_points_at_its_own_line(plan: Plan) -> None:
    found = explain(plan, "training.optimizer.momentum")
    assert source_line(found.file, found.line) == "momentum: 0.99"
    terms = explain(plan, "configurations.2d.loss.terms[1].weight")
    assert terms.rule == origin_of(plan, "configurations.2d.loss.terms")["rule"]  # type: ignore[index]
    assert terms.value == plan.get("configurations.2d.loss.terms")[1]["weight"]


def test_other_sources(plan: Plan, liver: Fingerprint) -> None:
    assert explain(plan, "dataset.name").source == "fingerprint"
    assert explain(plan, "channels[0].name").source == "fingerprint"
    assert explain(plan, "schema_version").source == "format"
    declared = explain(plan, "configurations.2d.dim")
    assert (declared.source, declared.file) == ("pack", "nnunet/2.8.0/release.yaml")
    copied = explain(plan, "configurations.3d_cascade_fullres.patch_size")
    assert copied.inherited_from == "3d_fullres"
    own = explain(plan, "configurations.3d_cascade_fullres.architecture.num_input_channels")
    assert own.inherited_from is None
    overridden = make_plan(liver, overrides={"configurations.3d_fullres.batch_size": 3})
    found = explain(overridden, "configurations.3d_fullres.batch_size")
    assert (found.source, found.because, found.rounds) == ("override", "set by the user", ())
    scheme = explain(plan, "channels[0].normalization.scheme")
    assert {entry.name: entry.value for entry in scheme.inputs}["channel.name"] == "CT"


@pytest.mark.parametrize(
    "path", ["nothing", "configurations", "configurations.2d", "dataset", "channels", "", "channels[9].name"]
)
def test_what_is_no_single_field(plan: Plan, path: str) -> None:
    with pytest.raises(PlanError):
        explain(plan, path)


def test_fields_below_a_path(plan: Plan) -> None:
    everything = field_origins(plan)
    assert len(everything) == len(list(plan.leaves()))
    assert all(origin for _, _, origin in everything)
    below = field_origins(plan, "training.optimizer")
    assert {path for path, _, _ in below} == {
        path for path, _ in plan.leaves() if path.startswith("training.optimizer.")
    }
    assert all(origin.startswith("training.optimizer (nnunet/2.8.0/training.yaml:") for _, _, origin in below)
    with pytest.raises(PlanError, match=r"Did you mean 'training.optimizer.momentum'\?"):
        field_origins(plan, "training.optimizer.momentun")


def test_flips_bracket_the_budget(liver: Fingerprint, plan: Plan) -> None:
    down, up = explain(plan, PATCH).flips
    assert down.gpu_memory_gb < 8 < up.gpu_memory_gb
    for flip, before in ((down, 0.01), (up, -0.01)):
        assert make_plan(liver, gpu_memory_gb=flip.gpu_memory_gb).get(PATCH) == flip.value != plan.get(PATCH)
        assert make_plan(liver, gpu_memory_gb=flip.gpu_memory_gb + before).get(PATCH) == plan.get(PATCH)
    assert not explain(plan, "training.epochs").flips


def test_an_overlay_must_be_named_and_unchanged(liver: Fingerprint, write_pack: Callable[..., Path]) -> None:
    text = "title: M\nextends: nnunet@2.8.0\nparams: {min_batch: {value: 3, unit: samples, doc: d}}\n"
    path = write_pack(text, head="", name="mine.yaml")
    pack = load_pack(path)
    plan = make_plan(liver, pack)
    found = explain(plan, PATCH)
    assert "made with a rule file of the user" in str(found.note)
    assert not found.rounds
    assert found.because
    assert explain(plan, PATCH, pack=pack, flips=False).rounds
    changed = load_pack(write_pack(text.replace("3", "4"), head="", name="mine.yaml"))
    with pytest.raises(PackError, match="the pack has changed since the plan was made"):
        pack_of(plan, changed)
    assert "has changed since" in str(explain(plan, PATCH, pack=changed).note)
    assert pack_of(make_plan(liver)).id == load_pack("nnunet@2.8.0").id


def test_a_rule_that_reads_what_it_replaced_is_explained(
    liver: Fingerprint, write_pack: Callable[..., Path]
) -> None:
    text = (
        "title: M\nextends: nnunet@2.8.0\nrules:\n  - {id: patch.batch_size, title: t, kind: inferred, scope: configuration, "
        "decides: batch_size, value: inherited + 1, because: b}\n"
    )
    pack = load_pack(write_pack(text, head=""))
    plan = make_plan(liver, pack)
    found = explain(plan, "configurations.2d.batch_size", pack=pack)
    assert found.note is None
    assert "config.memory.reference_voxels" in {entry.name for entry in found.inputs}
    for flip in found.flips:
        again = make_plan(liver, pack, gpu_memory_gb=flip.gpu_memory_gb)
        assert again.get("configurations.2d.batch_size") == flip.value


def test_views_render(plan: Plan, liver: Fingerprint) -> None:
    text = printed(explanation_view(explain(plan, PATCH)))
    for part in (
        PATCH,
        "patch.size_and_topology",
        "nnunet/2.8.0/patch.yaml",
        "rounds of fit_patch",
        "GB it would be",
    ):
        assert part in text, part
    assert "fingerprint" in printed(explanation_view(explain(plan, "dataset.name")))
    assert "training.epochs" in printed(leaves_view(field_origins(plan, "training")))
    table = printed(plan_view(plan))
    for part in ("patch size", "128 × 128 × 128", "3d_cascade_fullres", "nnunet@2.8.0"):
        assert part in table, part
    assert "taken from configuration 3d_fullres" in printed(
        explanation_view(explain(plan, "configurations.3d_cascade_fullres.patch_size", flips=False))
    )
