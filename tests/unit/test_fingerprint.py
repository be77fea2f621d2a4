import copy
import json
import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from nnrules.errors import FingerprintError
from nnrules.fingerprint import Fingerprint
from nnrules.schema import load_schema


def document(num_cases: int = 3) -> dict[str, Any]:
    """A document with everything in it."""
    ids = [f"case_{number}" for number in range(num_cases)]
    return {
        "schema_version": "1.0",
        "created_by": "nnrules 0.1.0",
        "dataset": {
            "name": "Tiny",
            "channel_names": ["CT", "PET"],
            "labels": {"background": 0, "whole": [1, 2], "core": 2, "a part": 1},
            "label_order": ["background", "whole", "core", "a part"],
            "regions_class_order": [1, 2, 1],
            "ignore_label": None,
            "num_training": 7,
            "file_ending": ".nii.gz",
            "orientation_policy": "as_stored",
        },
        "extractors": {"geometry": 1, "labels": 1, "intensity": 1, "mine": "2.0"},
        "cases": {
            "id": ids,
            "shape": [[10 + number, 20, 30] for number in range(num_cases)],
            "shape_before_crop": [[10 + number, 40, 30] for number in range(num_cases)],
            "spacing": [[2.5, 0.7, 0.7 + number] for number in range(num_cases)],
            "size_ratio": [0.5] * num_cases,
            "orientation": ["LPS"] * num_cases,
            "channels_present": [[True, number % 2 == 0] for number in range(num_cases)],
            "class_voxels": {"1": [5] * num_cases, "2": [0] * num_cases},
            "group": ["x", *[None] * (num_cases - 1)],
            "subject": [None] * num_cases,
        },
        "crop": {"median_size_ratio": 0.5},
        "classes": {"rarest_share": 0.027},
        "intensity": {
            "method": "exact",
            "channels": [
                {
                    "mean": 1.0,
                    "std": 2.0,
                    "min": -1000.0,
                    "median": 0.0,
                    "max": 3000,
                    "percentile_00_5": -900.5,
                    "percentile_99_5": 1200.0,
                },
                None,
            ],
        },
        "extra": {
            "columns": {
                "fat": {"type": "number", "unit": "1", "values": [0.5] * num_cases},
                "adult": {"type": "boolean", "unit": None, "values": [True] * num_cases},
                "site": {"type": "string", "values": ["Ulm"] * num_cases},
            },
            "values": {"num_sites": {"type": "number", "unit": "1", "value": 2}},
        },
    }


def test_columns_and_facts():
    fingerprint = Fingerprint.from_document(document())
    assert fingerprint.num_cases == 3
    assert fingerprint.num_channels == 2
    assert fingerprint.case_ids == ("case_0", "case_1", "case_2")
    assert fingerprint.shape.dtype == fingerprint.spacing.dtype == np.float64
    assert fingerprint.shape.tolist() == [[10, 20, 30], [11, 20, 30], [12, 20, 30]]
    assert fingerprint.spacing.tolist() == [[2.5, 0.7, 0.7], [2.5, 0.7, 1.7], [2.5, 0.7, 2.7]]
    assert fingerprint.channels_present.tolist() == [[True, True], [True, False], [True, True]]
    assert {label: counts.tolist() for label, counts in fingerprint.class_voxels.items()} == {
        1: [5, 5, 5],
        2: [0, 0, 0],
    }
    assert fingerprint.group == ("x", None, None)
    assert fingerprint.rarest_share == 0.027
    assert fingerprint.intensity[0]["percentile_00_5"] == -900.5
    assert fingerprint.intensity[1] is None
    assert fingerprint.extra_columns["adult"].values.dtype == np.bool_
    assert fingerprint.extra_values == {"num_sites": 2}
    assert fingerprint.dataset.has_regions
    assert fingerprint.dataset.label_values == (0, 1, 2)
    with pytest.raises(ValueError, match="read-only"):
        fingerprint.spacing[0, 0] = 1


def test_what_an_import_lacks_is_none():
    small = document()
    for name in set(small["cases"]) - {"id", "shape", "spacing"}:
        del small["cases"][name]
    for name in ("classes", "intensity", "extra"):
        del small[name]
    fingerprint = Fingerprint.from_document(small)
    for name in (
        "shape_before_crop",
        "size_ratio",
        "orientation",
        "channels_present",
        "class_voxels",
        "group",
        "subject",
        "rarest_share",
        "intensity_method",
        "intensity",
    ):
        assert getattr(fingerprint, name) is None
    assert fingerprint.extra_columns == {}


def test_published_shapes_may_be_fractions():
    published = document()
    published["cases"]["shape"] = [[10.5, 20.0, 29.5]] * 3
    del published["cases"]["shape_before_crop"]
    assert Fingerprint.from_document(published).shape[0].tolist() == [10.5, 20.0, 29.5]


def test_save_and_load_keep_content_hash_and_label_order(tmp_path):
    first = Fingerprint.from_document(document())
    path = tmp_path / "fingerprint.json"
    first.save(path)
    again = Fingerprint.load(path)
    assert again.document == first.document
    assert again.hash == first.hash
    assert list(again.dataset.labels) == ["background", "whole", "core", "a part"], (
        "keys are sorted in the file"
    )
    content = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == content
    assert content.endswith(b"}\n")


def test_hash_is_of_the_content_without_its_author():
    other = document()
    other["created_by"] = "somebody"
    assert Fingerprint.from_document(other).hash == Fingerprint.from_document(document()).hash
    other["cases"]["spacing"][1][1] = 0.71
    assert Fingerprint.from_document(other).hash != Fingerprint.from_document(document()).hash


def broken(path: str, value: Any) -> dict[str, Any]:
    """The document with one place set (or, for ``...``, removed)."""
    result = copy.deepcopy(document())
    place: Any = result
    *parents, last = path.split("/")
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    last = int(last) if isinstance(place, list) else last
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


BROKEN = [
    (
        "cases/spacing/1",
        [1, 0, 1],
        "cases.spacing[1] (case case_1): wrong value; got [1, 0, 1]; expected three",
    ),
    ("cases/spacing/1", [1, -0.5, 1], "cases.spacing[1] (case case_1): wrong value"),
    ("cases/spacing/2", [1, math.nan, 1], "cases.spacing[2] (case case_2): wrong value; got [1, nan, 1]"),
    ("cases/spacing/2", [1, math.inf, 1], "cases.spacing[2] (case case_2): wrong value"),
    ("cases/spacing/2", [1, 1], "cases.spacing[2] (case case_2): wrong value"),
    ("cases/spacing/2", [1, True, 1], "cases.spacing[2] (case case_2): wrong value"),
    ("cases/spacing/2", "1 1 1", "cases.spacing[2] (case case_2): wrong value"),
    ("cases/shape/0", [0, 1, 1], "cases.shape[0] (case case_0): wrong value"),
    ("cases/shape/0", [10**400, 1, 1], "cases.shape[0] (case case_0): wrong value"),
    ("cases/shape/0", [10, 41, 30], "cases.shape[0] (case case_0): larger than shape_before_crop"),
    (
        "cases/size_ratio/1",
        1.5,
        "cases.size_ratio[1] (case case_1): wrong value; got 1.5; expected a number > 0",
    ),
    ("cases/orientation/1", "LPX", "cases.orientation[1] (case case_1): wrong value; got 'LPX'"),
    ("cases/orientation/1", "LRS", "cases.orientation[1] (case case_1): wrong value; got 'LRS'"),
    ("cases/channels_present/1", [True], "cases.channels_present[1] (case case_1): wrong value"),
    ("cases/class_voxels/1/1", -1, "cases.class_voxels.1[1] (case case_1): wrong value; got -1"),
    ("cases/class_voxels/1/1", 1.5, "cases.class_voxels.1[1] (case case_1): wrong value; got 1.5"),
    ("cases/class_voxels/7", [1, 1, 1], "cases.class_voxels: counts of labels that dataset.labels does not"),
    ("cases/class_voxels/x", [1, 1, 1], "cases.class_voxels"),
    ("cases/group/2", 3, "cases.group[2] (case case_2): wrong value; got 3; expected text or null"),
    ("cases/group", ["x", None], "cases.group: the column does not have one entry a case; got 2 entries"),
    ("cases/group", [], "cases.group: too few items"),
    ("cases/group", 5, "cases.group: wrong type"),
    ("cases/id/1", "case_0", "cases.id: case ids stand twice; got case_0"),
    ("cases/id/1", "", "cases.id[1] (case ): wrong value"),
    ("cases/id/1", 7, "cases.id[1]: wrong value; got 7"),
    ("cases/id", ..., "cases: a field is missing"),
    ("cases/typo", [1, 1, 1], 'cases: an unknown field; got "typo"'),
    ("cases", ..., "$: a field is missing"),
    ("typo", 1, 'an unknown field; got "typo"'),
    ("schema_version", "2.0", 'schema_version: wrong value; got "2.0"'),
    ("crop/median_size_ratio", 0, "crop.median_size_ratio"),
    ("intensity/channels/0/mean", math.nan, "intensity.channels[0].mean: not a finite number; got nan"),
    ("intensity/channels/0/std", -1, "intensity.channels[0].std"),
    ("intensity/channels/0/max", ..., "intensity.channels[0]"),
    ("intensity/channels", [None], "intensity.channels: not one entry a channel; got 1 entries; expected 2"),
    ("intensity/method", "guessed", "intensity.method: unknown value"),
    ("dataset/label_order", ["background"], "dataset.label_order: does not name the labels"),
    ("dataset/labels/core", "2", "dataset.labels.core"),
    ("dataset/channel_names", [], "dataset.channel_names: too few items"),
    ("dataset/num_training", 0, "dataset.num_training"),
    (
        "extra/columns/fat/values/1",
        "much",
        "extra.columns.fat.values[1] (case case_1): wrong value; got 'much'",
    ),
    ("extra/columns/fat/values/1", math.nan, "extra.columns.fat.values[1] (case case_1): wrong value"),
    (
        "extra/columns/fat/values",
        [1, 2],
        "extra.columns.fat.values: the column does not have one entry a case",
    ),
    ("extra/columns/adult/values/0", 1, "extra.columns.adult.values[0] (case case_0): wrong value; got 1"),
    ("extra/columns/fat/type", "float", "extra.columns.fat.type: unknown value"),
    ("extra/columns/my fat", {"type": "number", "values": [1, 2, 3]}, "extra.columns"),
    ("extra/values/num_sites/value", "two", "extra.values.num_sites.value: wrong type"),
]


@pytest.mark.parametrize(("path", "value", "message"), BROKEN)
def test_what_is_wrong_is_named(path, value, message):
    with pytest.raises(FingerprintError) as caught:
        Fingerprint.from_document(broken(path, value), where="f.json")
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"f.json: {message}") or message in line for line in lines), lines
    assert len(lines) == 1, lines


def test_all_problems_come_at_once():
    wrong = document()
    wrong["cases"]["spacing"][0][0] = -1
    wrong["cases"]["shape"][2] = None
    wrong["cases"]["group"] = [None]
    wrong["typo"] = 1
    del wrong["crop"]
    with pytest.raises(FingerprintError) as caught:
        Fingerprint.from_document(wrong)
    assert len(caught.value.problems) == 5


def test_a_column_that_is_wrong_everywhere_is_summed_up():
    wrong = document(100)
    wrong["cases"]["spacing"] = [[0, 0, 0]] * 100
    with pytest.raises(FingerprintError, match="80 more cases have a wrong value") as caught:
        Fingerprint.from_document(wrong)
    assert len(caught.value.problems) == 21


@pytest.mark.parametrize(
    "value", [None, [], 3, "x", {}, {"cases": []}, {"cases": {"id": {"a": 1}}, "extra": 3}]
)
def test_no_form_of_json_breaks_the_check(value):
    with pytest.raises(FingerprintError):
        Fingerprint.from_document(value)


def test_files_that_are_no_json(tmp_path):
    with pytest.raises(FingerprintError, match="no such file"):
        Fingerprint.load(tmp_path / "none.json")
    (tmp_path / "f.json").write_text('{"a": NaN}')
    with pytest.raises(FingerprintError, match="NaN is not a JSON number"):
        Fingerprint.load(tmp_path / "f.json")


def test_five_thousand_cases_are_checked_in_150_ms():
    large = document(5000)
    Fingerprint.from_document(large)  # the first one imports jsonschema

    def seconds() -> float:
        start = time.perf_counter()
        Fingerprint.from_document(large)
        return time.perf_counter() - start

    # The best of several: other processes share the machine.
    assert min(seconds() for _ in range(5)) < 0.15


def test_loading_imports_no_image_library():
    code = "import sys, nnrules.fingerprint; print([m for m in ('SimpleITK', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_field_of_the_schema_is_described():
    """The documentation is generated from the descriptions."""
    undescribed = []

    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            for name, field in schema.get("properties", {}).items():
                if "description" not in field and "$ref" not in field and "const" not in field:
                    undescribed.append(f"{path}.{name}")
                walk(field, f"{path}.{name}")
            for key in ("items", "additionalProperties"):
                walk(schema.get(key), f"{path}.{key}")
            for option in schema.get("oneOf", []):
                walk(option, path)

    walk(load_schema("fingerprint"), "")
    assert undescribed == []


def test_the_example_satisfies_the_full_schema():
    import jsonschema

    jsonschema.validate(json.loads(json.dumps(document())), load_schema("fingerprint"))
