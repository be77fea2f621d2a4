"""What a pack holds: each entry with where it stands, and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnrules.engine.model import Fact, Function, Pack, PackId, Param, Rule
from nnrules.engine.packs import load_pack
from nnrules.engine.source import Place

__all__ = ["Entry", "ShownPack", "show_pack"]

EntryKind = Literal["param", "fact", "function", "rule"]
Status = Literal["own", "replaces", "inherited", "removed"]
_Item = Param | Fact | Function | Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an entry stands: pack and file:line:column."""

    pack: str
    where: str

    def to_json(self) -> dict[str, str]:
        """The origin as a JSON object."""
        return {"pack": self.pack, "where": self.where}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A rule, function, fact or parameter.

    Attributes:
        kind: which of these.
        name: rule id or name.
        status: ``own`` (new in this pack), ``replaces`` an entry of the extended pack, ``inherited`` from
            it, or ``removed`` by this pack.
        origin: where it stands.
        replaced: where the replaced entry stands.
        title: title of a rule, first sentence of the others' doc.
        source: publication or package that it comes from.
        details: what else there is to say: ``decides``, ``kind``, ``scope``, ``configurations``, ``hit``
            and ``cases`` of a rule; ``args`` of a function; ``value`` and ``unit`` of a parameter or
            fact.
    """

    kind: EntryKind
    name: str
    status: Status
    origin: Origin
    replaced: Origin | None
    title: str
    source: str | None
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The entry as a JSON object."""
        return {
            "kind": self.kind,
            "name": self.name,
            "status": self.status,
            "origin": self.origin.to_json(),
            "replaced": None if self.replaced is None else self.replaced.to_json(),
            "title": self.title,
            "source": self.source,
            **self.details,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPack:
    """A pack and its entries.

    Attributes:
        spec: the pack.
        title: what it is.
        reproduces: the release whose plans it reproduces, or None.
        extends: the version that it builds on, or None.
        preset: the preset in force, or None.
        warnings: what loading warned of.
        entries: rules first, then functions, facts and parameters, each in file order.
    """

    spec: str
    title: str
    reproduces: str | None
    extends: str | None
    preset: str | None
    warnings: tuple[str, ...]
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """The pack as a JSON object."""
        return {
            "spec": self.spec,
            "title": self.title,
            "reproduces": self.reproduces,
            "extends": self.extends,
            "preset": self.preset,
            "warnings": list(self.warnings),
            "entries": [entry.to_json() for entry in self.entries],
        }


def show_pack(spec: str | Path, *, resolved: bool = False, preset: str | None = None) -> ShownPack:
    """Describe a pack.

    Args:
        spec: ``name@version``, ``name``, or the path of an overlay file.
        resolved: also list what is inherited unchanged; otherwise only what this pack adds, replaces or
            removes.
        preset: preset whose parameter values are shown.

    Raises:
        PackError: no such pack or preset, or mistakes in its files.
    """
    pack = load_pack(spec, preset=preset)
    base = load_pack(str(pack.extends)) if pack.extends is not None else None
    entries = [entry for entry in _entries(pack, base) if resolved or entry.status != "inherited"]
    return ShownPack(
        spec=str(pack.id),
        title=pack.title,
        reproduces=pack.reproduces,
        extends=None if pack.extends is None else str(pack.extends),
        preset=pack.preset,
        warnings=pack.warnings,
        entries=tuple(entries),
    )


def _groups(pack: Pack) -> tuple[tuple[EntryKind, Mapping[str, _Item]], ...]:
    return (
        ("rule", pack.rules),
        ("function", pack.functions),
        ("fact", pack.facts),
        ("param", pack.params),
    )


def _entries(pack: Pack, base: Pack | None) -> Iterator[Entry]:
    lower = dict(_groups(base)) if base is not None else {}
    for kind, items in _groups(pack):
        below = lower.get(kind, {})
        for name, item in items.items():
            old = below.get(name)
            if item.pack != pack.id:
                status: Status = "inherited"
            else:
                status = "own" if old is None else "replaces"
            yield _entry(kind, name, item, status, old if status == "replaces" else None)
        for name, item in below.items():
            if name not in items:
                yield _entry(kind, name, item, "removed", None)


def _entry(kind: EntryKind, name: str, item: _Item, status: Status, old: _Item | None) -> Entry:
    return Entry(
        kind=kind,
        name=name,
        status=status,
        origin=_origin(item.pack, item.place),
        replaced=None if old is None else _origin(old.pack, old.place),
        title=item.title if isinstance(item, Rule) else _first_sentence(item.doc),
        source=None if isinstance(item, Fact) else item.source,
        details=_details(item),
    )


def _origin(pack: PackId, place: Place) -> Origin:
    return Origin(pack=str(pack), where=str(place))


def _first_sentence(text: str) -> str:
    head, stop, _ = text.partition(". ")
    return head + "." if stop else text


def _details(item: _Item) -> dict[str, Any]:
    if isinstance(item, Param):
        return {"value": item.value, "unit": item.unit, "doc": item.doc}
    if isinstance(item, Fact):
        return {"value": str(item.value), "unit": item.unit, "scope": item.scope, "doc": item.doc}
    if isinstance(item, Function):
        return {"args": list(item.args), "loops": bool(item.steps), "doc": item.doc}
    return {
        "rule_kind": item.kind,
        "scope": item.scope,
        "configurations": None if item.configurations is None else list(item.configurations),
        "decides": list(item.decides),
        "hit": item.hit,
        "cases": [
            {
                "when": None if case.when is None else str(case.when),
                "because": case.because,
                "where": str(case.place),
            }
            for case in item.cases
        ],
    }
