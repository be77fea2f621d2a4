import json
from pathlib import Path
from typing import Any

import pytest
from nnrules.errors import DatasetError, FingerprintError
from nnrules.interop.nnunetv2_read import (
    fingerprint_from_nnunet,
    is_nnunet_fingerprint,
    read_nnunet_fingerprint,
)


def test_fields_are_taken_over(nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    fingerprint = fingerprint_from_nnunet(nnunet_fingerprint, dataset_json)
    assert fingerprint.spacing.tolist() == nnunet_fingerprint["spacings"]
    assert fingerprint.shape.tolist() == nnunet_fingerprint["shapes_after_crop"]
    assert fingerprint.median_size_ratio == 0.7
    assert fingerprint.case_ids[0] == "case_00"
    assert len(set(fingerprint.case_ids)) == 12
    assert fingerprint.dataset.channel_names == ("CT", "PET")
    assert fingerprint.intensity_method == "nnunetv2_sampled"
    assert fingerprint.intensity is not None
    assert fingerprint.intensity[1] == nnunet_fingerprint["foreground_intensity_properties_per_channel"]["1"]
    assert fingerprint.group is None
    assert fingerprint.class_voxels is None


def test_num_training_is_that_of_dataset_json_not_the_number_of_cases(
    nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any]
) -> None:
    assert (
        fingerprint_from_nnunet(nnunet_fingerprint, dataset_json | {"numTraining": 99}).dataset.num_training
        == 99
    )
    del dataset_json["numTraining"]
    assert fingerprint_from_nnunet(nnunet_fingerprint, dataset_json).dataset.num_training == 12


@pytest.mark.parametrize("properties", [None, {}])
def test_intensities_may_be_absent(
    nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any], properties: Any
) -> None:
    nnunet_fingerprint["foreground_intensity_properties_per_channel"] = properties
    assert fingerprint_from_nnunet(nnunet_fingerprint, dataset_json).intensity is None


def test_a_channel_without_foreground_has_no_statistics(
    nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path
) -> None:
    """nnU-Net v2 writes NaN there, which JSON does not know."""
    channels = nnunet_fingerprint["foreground_intensity_properties_per_channel"]
    channels["1"] = dict.fromkeys(channels["1"], float("nan"))
    first, second = tmp_path / "dataset_fingerprint.json", tmp_path / "dataset.json"
    first.write_text(json.dumps(nnunet_fingerprint))
    second.write_text(json.dumps(dataset_json))
    assert "NaN" in first.read_text()
    fingerprint = read_nnunet_fingerprint(first, second)
    assert fingerprint.intensity is not None
    assert fingerprint.intensity[0] is not None
    assert fingerprint.intensity[1] is None


def test_what_is_missing_is_named(dataset_json: dict[str, Any]) -> None:
    with pytest.raises(FingerprintError, match="no spacings, median_relative_size_after_cropping"):
        fingerprint_from_nnunet({"shapes_after_crop": []}, dataset_json)
    with pytest.raises(FingerprintError, match="not a dataset fingerprint of nnU-Net v2"):
        fingerprint_from_nnunet([1, 2], dataset_json)


@pytest.mark.parametrize("spacings", [[[1, 1, 1]], "none", None])
def test_lists_of_different_lengths_are_refused(
    nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any], spacings: Any
) -> None:
    nnunet_fingerprint["spacings"] = spacings
    with pytest.raises(FingerprintError, match="lists of one length"):
        fingerprint_from_nnunet(nnunet_fingerprint, dataset_json)


def test_properties_of_another_form_are_refused(
    nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any]
) -> None:
    nnunet_fingerprint["foreground_intensity_properties_per_channel"] = [1]
    with pytest.raises(FingerprintError, match="not an object by channel"):
        fingerprint_from_nnunet(nnunet_fingerprint, dataset_json)


def test_a_bad_value_names_its_file_and_case(
    nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any]
) -> None:
    nnunet_fingerprint["spacings"][3] = [1.0, -1.0, 1.0]
    with pytest.raises(FingerprintError, match=r"here\.json.*case_03"):
        fingerprint_from_nnunet(nnunet_fingerprint, dataset_json, where="here.json")


def test_a_bad_dataset_json_names_its_file(nnunet_fingerprint: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=r"there\.json"):
        fingerprint_from_nnunet(nnunet_fingerprint, {"labels": {}}, dataset_where="there.json")


def test_recognition() -> None:
    assert is_nnunet_fingerprint({"spacings": [], "shapes_after_crop": []})
    assert not is_nnunet_fingerprint({"cases": {}})
    assert not is_nnunet_fingerprint([])
