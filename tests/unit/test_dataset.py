from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.dataset import Dataset, dataset_facts, is_dataset_json, load_dataset, unlabelled_cases
from nnrules.errors import DatasetError
from nnrules.schema import load_schema

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

V2: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
V1: dict[str, Any] = {
    "name": "Liver",
    "modality": {"0": "FLAIR", "1": "T1w"},
    "labels": {"0": "background", "1": "liver"},
    "numTraining": 2,
    "licence": "CC0",
    "reference": "somewhere",
    "training": [
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
        {"image": "./imagesTr/._a.nii.gz", "label": "./labelsTr/._a.nii.gz"},
        {"image": ".\\imagesTr\\a.nii.gz", "label": ".\\labelsTr\\a.nii.gz"},
    ],
}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(folder: Path, document: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dataset.json"
    path.write_text(json.dumps(document))
    return path


def v2_files(folder: Path, *cases: str, channels: int = 1, ending: str = ".nii.gz") -> None:
    for case in cases:
        touch(folder, *(f"imagesTr/{case}_{number:04d}{ending}" for number in range(channels)))
        touch(folder, f"labelsTr/{case}{ending}")


def problems_of(document: dict[str, Any]) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        dataset_facts(document, "dataset.json")
    return [str(problem) for problem in caught.value.problems]


# ---------------------------------------------------------------- facts


def test_v2_facts() -> None:
    facts = dataset_facts({**V2, "labels": {**V2["labels"], "ignore": 3}, "license": "MIT"}, "x")
    assert facts.format == "nnunetv2"
    assert facts.name == ""
    assert facts.channel_names == ("CT",)
    assert list(facts.labels.items()) == [("background", 0), ("liver", 1), ("tumour", 2), ("ignore", 3)]
    assert facts.ignore_label == 3
    assert facts.label_values == (0, 1, 2, 3)
    assert facts.foreground_labels == (1, 2)
    assert facts.foreground_regions == ((1,), (2,))
    assert not facts.has_regions
    assert facts.num_channels == 1
    assert facts.num_training == 2
    assert facts.orientation_policy == "as_stored"
    assert facts.licence == "MIT"
    assert facts.reference is None


def test_labels_keep_the_order_of_the_file() -> None:
    facts = dataset_facts({**V2, "labels": {"tumour": 2, "background": 0, "liver": 1}}, "x")
    assert list(facts.labels) == ["tumour", "background", "liver"]


def test_channels_are_ordered_by_number() -> None:
    names = {str(number): f"c{number}" for number in reversed(range(12))}
    assert dataset_facts({**V2, "channel_names": names}, "x").channel_names == tuple(
        f"c{number}" for number in range(12)
    )


def test_regions() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    facts = dataset_facts({**V2, "labels": labels, "regions_class_order": [1, 2, 3]}, "x")
    assert facts.has_regions
    assert facts.labels["whole"] == (1, 2, 3)
    assert facts.regions_class_order == (1, 2, 3)
    assert facts.foreground_labels == (1, 2, 3)
    assert facts.foreground_regions == ((1, 2, 3), (2, 3), (3,))
    assert facts.ignore_label == 4


def test_lists_of_one_value_are_no_regions() -> None:
    facts = dataset_facts({**V2, "labels": {"background": 0, "liver": [1]}, "regions_class_order": [1]}, "x")
    assert not facts.has_regions
    assert facts.regions_class_order is None


def test_v1_facts() -> None:
    facts = dataset_facts(V1, "x")
    assert facts.format == "nnunetv1"
    assert facts.name == "Liver"
    assert facts.channel_names == ("FLAIR", "T1w")
    assert facts.labels == {"background": 0, "liver": 1}
    assert facts.file_ending == ".nii.gz"
    assert (facts.licence, facts.reference) == ("CC0", "somewhere")


def test_v2_labels_decide_over_the_key_modality() -> None:
    document = {**V2, "modality": V2["channel_names"], "training": ["left over from v1"]}
    del document["channel_names"]
    assert dataset_facts(document, "x").format == "nnunetv2"


def test_v2_labels_may_be_named_by_numbers() -> None:
    facts = dataset_facts({**V2, "labels": {"0": 0, "1": 1}}, "x")
    assert facts.format == "nnunetv2"
    assert facts.labels == {"0": 0, "1": 1}


@pytest.mark.parametrize(
    ("document", "expected"),
    [(V1, True), (V2, True), ({"labels": {}}, False), ([], False), ({"labels": [], "modality": {}}, False)],
)
def test_is_dataset_json(document: object, expected: bool) -> None:
    assert is_dataset_json(document) is expected


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"channel_names": {"0": "CT", "2": "PET"}}, "channel_names", "gap; got 0, 2; expected 0, 1"),
        ({"channel_names": {"00": "CT"}}, "channel_names", "gap; got 00; expected 0"),
        ({"labels": {"background": 1, "liver": 0}}, "labels.background", "not 0; got 1; expected 0"),
        ({"labels": {"liver": 1, "tumour": 2}}, "labels", "no label has the value 0"),
        ({"labels": {"background": 0, "liver": 2}}, "labels", "gap; got [0, 2]; expected 0 to 1"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels.b", "same value; got [1] for 'a' and 'b'"),
        ({"labels": {"background": 0, "a": "1"}}, "labels.a", "without a value; got '1'"),
        ({"labels": {"background": "0", "a": "1"}}, "labels.a", "without a value; got '1'"),
        ({"labels": {"background": 0, "ignore": 1}}, "labels", "no foreground label"),
        ({"labels": {"background": 0, "ignore": 1, "a": 2}}, "labels.ignore", "not the highest value; got 1"),
        (
            {"labels": {"background": 0, "a": 1, "ignore": [2, 3]}, "regions_class_order": [1]},
            "labels.ignore",
            "the ignore label is a region; got [2, 3]",
        ),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}},
            "regions_class_order",
            "got none; expected 2 label",
        ),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]},
            "regions_class_order",
            "does not fit the number of regions; got [1]",
        ),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1, 7]},
            "regions_class_order",
            "values that are no label; got [7]",
        ),
        ({"labels": {"background": 0}}, "labels", "too few entries"),
        ({"labels": {"background": 0, "a": -1}}, "labels.a", "-1"),
        ({"labels": {"background": 0, "a": 1.5}}, "labels.a", "1.5"),
        ({"file_ending": "nii.gz"}, "file_ending", "wrong form"),
        ({"numTraining": "2"}, "numTraining", "wrong type"),
        ({"nnrules": {"group": {}}}, "nnrules", "an unknown field"),
        ({"nnrules": {"orientation": "RAS"}}, "nnrules.orientation", "unknown value"),
        ({"dataset": {"a": {"images": []}}}, "dataset.a", "missing"),
    ],
)
def test_wrong_facts(change: dict[str, Any], where: str, what: str) -> None:
    messages = problems_of({**V2, **change})
    assert any(message.startswith(f"dataset.json: {where}: ") and what in message for message in messages), (
        messages
    )


def test_v1_names_stand_once() -> None:
    [message] = problems_of({**V1, "labels": {"0": "background", "1": "cyst", "2": "cyst"}})
    assert "labels.2: two label values have the same name; got 'cyst' for 1 and 2" in message


@pytest.mark.parametrize("key", ["file_ending", "numTraining", "labels", "channel_names"])
def test_missing_fields(key: str) -> None:
    messages = problems_of({name: value for name, value in V2.items() if name != key})
    assert any(key in message for message in messages)


def test_all_problems_at_once() -> None:
    messages = problems_of({"channel_names": {"1": "CT"}, "labels": {"background": 0, "a": "1"}})
    assert len(messages) == 4


def test_the_schema_is_valid_and_knows_both_formats() -> None:
    from jsonschema import Draft202012Validator

    schema = load_schema("dataset")
    Draft202012Validator.check_schema(schema)
    for document in (V1, V2):
        assert Draft202012Validator(schema).is_valid(document)


# ---------------------------------------------------------------- files


def test_v2_folder(tmp_path: Path) -> None:
    path = write(tmp_path, {**V2, "channel_names": {"0": "CT", "1": "PET"}})
    v2_files(tmp_path, "b_1", "a_0001", channels=2)
    touch(tmp_path, "imagesTr/._b_1_0000.nii.gz", "labelsTr/._b_1.nii.gz", "imagesTr/notes.txt")
    for given in (tmp_path, path):
        dataset = load_dataset(given)
        assert dataset.path == path
        assert dataset.name == tmp_path.name
        assert [case.id for case in dataset.cases] == ["a_0001", "b_1"]
        first = dataset.cases[0]
        assert [file.name for file in first.image_paths] == ["a_0001_0000.nii.gz", "a_0001_0001.nii.gz"]
        assert first.label_path == tmp_path / "labelsTr/a_0001.nii.gz"
        assert (first.group, first.subject) == (None, None)


def test_number_of_cases_is_counted_where_it_is_not_declared(tmp_path: Path) -> None:
    write(tmp_path, {name: value for name, value in V2.items() if name != "numTraining"})
    v2_files(tmp_path, "a", "b", "c")
    assert load_dataset(tmp_path).num_training == 3
    write(tmp_path, {**V2, "numTraining": 7})
    assert load_dataset(tmp_path).num_training == 7


def test_missing_channels_are_named_all_at_once(tmp_path: Path) -> None:
    write(tmp_path, {**V2, "channel_names": {"0": "CT", "1": "PET"}})
    v2_files(tmp_path, "a", "b", channels=2)
    (tmp_path / "imagesTr/a_0001.nii.gz").unlink()
    (tmp_path / "imagesTr/b_0000.nii.gz").unlink()
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path)
    assert [(problem.where, Path(problem.expected or "").name) for problem in caught.value.problems] == [
        ("a", "a_0001.nii.gz"),
        ("b", "b_0000.nii.gz"),
    ]
    relaxed = load_dataset(tmp_path, require_files=False)
    assert [len(case.image_paths) for case in relaxed.cases] == [2, 2]


def test_one_png_with_three_channels(tmp_path: Path) -> None:
    names = {"0": "R", "1": "G", "2": "B"}
    write(tmp_path, {**V2, "channel_names": names, "file_ending": ".png"})
    v2_files(tmp_path, "a", ending=".png")
    image = sitk.GetImageFromArray(np.zeros((3, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "imagesTr/a_0000.png"))
    assert [file.name for file in load_dataset(tmp_path).cases[0].image_paths] == ["a_0000.png"]
    write(tmp_path, {**V2, "channel_names": {**names, "3": "IR"}, "file_ending": ".png"})
    with pytest.raises(DatasetError, match=r"a_0001\.png[\s\S]*a_0003\.png"):
        load_dataset(tmp_path)


def test_only_cases_with_image_and_label_count(tmp_path: Path) -> None:
    write(tmp_path, V2)
    v2_files(tmp_path, "a")
    touch(tmp_path, "imagesTr/b_0000.nii.gz", "labelsTr/c.nii.gz")
    assert [case.id for case in load_dataset(tmp_path).cases] == ["a"]


def test_images_without_a_label_map_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, V2)
    v2_files(tmp_path, "a", "b")
    assert unlabelled_cases(load_dataset(tmp_path)) == ()
    more = ("imagesTr/d_0000.nii.gz", "imagesTr/c_0000.nii.gz", "labelsTr/e.nii.gz", "imagesTr/notes.txt")
    touch(tmp_path, *more)
    assert unlabelled_cases(load_dataset(tmp_path)) == ("c", "d")
    # A list of cases leaves out what it does not name.
    paths = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    write(tmp_path, {**V2, "dataset": {"a": paths}})
    assert unlabelled_cases(load_dataset(tmp_path)) == ()


def test_no_case_at_all(tmp_path: Path) -> None:
    write(tmp_path, {**V2, "nnrules": {"groups": {"a": "g"}}})
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path)
    [problem] = caught.value.problems
    assert "no training case found" in problem.what
    assert "imagesTr/<case>_0000.nii.gz" in (problem.expected or "")


def test_mapping_of_paths(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere, "x.nii.gz", "y.nii.gz", "seg/x.nii.gz")
    mapping = {
        "one": {"images": [str(elsewhere / "x.nii.gz")], "label": "../elsewhere/seg/x.nii.gz"},
        "b": {"images": ["..\\elsewhere\\y.nii.gz"], "label": "..\\elsewhere\\seg\\x.nii.gz"},
    }
    document = {**V2, "dataset": mapping}
    del document["file_ending"]
    write(tmp_path / "d", document)
    dataset = load_dataset(tmp_path / "d")
    assert dataset.file_ending == ".nii.gz"
    assert [case.id for case in dataset.cases] == ["b", "one"]
    assert dataset.cases[1].image_paths == (elsewhere / "x.nii.gz",)
    assert dataset.cases[0].image_paths[0].samefile(elsewhere / "y.nii.gz")
    assert dataset.cases[0].label_path.samefile(elsewhere / "seg/x.nii.gz")


def test_mapping_with_the_wrong_number_of_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    mapping = {"a": {"images": ["a.nii.gz", "a.nii.gz"], "label": "a.nii.gz"}}
    write(tmp_path, {**V2, "channel_names": {"0": "a", "1": "b", "2": "c"}, "dataset": mapping})
    with pytest.raises(DatasetError, match=r"dataset\.a\.images.*got 2 files; expected 3 files"):
        load_dataset(tmp_path)


def test_decathlon(tmp_path: Path) -> None:
    write(tmp_path, V1)
    touch(tmp_path, *(f"{folder}/{case}.nii.gz" for folder in ("imagesTr", "labelsTr") for case in "ab"))
    dataset = load_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].image_paths == (tmp_path / "imagesTr/a.nii.gz",)
    assert dataset.name == "Liver"


def test_v1_list_stands_for_numbered_files(tmp_path: Path) -> None:
    write(tmp_path, V1)
    v2_files(tmp_path, "a", "b", channels=2)
    dataset = load_dataset(tmp_path)
    assert [file.name for file in dataset.cases[0].image_paths] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_v1_without_list_reads_the_folders(tmp_path: Path) -> None:
    write(tmp_path, {name: value for name, value in V1.items() if name != "training"})
    v2_files(tmp_path, "a", "b", channels=2)
    assert [case.id for case in load_dataset(tmp_path).cases] == ["a", "b"]


def test_v1_list_with_mistakes(tmp_path: Path) -> None:
    training = [*V1["training"], V1["training"][0], "c.nii.gz", {"image": "x"}]
    write(tmp_path, {**V1, "training": training})
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path, require_files=False)
    messages = [str(problem) for problem in caught.value.problems]
    assert any("training[4]: not a training case; got c.nii.gz" in message for message in messages)
    assert any("training[5]: not a training case" in message for message in messages)
    assert any("got 'b', 2 times" in message for message in messages)


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        load_dataset(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"holds no dataset\.json\. Check the path"):
        load_dataset(tmp_path)
    write(tmp_path / "Dataset004", V2)
    with pytest.raises(DatasetError, match=r"Choose a dataset in it: Dataset004\."):
        load_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset\.json:1:2: not valid JSON"):
        load_dataset(tmp_path)


# ---------------------------------------------------------------- the block nnrules


def grouped(tmp_path: Path, block: dict[str, Any]) -> Dataset:
    write(tmp_path, {**V2, "nnrules": block})
    v2_files(tmp_path, "p1_t1", "p1_t2", "p2_t1")
    return load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("stated", "names"),
    [
        ({"p1_t1": "x", "p1_t2": "x"}, ["x", "x", None]),
        ([["p1_t2", "p1_t1"], ["p2_t1"]], ["p1_t2", "p1_t2", "p2_t1"]),
        ({"pattern": "^(p[0-9])_"}, ["p1", "p1", "p2"]),
        ({"pattern": "(p)(?P<group>[0-9])"}, ["1", "1", "2"]),
    ],
)
def test_forms_of_groups(tmp_path: Path, stated: Any, names: list[str | None]) -> None:
    dataset = grouped(tmp_path, {"groups": stated, "subjects": stated, "orientation": "canonical"})
    assert [case.group for case in dataset.cases] == names
    assert [case.subject for case in dataset.cases] == names
    assert dataset.orientation_policy == "canonical"


@pytest.mark.parametrize(
    ("stated", "messages"),
    [
        (
            {"p9": "x", "p8": "x"},
            ["nnrules.groups.p9: unknown case; got 'p9'", "nnrules.groups.p8: unknown case"],
        ),
        (
            [["p1_t1", "p9"], ["p1_t1"]],
            ["groups[0][1]: unknown case", "groups[1][0]: the case stands in two lists"],
        ),
        ({"pattern": "("}, ["groups.pattern: not a regular expression: missing )"]),
        ({"pattern": "p1"}, ["the pattern has 0 groups"]),
        ({"pattern": "(p)([0-9])"}, ["the pattern has 2 groups"]),
        ({"pattern": "(p1)"}, ["finds no name in 1 of 3 cases; got p2_t1"]),
        ({"pattern": "p1(x?)"}, ["finds no name in 3 of 3 cases"]),
    ],
)
def test_wrong_groups(tmp_path: Path, stated: Any, messages: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        grouped(tmp_path, {"groups": stated})
    assert len(caught.value.problems) == len(messages)
    for problem, message in zip(caught.value.problems, messages, strict=True):
        assert message in str(problem)


@pytest.mark.parametrize(
    "stated", [{}, [], {"pattern": ""}, {"p1_t1": ""}, {"p1_t1": 3}, [["p1_t1"], []], "p"]
)
def test_groups_of_another_form(tmp_path: Path, stated: Any) -> None:
    with pytest.raises(DatasetError, match=r"nnrules\.groups"):
        grouped(tmp_path, {"groups": stated})


# ---------------------------------------------------------------- real data


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "num_cases"),
    [("hippocampus", 260), ("acdc", 26), ("head_neck_ct", 30), ("nuclei_2d", 109), ("em_3d", 4)],
)
def test_real_datasets_load(name: str, num_cases: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no shared data at {SHARED / name}")
    dataset = load_dataset(SHARED / name)
    assert len(dataset.cases) == dataset.num_training == num_cases


@pytest.mark.shared
def test_real_dataset_json_files_are_understood() -> None:
    golden = SHARED.parent / "golden"
    paths = sorted(golden.rglob("dataset.json"))
    if not paths:
        pytest.skip(f"no shared data at {golden}")
    for path in paths:
        document = json.loads(path.read_text())
        assert is_dataset_json(document)
        assert dataset_facts(document, str(path)).num_training == document["numTraining"]
