from __future__ import annotations

import gzip
import json
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.check_case import CaseCheck
from nnrules.check_geometry import TOLERANCES
from nnrules.dataset import Case, load_dataset
from nnrules.dataset_check import CheckReport, Finding, check_dataset

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SHAPE = (3, 4, 5)
DOCUMENT: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
Change = Callable[[sitk.Image], sitk.Image]


def image(dtype: str = "float32", spacing: tuple[float, ...] = (0.5, 0.75, 2.0)) -> sitk.Image:
    made = sitk.GetImageFromArray(np.arange(60).reshape(SHAPE).astype(dtype))
    made.SetSpacing(spacing)
    made.SetOrigin((-100, 20, 300))
    return made


def label_map() -> sitk.Image:
    values = np.zeros(SHAPE, np.uint8)
    values[0, 0, :2] = (1, 2)
    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image())
    return made


def rotated(angle_degrees: float) -> Change:
    c, s = np.cos(np.radians(angle_degrees)), np.sin(np.radians(angle_degrees))

    def change(made: sitk.Image) -> sitk.Image:
        made.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
        return made

    return change


def with_voxel(value: float) -> Change:
    def change(made: sitk.Image) -> sitk.Image:
        made = sitk.Cast(made, sitk.sitkFloat32)
        made[1, 1, 1] = value
        return made

    return change


def as_array(array: np.ndarray) -> Change:
    def change(made: sitk.Image) -> sitk.Image:
        other = sitk.GetImageFromArray(array)
        if array.shape == SHAPE:
            other.CopyInformation(made)
        return other

    return change


def dataset_of(
    folder: Path,
    *,
    change_image: Change | None = None,
    change_label: Change | None = None,
    document: dict[str, Any] | None = None,
    ending: str = ".nii.gz",
) -> Path:
    """Cases ``a`` and ``b``; the changes are made to ``b``."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({**DOCUMENT, "file_ending": ending, **(document or {})}))
    for case in "ab":
        scan, label = image(), label_map()
        if case == "b":
            scan = change_image(scan) if change_image else scan
            label = change_label(label) if change_label else label
        sitk.WriteImage(scan, str(folder / f"imagesTr/{case}_0000{ending}"))
        sitk.WriteImage(label, str(folder / f"labelsTr/{case}{ending}"))
    return folder


def check(folder: Path, **options: Any) -> CheckReport:
    return check_dataset(load_dataset(folder, require_files=False), **options)


def codes(report: CheckReport) -> list[tuple[str, str, str | None]]:
    return [(finding.severity, finding.code, finding.case) for finding in report.findings]


def the_only(report: CheckReport) -> Finding:
    assert len(report.findings) == 1, report.to_text()
    return report.findings[0]


def test_a_clean_dataset(tmp_path: Path) -> None:
    report = check(dataset_of(tmp_path))
    assert report.findings == ()
    assert not report.has_errors
    assert report.num_cases == 2
    assert report.to_text() == f"{tmp_path / 'dataset.json'}: 2 cases checked: 0 errors, 0 warnings, 0 notes."


# ---------------------------------------------------------------- geometry, in tiers


@pytest.mark.parametrize("kind", sorted(TOLERANCES))
def test_tiers_rise(kind: str) -> None:
    tolerance = TOLERANCES[kind]
    assert 0 < tolerance.silent < tolerance.note
    assert tolerance.severity(tolerance.silent) is None
    assert tolerance.severity(tolerance.silent * 1.01) == "note"
    assert tolerance.severity(tolerance.note) == "note"
    assert tolerance.severity(tolerance.note * 1.01) == "error"


@pytest.mark.parametrize(
    ("degrees", "severity"), [(np.degrees(1e-6), None), (0.05, "note"), (0.2, "error"), (10.0, "error")]
)
def test_direction(tmp_path: Path, degrees: float, severity: str | None) -> None:
    # NRRD holds the numbers as text; NIfTI would round the angle.
    report = check(dataset_of(tmp_path, change_label=rotated(degrees), ending=".nrrd"))
    if severity is None:
        assert report.findings == ()
        return
    finding = the_only(report)
    assert (finding.severity, finding.code, finding.case) == (severity, "geometry.direction", "b")
    assert f"differ in direction by {degrees:.3g} degrees" in finding.what
    assert finding.where.endswith("labelsTr/b.nrrd")
    assert "LPS" in (finding.got or "")


@pytest.mark.parametrize(("factor", "severity"), [(1 + 1e-6, None), (1 + 1e-4, "note"), (1.01, "error")])
def test_spacing(tmp_path: Path, factor: float, severity: str | None) -> None:
    def change(made: sitk.Image) -> sitk.Image:
        made.SetSpacing((0.5, 0.75 * factor, 2.0))
        return made

    report = check(dataset_of(tmp_path, change_label=change, ending=".nrrd"))
    assert codes(report) == ([(severity, "geometry.spacing", "b")] if severity else [])


@pytest.mark.parametrize(("shift_mm", "severity"), [(0.0004, None), (0.04, "note"), (0.06, "error")])
def test_origin_counts_in_voxels(tmp_path: Path, shift_mm: float, severity: str | None) -> None:
    def change(made: sitk.Image) -> sitk.Image:
        made.SetOrigin((-100, 20, 300 + shift_mm))  # the smallest voxel side is 0.5 mm
        return made

    report = check(dataset_of(tmp_path, change_label=change, ending=".nrrd"))
    assert codes(report) == ([(severity, "geometry.origin", "b")] if severity else [])


def test_shape(tmp_path: Path) -> None:
    change = as_array(np.ones((3, 4, 6), np.uint8))
    finding = the_only(check(dataset_of(tmp_path, change_label=change)))
    assert (finding.severity, finding.code) == ("error", "geometry.shape")
    assert (finding.got, finding.expected) == ("(3, 4, 6)", "(3, 4, 5) as in b_0000.nii.gz")


def test_2d_beside_3d(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path)
    flat = np.arange(20, dtype=np.uint8).reshape(4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(folder / "imagesTr/b_0000.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(flat[None] % 3), str(folder / "labelsTr/b.nii.gz"))
    assert codes(check(folder)) == [
        ("warning", "geometry.mixed_dimension", None),
        ("warning", "geometry.dimension", "b"),
        ("note", "geometry.mixed_orientation", None),
    ]


def test_one_finding_for_several_files(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path, document={"channel_names": {"0": "CT", "1": "PET", "2": "MRI"}})
    for case in "ab":
        for channel, spacing in ((1, 0.5), (2, 0.6)):
            made = image(spacing=(spacing if case == "b" else 0.5, 0.75, 2.0))
            sitk.WriteImage(made, str(folder / f"imagesTr/{case}_000{channel}.nii.gz"))
    report = check(folder)
    assert codes(report) == [("error", "geometry.spacing", "b")]
    assert report.findings[0].where.endswith("b_0002.nii.gz")
    sitk.WriteImage(image(spacing=(0.7, 0.75, 2.0)), str(folder / "imagesTr/b_0001.nii.gz"))
    finding = the_only(check(folder))
    assert finding.where.endswith("b_0001.nii.gz")
    assert "in 2 files" in (finding.got or "")


def test_spacing_that_is_no_size(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path, ending=".nrrd")
    path = folder / "labelsTr/b.nrrd"
    content = path.read_bytes()
    assert b"space directions: (0.5,0,0)" in content
    path.write_bytes(content.replace(b"space directions: (0.5,0,0)", b"space directions: (0,0,0)"))
    assert all(severity == "error" and case == "b" for severity, _, case in codes(check(folder)))
    assert check(folder).has_errors


def test_mixed_orientation_is_a_note_unless_it_is_handled(tmp_path: Path) -> None:
    def turn(made: sitk.Image) -> sitk.Image:
        return sitk.DICOMOrient(made, "RAS")

    folder = dataset_of(tmp_path, change_image=turn, change_label=turn)
    finding = the_only(check(folder))
    assert (finding.severity, finding.code) == ("note", "geometry.mixed_orientation")
    assert finding.got == "LPS (1 cases), RAS (1 cases)"
    dataset_of(
        tmp_path, change_image=turn, change_label=turn, document={"nnrules": {"orientation": "canonical"}}
    )
    assert check(folder).findings == ()


def test_sheared_header(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path)
    for path in (folder / "imagesTr/b_0000.nii.gz", folder / "labelsTr/b.nii.gz"):
        content = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<2h", content, 252, 0, 1)
        rows = [[-0.5, 0.004, 0, 100], [0, -0.75, 0, -20], [0, 0, 2, 300]]
        struct.pack_into("<12f", content, 280, *np.ravel(rows))
        path.write_bytes(gzip.compress(bytes(content)))
    finding = the_only(check(folder))
    assert (finding.severity, finding.code, finding.case) == ("warning", "geometry.shear", "b")
    assert "in 2 of 2 files" in (finding.got or "")


# ---------------------------------------------------------------- intensities and labels


@pytest.mark.parametrize(("value", "counts"), [(np.nan, "1 NaN and 0 inf"), (-np.inf, "0 NaN and 1 inf")])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_nonfinite_intensities(tmp_path: Path, ending: str, value: float, counts: str) -> None:
    finding = the_only(check(dataset_of(tmp_path, change_image=with_voxel(value), ending=ending)))
    assert (finding.severity, finding.code, finding.case) == ("error", "intensity.nonfinite", "b")
    assert (finding.got or "").startswith(counts)
    assert "of 60 voxels" in (finding.got or "")
    # SimpleITK hides them in NIfTI, which the user has to know.
    assert ("(read as 0)" in finding.what) == ending.startswith(".nii")


def test_nonfinite_labels_that_nifti_hides(tmp_path: Path) -> None:
    finding = the_only(check(dataset_of(tmp_path, change_label=with_voxel(np.nan))))
    assert (finding.severity, finding.code, finding.case) == ("error", "label.nonfinite", "b")


def test_constant_image(tmp_path: Path) -> None:
    finding = the_only(check(dataset_of(tmp_path, change_image=as_array(np.full(SHAPE, 7.0)))))
    assert (finding.severity, finding.code) == ("warning", "intensity.constant")
    assert finding.got == "7.0 in all 60 voxels"


def test_undeclared_labels(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.int32)
    values[0] = 7
    values[1, 0, 0] = -1
    finding = the_only(check(dataset_of(tmp_path, change_label=as_array(values))))
    assert (finding.severity, finding.code, finding.case) == ("error", "label.undeclared", "b")
    assert finding.got == "-1 (1 voxels), 7 (20 voxels)"
    assert finding.expected == "0, 1, 2"


def test_very_many_undeclared_labels(tmp_path: Path) -> None:
    finding = the_only(
        check(dataset_of(tmp_path, change_label=as_array(np.arange(60).reshape(SHAPE) + 70_000)))
    )
    assert finding.code == "label.undeclared"
    assert (finding.got or "").endswith("70004 (1 voxels) and 55 more")


def test_fractional_labels(tmp_path: Path) -> None:
    finding = the_only(check(dataset_of(tmp_path, change_label=with_voxel(0.5))))
    assert (finding.severity, finding.code, finding.case) == ("error", "label.unreadable", "b")
    assert finding.got == "0.5 (1 of 60 voxels)"


@pytest.mark.parametrize("value", [0, 3])
def test_empty_label_map(tmp_path: Path, value: int) -> None:
    folder = dataset_of(
        tmp_path,
        change_label=as_array(np.full(SHAPE, value, np.uint8)),
        document={"labels": {**DOCUMENT["labels"], "ignore": 3}},
    )
    finding = the_only(check(folder))
    assert (finding.severity, finding.code, finding.case) == ("warning", "label.empty", "b")
    assert finding.got == f"only {value}"


def test_label_in_no_case(tmp_path: Path) -> None:
    folder = dataset_of(
        tmp_path, document={"labels": {**DOCUMENT["labels"], "vein": 3, "cyst": 4, "ignore": 5}}
    )
    finding = the_only(check(folder))
    assert (finding.severity, finding.code, finding.case) == ("warning", "label.unused", None)
    assert finding.got == "3, 4"


# ---------------------------------------------------------------- files


def test_missing_files(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path, document={"channel_names": {"0": "CT", "1": "PET"}})
    sitk.WriteImage(image(), str(folder / "imagesTr/a_0001.nii.gz"))
    finding = the_only(check(folder))
    assert (finding.severity, finding.code, finding.case) == ("error", "files.missing", "b")
    assert finding.expected == "b_0001.nii.gz"


def test_everything_missing_from_a_list(tmp_path: Path) -> None:
    mapping = {"a": {"images": ["x.nii.gz"], "label": "y.nii.gz"}}
    (tmp_path / "dataset.json").write_text(json.dumps({**DOCUMENT, "dataset": mapping, "numTraining": 1}))
    finding = the_only(check(tmp_path))
    assert finding.expected == "x.nii.gz, y.nii.gz"


def test_wrong_number_of_channels(tmp_path: Path) -> None:
    change = as_array(np.arange(120, dtype=np.float32).reshape(2, *SHAPE))
    folder = dataset_of(tmp_path, change_image=change)
    assert ("error", "channels.number", "b") in codes(check(folder, read_voxels=False))


@pytest.mark.parametrize("folder_name", ["imagesTr", "labelsTr"])
def test_damaged_file(tmp_path: Path, folder_name: str) -> None:
    folder = dataset_of(tmp_path)
    path = next((folder / folder_name).glob("b*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(bytes(content))
    finding = the_only(check(folder))
    expected = "image.unreadable" if folder_name == "imagesTr" else "label.unreadable"
    assert (finding.severity, finding.code, finding.case) == ("error", expected, "b")
    assert finding.where == str(path)


def test_damaged_channels_make_one_finding(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path, document={"channel_names": {"0": "CT", "1": "PET"}})
    sitk.WriteImage(image(), str(folder / "imagesTr/a_0001.nii.gz"))
    for channel in range(2):
        (folder / f"imagesTr/b_000{channel}.nii.gz").write_bytes(b"junk")
    finding = the_only(check(folder))
    assert finding.code == "image.unreadable"
    assert (finding.got or "").endswith("(and in 1 more files of the case)")


def test_number_of_cases(tmp_path: Path) -> None:
    finding = the_only(check(dataset_of(tmp_path, document={"numTraining": 40})))
    assert (finding.severity, finding.code) == ("warning", "dataset.num_training")
    assert finding.got == "40"
    assert (finding.expected or "").startswith("2,")


def test_stray_files(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path)
    for name in (
        "imagesTr/c_0000.nii.gz",
        "imagesTr/c_0001.nii.gz",
        "imagesTr/b_0001.nii.gz",
        "imagesTr/d.nii.gz",
        "imagesTr/e_0000.png",
        "imagesTr/._a_0000.nii.gz",
        "imagesTr/readme.txt",
        "labelsTr/f.nii.gz",
    ):
        (folder / name).touch()
    report = check(folder)
    assert {finding.code for finding in report.findings} == {"files.orphan"}
    assert {finding.severity for finding in report.findings} == {"warning"}
    found = {(finding.case, finding.what, finding.got, finding.expected) for finding in report.findings}
    assert found == {
        ("c", "an image without a label map", "c_0000.nii.gz, c_0001.nii.gz", "labelsTr/c.nii.gz"),
        (
            "b",
            "an image with a channel number that dataset.json does not name",
            "b_0001.nii.gz",
            "numbers below 1",
        ),
        ("d", "an image without a channel number", "d.nii.gz", "d_0000.nii.gz"),
        (None, "image files with another ending than the dataset's", "e_0000.png", ".nii.gz"),
        ("f", "a label map without an image", "f.nii.gz", "imagesTr/f_0000.nii.gz"),
    }


def test_many_stray_files_make_one_short_finding(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path)
    for number in range(9):
        (folder / f"imagesTr/x{number}.png").touch()
    assert (the_only(check(folder)).got or "").endswith("x4.png and 4 more")


def test_files_left_out_of_a_v1_list(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path)
    for case in "ab":
        (folder / f"imagesTr/{case}_0000.nii.gz").rename(folder / f"imagesTr/{case}.nii.gz")
    document = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "numTraining": 1,
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    assert codes(check(folder)) == [("warning", "files.orphan", "b")] * 2


def test_files_left_out_of_a_mapping_are_left_out_on_purpose(tmp_path: Path) -> None:
    mapping = {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    folder = dataset_of(tmp_path, document={"dataset": mapping, "numTraining": 1})
    assert check(folder).findings == ()


# ---------------------------------------------------------------- the report


def several_findings(tmp_path: Path) -> Path:
    return dataset_of(
        tmp_path, change_image=with_voxel(np.nan), change_label=rotated(10), document={"numTraining": 3}
    )


def test_everything_at_once_worst_first(tmp_path: Path) -> None:
    report = check(several_findings(tmp_path))
    assert codes(report) == [
        ("error", "geometry.direction", "b"),
        ("error", "intensity.nonfinite", "b"),
        ("warning", "dataset.num_training", None),
    ]
    assert report.has_errors
    lines = report.to_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("error [geometry.direction] b: ")
    assert lines[2].startswith("warning [dataset.num_training] ")
    assert lines[3].endswith("2 errors, 1 warnings, 0 notes.")
    assert all(finding.fix for finding in report.findings)


def test_json(tmp_path: Path) -> None:
    document = check(several_findings(tmp_path)).to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["counts"] == {"error": 2, "warning": 1, "note": 0}
    assert document["num_cases"] == 2
    assert set(document["findings"][0]) == {
        "severity", "code", "case", "where", "what", "got", "expected", "fix",
    }  # fmt: skip


def test_headers_only(tmp_path: Path) -> None:
    report = check(several_findings(tmp_path), read_voxels=False)
    assert {finding.code for finding in report.findings} == {"geometry.direction", "dataset.num_training"}
    assert not report.has_read_voxels
    assert "headers only" in report.summary


def test_progress_and_workers(tmp_path: Path) -> None:
    folder = several_findings(tmp_path)
    calls: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.current_thread())

    report = check(folder, workers=1, progress=progress)
    assert calls == [(1, 2), (2, 2)]
    assert threads == {threading.main_thread()}
    assert check(folder, workers=4) == report
    with pytest.raises(ValueError, match="at least 1"):
        check(folder, workers=0)


def test_an_interrupt_drops_the_cases_that_have_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def slow_check(case: Case, **options: Any) -> CaseCheck:
        begun.append(case.id)
        time.sleep(0.01)
        return CaseCheck(findings=(), label_voxels=None, geometry=None)

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnrules.dataset_check.check_case", slow_check)
    dataset = load_dataset(dataset_of(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        check_dataset(replace(dataset, cases=dataset.cases * 50), workers=1, progress=progress)
    assert 1 <= len(begun) < 50


@pytest.mark.shared
@pytest.mark.parametrize("name", ["acdc", "head_neck_ct", "nuclei_2d", "em_3d"])
def test_real_datasets_are_clean(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no shared data at {SHARED / name}")
    report = check(SHARED / name)
    assert report.findings == (), report.to_text()


@pytest.mark.shared
@pytest.mark.slow
def test_hippocampus_is_clean() -> None:
    if not (SHARED / "hippocampus").is_dir():
        pytest.skip(f"no shared data at {SHARED / 'hippocampus'}")
    assert check(SHARED / "hippocampus").findings == ()
