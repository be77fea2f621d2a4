"""What is measured in one case: geometry, voxels per label, foreground intensities, results of extractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnrules.dataset import Case, DatasetFacts
from nnrules.errors import ImageError, Problem
from nnrules.extract.crop import nonzero_box
from nnrules.extract.extractors import CaseExtractor, ExtraValue, run_extractors
from nnrules.extract.intensity import ValueSummary, summarise
from nnrules.image_geometry import Geometry, to_canonical
from nnrules.image_io import read_image, read_label

__all__ = ["BUILT_IN_EXTRACTORS", "CaseMeasurement", "IntensityMethod", "measure_case"]

IntensityMethod = Literal["exact", "nnunetv2_sampled"]

BUILT_IN_EXTRACTORS: Mapping[str, int] = {"geometry": 1, "labels": 1, "intensity": 1}
"""Extractors that always run; raise a version when what it measures changes, which renews cached cases."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseMeasurement:
    """What one case adds to a fingerprint.

    Attributes:
        shape: voxels, zyx, after the crop to non-zero voxels.
        shape_before_crop: voxels, zyx.
        spacing: mm, zyx.
        orientation: code of the stored axes, before any reorientation.
        channels_present: whether each channel holds a value other than zero.
        class_voxels: for each declared label value but 0, its number of voxels inside the crop.
        intensities: foreground values of each channel; for ``nnunetv2_sampled`` without counts, float32
            and in array order.
        extra: results of the extractors by entry point, by their names in the document.
    """

    shape: tuple[int, int, int]
    shape_before_crop: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str
    channels_present: tuple[bool, ...]
    class_voxels: Mapping[int, int]
    intensities: tuple[ValueSummary, ...]
    extra: Mapping[str, ExtraValue]

    def without_intensities(self) -> CaseMeasurement:
        """The same without the foreground values, which may be large."""
        return replace(self, intensities=())


def measure_case(
    case: Case, facts: DatasetFacts, *, method: IntensityMethod, extractors: Sequence[CaseExtractor] = ()
) -> CaseMeasurement:
    """Read a case and measure it.

    Foreground is every voxel with a label above 0 inside the crop, the ignore label included: the voxels that
    nnU-Net v2 (nnunetv2 2.8.1) takes its statistics from.

    Raises:
        ImageError: when a file cannot be read, image and label differ in shape, the number of channels is
            wrong, an intensity is not finite, or a label value is not declared.
        FingerprintError: when an extractor fails.
    """
    image, label, geometry = _read(case)
    orientation = geometry.orientation
    _check(case, facts, image, label)
    if facts.orientation_policy == "canonical":
        label, _ = to_canonical(label, geometry)
        image, geometry = to_canonical(image, geometry)
    box = nonzero_box(image)
    cropped = label[box]
    class_voxels, mask = _count_labels(case, facts, cropped)
    return CaseMeasurement(
        shape=(cropped.shape[0], cropped.shape[1], cropped.shape[2]),
        shape_before_crop=geometry.shape,
        spacing=geometry.spacing,
        orientation=orientation,
        channels_present=tuple(bool(channel[box].any()) for channel in image),
        class_voxels=class_voxels,
        intensities=tuple(_intensities(channel[box], mask, method) for channel in image),
        extra=run_extractors(extractors, case, image=image, label=label, geometry=geometry, facts=facts),
    )


def _read(case: Case) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Geometry]:
    """Image and label of a case; when both fail, both are reported."""
    try:
        image, geometry = read_image(case.image_paths)
    except ImageError as exc:
        try:
            read_label(case.label_path)
        except ImageError as other:
            raise ImageError([*exc.problems, *other.problems]) from None
        raise
    label, _ = read_label(case.label_path)
    return image, label, geometry


def _check(case: Case, facts: DatasetFacts, image: npt.NDArray[Any], label: npt.NDArray[Any]) -> None:
    problems = []
    if len(image) != facts.num_channels:
        problems.append(
            Problem(
                where=case.id,
                what="wrong number of channels",
                got=f"{len(image)} in {', '.join(path.name for path in case.image_paths)}",
                expected=f"{facts.num_channels}, as in dataset.json",
            )
        )
    if image.shape[1:] != label.shape:
        problems.append(
            Problem(
                where=case.id,
                what="image and label differ in shape",
                got=f"image {image.shape[1:]}, label {label.shape} (z, y, x)",
                fix="Resample the label map to the grid of its image.",
            )
        )
    for number, channel in enumerate(image):
        # The extremes show every NaN and infinity, without a mask of the size of the image.
        if channel.dtype.kind == "f" and not (np.isfinite(channel.min()) and np.isfinite(channel.max())):
            num_wrong = channel.size - int(np.isfinite(channel).sum())
            problems.append(
                Problem(
                    where=case.id,
                    what=f"intensities of channel {number} are not finite",
                    got=f"{num_wrong} of {channel.size} voxels are NaN or infinite",
                    expected="finite numbers",
                    fix="Replace them, e.g. by the background value, or leave the case out.",
                )
            )
    if problems:
        raise ImageError(problems)


def _count_labels(
    case: Case, facts: DatasetFacts, label: npt.NDArray[Any]
) -> tuple[dict[int, int], npt.NDArray[np.bool_]]:
    """Voxels of each declared label but background, and the mask of the foreground."""
    mask = label > 0
    foreground = summarise(label[mask])
    values, counts = foreground.values, foreground.counts
    if counts is None:  # values that no dataset declares, far apart
        values, counts = np.unique(values.astype(np.int64), return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    declared = [value for value in facts.label_values if value != 0]
    unknown = {value: number for value, number in found.items() if value not in declared}
    if label.dtype.kind == "i" and label.size and (lowest := int(label.min())) < 0:
        unknown[lowest] = int((label < 0).sum())
    if unknown:
        shown = [f"{value} ({number} voxels)" for value, number in sorted(unknown.items())[:10]]
        raise ImageError(
            Problem(
                where=case.id,
                what=f"label values that dataset.json does not declare, in {case.label_path.name}",
                got=", ".join(shown) + (", …" if len(unknown) > 10 else ""),
                expected=", ".join(map(str, facts.label_values)),
                fix='Correct the label map, or add the values to "labels" in dataset.json.',
            )
        )
    return {value: found.get(value, 0) for value in declared}, mask


def _intensities(
    channel: npt.NDArray[Any], mask: npt.NDArray[np.bool_], method: IntensityMethod
) -> ValueSummary:
    values = channel[mask]
    if method == "nnunetv2_sampled":
        return ValueSummary(values=values.astype(np.float32, copy=False), counts=None)
    return summarise(values)
