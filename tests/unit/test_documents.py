# ruff: noqa: E501 - rules in one line read like a table
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnrules.documents import canonical_json, content_hash, read_json, write_json, write_text
from nnrules.errors import FingerprintError, NnrulesError, PlanError

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def shuffled(value: Any) -> Any:
    """The same value with keys in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(documents)
def test_canonical_text_reads_back_and_ignores_the_order_of_keys(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert canonical_json(shuffled(value)) == text
    assert canonical_json(json.loads(text)) == text
    assert content_hash(shuffled(value)) == content_hash(value)


def test_lists_of_numbers_stand_on_one_line() -> None:
    value = {
        "b": [[1, 2.5], [3, 4]],
        "a": {"x": None, "ü": "ß"},
        "c": list(range(200)),
        "d": [{"e": 1}],
        "f": {},
        "g": [],
    }
    assert canonical_json(value) == (
        '{\n "a": {\n  "x": null,\n  "ü": "ß"\n },\n "b": [[1, 2.5], [3, 4]],\n "c": ['
        + ", ".join(map(str, range(200)))
        + '],\n "d": [\n  {\n   "e": 1\n  }\n ],\n "f": {},\n "g": []\n}\n'
    )
    assert (
        max(map(len, canonical_json([[0.123456789] * 9] * 9).splitlines())) <= 120
    )  # 110, and what the last comma and the indentation add


def test_hashes_tell_values_apart() -> None:
    values: list[Any] = [None, 0, 1, 1.0, True, "1", [], {}, [1], {"1": 1}, -0.0, 0.0]
    assert len({content_hash(value) for value in values}) == len(values)
    assert content_hash({"a": 1}) == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": [number]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash(number)


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ('{"a": 1,}', "not valid JSON", ":1:"), ('{"a": 1, "a": 2}', "key 'a' stands twice", ""), ("", "not valid JSON", ":1:1"),
        ('{"a":\n NaN}', "NaN is not a JSON number", ""), ("[Infinity]", "Infinity is not", ""), ("[1]\n[2]", "Extra data", ":2:1"),
        ("[" * 200_000, "nested too deeply", ""), ("1" * 5000, "not valid JSON", ""),
    ],
)  # fmt: skip
def test_strict_reading(tmp_path: Path, text: str, what: str, place: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        read_json(path, PlanError)
    (problem,) = caught.value.problems
    assert what in str(problem)
    assert problem.where.startswith(f"{path}{place}")


def test_reading_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"ä": [1, null]}'.encode())
    assert read_json(path, PlanError) == {"ä": [1, None]}
    path.write_text("[NaN, Infinity, -Infinity, 1]")
    assert read_json(path, PlanError, nan_as_null=True) == [None, None, None, 1]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FingerprintError, match="cannot be read as text"):
        read_json(path, FingerprintError)
    with pytest.raises(FingerprintError, match="no such file"):
        read_json(tmp_path / "absent.json", FingerprintError)
    with pytest.raises(FingerprintError, match="cannot be read"):
        read_json(tmp_path, FingerprintError)


def test_writing_is_atomic_and_keeps_permissions(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": 2})
    assert path.read_text() == '{\n "a": 2,\n "b": 1\n}\n'
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, math.nan)
    assert path.read_text() == '{\n "a": 2,\n "b": 1\n}\n'
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(NnrulesError, match="cannot write here"):
        write_text(tmp_path / "no" / "folder" / "x.json", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NnrulesError, match="cannot write here"):
        write_text(tmp_path / "folder", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
