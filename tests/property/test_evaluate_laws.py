# ruff: noqa: E501 - rules in one line read like a table
"""Laws of plans: overrides, replays, determinism."""

import copy
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nnrules.documents import canonical_json
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.explain import explain
from nnrules.engine.machine import Machine
from nnrules.engine.origins import origin_of
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import compiled, make_plan
from nnrules.engine.program import Node
from nnrules.engine.replay import Replay
from nnrules.engine.values import unpack
from nnrules.errors import NnrulesError, PlanError
from nnrules.fingerprint import Fingerprint
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet
from nnrules.plan import Plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data" / "planner_v2_public.json.gz"
PACKS = (
    "nnunet@2.8.0",
    "nnunet@1.7.0",
    "nnunet@1.0.0",
    "nnunet@0.6.0",
    "nnunet-resenc@2.8.0",
    "preprint@2.0.0",
)


@cache
def recorded() -> list[Fingerprint]:
    """The fingerprints of the recorded planner runs: every anatomy, 2D and 3D, one case and many."""
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as stream:
        cases = json.load(stream)["cases"]
    return [fingerprint_from_nnunet(case["fingerprint"], case["dataset_json"]) for case in cases]


fingerprints = st.integers(0, 149).map(lambda number: recorded()[number % len(recorded())])
packs = st.sampled_from(PACKS)
budgets = st.one_of(
    st.sampled_from([2.0, 4.0, 8.0, 11.0, 24.0, 40.0]), st.floats(1.5, 80).map(lambda gb: round(gb, 2))
)


def planned(fingerprint: Fingerprint, pack: str, **options: Any) -> Plan | None:
    """The plan, or None where the planner refuses the dataset."""
    try:
        return make_plan(fingerprint, load_pack(pack), **options)
    except NnrulesError:
        return None


# -- replay -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(fingerprint=fingerprints, pack=packs, budget=budgets, other=budgets, data=st.data())
def test_a_replay_at_another_budget_is_the_plan_at_that_budget(
    fingerprint: Fingerprint, pack: str, budget: float, other: float, data: st.DataObject
) -> None:
    """Exactly, for decisions that the memory target reaches, from nothing but the plan."""
    plan = planned(fingerprint, pack, gpu_memory_gb=budget, check=False)
    wanted = planned(fingerprint, pack, gpu_memory_gb=other, check=False)
    assume(plan is not None and wanted is not None)
    assert plan is not None
    assert wanted is not None
    program = compiled(load_pack(pack))
    replay = Replay(program, Plan(json.loads(canonical_json(dict(plan.document)))))
    nodes = [
        n
        for n in program.order
        if n.rule is not None and n.keys[0].startswith("config/") and replay.depends_on_budget(n)
    ]
    nodes = [n for n in nodes if n.rule is not None and n.rule.kind == "inferred"]
    assert len(nodes) >= 8
    for index in data.draw(st.lists(st.integers(0, len(nodes) - 1), min_size=6, max_size=6, unique=True)):
        node = nodes[index]
        _, name, _ = node.keys[0].split("/")
        try:
            values = replay.at_budget(node, other)
        except NnrulesError as exc:
            # Only what follows from all cases by way of the budget cannot be had from a plan.
            assert "the fingerprint lacks 'cases." in str(exc) or name not in plan.configurations  # noqa: PT017
            continue
        if values is None:
            assert name not in wanted.configurations, node.id
            continue
        assert name in wanted.configurations, node.id
        for key, value, kind in zip(node.keys, values, node.types, strict=True):
            got = value if isinstance(value, dict) else unpack(value, kind)
            assert got == wanted.get("configurations." + key.removeprefix("config/").replace("/", ".", 1)), (
                key
            )


@pytest.mark.parametrize("pack", PACKS)
def test_a_patch_can_always_be_replayed(pack: str) -> None:
    """For the fields that people ask about, a replay never gives up where the configuration is planned."""
    for fingerprint in recorded()[::25]:
        plan = planned(fingerprint, pack)
        if plan is None:
            continue
        program = compiled(load_pack(pack))
        replay = Replay(program, plan)
        for name, configuration in plan.configurations.items():
            if "inherits_from" in configuration:
                continue
            for field in ("patch_size", "batch_size"):
                node = program.by_key[f"config/{name}/{field}"]
                at_home = replay.at_budget(node, plan.provenance["budget"]["gpu_memory_gb"])
                assert at_home is not None
                position = node.keys.index(f"config/{name}/{field}")
                assert unpack(at_home[position], node.types[position]) == configuration[field]
                try:
                    replay.at_budget(node, 5.0)
                except NnrulesError as exc:
                    pytest.fail(f"{pack} {name}.{field}: {exc}")


@settings(max_examples=12, deadline=None)
@given(fingerprint=fingerprints, pack=packs, budget=budgets)
def test_flips_are_where_they_are_said_to_be(fingerprint: Fingerprint, pack: str, budget: float) -> None:
    """At the reported target the value is the reported one, and a step before it the present one."""
    plan = planned(fingerprint, pack, gpu_memory_gb=budget)
    assume(plan is not None)
    assert plan is not None
    for name in plan.configurations:
        path = f"configurations.{name}.patch_size"
        if "inherits_from" in plan.configurations[name]:
            continue
        for flip in explain(plan, path).flips:
            at = planned(fingerprint, pack, gpu_memory_gb=flip.gpu_memory_gb)
            # Where nothing at all can be planned, the dataset is refused.
            found = at.get(path) if at is not None and name in at.configurations else "not planned"
            assert found == flip.value != plan.get(path)
            step = -0.01 if flip.gpu_memory_gb > budget else 0.01
            before = flip.gpu_memory_gb + step
            if (before - budget) * step >= 0:  # nothing lies between
                continue
            near = planned(fingerprint, pack, gpu_memory_gb=before)
            assert near is not None
            assert near.get(path) == plan.get(path)


# -- overrides ----------------------------------------------------------------------------------------------------


def _settable(plan: Plan) -> dict[str, Any]:
    """Every decided field that is decided alone."""
    return {
        entry["decides"][0] if len(entry["decides"]) == 1 else path: plan.get(path)
        for entry in plan.provenance["decisions"]
        for path in entry["decides"]
        if not entry["rule"].startswith("configuration ") and path != "configurations"
    }


@pytest.mark.parametrize("pack", PACKS)
def test_setting_a_field_to_its_planned_value_changes_nothing(pack: str) -> None:
    """For every decided field of a plan with a cascade; members of groups follow from a branch or are refused."""
    fingerprint = next(f for f in recorded() if "3d_lowres" in planned(f, pack).configurations)  # type: ignore[union-attr]
    plan = make_plan(fingerprint, load_pack(pack))
    fields = _settable(plan)
    assert len(fields) > 100
    for number, (path, value) in enumerate(sorted(fields.items())):
        # All fields that others follow from, and a sixth of the others for each pack.
        if number % 6 != PACKS.index(pack) and not any(
            word in path for word in ("patch", "spacing", "transpose", "shape")
        ):
            continue
        again = make_plan(fingerprint, load_pack(pack), overrides={path: copy.deepcopy(value)}, check=False)
        assert again.hash == plan.hash, path
        assert again.provenance["overrides"] == {path: value}
        origin = origin_of(again, path)
        assert origin is not None
        assert origin["override"] == path


@settings(max_examples=15, deadline=None)
@given(fingerprint=fingerprints, scale=st.sampled_from([0.5, 0.75, 1.3, 2.0]), pack=st.sampled_from(PACKS))
def test_a_set_target_spacing_moves_what_depends_on_it(
    fingerprint: Fingerprint, scale: float, pack: str
) -> None:
    plan = planned(fingerprint, pack)
    assume(plan is not None and "3d_fullres" in plan.configurations)
    assert plan is not None
    spacing = [edge * scale for edge in reversed(plan.get("target_spacing"))]
    again = planned(fingerprint, pack, overrides={"target_spacing": spacing})
    assume(again is not None and "3d_fullres" in again.configurations)
    assert again is not None
    assert again.get("target_spacing") == spacing
    fullres = again.configurations["3d_fullres"]
    assert fullres["spacing"] == [spacing[axis] for axis in fullres["transpose_forward"]]
    entry = next(e for e in again.provenance["decisions"] if "target_spacing" in e["decides"])
    assert entry["override"] == "target_spacing"
    assert "override" not in next(
        e for e in again.provenance["decisions"] if "configurations.3d_fullres.patch_size" in e["decides"]
    )


@settings(max_examples=60, deadline=None)
@given(
    fingerprint=fingerprints,
    pack=st.sampled_from(["nnunet@2.8.0", "nnunet@1.0.0", "nnunet@0.6.0"]),
    name=st.sampled_from(["2d", "3d_fullres"]),
    edges=st.tuples(*[st.integers(1, 320)] * 3),
)
def test_the_nearest_valid_patch_is_valid(
    fingerprint: Fingerprint, pack: str, name: str, edges: tuple[int, int, int]
) -> None:
    plan = planned(fingerprint, pack)
    assume(plan is not None and name in plan.configurations)
    assert plan is not None
    path = f"configurations.{name}.patch_size"
    wanted = list(edges[: plan.configurations[name]["dim"]])
    try:
        patch = make_plan(fingerprint, load_pack(pack), overrides={path: wanted}).get(path)
        assert patch == wanted
    except PlanError as exc:
        (problem,) = exc.problems
        assume("batch" not in problem.what)
        assert problem.where == path
        nearest = [int(edge) for edge in str(problem.fix).split("is ")[1].rstrip(".").split(" × ")]
        assert all(given <= near for given, near in zip(wanted, nearest, strict=True))
        again = make_plan(fingerprint, load_pack(pack), overrides={path: nearest})
        assert again.get(path) == nearest


def test_a_nearest_patch_that_needs_another_halving_is_followed_up() -> None:
    """15 × 33 is rounded up to 16 × 36, whose network halves once more and needs 16 × 40."""
    path = "configurations.2d.patch_size"
    with pytest.raises(PlanError, match=r"The nearest valid value is 16 × 40\.") as caught:
        make_plan(recorded()[0], "nnunet@1.0.0", overrides={path: [15, 33]})
    assert caught.value.problems[0].got == "15 × 33"
    assert make_plan(recorded()[0], "nnunet@1.0.0", overrides={path: [16, 40]}).get(path) == [16, 40]


def test_an_impossible_patch_is_refused_before_anything_is_computed_from_it() -> None:
    for edges in ([0, 64, 64], [-8, 64, 64]):
        with pytest.raises(PlanError, match="every edge of the patch must be at least one voxel"):
            make_plan(recorded()[2], overrides={"configurations.3d_fullres.patch_size": edges})


# -- determinism --------------------------------------------------------------------------------------------------


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    fingerprint = recorded()[7]
    source = tmp_path / "fingerprint.json"
    fingerprint.save(source)
    script = (
        "import sys, pathlib; from nnrules.fingerprint import Fingerprint; from nnrules.engine.planning import make_plan\n"
        "f = Fingerprint.load(pathlib.Path(sys.argv[1]))\n"
        "[make_plan(f, p).save(pathlib.Path(sys.argv[2], p)) for p in ('nnunet@2.8.0', 'preprint@2.0.0')]"
    )
    written = []
    for seed in ("0", "1", "4711"):
        target = tmp_path / seed
        target.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(source), str(target)], check=True, env=environment)
        written.append({path.name: path.read_bytes() for path in sorted(target.iterdir())})
    assert written[0] == written[1] == written[2]
    here = canonical_json(dict(make_plan(fingerprint, "nnunet@2.8.0").document))
    assert written[0]["nnunet@2.8.0"].decode() == here


@settings(max_examples=15, deadline=None)
@given(fingerprint=fingerprints, pack=packs, seed=st.integers(0, 99))
def test_the_order_of_cases_does_not_matter(fingerprint: Fingerprint, pack: str, seed: int) -> None:
    plan = planned(fingerprint, pack)
    assume(plan is not None)
    assert plan is not None
    document = copy.deepcopy(fingerprint.document)
    order = list(range(fingerprint.num_cases))
    random.Random(seed).shuffle(order)
    for name, column in document["cases"].items():
        if name != "id" and isinstance(column, list):
            document["cases"][name] = [column[index] for index in order]
    again = make_plan(Fingerprint.from_document(document), load_pack(pack))
    assert again.hash == plan.hash


def test_memoisation_and_tracing_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, on recorded cases of every family."""

    class Forgetful(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return default

    begin = Machine.__init__

    def forgetful(self: Machine, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.memo = Forgetful(self.memo)

    def outcomes(program: Any) -> list[str]:
        found = []
        for fingerprint in recorded()[::15]:
            try:
                evaluation = evaluate(program, fingerprint, 8.0)
            except NnrulesError as exc:
                found.append(str(exc))
                continue
            found.append(
                repr([(d.paths, d.values, d.whens, d.because, d.rounds) for d in evaluation.decisions])
            )
        return found

    for pack in PACKS:
        loaded = load_pack(pack)
        program = compile_pack(loaded)
        plain = outcomes(program)
        assert outcomes(compile_pack(loaded, traced=True)) == plain, pack
        with monkeypatch.context() as patch:
            patch.setattr(Machine, "__init__", forgetful)
            assert outcomes(program) == plain, pack


def test_a_plan_of_thousands_of_cases_stays_small(make_fingerprint: Callable[..., Fingerprint]) -> None:
    generator = random.Random(3)
    shapes = [[generator.randint(40, 400), 512, 512] for _ in range(3000)]
    spacings = [[generator.uniform(0.5, 5), 0.7, 0.7] for _ in range(3000)]
    plan = make_plan(make_fingerprint(shapes, spacings))
    text = canonical_json(dict(plan.document))
    assert len(text) < 200_000
    assert "case_0" not in text


@pytest.mark.parametrize("pack", PACKS)
def test_a_plan_names_no_paths_and_no_times(pack: str) -> None:
    text = canonical_json(dict(make_plan(recorded()[7], load_pack(pack)).document))
    home = str(Path(__file__).resolve().parents[2])
    assert home not in text
    assert '"/' not in text
    assert str(Path.home()) + "/" not in text
    for year in ("2024-", "2025-", "2026-", "2027-"):
        assert year not in text


def test_types_of_nodes_are_those_of_their_values() -> None:
    """What is recorded for a decision can be read back under its type."""
    from nnrules.engine.types import JSON, NULL
    from nnrules.engine.values import matches

    for pack in PACKS:
        program = compiled(load_pack(pack))
        evaluation = evaluate(program, recorded()[7], 8.0)
        for decision in evaluation.decisions:
            node: Node = decision.node
            for value, kind in zip(decision.values, node.types, strict=True):
                assert kind in (JSON, NULL) or matches(value, kind), decision.paths
