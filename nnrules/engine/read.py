"""Reads rule files into the model; every structural mistake is reported with its place, all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from nnrules.documents import content_hash
from nnrules.engine.model import Fact, Function, PackId, Param, Rule, Step
from nnrules.engine.read_rule import RuleReader
from nnrules.engine.source import Place, YamlList, YamlMap, YamlNode, YamlScalar, to_json
from nnrules.engine.yaml_reader import shown_node
from nnrules.errors import RuleError

__all__ = ["CONTENT_KEYS", "Contents", "read_contents"]

_MAX_ROUNDS = 100_000

CONTENT_KEYS = ("params", "facts", "functions", "rules")
"""Top-level keys of a rule file."""


@dataclass(slots=True)
class Contents:
    """What one or several rule files declare, by name; ``digests`` holds a hash of each entry as written."""

    params: dict[str, Param] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    replaces: dict[str, tuple[str, Place]] = field(default_factory=dict)


class _ContentReader(RuleReader):
    def __init__(self, pack: PackId) -> None:
        super().__init__(pack)
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
                {"params": self.param, "facts": self.fact, "functions": self.function}[key](
                    name, value, place
                )

    def register(self, label: str, node: YamlNode, place: Place) -> None:
        """Note the entry's hash, and the hash of what it replaces."""
        if label in self.contents.digests:
            self.complain(place, f"{label} is declared twice in this pack", fix="Remove or rename one.")
        written = to_json(node)
        if isinstance(written, dict):
            recorded = "replaces" in written
            replaced = written.pop("replaces", None)
            if isinstance(replaced, str):
                self.contents.replaces[label] = (replaced, place)
            elif recorded:
                # A hash such as 120000000000 or 12e456789012 is a number unless it is quoted.
                self.complain(
                    place, "'replaces' must be text", got=str(replaced), fix="Put the hash in quotes."
                )
        self.contents.digests[label] = content_hash(written).removeprefix("sha256:")[:12]

    def param(self, name: str, node: YamlNode, place: Place) -> None:
        mapping = self.mapping(node, place, f"parameter '{name}'")
        self.keys(
            mapping, ("value", "unit", "doc", "source", "replaces"), ("value", "doc"), f"parameter '{name}'"
        )
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
            name=name,
            value=number,
            unit=unit,
            doc=self.text(mapping, "doc") or "",
            source=self.text(mapping, "source"),
            place=place,
            pack=self.pack,
        )

    def fact(self, name: str, node: YamlNode, place: Place) -> None:
        mapping = self.mapping(node, place, f"fact '{name}'")
        self.keys(mapping, ("value", "scope", "unit", "doc", "replaces"), ("value", "doc"), f"fact '{name}'")
        if "value" not in mapping.items:
            return
        value = self.expression(mapping.items["value"])
        scope = self.choice(mapping, "scope", ("dataset", "configuration"), "dataset")
        if value is not None:
            self.contents.facts[name] = Fact(
                name=name,
                value=value,
                scope=cast(Any, scope),
                unit=self.text(mapping, "unit"),
                doc=self.text(mapping, "doc") or "",
                place=place,
                pack=self.pack,
            )

    def function(self, name: str, node: YamlNode, place: Place) -> None:
        what = f"function '{name}'"
        mapping = self.mapping(node, place, what)
        self.keys(
            mapping,
            ("doc", "args", "start", "repeat", "return", "source", "replaces"),
            ("doc", "args", "return"),
            what,
        )
        args = []
        listed = mapping.items.get("args")
        for item in listed.items if isinstance(listed, YamlList) else ():
            if isinstance(item, YamlScalar) and isinstance(item.value, str):
                self.name(item.value, item.place)
                args.append(item.value)
            else:
                self.complain(item.place, "an argument is a name", got=shown_node(item))
        if listed is not None and not isinstance(listed, YamlList):
            self.complain(listed.place, "'args' must be a list of names", expected="[spacing, patch]")
        start = self.expressions(mapping.items.get("start"), place, "'start'")
        at_most, steps = self.repeat(mapping.items.get("repeat"), what)
        result = self.template(mapping.items["return"]) if "return" in mapping.items else None
        if result is not None:
            self.contents.functions[name] = Function(
                name=name,
                doc=self.text(mapping, "doc") or "",
                args=tuple(args),
                start=start,
                at_most=at_most,
                steps=steps,
                result=result,
                source=self.text(mapping, "source"),
                place=place,
                pack=self.pack,
            )

    def repeat(self, node: YamlNode | None, what: str) -> tuple[int, tuple[Step, ...]]:
        if node is None:
            return 0, ()
        mapping = self.mapping(node, node.place, "'repeat'")
        self.keys(mapping, ("at_most", "steps"), ("at_most", "steps"), f"'repeat' of {what}")
        limit = self.number(mapping, "at_most")
        if limit is not None and not (isinstance(limit, int) and 1 <= limit <= _MAX_ROUNDS):
            self.complain(
                mapping.items["at_most"].place,
                "'at_most' must be a whole number of rounds",
                got=str(limit),
                expected=f"1 to {_MAX_ROUNDS}",
            )
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
            self.complain(
                mapping.place,
                "a step does one thing",
                got=", ".join(kinds) or "nothing",
                expected="one of let, stop_if, set, collect",
            )
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
