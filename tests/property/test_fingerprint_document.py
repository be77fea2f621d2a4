"""The fast check of a fingerprint refuses whatever the full JSON Schema refuses."""

import copy
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import FingerprintError, Problem
from nnrules.fingerprint import Fingerprint
from nnrules.schema import load_schema

BASE: dict[str, Any] = {
    "schema_version": "1.0",
    "created_by": "nnrules 0.1.0",
    "dataset": {
        "name": "Tiny",
        "channel_names": ["CT"],
        "labels": {"background": 0, "core": 1},
        "num_training": 2,
        "file_ending": ".png",
    },
    "extractors": {"geometry": 1},
    "cases": {
        "id": ["a", "b"],
        "shape": [[1, 20, 30], [1, 2.5, 3]],
        "shape_before_crop": [[1, 20, 30], [1, 4, 3]],
        "spacing": [[999, 1, 1], [999.0, 1, 1]],
        "size_ratio": [0.5, 1],
        "orientation": ["", "RAI"],
        "channels_present": [[True], [False]],
        "class_voxels": {"1": [5, 0]},
        "group": ["x", None],
    },
    "crop": {"median_size_ratio": 0.5},
    "intensity": {"method": "published", "channels": [None]},
    "extra": {"columns": {"fat": {"type": "number", "values": [1, 0.5]}}},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-2, 3) | st.sampled_from(["", "x", "LPS"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "x"]), inner, max_size=2)
    ),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


PLACES = [place for place in _places(BASE) if place]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    changed = copy.deepcopy(BASE)
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=2)):
        parent: Any = changed
        try:
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        if draw(st.booleans()):
            del parent[place[-1]]
        else:
            parent[place[-1]] = draw(JSON)
    return changed


def _problems(document: Any) -> tuple[Problem, ...]:
    try:
        Fingerprint.from_document(document)
    except FingerprintError as exc:
        return exc.problems
    return ()


@settings(max_examples=400)
@given(document=documents())
def test_the_fast_check_is_at_least_as_strict_as_the_schema(document):
    is_valid = jsonschema.Draft202012Validator(load_schema("fingerprint")).is_valid(document)
    problems = _problems(document)
    assert is_valid or problems
    if is_valid:  # what no schema can say
        words = ("one entry", "larger than", "does not", "stand twice", "wrong value")
        assert all(any(word in problem.what for word in words) for problem in problems)


def test_the_base_is_accepted():
    assert Fingerprint.from_document(BASE).num_cases == 2
