"""Fingerprints of the real sets: nnU-Net v2's numbers to the bit, the paper's rarest class, the time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nnrules.dataset import load_dataset
from nnrules.extract import extract_fingerprint
from nnrules.fingerprint import Fingerprint

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared"
RECORDED = SHARED / "golden" / "runtime" / "a_preprocessing"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"the shared data are not at {SHARED}"),
]


def folder_of(name: str) -> Path:
    return RECORDED / name / "raw" if name == "synthetic_masked" else SHARED / "data" / name


def extract(name: str, **options) -> Fingerprint:
    return extract_fingerprint(load_dataset(folder_of(name)), extractors=(), **options)


def recorded(name: str) -> dict:
    return json.loads((RECORDED / name / "dataset_fingerprint.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        # acdc is left out: it was recorded with 40 cases, 26 of which are here.
        "em_3d",
        pytest.param("synthetic_masked", marks=pytest.mark.slow),  # two channels, a crop
        pytest.param("hippocampus", marks=pytest.mark.slow),
        pytest.param("head_neck_ct", marks=pytest.mark.slow),
        pytest.param("nuclei_2d", marks=pytest.mark.slow),
    ],
)
def test_nnunetv2_fingerprint_to_the_bit(name):
    found, expected = extract(name, intensity="nnunetv2_sampled"), recorded(name)
    assert found.document["cases"]["shape"] == expected["shapes_after_crop"]
    assert found.document["cases"]["spacing"] == expected["spacings"]
    assert found.median_size_ratio == expected["median_relative_size_after_cropping"]
    channels = expected["foreground_intensity_properties_per_channel"]
    assert list(found.intensity) == [channels[str(number)] for number in range(len(channels))]


@pytest.mark.parametrize("name", ["hippocampus", "head_neck_ct", "nuclei_2d", "em_3d", "synthetic_masked"])
def test_exact_statistics_lie_near_the_sampled_ones(name):
    """The sample gives each case the same weight, so that sets of unequal cases differ; the range may not."""
    found = extract(name)
    for number, statistics in enumerate(found.intensity):
        sampled = recorded(name)["foreground_intensity_properties_per_channel"][str(number)]
        assert statistics["min"] <= sampled["min"]
        assert statistics["max"] >= sampled["max"]
        # nuclei_2d, whose images differ most in size and brightness, is 0.27 standard deviations away.
        assert abs(statistics["mean"] - sampled["mean"]) < 0.3 * sampled["std"]
        assert statistics["percentile_00_5"] <= statistics["median"] <= statistics["percentile_99_5"]


def test_acdc_as_far_as_it_is_here():
    found, expected = extract("acdc"), recorded("acdc")
    assert found.num_cases == 26
    spacings = {tuple(spacing) for spacing in expected["spacings"]}
    assert {tuple(spacing) for spacing in found.document["cases"]["spacing"]} <= spacings


def test_hippocampus_equals_numpy_on_all_voxels():
    found = extract("hippocampus")
    assert found.num_cases == 260
    assert np.median(found.shape, axis=0).tolist() == [36, 50, 35]  # paper, Table A.1
    pooled, totals, num_background = [], np.zeros(3, int), 0
    folder = folder_of("hippocampus")
    for case in found.case_ids:
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(folder / "imagesTr" / f"{case}_0000.nii.gz"))
        label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(folder / "labelsTr" / f"{case}.nii.gz"))
        where = np.nonzero(image)
        box = tuple(slice(axis.min(), axis.max() + 1) for axis in where)
        image, label = image[box], label[box]
        pooled.append(image[label > 0].astype(np.float64))
        totals += np.bincount(label.ravel().astype(int), minlength=3)
        num_background += int((label == 0).sum())
    values = np.concatenate(pooled)
    (statistics,) = found.intensity
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    assert (statistics["percentile_00_5"], statistics["median"], statistics["percentile_99_5"]) == (
        low,
        median,
        high,
    )
    assert statistics["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert statistics["std"] == pytest.approx(values.std(), rel=1e-12)
    assert [int(found.class_voxels[label].sum()) for label in (1, 2)] == totals[1:].tolist()
    assert found.rarest_share == totals[1:].min() / num_background


def test_rarest_class_of_the_paper():
    plans = json.loads((SHARED / "golden" / "paper_plans.json").read_text())
    (table,) = [
        entry["table_A1"]
        for entry in plans["datasets"]
        if entry["table_A1"]["targets"] == "anterior and posterior hippocampus"
    ]
    assert round(extract("hippocampus").rarest_share, 3) == table["rarest_class_ratio"] == 0.027


def test_the_document_is_the_same_for_any_number_of_workers_and_from_the_cache(tmp_path):
    documents = [extract("em_3d", workers=workers, cache=tmp_path).document for workers in (1, 3, 2)]
    assert documents[0] == documents[1] == documents[2] == extract("em_3d").document


READ_ALONE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import SimpleITK
def read(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).shape
files = sorted(Path(sys.argv[1]).glob("*Tr/*.nii.gz"))
with ThreadPoolExecutor(2) as executor:
    assert len(list(executor.map(read, files))) == 520
"""
EXTRACT = """
import sys
from pathlib import Path
from nnrules.dataset import load_dataset
from nnrules.extract import extract_fingerprint
extract_fingerprint(load_dataset(Path(sys.argv[1])), workers=2).save(Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_hippocampus_takes_at_most_half_again_the_time_of_reading(tmp_path):
    """Whole processes, same two threads; the best of several, in turns: the machine is shared."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def seconds(code: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, "-c", code, str(folder_of("hippocampus")), str(tmp_path / "f.json")]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
        return time.perf_counter() - start

    times = [(seconds(EXTRACT), seconds(READ_ALONE)) for _ in range(5)]
    extraction, reading = (min(column) for column in zip(*times, strict=True))
    assert extraction <= 1.5 * reading, f"{extraction:.2f} s, reading alone {reading:.2f} s"
