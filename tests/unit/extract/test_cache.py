import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from nnrules.dataset import load_dataset
from nnrules.extract.cache import MeasurementCache
from nnrules.extract.case import measure_case


@pytest.fixture
def dataset(make_dataset, two_cases):
    return load_dataset(make_dataset(two_cases))


def cache_of(dataset, folder, method="exact"):
    return MeasurementCache(folder, facts=dataset, method=method, extractors=())


def test_what_was_written_is_read(dataset, tmp_path):
    cache = cache_of(dataset, tmp_path / "deep" / "cache")
    for case in dataset.cases:
        measured = replace(
            measure_case(case, dataset, method="exact"), extra={"a_b": 1.5, "a_c": True, "a_d": "ä"}
        )
        cache.write(case, "key", measured)
        found = cache.read(case, "key")
        assert cache.read(case, "other key") is None
        for name in ("shape", "shape_before_crop", "spacing", "orientation", "channels_present", "extra"):
            assert getattr(found, name) == getattr(measured, name)
        assert found.class_voxels == measured.class_voxels
        for one, other in zip(found.intensities, measured.intensities, strict=True):
            assert one.values.dtype == other.values.dtype
            assert np.array_equal(one.values, other.values)
            assert (one.counts is None) == (other.counts is None)
            assert one.counts is None or np.array_equal(one.counts, other.counts)


def test_case_ids_that_are_no_file_names(dataset, tmp_path):
    cache = cache_of(dataset, tmp_path / "cache")
    names = ["../evil", "a/b", ".hidden", "x" * 300, "ä ö", ""]
    cases = [replace(dataset.cases[0], id=name) for name in names]
    measured = measure_case(dataset.cases[0], dataset, method="exact")
    for case in cases:
        cache.write(case, case.id, measured)
    assert all(cache.read(case, case.id) is not None for case in cases)
    assert len(list((tmp_path / "cache").iterdir())) == len(names)
    assert list(tmp_path.glob("*.npz")) == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"no archive", None])
def test_damaged_entries_count_as_absent(dataset, tmp_path, damage, caplog):
    cache, case = cache_of(dataset, tmp_path), dataset.cases[0]
    cache.write(case, "key", measure_case(case, dataset, method="exact"))
    path = tmp_path / f"{case.id}.npz"
    if damage is None:  # a right archive with other content
        np.savez(path, measurement=np.frombuffer(json.dumps({"key": "key"}).encode(), np.uint8))
    else:
        path.write_bytes(damage)
    assert cache.read(case, "key") is None
    assert "is damaged" in caplog.text


def test_the_key_changes_with_everything_that_is_measured(dataset, tmp_path):
    case = dataset.cases[0]
    keys = [cache_of(dataset, tmp_path).key(case), cache_of(dataset, tmp_path, "nnunetv2_sampled").key(case)]
    changes = (
        {"labels": {**dataset.labels, "new": 9}},
        {"channel_names": (*dataset.channel_names, "new")},
        {"orientation_policy": "canonical"},
    )
    keys += [cache_of(replace(dataset, **change), tmp_path).key(case) for change in changes]
    case.label_path.write_bytes(case.label_path.read_bytes() + b"\0")
    keys.append(cache_of(dataset, tmp_path).key(case))
    assert len(set(keys)) == len(keys)
    assert cache_of(dataset, tmp_path).key(case) == keys[-1]


def test_the_spacing_beside_a_tiff_is_part_of_the_key(dataset, tmp_path):
    path = tmp_path / "x_0000.tif"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(path))
    case, cache = replace(dataset.cases[0], image_paths=(path,)), cache_of(dataset, tmp_path / "cache")
    keys = [cache.key(case)]
    for name in ("x.json", "x_0000.json"):
        (tmp_path / name).write_text('{"spacing": [1, 1, 1]}')
        keys.append(cache.key(case))
    (tmp_path / "x.json").write_text('{"spacing": [1, 1, 22]}')
    keys.append(cache.key(case))
    assert len(set(keys)) == 4
