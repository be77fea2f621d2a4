"""Reads rule files into the model; every structural mistake is reported with its place, all at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from nnrules.documents import content_hash
from nnrules.engine.compile_expression import suggest
from nnrules.engine.expressions import Expression, constant_expression, parse_expression
from nnrules.engine.model import (
    Case, Configuration, ExtraColumn, Fact, Function, Given, Outcome, PackId, Param, Preset, Requirement, Rule, Step,
    Template,
)  # fmt: skip
from nnrules.engine.source import Place, YamlList, YamlMap, YamlNode, YamlScalar, to_json
from nnrules.errors import Problem, RuleError
from nnrules.functions import BUILTINS

__all__ = ["Contents", "read_contents", "read_release"]

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_ID = re.compile(r"[a-z0-9][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)*\Z")
_RESERVED = {"and", "or", "not", "if", "else", "in", "true", "false", "none", "dim", "inherited", "config", "plan",
             "channel", "cases", "dataset", "crop", "classes", "budget", "extra", "has", "updated"}  # fmt: skip
_OUTCOMES = ("value", "constant", "refuse", "drop_configuration")
_MAX_ROUNDS = 100_000

RELEASE_KEYS = ("title", "reproduces", "extends", "removes", "gpu_memory_gb", "presets", "default_preset", "configurations", "extra")
CONTENT_KEYS = ("params", "facts", "functions", "rules")


@dataclass(slots=True)
class Contents:
    """What one or several rule files declare, by name; ``digests`` holds a hash of each entry as written."""

    params: dict[str, Param] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    replaces: dict[str, tuple[str, Place]] = field(default_factory=dict)


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


class Reader:
    """Typed access to YAML nodes that collects problems instead of stopping."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def complain(self, place: Place, what: str, **more: str | None) -> None:
        """Note one problem."""
        self.problems.append(place.problem(what, **more))

    def attempt(self, make: Callable[[], T]) -> T | None:
        """Run a step that may raise, and note its problems."""
        try:
            return make()
        except RuleError as exc:
            self.problems += exc.problems
            return None

    def mapping(self, node: YamlNode | None, place: Place, what: str) -> YamlMap:
        """The node as a mapping, or an empty one after a complaint."""
        if isinstance(node, YamlMap):
            return node
        if node is not None and not (isinstance(node, YamlScalar) and node.value is None):
            self.complain(node.place, f"{what} must be a mapping of names to values", got=_shown(node))
        return YamlMap(place, {}, {})

    def keys(self, node: YamlMap, allowed: Iterable[str], required: Iterable[str], what: str) -> None:
        """Complain about unknown and missing keys."""
        allowed = tuple(allowed)
        for key in node.items:
            if key not in allowed:
                self.complain(
                    node.keys[key], f"unknown field '{key}' in {what}", expected=", ".join(allowed),
                    fix=suggest(key, allowed),
                )  # fmt: skip
        missing = [key for key in required if key not in node.items]
        if missing:
            self.complain(node.place, f"{what} lacks {', '.join(missing)}")

    def text(self, node: YamlMap, key: str) -> str | None:
        """A text field."""
        value = node.items.get(key)
        if value is None:
            return None
        if isinstance(value, YamlScalar) and isinstance(value.value, str):
            return " ".join(value.value.split())
        if isinstance(value, YamlScalar) and isinstance(value.value, (int, float)) and key in ("unit",):
            return str(value.value)
        self.complain(value.place, f"'{key}' must be text", got=_shown(value))
        return None

    def choice(self, node: YamlMap, key: str, allowed: tuple[str, ...], default: str) -> str:
        """A text field with a fixed set of values."""
        value = self.text(node, key)
        if value is None:
            return default
        if value not in allowed:
            self.complain(
                node.items[key].place, f"unknown {key}", got=value, expected=", ".join(allowed),
                fix=suggest(value, allowed),
            )  # fmt: skip
            return default
        return value

    def number(self, node: YamlMap, key: str) -> float | None:
        """A number field."""
        value = node.items.get(key)
        if value is None:
            return None
        if isinstance(value, YamlScalar) and isinstance(value.value, (int, float)) and not isinstance(value.value, bool):
            return value.value
        self.complain(value.place, f"'{key}' must be a number", got=_shown(value))
        return None

    def expression(self, node: YamlNode) -> Expression | None:
        """An expression; a plain number or truth value is one, too."""
        if isinstance(node, YamlScalar) and isinstance(node.value, str):
            text, place = node.value, node.place if node.plain else node.place.shifted(1)
            return self.attempt(lambda: parse_expression(text, place))
        if isinstance(node, YamlScalar) and node.value is not None:
            return constant_expression(node.value, node.place)
        self.complain(node.place, "an expression is needed here", got=_shown(node))
        return None

    def expressions(self, node: YamlNode | None, place: Place, what: str) -> dict[str, Expression]:
        """A mapping of names to expressions."""
        result = {}
        mapping = self.mapping(node, place, what)
        for name, value in mapping.items.items():
            self.name(name, mapping.keys[name])
            expression = self.expression(value)
            if expression is not None:
                result[name] = expression
        return result

    def name(self, name: str, place: Place) -> None:
        """Complain about a name that expressions could not use."""
        if not _NAME.match(name):
            self.complain(place, f"'{name}' is not a name", expected="small letters, digits and underscores")
        elif name in _RESERVED or name in BUILTINS or name.startswith("config_"):
            self.complain(place, f"'{name}' belongs to the rule language", fix="Choose another name.")

    def template(self, node: YamlNode) -> Template | None:
        """An expression, or a mapping or list of them."""
        if isinstance(node, YamlMap):
            entries = {key: self.template(value) for key, value in node.items.items()}
            return {key: value for key, value in entries.items() if value is not None}
        if isinstance(node, YamlList):
            return tuple(value for item in node.items if (value := self.template(item)) is not None)
        return self.expression(node)


def _shown(node: YamlNode) -> str:
    if isinstance(node, YamlScalar):
        return "nothing" if node.value is None else repr(node.value)
    return "a list" if isinstance(node, YamlList) else "a mapping"


def _leaf_places(node: YamlNode, path: str = "") -> dict[str, Place]:
    places = {path: node.place}
    if isinstance(node, YamlMap):
        for key, value in node.items.items():
            for inner, place in _leaf_places(value, f"{path}.{key}" if path else key).items():
                # The key's line, where a person looks; the value of a mapping begins a line below.
                places[inner] = node.keys[key] if inner == (f"{path}.{key}" if path else key) else place
    if isinstance(node, YamlList):
        for index, item in enumerate(node.items):
            places |= _leaf_places(item, f"{path}[{index}]")
    return places


class _ContentReader(Reader):
    def __init__(self, pack: PackId) -> None:
        super().__init__()
        self.pack = pack
        self.contents = Contents()

    def read(self, root: YamlMap) -> None:
        for key in CONTENT_KEYS:
            node = root.items.get(key)
            if node is None:
                continue
            if key == "rules":
                self.rules(node)
                continue
            mapping = self.mapping(node, node.place, f"'{key}'")
            for name, value in mapping.items.items():
                place = mapping.keys[name]
                self.name(name, place)
                self.register(f"{key[:-1]} {name}", value, place)
                {"params": self.param, "facts": self.fact, "functions": self.function}[key](name, value, place)

    def register(self, label: str, node: YamlNode, place: Place) -> None:
        """Note the entry's hash, and the hash of what it replaces."""
        if label in self.contents.digests:
            self.complain(place, f"{label} is declared twice in this pack", fix="Remove or rename one.")
        written = to_json(node)
        if isinstance(written, dict):
            replaced = written.pop("replaces", None)
            if replaced is not None:
                self.contents.replaces[label] = (str(replaced), place)
        self.contents.digests[label] = content_hash(written).removeprefix("sha256:")[:12]

    def param(self, name: str, node: YamlNode, place: Place) -> None:
        mapping = self.mapping(node, place, f"parameter '{name}'")
        self.keys(mapping, ("value", "unit", "doc", "source", "replaces"), ("value", "doc"), f"parameter '{name}'")
        value = mapping.items.get("value")
        if not isinstance(value, YamlScalar) or value.value is None:
            if value is not None:
                self.complain(value.place, f"parameter '{name}' must be a number, text or truth value")
            return
        number = value.value
        unit = self.text(mapping, "unit")
        if isinstance(number, (int, float)) and not isinstance(number, bool) and unit is None:
            self.complain(place, f"parameter '{name}' has no unit", fix="Add one; '1' for a plain number.")
        self.contents.params[name] = Param(
            name=name, value=number, unit=unit, doc=self.text(mapping, "doc") or "",
            source=self.text(mapping, "source"), place=place, pack=self.pack,
        )  # fmt: skip

    def fact(self, name: str, node: YamlNode, place: Place) -> None:
        mapping = self.mapping(node, place, f"fact '{name}'")
        self.keys(mapping, ("value", "scope", "unit", "doc", "replaces"), ("value", "doc"), f"fact '{name}'")
        if "value" not in mapping.items:
            return
        value = self.expression(mapping.items["value"])
        scope = self.choice(mapping, "scope", ("dataset", "configuration"), "dataset")
        if value is not None:
            self.contents.facts[name] = Fact(
                name=name, value=value, scope=cast(Any, scope), unit=self.text(mapping, "unit"),
                doc=self.text(mapping, "doc") or "", place=place, pack=self.pack,
            )  # fmt: skip

    def function(self, name: str, node: YamlNode, place: Place) -> None:
        what = f"function '{name}'"
        mapping = self.mapping(node, place, what)
        self.keys(
            mapping, ("doc", "args", "start", "repeat", "return", "source", "replaces"), ("doc", "args", "return"), what
        )
        args = []
        listed = mapping.items.get("args")
        for item in listed.items if isinstance(listed, YamlList) else ():
            if isinstance(item, YamlScalar) and isinstance(item.value, str):
                self.name(item.value, item.place)
                args.append(item.value)
            else:
                self.complain(item.place, "an argument is a name", got=_shown(item))
        if listed is not None and not isinstance(listed, YamlList):
            self.complain(listed.place, "'args' must be a list of names", expected="[spacing, patch]")
        start = self.expressions(mapping.items.get("start"), place, "'start'")
        at_most, steps = self.repeat(mapping.items.get("repeat"), what)
        result = self.template(mapping.items["return"]) if "return" in mapping.items else None
        if result is not None:
            self.contents.functions[name] = Function(
                name=name, doc=self.text(mapping, "doc") or "", args=tuple(args), start=start, at_most=at_most,
                steps=steps, result=result, source=self.text(mapping, "source"), place=place, pack=self.pack,
            )  # fmt: skip

    def repeat(self, node: YamlNode | None, what: str) -> tuple[int, tuple[Step, ...]]:
        if node is None:
            return 0, ()
        mapping = self.mapping(node, node.place, "'repeat'")
        self.keys(mapping, ("at_most", "steps"), ("at_most", "steps"), f"'repeat' of {what}")
        limit = self.number(mapping, "at_most")
        if limit is not None and not (isinstance(limit, int) and 1 <= limit <= _MAX_ROUNDS):
            self.complain(
                mapping.items["at_most"].place, "'at_most' must be a whole number of rounds", got=str(limit),
                expected=f"1 to {_MAX_ROUNDS}",
            )  # fmt: skip
        listed = mapping.items.get("steps")
        if listed is not None and not isinstance(listed, YamlList):
            self.complain(listed.place, "'steps' must be a list")
        steps = [self.step(item) for item in (listed.items if isinstance(listed, YamlList) else ())]
        found = [step for step in steps if step is not None]
        if found and not any(step.stop_if for step in found):
            self.complain(mapping.place, "the loop never stops", fix="Add a 'stop_if' step.")
        return int(limit or 1), tuple(found)

    def step(self, node: YamlNode) -> Step | None:
        mapping = self.mapping(node, node.place, "a step")
        kinds = [key for key in mapping.items if key in ("let", "stop_if", "set", "collect")]
        self.keys(mapping, ("let", "stop_if", "set", "collect", "because"), (), "a step")
        if len(kinds) != 1:
            self.complain(mapping.place, "a step does one thing", got=", ".join(kinds) or "nothing",
                          expected="one of let, stop_if, set, collect")  # fmt: skip
            return None
        kind, value = kinds[0], mapping.items[kinds[0]]
        because = self.text(mapping, "because")
        if kind == "stop_if":
            condition = self.expression(value)
            if because is None:
                self.complain(mapping.place, "'stop_if' lacks 'because'", fix="Say why the loop ends here.")
            return None if condition is None else Step(stop_if=condition, because=because, place=node.place)
        entries = self.expressions(value, value.place, f"'{kind}'")
        return Step(**{kind: entries}, because=because, place=node.place)  # type: ignore[arg-type]

    # -- rules ----------------------------------------------------------------------------------------------------

    def rules(self, node: YamlNode) -> None:
        if not isinstance(node, YamlList):
            self.complain(node.place, "'rules' must be a list", expected="- id: ...")
            return
        for item in node.items:
            mapping = self.mapping(item, item.place, "a rule")
            before = len(self.problems)
            rule = self.rule(mapping)
            if rule is None:
                continue
            self.register(f"rule {rule.id}", mapping, rule.place)
            if len(self.problems) == before or rule.id not in self.contents.rules:
                self.contents.rules[rule.id] = rule

    def rule(self, node: YamlMap) -> Rule | None:
        name = self.text(node, "id")
        what = f"rule '{name}'" if name else "a rule"
        shorthand = [key for key in _OUTCOMES if key in node.items]
        self.keys(
            node,
            ("id", "title", "kind", "scope", "configurations", "decides", "hit", "let", "cases", "because", "warn",
             "given", "source", "replaces", *_OUTCOMES),
            ("id", "title", "kind", "decides", "because") if shorthand else ("id", "title", "kind", "decides", "cases"),
            what,
        )  # fmt: skip
        if name is None:
            return None
        if not _ID.match(name):
            self.complain(node.items["id"].place, "not a rule id", got=name, expected="e.g. spacing.target")
        scope = self.choice(node, "scope", ("dataset", "channel", "configuration"), "dataset")
        decides = self.paths(node.items.get("decides"))
        configurations = self.names_list(node.items.get("configurations"))
        if configurations is not None and scope != "configuration":
            self.complain(node.keys["configurations"], "only rules of scope configuration list configurations")
        cases = self.cases(node, what, shorthand, len(decides) > 1)
        return Rule(
            id=name,
            title=self.text(node, "title") or "",
            kind=cast(Any, self.choice(node, "kind", ("blueprint", "inferred", "empirical"), "inferred")),
            scope=cast(Any, scope),
            decides=decides,
            configurations=configurations,
            hit=cast(Any, self.choice(node, "hit", ("unique", "first", "all_equal", "collect"), "unique")),
            let=self.expressions(node.items.get("let"), node.place, "'let'"),
            cases=cases,
            given=self.given(node.items.get("given"), decides),
            source=self.text(node, "source"),
            place=node.keys.get("id", node.place),
            pack=self.pack,
        )

    def paths(self, node: YamlNode | None) -> tuple[str, ...]:
        items = node.items if isinstance(node, YamlList) else () if node is None else (node,)
        found = []
        for item in items:
            value = item.value if isinstance(item, YamlScalar) else None
            if isinstance(value, str) and _ID.match(value):
                found.append(value)
            else:
                self.complain(item.place, "'decides' names fields of the plan", expected="e.g. patch_size")
        if node is not None and len(set(found)) != len(found):
            self.complain(node.place, "a field stands twice in 'decides'")
        return tuple(found)

    def names_list(self, node: YamlNode | None) -> tuple[str, ...] | None:
        if node is None:
            return None
        if not isinstance(node, YamlList):
            self.complain(node.place, "'configurations' must be a list of names", expected="[2d, 3d_fullres]")
            return None
        return tuple(str(item.value) for item in node.items if isinstance(item, YamlScalar))

    def cases(self, node: YamlMap, what: str, shorthand: list[str], group: bool) -> tuple[Case, ...]:
        if shorthand:
            if "cases" in node.items:
                self.complain(node.keys["cases"], f"{what} has both '{shorthand[0]}' and 'cases'")
            case = self.case(node, None, group)
            return () if case is None else (case,)
        listed = node.items.get("cases")
        if listed is not None and not isinstance(listed, YamlList):
            self.complain(listed.place, "'cases' must be a list")
            return ()
        cases = []
        items = listed.items if isinstance(listed, YamlList) else ()
        for position, item in enumerate(items):
            mapping = self.mapping(item, item.place, "a case")
            self.keys(mapping, ("when", "otherwise", "because", "warn", *_OUTCOMES), ("because",), f"a case of {what}")
            if ("when" in mapping.items) == ("otherwise" in mapping.items):
                self.complain(mapping.place, "a case has either 'when' or 'otherwise'")
                continue
            if "otherwise" in mapping.items and position + 1 < len(items):
                self.complain(mapping.place, "'otherwise' must be the last case", fix="Move it to the end.")
            case = self.case(mapping, mapping.items.get("when"), group)
            if case is not None:
                cases.append(case)
        if listed is not None and not cases and not self.problems:
            self.complain(node.place, f"{what} has no case")
        return tuple(cases)

    def case(self, node: YamlMap, when: YamlNode | None, group: bool) -> Case | None:
        condition = None if when is None else self.expression(when)
        if when is not None and condition is None:
            return None
        outcome = self.outcome(node, group)
        if outcome is None:
            return None
        return Case(
            when=condition, outcome=outcome, because=self.text(node, "because") or "",
            warn=self.text(node, "warn"), place=node.place,
        )  # fmt: skip

    def outcome(self, node: YamlMap, group: bool) -> Outcome | None:
        otherwise = node.items.get("otherwise")
        if otherwise is not None:
            inner = list(otherwise.items) if isinstance(otherwise, YamlMap) else []
            if not (len(inner) == 1 and inner[0] in _OUTCOMES):
                wrapped = YamlMap(node.place, {"value": otherwise}, {"value": node.keys["otherwise"]})
                return self.outcome(wrapped, group)
            assert isinstance(otherwise, YamlMap)
            return self.outcome(otherwise, group)
        kinds = [key for key in _OUTCOMES if key in node.items]
        if len(kinds) != 1:
            self.complain(node.place, "a case needs one outcome", got=", ".join(kinds) or "none",
                          expected="one of " + ", ".join(_OUTCOMES))  # fmt: skip
            return None
        kind, value = kinds[0], node.items[kinds[0]]
        place = node.keys[kind]
        if kind == "value":
            template = self.template(value)
            return None if template is None else Outcome(value=template, place=place, leaf_places=_leaf_places(value))
        if kind == "constant":
            if group and not isinstance(value, YamlMap):
                self.complain(value.place, "a group needs a value for each field")
            return Outcome(constant=to_json(value), has_constant=True, place=place, leaf_places=_leaf_places(value))
        text = self.text(node, kind)
        if not text:
            self.complain(place, f"'{kind}' needs a text that says why")
            return None
        return Outcome(**{kind: text}, place=place)  # type: ignore[arg-type]

    def given(self, node: YamlNode | None, decides: tuple[str, ...]) -> dict[str, Given]:
        result: dict[str, Given] = {}
        mapping = self.mapping(node, node.place if node else Place(_NOWHERE, 0, 0), "'given'")
        for member, value in mapping.items.items():
            place = mapping.keys[member]
            if member not in decides:
                self.complain(place, f"'{member}' is not decided by this rule", expected=", ".join(decides))
            branch = self.mapping(value, place, f"'given: {member}'")
            self.keys(branch, ("let", "require", "value", "because"), ("value", "because"), f"'given: {member}'")
            template = self.template(branch.items["value"]) if "value" in branch.items else {}
            if not isinstance(template, Mapping):
                self.complain(place, "'value' must give the other fields of the group")
                continue
            result[member] = Given(
                member=member, let=self.expressions(branch.items.get("let"), place, "'let'"),
                require=self.requirements(branch.items.get("require")), value=template,
                because=self.text(branch, "because") or "", place=place,
            )  # fmt: skip
        return result

    def requirements(self, node: YamlNode | None) -> tuple[Requirement, ...]:
        if node is None:
            return ()
        if not isinstance(node, YamlList):
            self.complain(node.place, "'require' must be a list")
            return ()
        found = []
        for item in node.items:
            mapping = self.mapping(item, item.place, "a requirement")
            self.keys(mapping, ("that", "message", "nearest"), ("that", "message"), "a requirement")
            that = self.expression(mapping.items["that"]) if "that" in mapping.items else None
            nearest = self.expression(mapping.items["nearest"]) if "nearest" in mapping.items else None
            if that is not None:
                found.append(
                    Requirement(
                        that=that, message=self.text(mapping, "message") or "", nearest=nearest, place=mapping.place
                    )
                )
        return tuple(found)


_NOWHERE = cast(Any, None)


def read_contents(roots: Iterable[YamlNode], pack: PackId, *, also: tuple[str, ...] = ()) -> Contents:
    """Read params, facts, functions and rules of one version.

    Args:
        roots: the root node of each rule file.
        pack: the version they belong to.
        also: further top-level keys that the files may hold (an overlay file holds the release's keys, too).

    Raises:
        RuleError: every structural mistake.
    """
    reader = _ContentReader(pack)
    for root in roots:
        mapping = reader.mapping(root, root.place, "a rule file")
        reader.keys(mapping, (*CONTENT_KEYS, *also), (), "a rule file")
        reader.read(mapping)
    if reader.problems:
        raise RuleError(reader.problems)
    return reader.contents


def read_release(root: YamlNode, *, also: tuple[str, ...] = ()) -> Release:
    """Read what a version says about itself: title, what it reproduces or extends, presets, configurations.

    Raises:
        RuleError: every structural mistake.
    """
    reader = Reader()
    node = reader.mapping(root, root.place, "a release")
    reader.keys(node, (*RELEASE_KEYS, *also), ("title",), "a release")
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
        reader.complain(removed.place, "'removes' must be a list of rule ids", expected="[patch.batch_size_2d]")
    for item in removed.items if isinstance(removed, YamlList) else ():
        release.removes[str(to_json(item))] = item.place
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
            reader.complain(entry.items["inherits_from"].place, f"no configuration '{parent}' to inherit from")
        release.configurations[name] = Configuration(
            name=name, dim=cast(Any, int(dim or 3)), inherits_from=parent, doc=reader.text(entry, "doc") or "", place=place
        )
    for configuration in release.configurations.values():
        parent_of = release.configurations.get(configuration.inherits_from or "")
        if parent_of is not None and parent_of.inherits_from is not None:
            reader.complain(configuration.place, "a configuration may inherit from one that inherits from none")


def _read_presets(reader: Reader, node: YamlMap, release: Release) -> None:
    mapping = reader.mapping(node.items.get("presets"), node.place, "'presets'")
    for name, value in mapping.items.items():
        place = mapping.keys[name]
        entry = reader.mapping(value, place, f"preset '{name}'")
        reader.keys(entry, ("doc", "params", "gpu_memory_gb"), ("doc",), f"preset '{name}'")
        params = reader.mapping(entry.items.get("params"), place, "'params'")
        release.presets[name] = Preset(
            name=name,
            doc=reader.text(entry, "doc") or "",
            params={key: cast(Any, to_json(item)) for key, item in params.items.items()},
            gpu_memory_gb=reader.number(entry, "gpu_memory_gb"),
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
            name=name, type=cast(Any, kind), unit=reader.text(entry, "unit"), doc=reader.text(entry, "doc") or "",
            extractor=reader.text(entry, "extractor"), place=place,
        )  # fmt: skip
