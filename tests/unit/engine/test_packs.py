# ruff: noqa: E501 - rules in one line read like a table
"""Packs and overlays: what is found, merged, replaced, removed, inherited."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.machine import Evaluation
from nnrules.engine.packs import available_packs, load_pack, pack_directory
from nnrules.engine.planning import make_plan
from nnrules.errors import PackError, RuleError
from nnrules.fingerprint import Fingerprint

Write = Callable[..., Path]
Run = Callable[..., Evaluation]

UPPER = "title: Mine\nextends: {base}\n"
EPOCHS = "  - {id: training.epochs, title: t, kind: blueprint, decides: training.epochs, because: b, "


def rounded_up(value: int) -> str:
    return f"title: Mine\nextends: nnunet@2.8.0\nrules:\n{EPOCHS}constant: {value}}}\n"


@pytest.fixture(scope="module")
def fingerprint(make_fingerprint: Callable[..., Fingerprint]) -> Fingerprint:
    return make_fingerprint()


def test_every_shipped_pack_loads_and_compiles() -> None:
    packs = available_packs()
    assert {"nnunet", "nnunet-resenc", "preprint"} <= set(packs)
    for name, versions in packs.items():
        assert versions == sorted(versions, key=lambda text: tuple(map(int, text.split("."))))
        for version in versions:
            pack = load_pack(f"{name}@{version}")
            assert str(pack.id) == f"{name}@{version}"
            assert not pack.warnings
            compile_pack(pack)
            for preset in pack.presets:
                assert load_pack(f"{name}@{version}", preset=preset).preset == preset


def test_a_name_alone_is_its_latest_version() -> None:
    assert str(load_pack("nnunet").id) == f"nnunet@{available_packs()['nnunet'][-1]}"
    assert pack_directory("nnunet")[1].name == "2.8.0"


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("nnunte@2.8.0", "no such rule pack"), ("nnunet@9.0.0", "no such rule pack"), ("", "no such rule pack"),
        ("@", "no such rule pack"), ("nnunet@2.8", "no such rule pack"), ("no/such/file.yaml", "no such file"),
        ("../rules", "cannot be read"), ("nnunet@../preprint/2.0.0", ""),
    ],
)  # fmt: skip
def test_unknown_packs(spec: str, what: str) -> None:
    with pytest.raises(PackError) as caught:
        load_pack(spec)
    assert what in str(caught.value) or "no such file" in str(caught.value)


def test_unknown_packs_suggest_the_nearest() -> None:
    with pytest.raises(PackError, match=r"Did you mean 'nnunet@2.8.0'\?"):
        load_pack("nnunte@2.8.0")


def test_presets(fingerprint: Fingerprint) -> None:
    with pytest.raises(PackError, match="no such preset; got XXL; expected default, M, L, XL"):
        load_pack("nnunet-resenc", preset="XXL")
    with pytest.raises(PackError, match="Leave --preset out"):
        load_pack("nnunet@2.8.0", preset="L")
    large = load_pack("nnunet-resenc", preset="L")
    assert large.gpu_memory_gb == 24
    assert large.params["reference_gb"].value == 24
    plan = make_plan(fingerprint, large)
    assert plan.provenance["budget"] == {"gpu_memory_gb": 24}
    recorded = plan.provenance["params"]["reference_voxels_3d"]
    assert recorded["value"] == 2100000000
    assert recorded["file"] == "nnunet-resenc/2.8.0/release.yaml"  # where the preset sets it


def test_an_overlay_replaces_one_rule_and_keeps_the_rest(write_pack: Write, fingerprint: Fingerprint) -> None:
    base = load_pack("nnunet@2.8.0")
    pack = load_pack(write_pack(rounded_up(50), head=""))
    assert set(pack.rules) == set(base.rules)
    changed = {name for name in base.rules if pack.rules[name] != base.rules[name]}
    assert changed == {"training.epochs"}
    assert pack.rules["training.epochs"].inherited is base.rules["training.epochs"]
    assert (str(pack.extends), pack.extends_hash) == ("nnunet@2.8.0", base.hash)
    old, new = make_plan(fingerprint, base), make_plan(fingerprint, pack)
    differing = {path for path, value in new.leaves() if old.get(path) != value}
    assert differing == {"training.epochs"}


def test_inherited_is_what_the_replaced_rule_gives(write_pack: Write, fingerprint: Fingerprint) -> None:
    text = (
        "title: Mine\nextends: nnunet@2.8.0\nrules:\n"
        "  - {id: patch.batch_size, title: t, kind: inferred, scope: configuration, decides: batch_size, "
        "value: 'inherited + 1', because: 'one more than {inherited}'}\n"
    )
    old, new = make_plan(fingerprint), make_plan(fingerprint, load_pack(write_pack(text, head="")))
    for name in old.configurations:
        path = f"configurations.{name}.batch_size"
        assert new.get(path) == old.get(path) + 1
    entry = next(e for e in new.provenance["decisions"] if "configurations.2d.batch_size" in e["decides"])
    assert entry["because"] == f"one more than {old.get('configurations.2d.batch_size')}"
    # What the replaced rule reads on its behalf is recorded, and no reference leads nowhere.
    assert entry["reads"]["min_batch"] == "params:min_batch"
    assert "params:min_batch".partition(":")[2] in new.provenance["params"]
    assert not any("inherited" in reference for reference in entry["reads"].values())


def test_inherited_fields_of_a_group(write_pack: Write, fingerprint: Fingerprint) -> None:
    text = """
    title: Mine
    extends: nnunet@2.8.0
    rules:
      - id: patch.size_and_topology
        title: t
        kind: inferred
        scope: configuration
        decides: [architecture.strides, patch_size, architecture.kernel_sizes]
        value:
          patch_size: 2 * inherited.patch_size
          architecture.strides: inherited.architecture.strides
          architecture.kernel_sizes: inherited.architecture.kernel_sizes
        because: b
    """
    old, new = make_plan(fingerprint), make_plan(fingerprint, load_pack(write_pack(text, head="")))
    for name in ("2d", "3d_fullres"):
        path = f"configurations.{name}.patch_size"
        assert new.get(path) == [2 * edge for edge in old.get(path)]
        assert new.get(f"configurations.{name}.architecture.strides") == old.get(
            f"configurations.{name}.architecture.strides"
        )
    alone = text.replace("2 * inherited.patch_size", "2 * inherited")
    with pytest.raises(RuleError, match=r"unknown name 'inherited'.*Did you mean 'inherited") as caught:
        compile_pack(load_pack(write_pack(alone, head="")))
    assert "2 * inherited" in str(caught.value)


def test_a_group_split_in_two_rules(write_pack: Write, fingerprint: Fingerprint) -> None:
    """The replacing rule decides other fields than the replaced one."""
    text = """
    title: Mine
    extends: nnunet@2.8.0
    rules:
      - id: spacing.transpose
        title: t
        kind: inferred
        scope: configuration
        decides: transpose_forward
        value: inherited.transpose_forward
        because: b
      - id: spacing.back
        title: t
        kind: inferred
        scope: configuration
        decides: transpose_backward
        value: inverse(config.transpose_forward)
        because: b
    """
    old, new = make_plan(fingerprint), make_plan(fingerprint, load_pack(write_pack(text, head="")))
    assert old.hash == new.hash


def test_inherited_needs_the_same_scope(write_pack: Write) -> None:
    text = (
        "title: Mine\nextends: nnunet@2.8.0\nrules:\n"
        "  - {id: patch.batch_size, title: t, kind: inferred, decides: batch_size, value: inherited, because: b}\n"
    )
    with pytest.raises(
        RuleError, match=r"'inherited' has no meaning in rule 'patch\.batch_size'; got scope: dataset"
    ):
        compile_pack(load_pack(write_pack(text, head="")))


def test_inherited_through_two_levels(write_pack: Write, fingerprint: Fingerprint) -> None:
    """nnunet-resenc replaces architecture.initialization with ``updated(inherited, …)``; an overlay replaces it again."""
    text = """
    title: Mine
    extends: nnunet-resenc@2.8.0
    rules:
      - id: architecture.initialization
        title: t
        kind: blueprint
        scope: configuration
        decides: architecture.initialization
        value: updated(inherited, bias=7)
        because: b
    """
    base = make_plan(fingerprint, "nnunet-resenc@2.8.0")
    pack = load_pack(write_pack(text, head=""))
    assert [str(pack.extends), pack.default_preset] == ["nnunet-resenc@2.8.0", "M"]
    path = "configurations.2d.architecture.initialization"
    assert make_plan(fingerprint, pack).get(path) == {**base.get(path), "bias": 7}
    assert base.get(path)["zero_last_norm_of_residual_blocks"] is True


def test_packs_extend_one_level_below_an_overlay(write_pack: Write) -> None:
    assert load_pack(write_pack("title: M\nextends: preprint@2.0.0\n", head="")).rules
    path = write_pack("title: M\nextends: nnunet\n", head="")
    with pytest.raises(RuleError, match="'extends' names one exact version"):
        load_pack(path)


def test_a_parameter_alone_is_an_overlay(write_pack: Write, fingerprint: Fingerprint) -> None:
    text = "title: M\nextends: nnunet@2.8.0\nparams: {min_batch: {value: 3, unit: samples, doc: d}}\n"
    plan = make_plan(fingerprint, load_pack(write_pack(text, head="")))
    assert all(entry["batch_size"] >= 3 for entry in plan.configurations.values())


def test_removed_rules_make_place(write_pack: Write, fingerprint: Fingerprint) -> None:
    text = """
    title: M
    extends: nnunet@2.8.0
    removes: [training.epochs]
    rules:
      - {id: my.epochs, title: t, kind: blueprint, decides: training.epochs, constant: 5, because: b}
    """
    plan = make_plan(fingerprint, load_pack(write_pack(text, head="")))
    assert plan.get("training.epochs") == 5
    twice = text.replace("    removes: [training.epochs]\n", "")
    with pytest.raises(RuleError, match=r"'training.epochs' is decided twice") as caught:
        compile_pack(load_pack(write_pack(twice, head="")))
    assert "nnunet/2.8.0/training.yaml" in str(caught.value)


def test_what_moved_upstream_is_reported(write_pack: Write) -> None:
    text = rounded_up(50)
    good = text.replace("because: b, ", "because: b, replaces: '000000000000', ")
    pack = load_pack(write_pack(good, head=""))
    (warning,) = pack.warnings
    assert "rule 'training.epochs' replaces 000000000000, but upstream it is now " in warning
    current = warning.rpartition("it is now ")[2].partition(":")[0]
    assert not load_pack(write_pack(good.replace("000000000000", current), head="")).warnings
    wrong = text.replace("training.epochs, title", "training.nothing, title").replace(
        "because: b, ", "because: b, replaces: abc, "
    )
    with pytest.raises(
        RuleError, match=r"rule training\.nothing replaces something that the extended pack does not have"
    ):
        load_pack(write_pack(wrong, head=""))


def test_the_hash_covers_the_overlay_and_what_it_extends(write_pack: Write) -> None:
    one = load_pack(write_pack(rounded_up(50), head="", name="same.yaml"))
    two = load_pack(write_pack(rounded_up(60), head="", name="same.yaml"))
    again = load_pack(write_pack(rounded_up(50), head="", name="same.yaml"))
    other = load_pack(
        write_pack(rounded_up(50).replace("nnunet@2.8.0", "nnunet@1.7.0"), head="", name="same.yaml")
    )
    assert len({one.hash, two.hash, other.hash, load_pack("nnunet@2.8.0").hash}) == 4
    assert one.hash == again.hash


def test_a_changed_file_is_read_again(write_pack: Write, fingerprint: Fingerprint) -> None:
    for value in (50, 60):
        path = write_pack(rounded_up(value), head="", name="changing.yaml")
        assert make_plan(fingerprint, path).get("training.epochs") == value


def test_rules_may_be_limited_to_configurations(write_pack: Write, run_pack: Run) -> None:
    head = "title: T\ngpu_memory_gb: 8\nconfigurations:\n  a: {dim: 2, doc: d}\n  b: {dim: 3, doc: d}\n"
    text = """
    rules:
      - {id: listing, title: t, kind: inferred, decides: configurations, constant: [a, b], because: b}
      - {id: one, title: t, kind: inferred, scope: configuration, configurations: [a], decides: x, constant: 1, because: b}
      - {id: two, title: t, kind: inferred, scope: configuration, configurations: [b], decides: x, constant: 2, because: b}
    """
    evaluation = run_pack(load_pack(write_pack(text, head=head)))
    values: dict[str, Any] = {
        d.paths[0]: d.values[0] for d in evaluation.decisions if d.paths[0] != "configurations"
    }
    assert values == {"configurations.a.x": 1, "configurations.b.x": 2}


def test_a_pack_without_a_default_memory(write_pack: Write) -> None:
    with pytest.raises(PackError, match="the pack names no default memory"):
        load_pack(write_pack("rules: []\n", head="title: T\n"))
