"""Do the files of one case lie on the same grid? Differences are judged in tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import dist, isfinite
from pathlib import Path

from nnrules.axes import direction_angle_degrees
from nnrules.check_findings import Finding, Severity
from nnrules.image_io import Geometry

__all__ = ["TOLERANCES", "Tolerance", "geometry_findings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How large a difference may be.

    Attributes:
        silent: up to here nothing is reported: rounding of the file format.
        note: up to here a note is reported: rounding of a tool, without effect on a voxel's place. Above it
            is an error: one of the files lies elsewhere.
        unit: what the two numbers count.
    """

    silent: float
    note: float
    unit: str

    def severity(self, difference: float) -> Severity | None:
        """Tier of a difference >= 0; ``None`` where there is nothing to report."""
        if difference <= self.silent:
            return None
        return "note" if difference <= self.note else "error"


TOLERANCES = {
    # NIfTI holds spacings as float32: a relative 6e-8. Tools that print them with six digits: 1e-6.
    "spacing": Tolerance(silent=2e-6, note=1e-3, unit="relative"),
    # float32 at 1 m from the isocentre: 3e-5 mm. A tenth of a voxel moves no border of a label.
    "origin": Tolerance(silent=1e-3, note=0.1, unit="voxels"),
    # 1e-6 rad are 6e-5°. A quaternion in float32 misses by up to 0.02°; 0.1° are a voxel over 570 voxels.
    "direction": Tolerance(silent=1e-4, note=0.1, unit="degrees"),
}
"""The tiers of the checker. They judge files; they are no heuristic of the method, so no rule holds them."""

_FIX = {
    "spacing": "If the voxels do belong together, copy the header of the image; else resample to its grid.",
    "origin": "If the voxels do belong together, copy the header of the image; else resample to its grid.",
    "direction": "Overlay the files to see which is right; copy its header, or resample to its grid.",
}
_NO_FIX = "Nothing to do; copy the header of the image to silence this."


def geometry_findings(case_id: str, files: Sequence[tuple[Path, Geometry]]) -> list[Finding]:
    """Compare the files of one case with the first of them.

    Args:
        case_id: the case.
        files: its readable files, images before the label map.

    Returns:
        At most one finding per kind of difference; it shows the worst file and counts the others.
    """
    if not files:
        return []
    findings = _invalid_spacing(case_id, files)
    first, others = files[0], files[1:]
    of_other_shape = [file for file in others if file[1].shape != first[1].shape]
    if of_other_shape:
        path, geometry = of_other_shape[0]
        findings.append(
            Finding(
                severity="error",
                code="geometry.shape",
                case=case_id,
                where=str(path),
                what="the files of the case differ in shape (z, y, x)",
                got=f"{geometry.shape}{_and_more(len(of_other_shape))}",
                expected=f"{first[1].shape} as in {first[0].name}",
                fix="Resample all files of a case to one grid, labels with nearest-neighbour interpolation.",
            )
        )
        return findings  # voxels cannot correspond; differences in the rest follow from that
    other_dimension = [file for file in others if file[1].dimension != first[1].dimension]
    if other_dimension:
        path, geometry = other_dimension[0]
        findings.append(
            Finding(
                severity="warning",
                code="geometry.dimension",
                case=case_id,
                where=str(path),
                what="some files of the case are 2D and others 3D",
                got=f"{geometry.dimension}D{_and_more(len(other_dimension))}",
                expected=f"{first[1].dimension}D as in {first[0].name}",
                fix="Store all files of the dataset in 2D, or all in 3D with one slice.",
            )
        )
        return findings
    if not any(finding.code == "geometry.invalid_spacing" for finding in findings):
        findings += _differences(case_id, first, others)
    return findings


def _invalid_spacing(case_id: str, files: Sequence[tuple[Path, Geometry]]) -> list[Finding]:
    wrong = [file for file in files if not all(isfinite(value) and value > 0 for value in file[1].spacing)]
    if not wrong:
        return []
    path, geometry = wrong[0]
    return [
        Finding(
            severity="error",
            code="geometry.invalid_spacing",
            case=case_id,
            where=str(path),
            what="the spacing is not a size",
            got=f"{geometry.spacing}{_and_more(len(wrong))}",
            expected="three positive numbers (z, y, x in mm)",
            fix="Write the true spacing into the header.",
        )
    ]


def _differences(
    case_id: str, first: tuple[Path, Geometry], others: Sequence[tuple[Path, Geometry]]
) -> list[Finding]:
    findings = []
    for kind, tolerance in TOLERANCES.items():
        measured = [(_difference(kind, first[1], geometry), path, geometry) for path, geometry in others]
        reported = [entry for entry in measured if tolerance.severity(entry[0]) is not None]
        if not reported:
            continue
        worst, path, geometry = max(reported, key=lambda entry: entry[0])
        severity = tolerance.severity(worst) or "error"
        findings.append(
            Finding(
                severity=severity,
                code=f"geometry.{kind}",
                case=case_id,
                where=str(path),
                what=f"the files of the case differ in {kind} by {worst:.3g} {tolerance.unit}",
                got=f"{_shown(kind, geometry)}{_and_more(len(reported))}",
                expected=f"{_shown(kind, first[1])} as in {first[0].name}",
                fix=_FIX[kind] if severity == "error" else _NO_FIX,
            )
        )
    return findings


def _difference(kind: str, first: Geometry, other: Geometry) -> float:
    if kind == "spacing":
        return max(abs(b / a - 1) for a, b in zip(first.spacing, other.spacing, strict=True))
    if kind == "origin":
        # In voxels of the smallest side; the made-up z spacing of a 2D image never is the smallest.
        return dist(first.origin_xyz, other.origin_xyz) / min(first.spacing)
    try:
        return direction_angle_degrees(first.direction_xyz, other.direction_xyz)
    except ValueError:  # an axis without length
        return 180.0


def _shown(kind: str, geometry: Geometry) -> str:
    if kind == "spacing":
        return f"{_numbers(geometry.spacing)} (z, y, x in mm)"
    if kind == "origin":
        return f"{_numbers(geometry.origin_xyz)} (x, y, z in mm)"
    code = f"{geometry.orientation}, " if geometry.orientation else ""
    return f"{code}{_numbers(geometry.direction_xyz)}"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value + 0.0:.7g}" for value in values) + ")"


def _and_more(count: int) -> str:
    return f", in {count} files" if count > 1 else ""
