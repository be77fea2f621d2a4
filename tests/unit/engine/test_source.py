# ruff: noqa: E501 - rules in one line read like a table
"""Strict YAML: what YAML 1.2 says, with a place for every node and every mistake."""

from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.source import YamlMap, read_yaml, to_json
from nnrules.errors import PackError, RuleError


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reader(text: str | bytes) -> Any:
        path = tmp_path / "rules.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path, "pack/rules.yaml")

    return reader


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1e-5", 1e-5), ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("-3", -3), ("+3", 3), ("010", 10), ("on", "on"),
        ("yes", "yes"), ("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("2d", "2d"),
        ("1_000", "1_000"), ("0x10", "0x10"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("'5'", "5"), ('"on"', "on"),
        ("[1, on, 1e3]", [1, "on", 1000.0]), ("{a: 1, 2d: x}", {"a": 1, "2d": "x"}), ("NaN", "NaN"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(read: Any, text: str, wanted: Any) -> None:
    got = to_json(read(f"key: {text}\n"))
    assert got == {"key": wanted}
    assert type(got["key"]) is type(wanted)


def test_places_count_from_one(read: Any) -> None:
    root = read("# first\nouter:\n  inner: [a, bb]\n")
    inner = root.items["outer"].items["inner"]
    assert str(root.keys["outer"]) == "pack/rules.yaml:2:1"
    assert str(root.items["outer"].keys["inner"]) == "pack/rules.yaml:3:3"
    assert str(inner.items[1].place) == "pack/rules.yaml:3:14"
    assert inner.items[1].place.excerpt() == "    3 |   inner: [a, bb]\n      |              ^"


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1", "the key 'a' stands twice"),
        ("a: &x 1\n", "1:4", "anchors are not allowed"),
        ("a: &x 1\nb: *x\n", "2:4", "aliases are not allowed"),
        ("a: !!str 1\n", "1:4", "tags are not allowed"),
        ("a: !python/object:os.system x\n", "1:4", "tags are not allowed"),
        ("a: 1\n---\nb: 2\n", "2:1", "a second document in one file"),
        ("a:\n  <<: {b: 1}\n", "2:3", "merge keys are not allowed"),
        ("[a]: 1\n", "1:1", "a key must be text"),
        ("a: .inf\n", "1:4", "numbers must be finite"),
        ("a: -.INF\n", "1:4", "numbers must be finite"),
        ("a: .nan\n", "1:4", "numbers must be finite"),
        ("a: 1e999\n", "1:4", "the number is too large"),
        (f"a: {'1' * 5000}\n", "1:4", "the number is too large"),
        ("a: [1\nb: 2\n", "2:", "not valid YAML"),
        ("a: b: c\n", "1:5", "not valid YAML"),
        ("a:\n\t- 1\n", "2:1", "not valid YAML"),
        ("a: 'x\n", "2:1", "not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_name_their_place(read: Any, text: str, place: str, what: str) -> None:
    with pytest.raises(RuleError) as caught:
        read(text)
    assert any(
        p.where.startswith(f"pack/rules.yaml:{place}") and what in p.what for p in caught.value.problems
    ), str(caught.value)


def test_all_mistakes_are_told_at_once(read: Any) -> None:
    with pytest.raises(RuleError) as caught:
        read("a: 1\na: 2\nb: &x 1\nc: .nan\n")
    assert [problem.where for problem in caught.value.problems] == [
        "pack/rules.yaml:2:1", "pack/rules.yaml:3:4", "pack/rules.yaml:4:4"
    ]  # fmt: skip


def test_deep_nesting_is_refused(read: Any) -> None:
    with pytest.raises(RuleError, match="nested too deeply"):
        read("a: " + "[" * 100 + "]" * 100)


def test_what_is_no_text_is_refused(read: Any, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be read as text"):
        read(b"a: \xff\xfe\n")
    with pytest.raises(RuleError, match="not valid YAML"):
        read("a: \x01\n")
    with pytest.raises(PackError, match="no such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(PackError, match="cannot be read"):
        read_yaml(tmp_path)


def test_an_empty_file_is_an_empty_mapping(read: Any) -> None:
    root = read("")
    assert isinstance(root, YamlMap)
    assert not root.items
