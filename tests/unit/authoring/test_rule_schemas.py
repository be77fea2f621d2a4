"""The schemas for editors accept and refuse what the engine's reader accepts and refuses."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from nnrules.engine.model import PackId
from nnrules.engine.packs import available_packs, pack_directory, version_files
from nnrules.engine.read import CONTENT_KEYS, read_contents
from nnrules.engine.read_release import RELEASE_KEYS, read_release
from nnrules.engine.source import read_yaml, to_json
from nnrules.engine.yaml_reader import _RESERVED
from nnrules.errors import RuleError
from nnrules.functions import BUILTINS
from nnrules.resources import rules_directory
from nnrules.schema import load_schema, validate

VERSIONS = [f"{pack}@{version}" for pack, versions in available_packs().items() for version in versions]

# Every construct of the language once.
RULES: dict[str, Any] = {
    "params": {
        "edge": {"value": 4, "unit": "voxels", "doc": "An edge.", "source": "me", "replaces": "abc"},
        "flag": {"value": True, "doc": "A truth value."},
        "word": {"value": "ct", "doc": "A text."},
    },
    "facts": {
        "middle": {"value": "median(cases.shape)", "scope": "configuration", "unit": "voxels",
                   "doc": "Middle.", "replaces": "abc"},
    },
    "functions": {
        "grow": {
            "doc": "Grows.", "args": ["x"], "start": {"y": "x", "z": 0},
            "repeat": {
                "at_most": 5,
                "steps": [
                    {"let": {"w": "y + 1"}},
                    {"stop_if": "y > 3", "because": "enough"},
                    {"set": {"y": "w"}},
                    {"collect": {"seen": "y"}, "because": "to see it"},
                ],
            },
            "return": {"last": "y", "all": ["seen"]}, "source": "me", "replaces": "abc",
        },
    },
    "rules": [
        {"id": "a.short", "title": "Short", "kind": "blueprint", "decides": "a", "constant": None,
         "because": "so", "warn": "beware", "source": "me", "replaces": "abc", "scope": "dataset",
         "hit": "unique"},
        {"id": "b.group", "title": "Group", "kind": "inferred", "scope": "configuration",
         "configurations": ["2d"], "decides": ["b", "c.d"], "let": {"v": "edge * 2"}, "hit": "first",
         "cases": [
             {"when": "v > 3", "value": {"b": "v", "c.d": ["v"]}, "because": "large", "warn": "large"},
             {"when": True, "constant": {"b": 1, "c.d": 2}, "because": "small"},
             {"when": "v < 0", "refuse": "no", "because": "negative"},
             {"when": "v == 0", "drop_configuration": "none", "because": "zero"},
             {"otherwise": {"constant": {"b": 1, "c.d": 2}}, "because": "else"},
         ],
         "given": {"b": {"let": {"u": "b"}, "because": "set",
                         "require": [{"that": "u > 0", "message": "above 0", "nearest": "1"}],
                         "value": {"c.d": "u"}}}},
        {"id": "e", "title": "Otherwise", "kind": "empirical", "scope": "channel", "decides": ["e"],
         "cases": [{"otherwise": ["1", "2"], "because": "always"}]},
    ],
}  # fmt: skip

RELEASE: dict[str, Any] = {
    "title": "A pack",
    "reproduces": "nothing",
    "extends": "nnunet@2.8.0",
    "removes": ["a.short"],
    "gpu_memory_gb": 8,
    "default_preset": "L",
    "presets": {
        "L": {"doc": "Large.", "params": {"edge": 5, "flag": False, "word": "x"}, "gpu_memory_gb": 24}
    },
    "configurations": {
        "3d_fullres": {"dim": 3, "doc": "Full."},
        "3d_cascade_fullres": {"dim": 3, "inherits_from": "3d_fullres", "doc": "Second stage."},
    },
    "extra": {"age": {"type": "number", "unit": "years", "doc": "Age.", "extractor": "ages"}},
}

# What no JSON Schema can say: names that must exist elsewhere, and text that must be an expression.
BEYOND_SCHEMA = (
    "no such preset",
    "no configuration '",
    "is not decided by this rule",
    "'otherwise' must be the last case",
    "is declared twice",
    "not an expression",
    "not part of the rule language",
    "a configuration may inherit from one that inherits from none",
)

STRANGERS: tuple[Any, ...] = (
    None,
    True,
    5,
    -1,
    "x",
    "",
    "x y",
    [],
    ["x"],
    [5],
    [None],
    {},
    {"x": 1},
    {"x": None},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutations(document: Any) -> Iterator[tuple[str, Any]]:
    """Each node replaced by something else, left out, or with a neighbour that does not belong there."""
    for path in places(document):
        if not path:
            continue
        for stranger in STRANGERS:
            changed = copy.deepcopy(document)
            at(changed, path[:-1])[path[-1]] = stranger
            yield f"{path} = {stranger!r}", changed
        changed = copy.deepcopy(document)
        del at(changed, path[:-1])[path[-1]]
        yield f"{path} left out", changed
        holder = at(document, path)
        if isinstance(holder, dict):
            for key, value in (
                ("valu", 1),
                ("value", 1),
                ("title", "x"),
                ("config_x", 1),
                ("max", 1),
                ("Upper", 1),
            ):
                if key not in holder:
                    changed = copy.deepcopy(document)
                    at(changed, path)[key] = value
                    yield f"{path} + {key}", changed


def problems_of_reader(document: Any, kind: str, tmp_path: Any) -> list[str]:
    path = tmp_path / "file.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        root = read_yaml(path, "file.yaml")
        if kind == "release":
            read_release(root)
        elif isinstance(document, dict) and "title" in document:
            read_release(root, also=CONTENT_KEYS)
            read_contents([root], PackId("x", "local"), also=RELEASE_KEYS)
        else:
            read_contents([root], PackId("x", "1.0.0"))
    except RuleError as exc:
        return [problem.what for problem in exc.problems]
    return []


def problems_of_schema(document: Any, kind: str) -> list[str]:
    try:
        validate(document, kind, where="file.yaml", error=RuleError)
    except RuleError as exc:
        return [str(problem) for problem in exc.problems]
    return []


# One entry at a time: validation of the whole document for each of its mutations would take minutes.
DOCUMENTS = [
    *(
        ("rules", {key: {name: entry}})
        for key in ("params", "facts", "functions")
        for name, entry in RULES[key].items()
    ),
    *(("rules", {"rules": [rule]}) for rule in RULES["rules"]),
    ("release", RELEASE),
    (
        "rules",
        {"title": "An overlay", "extends": "nnunet@2.8.0", "params": {"flag": RULES["params"]["flag"]}},
    ),
]


@pytest.mark.parametrize(("kind", "document"), DOCUMENTS)
def test_reader_and_schema_agree_on_every_mutation(kind: str, document: Any, tmp_path: Any) -> None:
    assert problems_of_reader(document, kind, tmp_path) == []
    assert problems_of_schema(document, kind) == []
    refused = 0
    disagreements = []
    for label, changed in mutations(document):
        found = problems_of_reader(changed, kind, tmp_path)
        reader = [what for what in found if not any(known in what for known in BEYOND_SCHEMA)]
        if len(found) > len(reader):
            # A consequence, where the only 'stop_if' is not an expression.
            reader = [what for what in reader if what != "the loop never stops"]
        schema = problems_of_schema(changed, kind)
        refused += bool(reader)
        if bool(reader) != bool(schema):
            disagreements.append((label, reader, schema))
    assert disagreements == []
    assert refused > 20


@pytest.mark.parametrize("spec", VERSIONS)
def test_shipped_files_follow_the_schemas(spec: str) -> None:
    _, folder = pack_directory(spec)
    for path in version_files(folder):
        kind = "release" if path.name == "release.yaml" else "rules"
        validate(to_json(read_yaml(path)), kind, where=path.name, error=RuleError)
    for path in sorted((folder / "tests").glob("*.yaml")):
        validate(to_json(read_yaml(path)), "rule_tests", where=path.name, error=RuleError)


def test_shipped_pack_headers_follow_the_schema() -> None:
    for path in sorted(rules_directory().glob("*/pack.yaml")):
        validate(to_json(read_yaml(path)), "pack", where=path.parent.name, error=RuleError)


def test_shipped_files_name_their_schema() -> None:
    """Editors find the schema by the first line."""
    for path in sorted(rules_directory().rglob("*.yaml")):
        kind = {"pack.yaml": "pack", "release.yaml": "release"}.get(path.name, "rules")
        kind = "rule_tests" if path.parent.name == "tests" else kind
        first = path.read_text(encoding="utf-8").splitlines()[0]
        depth = len(path.relative_to(rules_directory()).parts)
        wanted = f"# yaml-language-server: $schema={'../' * depth}schemas/{kind}.schema.json"
        assert first == wanted, path


def test_schema_knows_every_word_of_the_language() -> None:
    (reserved,) = [
        part["enum"] for part in load_schema("rules")["definitions"]["name"]["not"]["anyOf"] if "enum" in part
    ]
    assert reserved == sorted(_RESERVED) + sorted(BUILTINS), "copy the words into schemas/rules.schema.json"


def test_rule_and_release_schema_share_their_definitions() -> None:
    """An overlay holds the fields of both files."""
    rules, release = load_schema("rules"), load_schema("release")
    assert {key: rules["properties"][key] for key in RELEASE_KEYS} == release["properties"]
    for name, definition in release["definitions"].items():
        assert rules["definitions"][name] == definition


@pytest.mark.parametrize("name", ["rules", "release", "pack", "rule_tests"])
def test_every_field_is_described(name: str) -> None:
    """Editors show the description while one types."""
    schema = load_schema(name)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"

    def walk(node: Any, path: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, field in (
                node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else ()
            ):
                refers = schema.get("definitions", {}).get(field.get("$ref", "").rpartition("/")[2], {})
                is_condition = path.rpartition("/")[2] in ("if", "then", "items", "otherwise")
                if not is_condition and "description" not in field and "description" not in refers:
                    yield f"{path}/{key}"
            for key, item in node.items():
                yield from walk(item, f"{path}/{key}")
        elif isinstance(node, list):
            for index, item in enumerate(node):
                yield from walk(item, f"{path}/{index}")

    assert list(walk(schema, name)) == []
