"""Reads rules: their cases, outcomes, groups and ``given`` branches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from nnrules.engine.model import Case, Given, Outcome, PackId, Requirement, Rule
from nnrules.engine.source import Place, YamlList, YamlMap, YamlNode, YamlScalar, to_json
from nnrules.engine.yaml_reader import Reader

__all__ = ["RuleReader"]

_ID = re.compile(r"[a-z0-9][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)*\Z")
_OUTCOMES = ("value", "constant", "refuse", "drop_configuration")


class RuleReader(Reader):
    """Reads the rules of one pack version."""

    def __init__(self, pack: PackId) -> None:
        super().__init__()
        self.pack = pack

    def rule(self, node: YamlMap) -> Rule | None:
        """One rule; None when it has no usable id."""
        name = self.text(node, "id")
        what = f"rule '{name}'" if name else "a rule"
        shorthand = [key for key in _OUTCOMES if key in node.items]
        self.keys(
            node,
            (
                "id",
                "title",
                "kind",
                "scope",
                "configurations",
                "decides",
                "hit",
                "let",
                "cases",
                "because",
                "warn",
                "given",
                "source",
                "replaces",
                *_OUTCOMES,
            ),
            ("id", "title", "kind", "decides", "because")
            if shorthand
            else ("id", "title", "kind", "decides", "cases"),
            what,
        )
        if name is None:
            return None
        if not _ID.match(name):
            self.complain(node.items["id"].place, "not a rule id", got=name, expected="e.g. spacing.target")
        scope = self.choice(node, "scope", ("dataset", "channel", "configuration"), "dataset")
        decides = self.paths(node.items.get("decides"))
        configurations = self.names_list(node.items.get("configurations"))
        if configurations is not None and scope != "configuration":
            self.complain(
                node.keys["configurations"], "only rules of scope configuration list configurations"
            )
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
        if node is not None and not items:
            self.complain(node.place, "'decides' names no field", expected="e.g. patch_size")
        if node is not None and len(set(found)) != len(found):
            self.complain(node.place, "a field stands twice in 'decides'")
        return tuple(found)

    def names_list(self, node: YamlNode | None) -> tuple[str, ...] | None:
        if node is None:
            return None
        if not isinstance(node, YamlList):
            self.complain(node.place, "'configurations' must be a list of names", expected="[2d, 3d_fullres]")
            return None
        names = tuple(
            item.value for item in node.items if isinstance(item, YamlScalar) and isinstance(item.value, str)
        )
        if not names or len(names) != len(node.items):
            self.complain(node.place, "'configurations' must be a list of names", expected="[2d, 3d_fullres]")
        return names

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
            self.keys(
                mapping,
                ("when", "otherwise", "because", "warn", *_OUTCOMES),
                ("because",),
                f"a case of {what}",
            )
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
            when=condition,
            outcome=outcome,
            because=self.text(node, "because") or "",
            warn=self.text(node, "warn"),
            place=node.place,
        )

    def outcome(self, node: YamlMap, group: bool) -> Outcome | None:
        otherwise = node.items.get("otherwise")
        beside = [key for key in _OUTCOMES if key in node.items]
        if otherwise is not None and beside:
            self.complain(
                node.keys[beside[0]],
                f"'{beside[0]}' stands beside 'otherwise'",
                fix="Write it below 'otherwise'.",
            )
        if otherwise is not None:
            inner = list(otherwise.items) if isinstance(otherwise, YamlMap) else []
            if not (len(inner) == 1 and inner[0] in _OUTCOMES):
                wrapped = YamlMap(node.place, {"value": otherwise}, {"value": node.keys["otherwise"]})
                return self.outcome(wrapped, group)
            assert isinstance(otherwise, YamlMap)
            return self.outcome(otherwise, group)
        kinds = [key for key in _OUTCOMES if key in node.items]
        if len(kinds) != 1:
            self.complain(
                node.place,
                "a case needs one outcome",
                got=", ".join(kinds) or "none",
                expected="one of " + ", ".join(_OUTCOMES),
            )
            return None
        kind, value = kinds[0], node.items[kinds[0]]
        place = node.keys[kind]
        if kind == "value":
            template = self.template(value)
            return (
                None
                if template is None
                else Outcome(value=template, place=place, leaf_places=leaf_places(value))
            )
        if kind == "constant":
            if group and not isinstance(value, YamlMap):
                self.complain(value.place, "a group needs a value for each field")
            return Outcome(
                constant=to_json(value), has_constant=True, place=place, leaf_places=leaf_places(value)
            )
        text = self.text(node, kind)
        if not text:
            self.complain(place, f"'{kind}' needs a text that says why")
            return None
        return Outcome(**{kind: text}, place=place)  # type: ignore[arg-type]

    def given(self, node: YamlNode | None, decides: tuple[str, ...]) -> dict[str, Given]:
        result: dict[str, Given] = {}
        if node is None:
            return result
        mapping = self.mapping(node, node.place, "'given'")
        for member, value in mapping.items.items():
            place = mapping.keys[member]
            if member not in decides:
                self.complain(place, f"'{member}' is not decided by this rule", expected=", ".join(decides))
            branch = self.mapping(value, place, f"'given: {member}'")
            self.keys(
                branch, ("let", "require", "value", "because"), ("value", "because"), f"'given: {member}'"
            )
            template = self.template(branch.items["value"]) if "value" in branch.items else {}
            if not isinstance(template, Mapping):
                self.complain(place, "'value' must give the other fields of the group")
                continue
            result[member] = Given(
                member=member,
                let=self.expressions(branch.items.get("let"), place, "'let'"),
                require=self.requirements(branch.items.get("require")),
                value=template,
                because=self.text(branch, "because") or "",
                place=place,
            )
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
                        that=that,
                        message=self.text(mapping, "message") or "",
                        nearest=nearest,
                        place=mapping.place,
                    )
                )
        return tuple(found)


def leaf_places(node: YamlNode, path: str = "") -> dict[str, Place]:
    places = {path: node.place}
    if isinstance(node, YamlMap):
        for key, value in node.items.items():
            for inner, place in leaf_places(value, f"{path}.{key}" if path else key).items():
                # The key's line, where a person looks; the value of a mapping begins a line below.
                places[inner] = node.keys[key] if inner == (f"{path}.{key}" if path else key) else place
    if isinstance(node, YamlList):
        for index, item in enumerate(node.items):
            places |= leaf_places(item, f"{path}[{index}]")
    return places
