"""Compact fixtures become fingerprints."""

import pytest
from nnrules.authoring.fixtures import fixture_fingerprint
from nnrules.errors import FingerprintError

ROW = {"spacing": [[1, 1, 1]], "shape": [[9, 8, 7]]}


def test_one_row_is_a_data_set_of_one_case() -> None:
    fingerprint = fixture_fingerprint(ROW)
    assert fingerprint.num_cases == 1
    assert fingerprint.dataset.channel_names == ("MRI",)
    assert fingerprint.dataset.num_training == 1
    assert fingerprint.median_size_ratio == 1
    assert fingerprint.group is None
    assert fingerprint.intensity is None


def test_rows_are_repeated_in_turn_up_to_the_number_of_cases() -> None:
    fingerprint = fixture_fingerprint(
        {"spacing": [[1, 1, 1], [2, 1, 1]], "shape": [[9, 8, 7]], "size_ratio": [0.5, 0.7, 0.9], "cases": 5}
    )
    assert fingerprint.spacing[:, 0].tolist() == [1, 2, 1, 2, 1]
    assert fingerprint.shape.tolist() == [[9, 8, 7]] * 5
    assert fingerprint.size_ratio is not None
    assert fingerprint.size_ratio.tolist() == [0.5, 0.7, 0.9, 0.5, 0.7]
    assert fingerprint.median_size_ratio == 0.7
    assert fingerprint.dataset.num_training == 5
    assert len(set(fingerprint.case_ids)) == 5


def test_the_longest_column_gives_the_number_of_cases() -> None:
    assert fixture_fingerprint({"spacing": [[1, 1, 1]], "shape": [[9, 8, 7]] * 3}).num_cases == 3


def test_labels_by_number_or_as_in_dataset_json() -> None:
    assert dict(fixture_fingerprint({**ROW, "labels": 2}).dataset.labels) == {
        "background": 0,
        "label_1": 1,
        "label_2": 2,
    }
    regions = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    facts = fixture_fingerprint({**ROW, "labels": regions, "regions_class_order": [1, 2]}).dataset
    assert facts.has_regions
    assert facts.ignore_label == 3
    assert list(facts.labels) == list(regions)


def test_groups_statistics_and_columns() -> None:
    statistics = {"mean": 1, "std": 2, "percentile_00_5": 0, "percentile_99_5": 3}
    fingerprint = fixture_fingerprint(
        {**ROW, "cases": 4, "groups": 2, "subjects": 3, "channels": ["CT", "PET"], "intensity": statistics,
         "rarest_share": 0.01, "extra": {"age": [50, 60], "site": "A", "fresh": True}, "num_training": 9}
    )  # fmt: skip
    assert fingerprint.group == ("group_0", "group_1", "group_0", "group_1")
    assert len(set(fingerprint.subject or ())) == 3
    assert fingerprint.intensity is not None
    assert len(fingerprint.intensity) == 2
    assert fingerprint.rarest_share == 0.01
    assert {name: column.type for name, column in fingerprint.extra_columns.items()} == {
        "age": "number", "site": "string", "fresh": "boolean",
    }  # fmt: skip
    assert fingerprint.extra_columns["age"].values.tolist() == [50, 60, 50, 60]
    assert fingerprint.dataset.num_training == 9


@pytest.mark.parametrize(
    ("fixture", "says"),
    [
        ({}, "a fixture needs 'spacing'"),
        ({"spacing": [1, 1, 1], "shape": [[1, 1, 1]]}, "spacing: not a list of rows"),
        ({**ROW, "shapes": 1}, "shapes: unknown field"),
        ({**ROW, "cases": 0}, "cases: not a number"),
        ({**ROW, "groups": -1}, "groups: not a number"),
        ({**ROW, "groups": True}, "groups: not a number"),
        ({**ROW, "channels": "MRI"}, "channels: not a list of names"),
        ({**ROW, "labels": "two"}, "dataset.labels"),
        ({**ROW, "size_ratio": [2]}, "size_ratio"),
        ({**ROW, "orientation_policy": "upside_down"}, "orientation_policy"),
    ],
)
def test_what_is_wrong_is_said(fixture: dict[str, object], says: str) -> None:
    with pytest.raises(FingerprintError) as error:
        fixture_fingerprint(fixture, where="here")  # type: ignore[arg-type]
    assert says in str(error.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(FingerprintError) as error:
        fixture_fingerprint({"spacings": 1, "cases": 0, "channels": 3})
    assert len(error.value.problems) == 5
