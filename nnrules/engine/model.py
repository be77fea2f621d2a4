"""What a rule pack is, once its files are read: plain data, nothing evaluated yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nnrules.engine.expressions import Expression
from nnrules.engine.source import Json, Place

__all__ = [
    "Case",
    "Configuration",
    "ExtraColumn",
    "Fact",
    "Function",
    "Given",
    "Kind",
    "Outcome",
    "Pack",
    "PackId",
    "Param",
    "Preset",
    "Requirement",
    "Rule",
    "Scope",
    "Step",
    "Template",
]

Kind = Literal["blueprint", "inferred", "empirical"]
Scope = Literal["dataset", "channel", "configuration"]
Hit = Literal["unique", "first", "all_equal", "collect"]


@dataclass(frozen=True, slots=True)
class PackId:
    """A pack and one of its versions; a user's overlay file has the version ``local``."""

    name: str
    version: str

    def __str__(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A number, text or truth value that somebody might want to change."""

    name: str
    value: float | int | str | bool
    unit: str | None
    doc: str
    source: str | None
    place: Place
    pack: PackId


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A named value derived from the fingerprint or from decisions; not itself a field of the plan."""

    name: str
    value: Expression
    scope: Scope
    unit: str | None
    doc: str
    place: Place
    pack: PackId


# An expression, a constant, or a mapping or list of these.
Template = Expression | Mapping[str, "Template"] | tuple["Template", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a case yields: exactly one of the four is set."""

    value: Template | None = None
    constant: Json = None
    has_constant: bool = False
    refuse: str | None = None
    drop_configuration: str | None = None
    place: Place
    leaf_places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case of a decision; ``when`` is None for ``otherwise``."""

    when: Expression | None
    outcome: Outcome
    because: str
    warn: str | None
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What an overridden value must satisfy, and the nearest value that does."""

    that: Expression
    message: str
    nearest: Expression | None
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """How the other members of a group follow from an override of one member."""

    member: str
    let: Mapping[str, Expression]
    require: tuple[Requirement, ...]
    value: Mapping[str, Template]
    because: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One decision: the fields it decides and the cases that decide them."""

    id: str
    title: str
    kind: Kind
    scope: Scope
    decides: tuple[str, ...]
    configurations: tuple[str, ...] | None
    hit: Hit
    let: Mapping[str, Expression]
    cases: tuple[Case, ...]
    given: Mapping[str, Given]
    source: str | None
    place: Place
    pack: PackId
    replaces: str | None = None
    inherited: Rule | None = None

    @property
    def is_group(self) -> bool:
        """Whether several fields are decided together."""
        return len(self.decides) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a loop body; exactly one field beside ``place`` and ``because`` is set."""

    let: Mapping[str, Expression] | None = None
    stop_if: Expression | None = None
    set: Mapping[str, Expression] | None = None
    collect: Mapping[str, Expression] | None = None
    because: str | None = None
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A pure function of the pack: ``start``, then ``repeat``, then ``return``."""

    name: str
    doc: str
    args: tuple[str, ...]
    start: Mapping[str, Expression]
    at_most: int
    steps: tuple[Step, ...]
    result: Template
    source: str | None
    place: Place
    pack: PackId


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A network configuration that the pack may plan."""

    name: str
    dim: Literal[2, 3]
    inherits_from: str | None
    doc: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A named set of parameter values with its own default memory target."""

    name: str
    doc: str
    params: Mapping[str, float | int | str | bool]
    gpu_memory_gb: float | None
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraColumn:
    """A per-case column that the pack reads as ``extra.<name>``."""

    name: str
    type: Literal["number", "boolean", "text"]
    unit: str | None
    doc: str
    extractor: str | None
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A resolved pack: every rule, function, fact and parameter that is in force, by name."""

    id: PackId
    title: str
    reproduces: str | None
    extends: PackId | None
    extends_hash: str | None
    hash: str
    gpu_memory_gb: float
    preset: str | None
    presets: Mapping[str, Preset]
    default_preset: str | None
    configurations: Mapping[str, Configuration]
    params: Mapping[str, Param]
    facts: Mapping[str, Fact]
    functions: Mapping[str, Function]
    rules: Mapping[str, Rule]
    extra: Mapping[str, ExtraColumn]
    warnings: tuple[str, ...] = ()
    replaced: Mapping[str, Rule] = field(default_factory=dict)
