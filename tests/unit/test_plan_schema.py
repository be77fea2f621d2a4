"""The plan's schema: well formed, documented, complete for every shipped pack, and strict."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache, reduce
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from nnrules.authoring.fixtures import fixture_fingerprint
from nnrules.engine.packs import available_packs, load_pack
from nnrules.engine.planning import make_plan
from nnrules.schema import load_schema

PACKS = [f"{pack}@{version}" for pack, versions in available_packs().items() for version in versions]
COMPLETE_PACKS = ["nnunet@1.0.0", "nnunet@2.8.0", "preprint@2.0.0"]
CASCADED: dict[str, Any] = {"spacing": [[1, 0.8, 0.8]], "shape": [[400, 512, 512]], "cases": 131, "labels": 2}
CT = {"mean": 90.0, "std": 40.0, "min": -900.0, "median": 95.0, "max": 1200.0, "percentile_00_5": -50.0}
DATASETS: dict[str, dict[str, Any]] = {
    "cascade": CASCADED,
    "slices": {"spacing": [[999, 1, 1]], "shape": [[1, 300, 400]], "cases": 20},
    "thick slices": {
        "spacing": [[10, 1.4, 1.4]],
        "shape": [[10, 256, 216]],
        "cases": 200,
        "channels": ["T1", "T2"],
    },
    "ct": {**CASCADED, "channels": ["CT"], "intensity": {**CT, "percentile_99_5": 300.0}},
    "masked": {**CASCADED, "median_size_ratio": 0.4},
    "regions with an ignore label": {
        "spacing": [[1, 1, 1]],
        "shape": [[40, 60, 70]],
        "cases": 20,
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "groups": 5,
    },
    "tiny": {"spacing": [[1, 1, 1]], "shape": [[9, 9, 9]], "cases": 300},
}


@cache
def plan_document(pack: str, dataset: str) -> dict[str, Any]:
    plan = make_plan(fixture_fingerprint(DATASETS[dataset]), pack, check=False)
    # Through JSON, so that configurations share nothing.
    document: dict[str, Any] = json.loads(json.dumps(dict(plan.document)))
    return document


def errors_of(document: Any) -> list[str]:
    found = Draft202012Validator(load_schema("plan")).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def test_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(load_schema("plan"))


def described_objects(schema: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        # Conditions only narrow what is described elsewhere.
        for key in schema.keys() - {"allOf", "if", "then", "dependentRequired", "enum", "const", "required"}:
            yield from described_objects(schema[key], f"{path}.{key}")
        if isinstance(schema.get("properties"), dict) and "additionalProperties" in schema:
            yield path, schema
    elif isinstance(schema, list):
        for index, entry in enumerate(schema):
            yield from described_objects(entry, f"{path}[{index}]")


def test_every_field_is_described() -> None:
    missing = [
        f"{path}.{name}"
        for path, schema in described_objects(load_schema("plan"))
        for name, entry in schema["properties"].items()
        if "description" not in entry and "$ref" not in entry and set(entry) not in ({"const"}, {"enum"})
    ]
    assert missing == []


def test_no_object_takes_unknown_fields() -> None:
    schemas = dict(described_objects(load_schema("plan")))
    assert len(schemas) > 60
    assert [path for path, schema in schemas.items() if schema["additionalProperties"] is not False] == []


def test_every_definition_is_used() -> None:
    schema = load_schema("plan")
    assert [
        name for name in schema["$defs"] if f'"#/$defs/{name}"' not in str(schema).replace("'", '"')
    ] == []


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("pack", PACKS)
def test_plans_of_every_pack_are_valid(pack: str, dataset: str) -> None:
    assert errors_of(plan_document(pack, dataset)) == []


def owned(document: dict[str, Any], path: str) -> bool:
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


@pytest.mark.parametrize("pack", COMPLETE_PACKS)
def test_what_a_rule_decides_is_required(pack: str) -> None:
    """A plan that lacks what one rule decides is refused, so a pack that lost the rule is found out."""
    document = plan_document(pack, "cascade")
    validator = Draft202012Validator(load_schema("plan"))
    optional = {"next_stage", "previous_stage", "exports.nnunetv2", "intensity"}
    optional |= {"memory.features_counted", "memory.patch_reductions", "configurations"}
    for rule in load_pack(pack).rules.values():
        for path in rule.decides:
            if path in optional:
                continue
            broken = copy.deepcopy(document)
            holders = {
                "dataset": [broken],
                "channel": broken["channels"],
                "configuration": list(broken["configurations"].values()),
            }[rule.scope]
            owners = [holder for holder in holders if owned(holder, path)]
            assert owners, f"{pack}: {rule.id} decides {path}, which the plan lacks"
            *parents, last = path.split(".")
            for owner in owners:
                del reduce(dict.__getitem__, parents, owner)[last]
            assert not validator.is_valid(broken), f"{pack}: the schema does not ask for {path}"


def configuration(document: dict[str, Any], name: str = "3d_fullres") -> dict[str, Any]:
    found: dict[str, Any] = document["configurations"][name]
    return found


BREAKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "an unknown template": lambda d: configuration(d)["architecture"].update(template="transformer"),
    "an unknown top-level field": lambda d: d.update(colour="red"),
    "a patch of two axes in 3D": lambda d: configuration(d).update(patch_size=[64, 64]),
    "a patch without extent": lambda d: configuration(d).update(patch_size=[0, 64, 64]),
    "strides of two axes in 3D": lambda d: configuration(d)["architecture"]["strides"].append([2, 2]),
    "a third mirror axis in 2D": lambda d: configuration(d, "2d").update(mirror_axes=[0, 1, 2]),
    "a transform that nobody knows": lambda d: configuration(d)["augmentation"]["order"].append("swirl"),
    "a transform without parameters": lambda d: configuration(d)["augmentation"]["transforms"].pop("gamma"),
    "a validation transform without parameters": lambda d: configuration(d, "3d_cascade_fullres")[
        "augmentation"
    ]["transforms"].pop("previous_stage_one_hot"),
    "a probability above one": lambda d: configuration(d)["augmentation"]["transforms"]["spatial"].update(
        rotation_probability=1.5
    ),
    "an unknown loss": lambda d: configuration(d)["loss"]["terms"].append({"name": "focal", "weight": 1}),
    "a step of zero": lambda d: configuration(d)["inference"]["window"].update(step=0),
    "a schedule without epochs": lambda d: d["training"].update(epochs=0),
    "an optimizer with another's field": lambda d: d["training"]["optimizer"].update(betas=[0.9, 0.99]),
    "CT without statistics": lambda d: d["channels"][0]["normalization"].update(scheme="ct", statistics=None),
    "one fold": lambda d: d["folds"].update(num_folds=1),
    "a second stage without its input": lambda d: configuration(d, "3d_cascade_fullres").pop("cascade"),
    "another version": lambda d: d.update(schema_version="2.0"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_plans_are_refused(name: str) -> None:
    document = copy.deepcopy(plan_document("nnunet@2.8.0", "cascade"))
    BREAKS[name](document)
    assert errors_of(document)


VARIANTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "cross-entropy alone": lambda d: configuration(d)["loss"].update(
        terms=[{"name": "cross_entropy", "weight": 1}]
    ),
    "the worst tenth of the voxels": lambda d: configuration(d)["loss"].update(
        terms=[{"name": "top_k_cross_entropy", "weight": 1}], top_k_cross_entropy={"share": 0.1}
    ),
    "Adam": lambda d: d["training"].update(
        optimizer={
            "name": "adam",
            "initial_learning_rate": 3e-4,
            "betas": [0.9, 0.999],
            "epsilon": 1e-8,
            "amsgrad": True,
            "weight_decay": 3e-5,
            "weight_decay_parameters": "all",
        }
    ),
    "batch normalisation": lambda d: configuration(d)["architecture"].update(
        norm={
            "name": "batch_norm",
            "epsilon": 1e-5,
            "affine": True,
            "momentum": 0.1,
            "track_running_statistics": True,
        }
    ),
    "no augmentation": lambda d: configuration(d)["augmentation"].update(order=["replace_outside_label"]),
    "no mirroring": lambda d: configuration(d).update(mirror_axes=[]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_figure_6_can_be_said(name: str) -> None:
    document = copy.deepcopy(plan_document("nnunet@2.8.0", "cascade"))
    VARIANTS[name](document)
    assert errors_of(document) == []
