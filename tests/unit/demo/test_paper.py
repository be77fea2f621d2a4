"""The example fingerprints say what the paper's tables say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nnrules.demo.paper import (
    dataset_ids,
    fingerprint_name,
    published_fingerprint,
    published_parity,
    published_plans,
    refined_ids,
    shipped_fingerprint,
    write_shipped_fingerprints,
)
from nnrules.errors import FingerprintError, UsageError
from nnrules.fingerprint import Fingerprint


def test_nineteen_datasets_and_four_refined_ones() -> None:
    assert dataset_ids() == tuple(f"D{number}" for number in range(1, 20))
    assert refined_ids() == ("D6", "D9", "D11", "D18")


def test_shipped_files_are_what_the_function_gives(tmp_path) -> None:
    written = write_shipped_fingerprints(tmp_path)

    shipped = sorted(shipped_fingerprint("D1").parent.iterdir())
    assert [path.name for path in shipped] == sorted(path.name for path in written)
    assert [path.read_bytes() for path in shipped] == [
        (tmp_path / path.name).read_bytes() for path in shipped
    ]


@pytest.mark.parametrize("dataset", [f"D{number}" for number in range(1, 20)])
def test_shipped_fingerprint_holds_the_published_facts(dataset) -> None:
    published = next(entry for entry in published_plans()["datasets"] if entry["id"] == dataset)
    facts, inputs = published["table_A1"], published["configurations"]["3d_fullres"]

    fingerprint = Fingerprint.load(shipped_fingerprint(dataset))

    assert fingerprint.num_cases == fingerprint.dataset.num_training == facts["n_training_cases"]
    assert fingerprint.dataset.channel_names == tuple(facts["modalities"])
    assert len(fingerprint.dataset.foreground_labels) == facts["n_classes"]
    assert fingerprint.rarest_share == facts["rarest_class_ratio"]
    assert np.array_equal(fingerprint.spacing, [inputs["target_spacing"]] * fingerprint.num_cases)
    assert np.array_equal(fingerprint.shape, [inputs["median_shape"]] * fingerprint.num_cases)


def test_ct_holds_the_printed_statistics_and_no_others() -> None:
    fingerprint = published_fingerprint("D3")

    assert fingerprint.intensity_method == "published"
    assert fingerprint.intensity == (
        {"mean": 99.4, "std": 39.36, "percentile_00_5": -17.0, "percentile_99_5": 201.0},
    )
    assert published_fingerprint("D1").intensity is None


def test_only_published_statistics_may_be_incomplete() -> None:
    document = json.loads(shipped_fingerprint("D3").read_text(encoding="utf-8"))
    document["intensity"]["method"] = "exact"

    with pytest.raises(FingerprintError) as caught:
        Fingerprint.from_document(document)

    assert {problem.expected for problem in caught.value.problems} == {
        "the field 'min'",
        "the field 'median'",
        "the field 'max'",
    }


def test_refined_inputs_round_to_the_printed_ones() -> None:
    for dataset in refined_ids():
        printed, refined = (published_fingerprint(dataset, refined=flag) for flag in (False, True))
        changed = published_parity()["goal"]["refined_inputs"][dataset]
        if changed["target_spacing"] is not None:
            assert refined.spacing[0].tolist() == changed["target_spacing"]
        if changed["median_shape"] is not None:
            assert refined.shape[0].tolist() == changed["median_shape"]
        assert not (
            np.array_equal(printed.spacing, refined.spacing) and np.array_equal(printed.shape, refined.shape)
        )
        if dataset != "D18":  # erratum E08: the printed value is wrong, not rounded
            assert np.array_equal(refined.spacing.round(2), printed.spacing)
            assert np.array_equal(refined.shape.round(), printed.shape)
        assert refined.dataset.name != printed.dataset.name


def test_refining_leaves_the_others_alone_but_for_their_name() -> None:
    printed, refined = (published_fingerprint("D1", refined=flag) for flag in (False, True))

    assert np.array_equal(printed.spacing, refined.spacing)
    assert np.array_equal(printed.shape, refined.shape)


def test_file_names() -> None:
    assert fingerprint_name("D1") == "D01_brain_tumour"
    assert fingerprint_name("D8") == "D08_hepatic_vessel"
    assert fingerprint_name("D18", refined=True) == "D18_segthor_refined"


@pytest.mark.parametrize("call", [published_fingerprint, fingerprint_name, shipped_fingerprint])
def test_unknown_dataset(call) -> None:
    with pytest.raises(UsageError, match=r"D20: the paper has no such dataset; expected D1, D2, .*D19"):
        call("D20")


def test_refined_file_only_where_there_is_one() -> None:
    with pytest.raises(
        UsageError, match=r"D1: this dataset has no refined variant; expected D6, D9, D11, D18"
    ):
        shipped_fingerprint("D1", refined=True)
