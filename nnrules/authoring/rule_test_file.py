"""Reads rule tests: ``tests/*.yaml`` beside the rules of a version, or beside an overlay file.

A test names what it runs: a ``rule`` with the values that it reads, a ``function`` with its arguments, or a
``fingerprint`` to plan as a whole. ``schemas/rule_tests.schema.json`` describes the same form for editors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from nnrules.engine.packs import pack_directory
from nnrules.engine.source import Json, Place, YamlList, YamlMap, YamlScalar, read_yaml, to_json
from nnrules.engine.yaml_reader import Reader
from nnrules.errors import RuleError

__all__ = ["Kind", "RuleTest", "read_rule_tests", "rule_test_files"]

Kind = Literal["rule", "function", "plan"]

_SHARED = ("name", "preset", "params", "expect", "todo")
_KEYS: Mapping[Kind, tuple[str, ...]] = {
    "rule": ("rule", "configuration", "given", "configurations", *_SHARED),
    "function": ("function", "dim", "args", *_SHARED),
    "plan": ("fingerprint", "gpu_memory_gb", "set", *_SHARED),
}
_MAPPINGS = ("params", "given", "args", "set", "fingerprint", "expect")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTest:
    """One test as written.

    Attributes:
        name: what it shows, in words.
        kind: whether it runs a rule, a function or a whole plan.
        place: where it stands.
        subject: the rule id or function name; empty for a plan.
        configuration: for rules of scope configuration; None where the rule has one configuration only.
        configurations: the configurations that count as planned; None for all.
        dim: number of axes, for functions.
        values: what the rule reads, the arguments of the function, or the compact fingerprint.
        places: where each of the values stands.
        params: parameters that the test changes.
        preset: preset of the pack; None for its default.
        gpu_memory_gb: memory target of a plan; None for the pack's.
        overrides: plan path to value, as ``--set``.
        expect: what must come out, by path, beside ``refuse``, ``drop_configuration``, ``warns``, ``error``.
        expect_places: where each expectation stands.
        todo: why the test is known to fail; None for a test that must pass.
    """

    name: str
    kind: Kind
    place: Place
    subject: str = ""
    configuration: str | None = None
    configurations: tuple[str, ...] | None = None
    dim: int = 3
    values: Mapping[str, Json] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    params: Mapping[str, Json] = field(default_factory=dict)
    preset: str | None = None
    gpu_memory_gb: float | None = None
    overrides: Mapping[str, Json] = field(default_factory=dict)
    expect: Mapping[str, Json] = field(default_factory=dict)
    expect_places: Mapping[str, Place] = field(default_factory=dict)
    todo: str | None = None


def rule_test_files(spec: str | Path) -> list[Path]:
    """The test files of a pack: ``tests/*.yaml`` in its folder; of an overlay ``X.yaml``: ``tests/X.yaml``.

    Raises:
        PackError: no such pack.
    """
    text = str(spec)
    if isinstance(spec, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        path = Path(spec)
        beside = path.parent / "tests" / f"{path.stem}.yaml"
        return [beside] if beside.is_file() else []
    return sorted((pack_directory(text)[1] / "tests").glob("*.yaml"))


def read_rule_tests(path: Path, name: str | None = None) -> tuple[RuleTest, ...]:
    """Read one file of tests.

    Args:
        path: the file.
        name: how it is called in places; default: its path.

    Raises:
        PackError: the file is missing.
        RuleError: everything in it that is not of the right form.
    """
    reader = _TestReader()
    root = read_yaml(path, name)
    tests = reader.tests(reader.mapping(root, root.place, "a test file"))
    if reader.problems:
        raise RuleError(reader.problems)
    return tests


class _TestReader(Reader):
    def tests(self, root: YamlMap) -> tuple[RuleTest, ...]:
        self.keys(root, ("tests",), ("tests",), "a test file")
        listed = root.items.get("tests")
        if not isinstance(listed, YamlList):
            if listed is not None:
                self.complain(listed.place, "'tests' must be a list", expected="- name: …")
            return ()
        read = [self.test(self.mapping(item, item.place, "a test")) for item in listed.items]
        tests = tuple(test for test in read if test is not None)
        seen: dict[str, RuleTest] = {}
        for test in tests:
            if test.name in seen:
                first = seen[test.name].place.line
                self.complain(
                    test.place, f"two tests are called '{test.name}'", fix=f"Rename one (line {first})."
                )
            seen.setdefault(test.name, test)
        return tests

    def test(self, node: YamlMap) -> RuleTest | None:
        subjects: dict[str, Kind] = {"rule": "rule", "function": "function", "fingerprint": "plan"}
        named = [key for key in subjects if key in node.items]
        if len(named) != 1:
            self.complain(
                node.place,
                "a test runs one thing",
                got=", ".join(named) or "nothing",
                expected="one of rule, function, fingerprint",
            )
            return None
        kind = subjects[named[0]]
        before = len(self.problems)
        subject = "" if kind == "plan" else self.text(node, kind) or ""
        source = {"rule": "given", "function": "args", "plan": "fingerprint"}[kind]
        required = ("name", "expect", *(("args",) if kind == "function" else ()))
        self.keys(node, _KEYS[kind], required, f"a test of a {kind}")
        maps = {key: self.mapping(node.items.get(key), node.place, f"'{key}'") for key in _MAPPINGS}
        if "expect" in node.items and not maps["expect"].items:
            self.complain(node.items["expect"].place, "a test must expect something")
        dim = self.number(node, "dim")
        if dim not in (None, 2, 3):
            self.complain(node.items["dim"].place, "'dim' must be 2 or 3", got=str(dim))
        test = RuleTest(
            name=self.text(node, "name") or "",
            kind=kind,
            place=node.place,
            subject=subject,
            configuration=self.text(node, "configuration"),
            configurations=self.names_of(node),
            dim=int(dim or 3),
            values=_values(maps[source]),
            places=maps[source].keys,
            params=_values(maps["params"]),
            preset=self.text(node, "preset"),
            gpu_memory_gb=self.number(node, "gpu_memory_gb"),
            overrides=_values(maps["set"]),
            expect=_values(maps["expect"]),
            expect_places=maps["expect"].keys,
            todo=self.text(node, "todo"),
        )
        return test if len(self.problems) == before else None

    def names_of(self, node: YamlMap) -> tuple[str, ...] | None:
        listed = node.items.get("configurations")
        if listed is None:
            return None
        items = listed.items if isinstance(listed, YamlList) else ()
        names = tuple(
            item.value for item in items if isinstance(item, YamlScalar) and isinstance(item.value, str)
        )
        if not isinstance(listed, YamlList) or len(names) != len(items):
            self.complain(
                listed.place, "'configurations' must be a list of names", expected="[2d, 3d_fullres]"
            )
        return names


def _values(node: YamlMap) -> dict[str, Json]:
    return cast("dict[str, Json]", to_json(node))
