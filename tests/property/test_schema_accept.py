"""The quick acceptor agrees with jsonschema on every document, whole or damaged."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import validator_for
from nnrules.demo.paper import published_fingerprint
from nnrules.engine.planning import make_plan
from nnrules.schema import load_schema
from nnrules.schema_accept import acceptor

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.sampled_from([0.5, 1.0, 2.0, -1.5, 1e9]),
    st.sampled_from(["", "ct", "zscore", "x", ".png", "0"]), st.just([]), st.just({}), st.just([1, 1]),
    st.just([1, True]), st.just({"a": 1}), st.just([[1, 2], [1, 2]]),
)  # fmt: skip


@cache
def _documents(name: str) -> list[Any]:
    fingerprints = [published_fingerprint(dataset) for dataset in ("D3", "D13")]
    if name == "fingerprint":
        return [_shortened(fingerprint.document) for fingerprint in fingerprints]
    if name == "plan":
        packs = ("nnunet@1.0.0", "nnunet@2.8.0")
        return [
            dict(make_plan(fingerprint, pack, check=False).document)
            for fingerprint, pack in zip(fingerprints, packs, strict=True)
        ]
    v2 = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": [1, 2], "b": 2},
        "numTraining": 3,
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
        "nnrules": {"groups": {"pattern": "(x)"}},
    }
    v1 = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "a"},
        "numTraining": 1,
        "training": [{"image": "./a.nii.gz", "label": "./b.nii.gz"}],
    }
    return [v2, v1]


def _shortened(document: Any) -> Any:
    cases = {key: value[:3] if isinstance(value, list) else value for key, value in document["cases"].items()}
    return {**document, "cases": cases}


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in entries:
        yield from _places(item, (*place, key))


@cache
def _prepared(name: str, number: int) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
    document = json.loads(json.dumps(_documents(name)[number]))
    return document, tuple(_places(document))


@cache
def _checkers(name: str) -> tuple[Any, Any]:
    schema = load_schema(name)
    quick = acceptor(schema)
    assert quick is not None, "a keyword that the acceptor does not know makes every check slow"
    return quick, validator_for(schema)(schema)


@pytest.mark.parametrize("name", ["dataset", "fingerprint", "plan"])
def test_whole_documents_are_accepted(name: str) -> None:
    quick, slow = _checkers(name)
    for number in range(2):
        document, _ = _prepared(name, number)
        assert list(slow.iter_errors(document)) == []
        assert quick(document)


@pytest.mark.parametrize("name", ["dataset", "fingerprint", "plan"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_documents_are_judged_alike(name: str, data: st.DataObject) -> None:
    quick, slow = _checkers(name)
    whole, places = _prepared(name, data.draw(st.integers(0, 1)))
    document = copy.deepcopy(whole)
    *way, last = data.draw(st.sampled_from(places[1:]))
    holder = document
    for key in way:
        holder = holder[key]
    damage = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if damage == "replace":
        holder[last] = data.draw(VALUES)
    elif damage == "remove":
        del holder[last]
    elif isinstance(holder, dict):
        holder["unknown"] = data.draw(VALUES)
    else:
        holder.append(data.draw(VALUES))
    assert quick(document) == slow.is_valid(document)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [1, "a", [1, {"b": True}], None]},
        {"const": True},
        {"type": "integer"},
        {"type": ["null", "number"]},
        {"uniqueItems": True},
        {"uniqueItems": False},
        {"pattern": "^c"},
        {"minLength": 2},
        {"maxLength": 1},
        {"minItems": 1, "maxItems": 1},
        {"minProperties": 1},
        {"maxProperties": 0},
        {"required": ["a"]},
        {"dependentRequired": {"a": ["b"]}},
        {"minimum": 1, "exclusiveMaximum": 2},
        {"maximum": 0},
        {"exclusiveMinimum": 0},
        {"items": {"type": "integer"}},
        {"contains": {"const": 1}},
        {"additionalProperties": False, "properties": {"a": {"const": 1}}},
        {"additionalProperties": {"const": 1}},
        {"propertyNames": {"pattern": "^a"}},
        {"not": {"type": "array"}},
        {"anyOf": [{"const": 1}, {"type": "null"}]},
        {"oneOf": [{"minimum": 0}, {"maximum": 1}]},
        {"allOf": [{"minimum": 0}, {"maximum": 1}]},
        {"if": {"type": "number"}, "then": {"minimum": 1}, "else": {"type": "string"}},
        {"if": {"const": 1}},
        {"x-note": [1], "description": "a"},
        True,
        False,
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"anyOf": [{"type": "integer"}, {"items": {"$ref": "#/$defs/a"}}]}},
        },
    ],
)
@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner)
    )
)
def test_every_keyword_means_the_same(schema: Any, value: Any) -> None:
    quick = acceptor(schema) if isinstance(schema, dict) else acceptor({"allOf": [schema]})
    assert quick is not None
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    whole = {**dialect, **schema} if isinstance(schema, dict) else {**dialect, "allOf": [schema]}
    assert quick(value) == validator_for(whole)(whole).is_valid(value)


@pytest.mark.parametrize(
    "schema",
    [{"format": "date"}, {"contains": {}, "minContains": 2}, {"$ref": "other.json"}, {"prefixItems": [{}]}],
)
def test_unknown_keywords_are_left_to_jsonschema(schema: Any) -> None:
    assert acceptor(schema) is None
    assert acceptor({"properties": {"a": schema}}) is None
