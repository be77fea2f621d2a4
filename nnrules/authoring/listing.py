"""Which rule packs there are, and what each version says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnrules.engine.packs import DEFAULT_PACK, available_packs, load_pack, pack_directory
from nnrules.engine.read_release import read_release
from nnrules.engine.source import read_yaml, to_json
from nnrules.resources import rules_directory

__all__ = ["PackInfo", "PresetInfo", "VersionInfo", "list_packs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetInfo:
    """A preset of a version.

    Attributes:
        name: its name.
        doc: what it is for.
        gpu_memory_gb: memory target that it plans for, GB; None for the version's own.
        is_default: whether it is chosen when none is named.
    """

    name: str
    doc: str
    gpu_memory_gb: float | None
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """One version of a pack.

    Attributes:
        spec: ``name@version``.
        title: what it is.
        reproduces: the release whose plans it reproduces, or None.
        extends: the version that it builds on, or None.
        gpu_memory_gb: default memory target, GB.
        presets: its presets, with those of what it extends.
        is_default: whether ``nnrules plan`` takes it when no pack is named.
        is_latest: whether it is what the pack's bare name stands for.
    """

    spec: str
    title: str
    reproduces: str | None
    extends: str | None
    gpu_memory_gb: float
    presets: tuple[PresetInfo, ...]
    is_default: bool
    is_latest: bool

    def to_json(self) -> dict[str, Any]:
        """The version as a JSON object."""
        return {
            "spec": self.spec,
            "title": self.title,
            "reproduces": self.reproduces,
            "extends": self.extends,
            "gpu_memory_gb": self.gpu_memory_gb,
            "presets": [
                {
                    "name": preset.name,
                    "doc": preset.doc,
                    "gpu_memory_gb": preset.gpu_memory_gb,
                    "is_default": preset.is_default,
                }
                for preset in self.presets
            ],
            "is_default": self.is_default,
            "is_latest": self.is_latest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PackInfo:
    """A shipped pack.

    Attributes:
        name: its name.
        title: what it is.
        versions: its versions, oldest first.
    """

    name: str
    title: str
    versions: tuple[VersionInfo, ...]

    def to_json(self) -> dict[str, Any]:
        """The pack as a JSON object."""
        return {
            "name": self.name,
            "title": self.title,
            "versions": [version.to_json() for version in self.versions],
        }


def list_packs() -> tuple[PackInfo, ...]:
    """Every shipped pack, in name order.

    Raises:
        PackError: a pack that cannot be loaded.
    """
    packs = []
    for name, versions in available_packs().items():
        header: Any = to_json(read_yaml(rules_directory() / name / "pack.yaml", f"{name}/pack.yaml"))
        latest = str(header.get("latest", ""))
        packs.append(
            PackInfo(
                name=name,
                title=str(header.get("title", "")),
                versions=tuple(_version(f"{name}@{version}", version == latest) for version in versions),
            )
        )
    return tuple(packs)


def _version(spec: str, is_latest: bool) -> VersionInfo:
    pack = load_pack(spec)
    _, folder = pack_directory(spec)
    release = read_release(read_yaml(folder / "release.yaml", f"{spec.replace('@', '/')}/release.yaml"))
    return VersionInfo(
        spec=spec,
        title=pack.title,
        reproduces=pack.reproduces,
        extends=release.extends,
        gpu_memory_gb=float(release.gpu_memory_gb or pack.gpu_memory_gb),
        presets=tuple(
            PresetInfo(
                name=preset.name,
                doc=preset.doc,
                gpu_memory_gb=preset.gpu_memory_gb,
                is_default=preset.name == pack.default_preset,
            )
            for preset in pack.presets.values()
        ),
        is_default=spec == DEFAULT_PACK,
        is_latest=is_latest,
    )
