"""Finds, resolves and loads rule packs: shipped versions, and a user's overlay files."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from nnrules.engine.model import Fact, Function, Pack, PackId, Param, Preset, Rule
from nnrules.engine.read import CONTENT_KEYS, Contents, read_contents
from nnrules.engine.read_release import RELEASE_KEYS, Release, read_release
from nnrules.engine.source import Place, YamlMap, YamlScalar, read_yaml
from nnrules.errors import PackError, Problem, RuleError
from nnrules.resources import rules_directory

__all__ = ["DEFAULT_PACK", "available_packs", "load_pack", "pack_directory", "version_files", "version_hash"]

DEFAULT_PACK = "nnunet@2.8.0"
LANGUAGE = 1
_VERSION = re.compile(r"\d+\.\d+\.\d+\Z")
_PACK_KEYS = ("name", "title", "language", "engine", "latest")
Entry = TypeVar("Entry", Param, Fact, Function, Rule)


def available_packs() -> dict[str, list[str]]:
    """Versions of each shipped pack, oldest first."""
    packs = {}
    for folder in sorted(rules_directory().iterdir()):
        if (folder / "pack.yaml").is_file():
            versions = [entry.name for entry in folder.iterdir() if _VERSION.match(entry.name)]
            packs[folder.name] = sorted(versions, key=lambda text: tuple(map(int, text.split("."))))
    return packs


def _unknown(wanted: str, fix_known: list[str]) -> PackError:
    close = difflib.get_close_matches(wanted, fix_known, n=1, cutoff=0.4)
    return PackError(
        Problem(
            where=wanted or "rule pack",
            what="no such rule pack",
            expected=", ".join(fix_known) + ", or a YAML file",
            fix=f"Did you mean '{close[0]}'?" if close else "`nnrules rules list` shows the packs.",
        )
    )


def _pack_header(folder: Path) -> dict[str, str]:
    root = read_yaml(folder / "pack.yaml", f"{folder.name}/pack.yaml")
    if not isinstance(root, YamlMap):
        raise RuleError(root.place.problem("pack.yaml must be a mapping", expected=", ".join(_PACK_KEYS)))
    problems = [
        root.keys[key].problem(f"unknown field '{key}'", expected=", ".join(_PACK_KEYS))
        for key in root.items
        if key not in _PACK_KEYS
    ]
    problems += [
        root.place.problem(f"pack.yaml lacks '{key}'")
        for key in ("name", "language", "latest")
        if key not in root.items
    ]
    if problems:
        raise RuleError(problems)
    header = {key: str(node.value) for key, node in root.items.items() if isinstance(node, YamlScalar)}
    if header["language"] != str(LANGUAGE):
        raise RuleError(
            root.items["language"].place.problem(
                "this pack needs another version of the rule language",
                got=header["language"],
                expected=str(LANGUAGE),
                fix="Install the nnrules version that the pack asks for.",
            )
        )
    return header


def pack_directory(spec: str) -> tuple[PackId, Path]:
    """The folder of ``name@version`` or ``name`` (its latest version).

    Raises:
        PackError: no such pack or version, with the nearest name.
    """
    name, _, version = spec.partition("@")
    packs = available_packs()
    known = [f"{pack}@{release}" for pack, releases in packs.items() for release in releases]
    if name not in packs:
        raise _unknown(spec, known)
    folder = rules_directory() / name
    version = version or _pack_header(folder)["latest"]
    if version not in packs[name]:
        raise _unknown(spec, [entry for entry in known if entry.startswith(f"{name}@")])
    return PackId(name, version), folder / version


def version_files(folder: Path) -> list[Path]:
    """The rule files of one version, in name order; tests are not part of it."""
    return sorted(folder.glob("*.yaml"))


def _hash(parts: list[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return "sha256:" + digest.hexdigest()


def version_hash(folder: Path) -> str:
    """Hash of one version's own rule files (names and bytes); tests and the pack that it extends do not enter."""
    return _hash([(path.name, path.read_bytes()) for path in version_files(folder)])


@dataclasses.dataclass(frozen=True, slots=True)
class _Version:
    id: PackId
    release: Release
    contents: Contents
    hash: str


@lru_cache(maxsize=32)
def _read_version(spec: str, _stamp: tuple[tuple[str, int, int], ...]) -> _Version:
    pack, folder = pack_directory(spec)
    _pack_header(folder.parent)
    files = version_files(folder)
    roots = {path: read_yaml(path, f"{pack.name}/{pack.version}/{path.name}") for path in files}
    release_file = folder / "release.yaml"
    if release_file not in roots:
        raise PackError(Problem(where=str(pack), what="the version has no release.yaml"))
    release = read_release(roots.pop(release_file))
    contents = read_contents(roots.values(), pack)
    return _Version(pack, release, contents, version_hash(folder))


def _version(spec: str) -> _Version:
    _, folder = pack_directory(spec)
    stamp = tuple(
        (path.name, stat.st_size, stat.st_mtime_ns)
        for path in version_files(folder)
        for stat in [path.stat()]
    )
    return _read_version(spec, stamp)


def _overlay(path: Path) -> _Version:
    root = read_yaml(path, path.name)
    pack = PackId(path.stem, "local")
    release = read_release(root, also=CONTENT_KEYS)
    contents = read_contents([root], pack, also=RELEASE_KEYS)
    return _Version(pack, release, contents, _hash([(path.name, path.read_bytes())]))


def _is_file_spec(spec: str) -> bool:
    return spec.endswith((".yaml", ".yml")) or "/" in spec or "\\" in spec


def load_pack(spec: str | Path = DEFAULT_PACK, *, preset: str | None = None) -> Pack:
    """Load and resolve a rule pack.

    Args:
        spec: ``name@version``, ``name`` (its latest version), or the path of an overlay file.
        preset: a preset of the pack, e.g. ``L``; default: the pack's own.

    Returns:
        The resolved pack: what the version declares, over what it extends.

    Raises:
        PackError: unknown pack, version or preset.
        RuleError: mistakes in the files, each with its place.
    """
    text = str(spec)
    top = _overlay(Path(spec)) if isinstance(spec, Path) or _is_file_spec(text) else _version(text)
    chain = [top]
    while chain[-1].release.extends is not None:
        base = chain[-1].release.extends
        limit = 2 if chain[0].id.version == "local" else 1
        if len(chain) > limit:
            place = chain[-1].release.extends_place
            assert place is not None
            raise RuleError(
                place.problem("packs extend one level only", got=" → ".join(str(v.id) for v in chain))
            )
        _check_exact(base, chain[-1])
        chain.append(_version(base))
    return _resolve(chain, preset)


def _check_exact(base: str, version: _Version) -> None:
    place = version.release.extends_place
    assert place is not None
    if "@" not in base:
        raise RuleError(
            place.problem("'extends' names one exact version", got=base, expected=f"e.g. {DEFAULT_PACK}")
        )
    try:
        pack_directory(base)
    except PackError as exc:
        (problem,) = exc.problems
        raise RuleError(
            place.problem(f"no such rule pack '{base}'", expected=problem.expected, fix=problem.fix)
        ) from None


def _moved(kind: str, name: str, base: Contents, top: Contents) -> list[str]:
    """A warning when what an overlay replaces is no longer what it was written against."""
    recorded = top.replaces.get(f"{kind} {name}")
    current = base.digests.get(f"{kind} {name}")
    if recorded is None or current is None or recorded[0] == current:
        return []
    moved = f"{recorded[1]}: {kind} '{name}' replaces {recorded[0]}, but upstream it is now {current}"
    return [f"{moved}: compare the two and update 'replaces'."]


def _merge(  # noqa: PLR0917 - two versions of one table, and where they come from
    kind: str,
    lower: Mapping[str, Entry],
    upper: Mapping[str, Entry],
    base: Contents,
    top: Contents,
    warnings: list[str],
) -> dict[str, Entry]:
    merged = dict(lower)
    for name, entry in upper.items():
        if name in lower:
            warnings += _moved(kind, name, base, top)
        merged[name] = entry
    return merged


def _resolve(chain: list[_Version], preset: str | None) -> Pack:
    merged = Contents()
    warnings: list[str] = []
    replaced: dict[str, Rule] = {}
    release = Release()
    for version in reversed(chain):
        upper = version.contents
        problems = [
            place.problem(
                f"{label} replaces something that the extended pack does not have", fix="Remove 'replaces'."
            )
            for label, (_, place) in upper.replaces.items()
            if label not in merged.digests
        ]
        if problems:
            raise RuleError(problems)
        params = _merge("param", merged.params, upper.params, merged, upper, warnings)
        for name in merged.params.keys() & upper.params.keys():
            _check_kind(name, merged.params[name].value, upper.params[name].value, upper.params[name].place)
        facts = _merge("fact", merged.facts, upper.facts, merged, upper, warnings)
        functions = _merge("function", merged.functions, upper.functions, merged, upper, warnings)
        rules = _merge("rule", merged.rules, upper.rules, merged, upper, warnings)
        for name, rule in upper.rules.items():
            old = merged.rules.get(name)
            if old is not None:
                replaced[name] = old
                rules[name] = dataclasses.replace(rule, inherited=old)
        _remove(rules, version.release)
        merged = Contents(params, facts, functions, rules, {**merged.digests, **upper.digests})
        release = _merge_release(release, version.release)
    chosen = _choose_preset(chain[0].id, release, preset)
    merged.params = _apply_preset(merged.params, chosen)
    memory = (chosen.gpu_memory_gb if chosen else None) or release.gpu_memory_gb
    if memory is None:
        raise PackError(
            Problem(where=str(chain[0].id), what="the pack names no default memory", fix="Add gpu_memory_gb.")
        )
    base = chain[1] if len(chain) > 1 else None
    pack = Pack(
        id=chain[0].id,
        title=release.title,
        reproduces=chain[0].release.reproduces,
        extends=base.id if base else None,
        extends_hash=base.hash if base else None,
        hash=_hash([(str(version.id), version.hash.encode()) for version in chain])
        if base
        else chain[0].hash,
        gpu_memory_gb=float(memory),
        preset=chosen.name if chosen else None,
        presets=release.presets,
        default_preset=release.default_preset,
        configurations=release.configurations,
        params=merged.params,
        facts=merged.facts,
        functions=merged.functions,
        rules=merged.rules,
        extra=release.extra,
        warnings=tuple(warnings),
        replaced=replaced,
    )
    _check_references(pack)
    return pack


def _remove(rules: dict[str, Rule], release: Release) -> None:
    """Take away the rules of the extended pack that others decide instead."""
    problems = [
        place.problem(f"there is no rule '{name}' to remove", fix="Remove it from 'removes'.")
        for name, place in release.removes.items()
        if rules.pop(name, None) is None
    ]
    if problems:
        raise RuleError(problems)


def _merge_release(lower: Release, upper: Release) -> Release:
    return Release(
        title=upper.title or lower.title,
        gpu_memory_gb=upper.gpu_memory_gb if upper.gpu_memory_gb is not None else lower.gpu_memory_gb,
        presets={**lower.presets, **upper.presets},
        default_preset=upper.default_preset or lower.default_preset,
        configurations={**lower.configurations, **upper.configurations},
        extra={**lower.extra, **upper.extra},
    )


def _choose_preset(pack: PackId, release: Release, wanted: str | None) -> Preset | None:
    name = wanted if wanted is not None else release.default_preset
    if name is None:
        return None
    if name not in release.presets:
        raise PackError(
            Problem(
                where=str(pack),
                what="no such preset",
                got=name,
                expected=", ".join(release.presets) or "none",
                fix="Leave --preset out." if not release.presets else None,
            )
        )
    return release.presets[name]


def _apply_preset(params: dict[str, Param], preset: Preset | None) -> dict[str, Param]:
    if preset is None:
        return params
    result = dict(params)
    for name, value in preset.params.items():
        if name not in params:
            raise RuleError(
                preset.place.problem(f"the preset sets '{name}', which is no parameter of the pack")
            )
        _check_kind(name, params[name].value, value, preset.place)
        result[name] = dataclasses.replace(params[name], value=value, place=preset.place)
    return result


def _check_kind(name: str, old: object, new: object, place: Place) -> None:
    """A parameter stays what it is, so that a slip is reported here and not at an expression of the extended pack."""
    kinds = {bool: "a truth value", str: "text"}
    was, now = (kinds.get(type(value), "a number") for value in (old, new))
    if was != now:
        raise RuleError(place.problem(f"parameter '{name}' must stay {was}", got=repr(new)))


def _check_references(pack: Pack) -> None:
    """Names that only make sense across files."""
    problems = []
    for rule in pack.rules.values():
        problems += [
            rule.place.problem(
                f"rule '{rule.id}' names an unknown configuration",
                got=name,
                expected=", ".join(pack.configurations) or "none are declared",
            )
            for name in rule.configurations or ()
            if name not in pack.configurations
        ]
    for name in set(pack.facts) & set(pack.params):
        problems.append(pack.facts[name].place.problem(f"'{name}' is both a fact and a parameter"))
    if problems:
        raise RuleError(problems)
