"""Check a dataset before anything is computed from it: every header, every voxel, every file name.

All findings come at once, each with its case and its fix, at most one per case and kind. What is an error, a
warning or a note is said in :mod:`nnrules.check_findings`; tolerances in :mod:`nnrules.check_geometry`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

from nnrules.check_case import CaseCheck, check_case
from nnrules.check_findings import CheckReport, Finding
from nnrules.dataset import Case, Dataset
from nnrules.dataset_files import stray_files

__all__ = ["CheckReport", "Finding", "check_dataset"]

_LOGGER = logging.getLogger(__name__)

# Each worker holds one file in memory; more of them read no faster from one disk.
_MAX_DEFAULT_WORKERS = 8
_SHOWN = 5


def check_dataset(
    dataset: Dataset,
    *,
    workers: int | None = None,
    read_voxels: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check all files of a dataset.

    Args:
        dataset: as loaded with ``require_files=False``, so that missing files become findings.
        workers: number of threads (SimpleITK reads without Python's lock); by default one per available core,
            up to 8. The report does not depend on it. Each holds one file in memory.
        read_voxels: whether to read intensities and labels; without them the headers only, which is faster.
        progress: called in this thread with the number of cases done and of all, after each case.

    Returns:
        The report; damaged files are findings, never exceptions.

    Raises:
        ValueError: when ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    check = partial(
        check_case,
        num_channels=dataset.num_channels,
        label_values=dataset.label_values,
        ignore_label=dataset.ignore_label,
        read_voxels=read_voxels,
    )
    checks = _check_cases(dataset.cases, check, workers or _default_workers(), progress)
    findings = [finding for result in checks for finding in result.findings]
    findings += _stray_files(dataset)
    findings += _num_training(dataset)
    findings += _unused_labels(dataset, checks)
    findings += _orientations(dataset, checks)
    findings += _dimensions(dataset, checks)
    return CheckReport(
        dataset=str(dataset.path),
        num_cases=len(dataset.cases),
        has_read_voxels=read_voxels,
        findings=tuple(sorted(findings, key=lambda finding: finding.sort_key)),
    )


def _default_workers() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _MAX_DEFAULT_WORKERS)


def _check_cases(
    cases: Sequence[Case],
    check: Callable[[Case], CaseCheck],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[CaseCheck]:
    executor = ThreadPoolExecutor(workers, thread_name_prefix="nnrules-check")
    try:
        futures = [executor.submit(check, case) for case in cases]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()  # a bug in the checker surfaces at once, not after the last case
            if progress is not None:
                progress(done, len(cases))
        return [future.result() for future in futures]
    finally:
        # After Ctrl-C the cases that have not begun are dropped.
        executor.shutdown(cancel_futures=True)


def _stray_files(dataset: Dataset) -> list[Finding]:
    return [
        Finding(
            severity="warning",
            code="files.orphan",
            case=stray.case_id,
            where=str(stray.paths[0]),
            what=stray.what,
            got=", ".join(path.name for path in stray.paths[:_SHOWN])
            + (f" and {len(stray.paths) - _SHOWN} more" if len(stray.paths) > _SHOWN else ""),
            expected=stray.expected,
            fix=stray.fix,
        )
        for stray in stray_files(
            dataset.path, dataset, [(*c.image_paths, c.label_path) for c in dataset.cases]
        )
    ]


def _num_training(dataset: Dataset) -> list[Finding]:
    if dataset.num_training == len(dataset.cases):
        return []
    return [
        Finding(
            severity="warning",
            code="dataset.num_training",
            what="numTraining is not the number of cases",
            got=str(dataset.num_training),
            expected=f"{len(dataset.cases)}, the number of cases with images and a label map",
            fix="Correct numTraining, or add the missing cases; nnU-Net v2 multiplies with it when it plans.",
            case=None,
            where=str(dataset.path),
        )
    ]


def _unused_labels(dataset: Dataset, checks: Sequence[CaseCheck]) -> list[Finding]:
    counted = [result.label_voxels for result in checks if result.label_voxels is not None]
    if not counted:
        return []
    unused = [value for value in dataset.foreground_labels if not any(value in voxels for voxels in counted)]
    if not unused:
        return []
    return [
        Finding(
            severity="warning",
            code="label.unused",
            what="label values that no label map holds",
            got=", ".join(map(str, unused)),
            expected="every declared label in at least one case",
            fix="Remove them from labels, or check whether the label maps were converted rightly.",
            case=None,
            where=str(dataset.path),
        )
    ]


def _orientations(dataset: Dataset, checks: Sequence[CaseCheck]) -> list[Finding]:
    codes = Counter(result.geometry.orientation for result in checks if result.geometry is not None)
    if len(codes) < 2 or dataset.orientation_policy == "canonical":
        return []
    return [
        Finding(
            severity="note",
            code="geometry.mixed_orientation",
            what="cases are stored in different orientations",
            got=", ".join(f"{code or '2D'} ({count} cases)" for code, count in codes.most_common()),
            expected=None,
            fix='Set "orientation": "canonical" in the block "nnrules" to turn them all to RAS.',
            case=None,
            where=str(dataset.path),
        )
    ]


def _dimensions(dataset: Dataset, checks: Sequence[CaseCheck]) -> list[Finding]:
    dimensions = Counter(result.geometry.dimension for result in checks if result.geometry is not None)
    if len(dimensions) < 2:
        return []
    return [
        Finding(
            severity="warning",
            code="geometry.mixed_dimension",
            what="some cases are 2D and others 3D",
            got=", ".join(f"{dimension}D ({count} cases)" for dimension, count in sorted(dimensions.items())),
            expected=None,
            fix="Split the dataset, or store all cases in 3D.",
            case=None,
            where=str(dataset.path),
        )
    ]
