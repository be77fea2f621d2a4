"""Reads what a version says about itself: title, presets, configurations, what it extends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from nnrules.engine.model import Configuration, ExtraColumn, Preset
from nnrules.engine.source import Place, YamlList, YamlMap, YamlNode, YamlScalar, to_json
from nnrules.engine.yaml_reader import Reader
from nnrules.errors import RuleError

__all__ = ["RELEASE_KEYS", "Release", "read_release"]

RELEASE_KEYS = (
    "title",
    "reproduces",
    "extends",
    "removes",
    "gpu_memory_gb",
    "presets",
    "default_preset",
    "configurations",
    "extra",
)
"""Top-level keys of release.yaml; an overlay file may hold them beside its rules."""


@dataclass(slots=True)
class Release:
    """What a version says about itself."""

    title: str = ""
    reproduces: str | None = None
    extends: str | None = None
    extends_place: Place | None = None
    removes: dict[str, Place] = field(default_factory=dict)
    gpu_memory_gb: float | None = None
    presets: dict[str, Preset] = field(default_factory=dict)
    default_preset: str | None = None
    configurations: dict[str, Configuration] = field(default_factory=dict)
    extra: dict[str, ExtraColumn] = field(default_factory=dict)


def read_release(root: YamlNode, *, also: tuple[str, ...] = ()) -> Release:
    """Read what a version says about itself: title, what it reproduces or extends, presets, configurations.

    Raises:
        RuleError: every structural mistake.
    """
    reader = Reader()
    node = reader.mapping(root, root.place, "a release")
    reader.keys(node, (*RELEASE_KEYS, *also), ("title",), "a rule file" if also else "a release")
    release = Release(
        title=reader.text(node, "title") or "",
        reproduces=reader.text(node, "reproduces"),
        extends=reader.text(node, "extends"),
        extends_place=node.items["extends"].place if "extends" in node.items else None,
        gpu_memory_gb=reader.number(node, "gpu_memory_gb"),
        default_preset=reader.text(node, "default_preset"),
    )
    removed = node.items.get("removes")
    if removed is not None and not isinstance(removed, YamlList):
        reader.complain(
            removed.place, "'removes' must be a list of rule ids", expected="[patch.batch_size_2d]"
        )
    for item in removed.items if isinstance(removed, YamlList) else ():
        if isinstance(item, YamlScalar) and isinstance(item.value, str):
            release.removes[item.value] = item.place
        else:
            reader.complain(item.place, "'removes' names rules", expected="e.g. patch.batch_size_2d")
    _read_configurations(reader, node, release)
    _read_presets(reader, node, release)
    _read_extra(reader, node, release)
    if release.gpu_memory_gb is not None and release.gpu_memory_gb <= 0:
        reader.complain(node.items["gpu_memory_gb"].place, "'gpu_memory_gb' must be above 0")
    if reader.problems:
        raise RuleError(reader.problems)
    return release


def _read_configurations(reader: Reader, node: YamlMap, release: Release) -> None:
    mapping = reader.mapping(node.items.get("configurations"), node.place, "'configurations'")
    for name, value in mapping.items.items():
        place = mapping.keys[name]
        entry = reader.mapping(value, place, f"configuration '{name}'")
        reader.keys(entry, ("dim", "inherits_from", "doc"), ("dim", "doc"), f"configuration '{name}'")
        dim, parent = reader.number(entry, "dim"), reader.text(entry, "inherits_from")
        if dim is not None and dim not in (2, 3):
            reader.complain(entry.items["dim"].place, "'dim' must be 2 or 3", got=str(dim))
        if parent is not None and (parent not in mapping.items or parent == name):
            reader.complain(
                entry.items["inherits_from"].place, f"no configuration '{parent}' to inherit from"
            )
        release.configurations[name] = Configuration(
            name=name,
            dim=cast(Any, int(dim or 3)),
            inherits_from=parent,
            doc=reader.text(entry, "doc") or "",
            place=place,
        )
    for configuration in release.configurations.values():
        parent_of = release.configurations.get(configuration.inherits_from or "")
        if parent_of is not None and parent_of.inherits_from is not None:
            reader.complain(
                configuration.place, "a configuration may inherit from one that inherits from none"
            )


def _read_presets(reader: Reader, node: YamlMap, release: Release) -> None:
    mapping = reader.mapping(node.items.get("presets"), node.place, "'presets'")
    for name, value in mapping.items.items():
        place = mapping.keys[name]
        entry = reader.mapping(value, place, f"preset '{name}'")
        reader.keys(entry, ("doc", "params", "gpu_memory_gb"), ("doc",), f"preset '{name}'")
        params = reader.mapping(entry.items.get("params"), place, "'params'")
        for key, item in params.items.items():
            if not isinstance(item, YamlScalar) or item.value is None:
                reader.complain(item.place, f"parameter '{key}' must be a number, text or truth value")
        memory = reader.number(entry, "gpu_memory_gb")
        if memory is not None and memory <= 0:
            reader.complain(entry.items["gpu_memory_gb"].place, "'gpu_memory_gb' must be above 0")
        release.presets[name] = Preset(
            name=name,
            doc=reader.text(entry, "doc") or "",
            params={key: cast(Any, to_json(item)) for key, item in params.items.items()},
            gpu_memory_gb=memory,
            place=place,
        )
    if release.default_preset is not None and release.default_preset not in release.presets:
        reader.complain(node.items["default_preset"].place, "no such preset", got=release.default_preset)


def _read_extra(reader: Reader, node: YamlMap, release: Release) -> None:
    mapping = reader.mapping(node.items.get("extra"), node.place, "'extra'")
    for name, value in mapping.items.items():
        place = mapping.keys[name]
        reader.name(name, place)
        entry = reader.mapping(value, place, f"column '{name}'")
        reader.keys(entry, ("type", "unit", "doc", "extractor"), ("type", "doc"), f"column '{name}'")
        kind = reader.choice(entry, "type", ("number", "boolean", "text"), "number")
        release.extra[name] = ExtraColumn(
            name=name,
            type=cast(Any, kind),
            unit=reader.text(entry, "unit"),
            doc=reader.text(entry, "doc") or "",
            extractor=reader.text(entry, "extractor"),
            place=place,
        )
