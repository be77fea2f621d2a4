import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nnrules.dataset import load_dataset
from nnrules.errors import FingerprintError, ImageError
from nnrules.extract import extract_fingerprint, pipeline, sampled
from nnrules.extract.case import measure_case
from nnrules.fingerprint import Fingerprint


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(sampled, "_NUM_DRAWS", 1000)


def extract(folder: Path, **options) -> Fingerprint:
    return extract_fingerprint(load_dataset(folder), extractors=(), **options)


def test_columns_of_two_cases(make_dataset, two_cases):
    folder = make_dataset(two_cases, spacing_xyz=(0.5, 0.75, 3.0), nnrules={"groups": {"a": "site 1"}})
    document = extract(folder).document
    assert document["cases"] == {
        "id": ["a", "b"],
        "shape": [[4, 4, 5], [4, 5, 6]],
        "shape_before_crop": [[6, 7, 8], [4, 5, 6]],
        "spacing": [[3.0, 0.75, 0.5], [3.0, 0.75, 0.5]],
        "size_ratio": [80 / 336, 1.0],
        "orientation": ["LPS", "LPS"],
        "channels_present": [[True], [True]],
        "class_voxels": {"1": [6, 18], "2": [2, 0]},
        "group": ["site 1", None],
        "subject": [None, None],
    }
    assert document["crop"] == {"median_size_ratio": (80 / 336 + 1) / 2}
    # The rarest label has 2 voxels; background is what is left of the crops: 80 + 120 - 6 - 18 - 2.
    assert document["classes"] == {"rarest_share": 2 / 174}
    assert document["extractors"] == {"geometry": 1, "labels": 1, "intensity": 1}
    assert document["dataset"]["label_order"] == ["background", "organ", "lesion"]


def test_exact_intensity_is_numpy_on_all_foreground_voxels(make_dataset, two_cases):
    fingerprint = extract(make_dataset(two_cases))
    pooled = []
    for case in ("a", "b"):
        (image,), label = two_cases[case]
        inside = np.array(label)
        if case == "a":
            inside[0, 0, 0] = 0
        pooled.append(image[inside > 0].astype(np.float64))
    values = np.concatenate(pooled)
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    assert fingerprint.intensity_method == "exact"
    found = fingerprint.intensity[0]
    assert (found["percentile_00_5"], found["median"], found["percentile_99_5"]) == (low, median, high)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    # Sums in another order: a few units in the last place.
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-14)
    assert found["std"] == pytest.approx(values.std(), rel=1e-13)


def test_the_result_does_not_depend_on_workers_or_spilling(make_dataset, two_cases):
    folder = make_dataset(two_cases)
    first = extract(folder, workers=1)
    assert extract(folder, workers=5).document == first.document
    assert extract(folder, workers=2, float_limit_bytes=8).document == first.document


def test_two_channels_crop_together_and_an_empty_one_is_absent(make_dataset):
    label = np.zeros((3, 4, 5), np.uint8)
    label[1, 1:3, 1:3] = 1
    first, second = np.zeros((3, 4, 5), np.int16), np.zeros((3, 4, 5), np.int16)
    first[1, 1, 1] = 7
    second[1, 2, 3] = 9
    empty = np.zeros((3, 4, 5), np.int16)
    folder = make_dataset(
        {"full": ([first, second], label), "half": ([first, empty], label)}, labels={"background": 0, "x": 1}
    )
    fingerprint = extract(folder)
    assert fingerprint.document["cases"]["shape"] == [[1, 2, 3], [1, 1, 1]]
    assert fingerprint.document["cases"]["channels_present"] == [[True, True], [True, False]]
    # 4 voxels of the label lie in the crop of the first case (2 x 2), 1 in that of the second.
    assert fingerprint.document["cases"]["class_voxels"] == {"1": [4, 1]}
    assert fingerprint.intensity[0]["max"] == 7.0
    assert fingerprint.intensity[1]["max"] == 0.0


def test_an_image_of_zeros_keeps_its_extent_and_no_foreground_gives_null(make_dataset):
    nothing = np.zeros((2, 3, 4), np.uint8)
    fingerprint = extract(make_dataset({"void": ([nothing], nothing)}))
    assert fingerprint.document["cases"]["shape"] == [[2, 3, 4]]
    assert fingerprint.intensity == (None,)
    assert fingerprint.rarest_share is None
    assert extract(make_dataset({"void": ([nothing], nothing)}, name="again"), intensity="nnunetv2_sampled")


def test_ignore_label_is_counted_but_is_no_class(make_dataset):
    label = np.zeros((2, 2, 5), np.uint8)
    label[0, 0, :] = [1, 1, 1, 2, 2]
    label[1, 0, 0] = 3
    labels = {"background": 0, "a": 1, "b": 2, "ignore": 3}
    fingerprint = extract(make_dataset({"x": ([np.ones((2, 2, 5), np.uint8)], label)}, labels=labels))
    assert fingerprint.document["cases"]["class_voxels"] == {"1": [3], "2": [2], "3": [1]}
    assert fingerprint.rarest_share == 2 / 14


def test_canonical_policy_turns_shape_and_spacing(make_dataset):
    image, label = np.ones((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    direction = (0, 0, 1, 1, 0, 0, 0, 1, 0)  # index axes x, y, z run to P, S, L
    for policy, shape, spacing in (
        ("as_stored", [2, 3, 4], [3.0, 2.0, 1.0]),
        ("canonical", [3, 4, 2], [2.0, 1.0, 3.0]),
    ):
        folder = make_dataset(
            {"x": ([image], label)},
            spacing_xyz=(1.0, 2.0, 3.0),
            direction=direction,
            name=policy,
            nnrules={"orientation": policy},
        )
        cases = extract(folder).document["cases"]
        assert (cases["shape"], cases["spacing"]) == ([shape], [spacing])
        assert cases["orientation"] == ["PSL"]


def test_regions_count_label_values(make_dataset):
    label = np.array([[[0, 1, 2, 2]]], np.uint8)
    folder = make_dataset(
        {"x": ([np.ones((1, 1, 4), np.uint8)], label)},
        labels={"background": 0, "whole": [1, 2], "core": [2]},
        regions_class_order=[1, 2],
    )
    fingerprint = extract(folder)
    assert fingerprint.document["cases"]["class_voxels"] == {"1": [1], "2": [2]}
    assert dict(fingerprint.dataset.labels) == {"background": 0, "whole": (1, 2), "core": (2,)}
    assert fingerprint.dataset.regions_class_order == (1, 2)


def test_all_failing_cases_are_reported_together(make_dataset, two_cases, tmp_path):
    (image,), label = two_cases["b"]
    bad_intensity = image.copy()
    bad_intensity[0, 0, :2] = [np.nan, -np.inf]
    bad_label = label.copy()
    bad_label[0, 0, :3] = 9
    folder = make_dataset(
        {
            **two_cases,
            "c": ([bad_intensity], label),
            "d": ([image], bad_label),
            "e": ([image[:3]], label),
            "f": ([image], label),
        },
        ending=".mha",  # in a NIfTI file, ITK's reader replaces NaN by 0
    )
    (folder / "imagesTr" / "f_0000.mha").write_bytes(b"no image at all")
    cache = tmp_path / "cache"
    with pytest.raises(ImageError) as caught:
        extract(folder, cache=cache)
    text = str(caught.value)
    assert re.search(r"^c: intensities of channel 0 are not finite; got 2 of 120", text, re.MULTILINE)
    assert re.search(r"^d: label values .*got 9 \(3 voxels\); expected 0, 1, 2", text, re.MULTILINE)
    assert re.search(
        r"^e: image and label differ in shape; got image \(3, 5, 6\), label \(4, 5, 6\)", text, re.M
    )
    assert re.search(r"^f: .*f_0000.mha", text, re.MULTILINE)
    assert sorted(path.stem for path in cache.iterdir()) == ["a", "b"], "what succeeded is kept"


def test_a_dataset_with_too_many_channels_is_refused(make_dataset):
    image = SimpleITK.GetImageFromArray(np.ones((2, 3, 4, 2), np.uint8), isVector=True)
    folder = make_dataset({"x": ([np.ones((2, 3, 4), np.uint8)], np.zeros((2, 3, 4), np.uint8))})
    SimpleITK.WriteImage(image, str(folder / "imagesTr" / "x_0000.nii.gz"))
    with pytest.raises((ImageError), match=r"channels"):
        extract(folder)


def _count_reads(monkeypatch) -> list[str]:
    read: list[str] = []

    def counted(case, *args, **kwargs):
        read.append(case.id)
        return measure_case(case, *args, **kwargs)

    monkeypatch.setattr(pipeline, "measure_case", counted)
    return read


def test_unchanged_cases_are_not_read_again(make_dataset, two_cases, tmp_path, monkeypatch):
    folder, cache = make_dataset(two_cases), tmp_path / "out.cache"
    read = _count_reads(monkeypatch)
    first = extract(folder, cache=cache)
    assert sorted(read) == ["a", "b"]
    read.clear()
    assert extract(folder, cache=cache).document == first.document
    assert read == []
    path = folder / "imagesTr" / "b_0000.nii.gz"
    os.utime(path, ns=(1, 1))
    assert extract(folder, cache=cache).document == first.document
    assert read == ["b"]
    read.clear()
    (cache / "a.npz").write_bytes((cache / "a.npz").read_bytes()[:-30])
    assert extract(folder, cache=cache).document == first.document
    assert read == ["a"], "a damaged entry is made anew"
    read.clear()
    extract(folder, cache=cache, intensity="nnunetv2_sampled")
    assert sorted(read) == ["a", "b"], "another method measures something else"
    read.clear()
    document = json.loads((folder / "dataset.json").read_text())
    document["labels"]["more"] = 3
    (folder / "dataset.json").write_text(json.dumps(document))
    extract(folder, cache=cache)
    assert sorted(read) == ["a", "b"], "other labels are counted"
    assert not list(cache.glob("*.tmp"))


def test_an_interrupted_run_goes_on_where_it_stopped(make_dataset, two_cases, tmp_path, monkeypatch):
    folder, cache = make_dataset(two_cases), tmp_path / "cache"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(folder, cache=cache, workers=1, progress=interrupt)
    read = _count_reads(monkeypatch)
    assert extract(folder, cache=cache).case_ids == ("a", "b")
    assert "a" not in read


def test_progress_counts_every_case(make_dataset, two_cases):
    seen: list[tuple[int, int]] = []
    extract(make_dataset(two_cases), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_a_cache_that_cannot_be_written_costs_a_warning_only(make_dataset, two_cases, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    fingerprint = extract(make_dataset(two_cases), cache=blocked / "cache")
    assert fingerprint.case_ids == ("a", "b")
    assert caplog.text.count("cannot keep measurements") == 1


def test_features_arrive_as_extra_columns(make_dataset, two_cases, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("case,fat [1],is_adult,site\nb,0.5,true,Ulm\na,0.25,false,Bonn\n")
    fingerprint = extract(make_dataset(two_cases), features=table)
    assert fingerprint.extra_columns["fat"].values.tolist() == [0.25, 0.5]
    assert fingerprint.extra_columns["fat"].unit == "1"
    assert fingerprint.extra_columns["is_adult"].values.tolist() == [False, True]
    assert fingerprint.extra_columns["site"].values.tolist() == ["Bonn", "Ulm"]
    assert fingerprint.extractors["features"] == 1


def test_wrong_features_are_reported_before_any_image_is_read(make_dataset, two_cases, tmp_path, monkeypatch):
    table = tmp_path / "table.csv"
    table.write_text("case,fat\na,1\n")
    monkeypatch.setattr(pipeline, "measure_case", lambda *args, **kwargs: pytest.fail("an image was read"))
    with pytest.raises(FingerprintError, match=r"1: b"):
        extract(make_dataset(two_cases), features=table)
