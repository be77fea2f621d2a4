"""Check the files of one case: are they there, whole, on one grid, finite, and with known labels?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules.check_findings import Finding
from nnrules.check_geometry import TOLERANCES, geometry_findings
from nnrules.dataset import Case
from nnrules.errors import ImageError
from nnrules.image_integrity import count_hidden_values
from nnrules.image_io import Geometry, file_ending_of, read_geometry, read_image, read_label
from nnrules.nifti_shear import shear_degrees

__all__ = ["CaseCheck", "check_case"]

_SHOWN_VALUES = 5
_MAX_COUNTED_VALUE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCheck:
    """What the check of a case leaves for the check of the whole dataset.

    Attributes:
        findings: at most one per kind.
        label_voxels: voxels per value of the label map; ``None`` where it was not or could not be read.
        geometry: that of the first readable file; ``None`` where there is none.
    """

    findings: tuple[Finding, ...]
    label_voxels: Mapping[int, int] | None
    geometry: Geometry | None


def check_case(
    case: Case,
    *,
    num_channels: int,
    label_values: Collection[int],
    ignore_label: int | None,
    read_voxels: bool,
) -> CaseCheck:
    """Check one case. One file is in memory at a time.

    Args:
        case: the case and its paths.
        num_channels: channels that the dataset declares.
        label_values: values that the dataset declares.
        ignore_label: the value of voxels without annotation, if any.
        read_voxels: whether to read more than the headers.
    """
    findings: list[Finding] = _missing(case)
    images = [path for path in case.image_paths if path.is_file()]
    files: list[tuple[Path, Geometry]] = []
    for path in images:
        geometry = _image(case.id, path, findings, read_voxels=read_voxels)
        if geometry is not None:
            files.append((path, geometry))
    if len(files) == len(case.image_paths):
        findings += _channels(case, [geometry for _, geometry in files], num_channels)
    label_voxels = None
    if case.label_path.is_file():
        label = _label(case.id, case.label_path, findings, read_voxels=read_voxels)
        if label is not None:
            files.append((case.label_path, label[0]))
            label_voxels = label[1]
    if label_voxels is not None:
        findings += _labels(case, label_voxels, label_values, ignore_label)
    findings += geometry_findings(case.id, files)
    findings += _shear(case, files)
    return CaseCheck(
        findings=tuple(_one_per_kind(findings)),
        label_voxels=label_voxels,
        geometry=files[0][1] if files else None,
    )


def _missing(case: Case) -> list[Finding]:
    missing = [path for path in (*case.image_paths, case.label_path) if not path.is_file()]
    if not missing:
        return []
    names = ", ".join(path.name for path in missing)
    fix = "Add the file, or remove the case's other files."
    return [
        Finding(
            severity="error",
            code="files.missing",
            case=case.id,
            where=str(missing[0]),
            what="files of the case are missing",
            got="none",
            expected=names,
            fix=fix,
        )
    ]


def _image(case_id: str, path: Path, findings: list[Finding], *, read_voxels: bool) -> Geometry | None:
    try:
        if not read_voxels:
            return read_geometry(path)
        hidden = count_hidden_values(path, file_ending_of(path) or "")
        array, geometry = read_image([path])
    except ImageError as exc:
        findings += [
            Finding.of_problem(problem, code="image.unreadable", case=case_id) for problem in exc.problems
        ]
        return None
    findings += _intensities(case_id, path, array, hidden)
    return geometry


def _intensities(case_id: str, path: Path, array: npt.NDArray[Any], hidden: tuple[int, int]) -> list[Finding]:
    counts = hidden
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        counts = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if any(counts):
        return [_nonfinite("intensity", case_id, path, counts, array.size)]
    findings = []
    constant = [
        number for number, channel in enumerate(array) if channel.size and channel.min() == channel.max()
    ]
    if constant:
        channel = array[constant[0]]
        findings.append(
            Finding(
                severity="warning",
                code="intensity.constant",
                case=case_id,
                where=str(path),
                what="an image with one intensity only",
                got=f"{channel.flat[0]} in all {channel.size} voxels",
                expected="an image",
                fix="Check the export of this file; remove the case if the image is lost.",
            )
        )
    return findings


def _nonfinite(kind: str, case_id: str, path: Path, counts: tuple[int, int], num_voxels: int) -> Finding:
    zeros = " (read as 0)" if file_ending_of(path) in (".nii", ".nii.gz") else ""
    return Finding(
        severity="error",
        code=f"{kind}.nonfinite",
        case=case_id,
        where=str(path),
        what=f"voxels that are not finite numbers{zeros}",
        got=f"{counts[0]} NaN and {counts[1]} infinite of {num_voxels} voxels",
        expected="finite numbers",
        fix="Find out where they come from, and replace them by the background's value.",
    )


def _channels(case: Case, geometries: list[Geometry], num_channels: int) -> list[Finding]:
    present = sum(geometry.num_channels for geometry in geometries)
    if present == num_channels:
        return []
    return [
        Finding(
            severity="error",
            code="channels.number",
            case=case.id,
            where=str(case.image_paths[0]),
            what="the number of channels does not fit dataset.json",
            got=f"{present} in {len(geometries)} files",
            expected=str(num_channels),
            fix="Correct channel_names, or split the file into one file per channel.",
        )
    ]


def _label(
    case_id: str, path: Path, findings: list[Finding], *, read_voxels: bool
) -> tuple[Geometry, dict[int, int] | None] | None:
    try:
        if not read_voxels:
            return read_geometry(path), None
        hidden = count_hidden_values(path, file_ending_of(path) or "")
        array, geometry = read_label(path)
    except ImageError as exc:
        findings += [
            Finding.of_problem(problem, code="label.unreadable", case=case_id) for problem in exc.problems
        ]
        return None
    if any(hidden):
        findings.append(_nonfinite("label", case_id, path, hidden, array.size))
    return geometry, _count_values(array)


def _count_values(label: npt.NDArray[Any]) -> dict[int, int]:
    """Voxels per value. Counting is an order of magnitude faster than sorting, where values are few."""
    if not label.size:
        return {}
    if label.min() >= 0 and label.max() < _MAX_COUNTED_VALUE:
        counts = np.bincount(label.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(label, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


def _labels(
    case: Case, voxels: Mapping[int, int], label_values: Collection[int], ignore_label: int | None
) -> list[Finding]:
    findings = []
    unknown = [value for value in voxels if value not in label_values]
    if unknown:
        shown = ", ".join(f"{value} ({voxels[value]} voxels)" for value in unknown[:_SHOWN_VALUES])
        more = f" and {len(unknown) - _SHOWN_VALUES} more" if len(unknown) > _SHOWN_VALUES else ""
        findings.append(
            Finding(
                severity="error",
                code="label.undeclared",
                case=case.id,
                where=str(case.label_path),
                what="label values that dataset.json does not declare",
                got=shown + more,
                expected=", ".join(map(str, label_values)),
                fix="Declare them under labels, or remove them from the label map.",
            )
        )
    elif not any(value not in (0, ignore_label) for value in voxels):
        findings.append(
            Finding(
                severity="warning",
                code="label.empty",
                case=case.id,
                where=str(case.label_path),
                what="a label map without any foreground voxel",
                got="only " + ", ".join(map(str, voxels)),
                expected="at least one foreground voxel",
                fix="Check the export of this file; keep the case if there is truly nothing to segment.",
            )
        )
    return findings


def _shear(case: Case, files: list[tuple[Path, Geometry]]) -> list[Finding]:
    tolerance = TOLERANCES["direction"].note
    sheared = [(degrees, path) for path, _ in files if (degrees := _shear_of(path)) > tolerance]
    if not sheared:
        return []
    degrees, path = max(sheared)
    return [
        Finding(
            severity="warning",
            code="geometry.shear",
            case=case.id,
            where=str(path),
            what="the axes in the header are not at right angles; the nearest right-angled ones are taken",
            got=f"{degrees:.2g}° from those, in {len(sheared)} of {len(files)} files",
            expected=f"at most {tolerance}°",
            fix="Resample the image to a grid without shear, or set the qform to the right axes.",
        )
    ]


def _shear_of(path: Path) -> float:
    return shear_degrees(path) if file_ending_of(path) in (".nii", ".nii.gz") else 0.0


def _one_per_kind(findings: list[Finding]) -> list[Finding]:
    """The first finding of each kind, with the number of further files that have it."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.code, []).append(finding)
    merged = []
    for same in kinds.values():
        first = same[0]
        if len(same) > 1:
            first = Finding(
                severity=first.severity,
                code=first.code,
                case=first.case,
                where=first.where,
                what=first.what,
                got=f"{first.got or ''} (and in {len(same) - 1} more files of the case)".strip(),
                expected=first.expected,
                fix=first.fix,
            )
        merged.append(first)
    return merged
