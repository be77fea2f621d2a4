"""Listing and showing packs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.authoring.listing import list_packs
from nnrules.authoring.show import Entry, show_pack
from nnrules.engine.packs import DEFAULT_PACK, available_packs, load_pack
from nnrules.errors import PackError

Write = Callable[..., Path]

OVERLAY = """
title: Longer
extends: nnunet@1.0.0
removes: [patch.batch_size_2d]
params:
  min_batch: {value: 3, unit: samples, doc: Smallest batch., source: me}
  factor: {value: 2, unit: "1", doc: How much longer. Twice., source: me}
rules:
  - id: training.epochs
    title: Twice as long
    kind: blueprint
    decides: training.epochs
    value: inherited * factor
    because: more
    source: me
"""


def by_name(entries: tuple[Entry, ...]) -> dict[str, Entry]:
    return {f"{entry.kind} {entry.name}": entry for entry in entries}


def test_every_shipped_version_is_listed() -> None:
    packs = {
        pack.name: [version.spec.partition("@")[2] for version in pack.versions] for pack in list_packs()
    }
    assert packs == available_packs()


def test_one_version_is_the_default_and_one_a_pack_the_latest() -> None:
    versions = [version for pack in list_packs() for version in pack.versions]
    assert [version.spec for version in versions if version.is_default] == [DEFAULT_PACK]
    for pack in list_packs():
        assert sum(version.is_latest for version in pack.versions) == 1


def test_a_listed_version_says_what_it_is() -> None:
    versions = {version.spec: version for pack in list_packs() for version in pack.versions}
    resenc = versions["nnunet-resenc@2.8.0"]
    assert resenc.extends == "nnunet@2.8.0"
    assert {preset.name: preset.gpu_memory_gb for preset in resenc.presets} == {
        "default": 8,
        "M": 8,
        "L": 24,
        "XL": 40,
    }
    assert [preset.name for preset in resenc.presets if preset.is_default] == ["M"]
    assert versions["nnunet@1.0.0"].reproduces is not None
    assert versions["preprint@2.0.0"].reproduces is None
    document = [pack.to_json() for pack in list_packs()]
    assert document[0]["versions"][0]["presets"] == []


def test_an_overlay_shows_what_it_adds_replaces_and_removes(write_pack: Write) -> None:
    shown = show_pack(write_pack(rules=OVERLAY))
    assert shown.extends == "nnunet@1.0.0"
    entries = by_name(shown.entries)
    assert {name: entry.status for name, entry in entries.items()} == {
        "rule training.epochs": "replaces",
        "rule patch.batch_size_2d": "removed",
        "param min_batch": "replaces",
        "param factor": "own",
    }
    rule = entries["rule training.epochs"]
    assert rule.origin.where == "tiny.yaml:9:5"
    assert rule.replaced is not None
    assert rule.replaced.pack == "nnunet@1.0.0"
    assert rule.replaced.where.startswith("nnunet/1.0.0/training.yaml:")
    assert entries["param factor"].title == "How much longer."
    assert entries["rule patch.batch_size_2d"].origin.pack == "nnunet@1.0.0"


def test_resolved_shows_everything_in_force_and_where_it_stands(write_pack: Write) -> None:
    path = write_pack(rules=OVERLAY)
    pack = load_pack(path)
    shown = show_pack(path, resolved=True)
    in_force = [entry for entry in shown.entries if entry.status != "removed"]
    assert len(in_force) == len(pack.rules) + len(pack.functions) + len(pack.facts) + len(pack.params)
    inherited = by_name(shown.entries)["rule patch.batch_size"]
    assert (inherited.status, inherited.replaced) == ("inherited", None)
    assert inherited.details["cases"][0]["when"] == "cap < fitting"
    assert inherited.details["rule_kind"] == "inferred"


def test_a_pack_that_extends_nothing_shows_all_it_has() -> None:
    assert show_pack("nnunet@2.8.0").entries == show_pack("nnunet@2.8.0", resolved=True).entries


def test_a_preset_changes_the_values_that_are_shown() -> None:
    def reference(preset: str) -> object:
        shown = show_pack("nnunet-resenc@2.8.0", resolved=True, preset=preset)
        return by_name(shown.entries)["param reference_voxels_3d"].details["value"]

    assert (reference("M"), reference("XL")) == (680000000, 3600000000)


def test_entries_are_json() -> None:
    document = show_pack("nnunet-resenc@2.8.0").to_json()
    kinds = [entry["kind"] for entry in document["entries"]]
    assert kinds == sorted(kinds, key=["rule", "function", "fact", "param"].index)
    assert all({"name", "status", "origin", "title", "source"} <= set(entry) for entry in document["entries"])


def test_an_unknown_pack_is_refused() -> None:
    with pytest.raises(PackError, match="no such rule pack"):
        show_pack("nnunet@9.9.9")
