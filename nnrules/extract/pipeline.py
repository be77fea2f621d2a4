"""From a dataset to its fingerprint: measure every case, pool, build the document."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from nnrules.dataset import Case, Dataset
from nnrules.errors import FingerprintError, Problem
from nnrules.extract.cache import MeasurementCache
from nnrules.extract.case import BUILT_IN_EXTRACTORS, CaseMeasurement, IntensityMethod, measure_case
from nnrules.extract.extractors import CaseExtractor, load_extractors, value_type
from nnrules.extract.features import read_features
from nnrules.extract.intensity import DEFAULT_FLOAT_LIMIT_BYTES, IntensityPool
from nnrules.extract.memory import MemoryGate
from nnrules.extract.sampled import SampledPool
from nnrules.extract.schedule import default_workers, in_case_order
from nnrules.fingerprint import SCHEMA_VERSION, Fingerprint, dataset_document

__all__ = ["extract_fingerprint"]

logger = logging.getLogger(__name__)


def extract_fingerprint(
    dataset: Dataset,
    *,
    workers: int | None = None,
    intensity: IntensityMethod = "exact",
    features: Path | None = None,
    extractors: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    float_limit_bytes: int = DEFAULT_FLOAT_LIMIT_BYTES,
) -> Fingerprint:
    """Read all cases of a dataset and make its fingerprint; the result does not depend on ``workers``.

    Args:
        dataset: the dataset with its cases.
        workers: number of threads; by default the number of processor cores.
        intensity: ``"exact"`` for statistics over every foreground voxel, ``"nnunetv2_sampled"`` for the
            sampled ones of nnU-Net v2, to the bit.
        features: a CSV table of per-case columns, see :func:`nnrules.extract.features.read_features`.
        extractors: names of the installed extractors to run, see :mod:`nnrules.extract.extractors`; all by
            default.
        cache: folder for the measurements of cases; a case whose files did not change is not read again,
            and an interrupted run goes on where it stopped. ``None``: nothing is kept.
        progress: called with the number of cases done and their total.
        float_limit_bytes: memory in bytes a channel for foreground values that are no whole numbers; more
            go to a temporary file.

    Raises:
        ImageError: when cases cannot be read or measured; with the problems of all of them.
        FingerprintError: when the table of features or an extractor is wrong.
    """
    if not dataset.cases:
        raise FingerprintError(Problem(where=str(dataset.path), what="the dataset has no training case"))
    loaded = load_extractors(extractors)
    columns = read_features(features, [case.id for case in dataset.cases]) if features is not None else {}
    store = (
        MeasurementCache(cache, facts=dataset, method=intensity, extractors=loaded)
        if cache is not None
        else None
    )
    gate = MemoryGate.for_this_machine()

    def work(case: Case) -> CaseMeasurement:
        key = store.key(case) if store is not None else ""
        found = store.read(case, key) if store is not None else None
        if found is None:
            with gate.entered(case):
                found = measure_case(case, dataset, method=intensity, extractors=loaded)
            if store is not None:
                store.write(case, key, found)
        return found

    rows: list[CaseMeasurement] = []
    with ExitStack() as stack:
        add, statistics = _pools(stack, dataset, intensity, float_limit_bytes)
        for measurement in in_case_order(
            work, dataset.cases, workers=workers or default_workers(), progress=progress
        ):
            add(measurement)
            rows.append(measurement.without_intensities())
        channels = statistics()
    document = _document(dataset, rows, {"method": intensity, "channels": channels}, loaded)
    _add_columns(document, columns)
    if features is not None:
        document["extractors"]["features"] = 1
    return Fingerprint.from_document(document, where=str(dataset.path))


def _pools(
    stack: ExitStack, dataset: Dataset, method: IntensityMethod, float_limit_bytes: int
) -> tuple[Callable[[CaseMeasurement], None], Callable[[], list[dict[str, float] | None]]]:
    """How to add a case to the intensity statistics, and how to get them."""
    if method == "nnunetv2_sampled":
        sampled = stack.enter_context(
            SampledPool(
                num_cases=len(dataset.cases),
                num_channels=dataset.num_channels,
                float_limit_bytes=float_limit_bytes,
            )
        )
        return lambda measurement: sampled.add(measurement.intensities), sampled.statistics
    pools = [
        stack.enter_context(IntensityPool(float_limit_bytes=float_limit_bytes)) for _ in dataset.channel_names
    ]

    def add(measurement: CaseMeasurement) -> None:
        for pool, summary in zip(pools, measurement.intensities, strict=True):
            pool.add(summary)

    return add, lambda: [pool.statistics() for pool in pools]


def _document(
    dataset: Dataset,
    rows: Sequence[CaseMeasurement],
    intensity: Mapping[str, Any],
    extractors: Sequence[CaseExtractor],
) -> dict[str, Any]:
    """The document without the table of features."""
    size_ratios = [_num_voxels(row.shape) / _num_voxels(row.shape_before_crop) for row in rows]
    class_voxels = {
        str(label): [row.class_voxels[label] for row in rows] for label in dataset.label_values if label != 0
    }
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": _created_by(),
        "dataset": dataset_document(dataset),
        "extractors": {**BUILT_IN_EXTRACTORS, **{item.name: item.version for item in extractors}},
        "cases": {
            "id": [case.id for case in dataset.cases],
            "shape": [list(row.shape) for row in rows],
            "shape_before_crop": [list(row.shape_before_crop) for row in rows],
            "spacing": [list(row.spacing) for row in rows],
            "size_ratio": size_ratios,
            "orientation": [row.orientation for row in rows],
            "channels_present": [list(row.channels_present) for row in rows],
            "class_voxels": class_voxels,
            "group": [case.group for case in dataset.cases],
            "subject": [case.subject for case in dataset.cases],
        },
        "crop": {"median_size_ratio": float(median(size_ratios))},
        "classes": {"rarest_share": _rarest_share(dataset, rows)},
        "intensity": dict(intensity),
        "extra": {"columns": {}, "values": {}},
    }
    _add_columns(document, _extractor_columns(dataset, rows, extractors))
    return document


def _created_by() -> str:
    try:
        return f"nnrules {version('nnrules')}"
    except PackageNotFoundError:  # a checkout on the path
        return "nnrules (not installed)"


def _num_voxels(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _rarest_share(dataset: Dataset, rows: Sequence[CaseMeasurement]) -> float | None:
    """Voxels of the rarest label for each voxel of background, both summed over all cases, inside the crop.

    This is the definition that gives Table A.1 of the paper: 0.0266 on the 260 cases of D4, printed as
    0.027. The obvious one, the share among all voxels, gives 0.0252. The ignore label is neither class
    nor background, and labels that occur nowhere do not count.
    """
    totals = {label: sum(row.class_voxels[label] for row in rows) for label in rows[0].class_voxels}
    num_background = sum(_num_voxels(row.shape) for row in rows) - sum(totals.values())
    present = [totals[label] for label in dataset.foreground_labels if totals[label]]
    return min(present) / num_background if present and num_background else None


def _extractor_columns(
    dataset: Dataset, rows: Sequence[CaseMeasurement], extractors: Sequence[CaseExtractor]
) -> dict[str, dict[str, Any]]:
    """Columns from the results of the extractors; each must be there for every case, with one type."""
    units = {f"{item.name}_{key}": unit for item in extractors for key, unit in item.units.items()}
    names = sorted({name for row in rows for name in row.extra})
    columns, problems = {}, []
    for name in names:
        absent = [case.id for case, row in zip(dataset.cases, rows, strict=True) if name not in row.extra]
        types = {value_type(row.extra[name]) for row in rows if name in row.extra}
        if absent or len(types) > 1:
            got = f"nothing for {', '.join(absent[:5])}" if absent else " and ".join(sorted(map(str, types)))
            problems.append(
                Problem(
                    where=f"extra.columns.{name}",
                    what="the extractor did not give one value of one type for every case",
                    got=got,
                    fix="Correct the extractor.",
                )
            )
            continue
        columns[name] = {
            "type": types.pop(),
            "unit": units.get(name),
            "values": [row.extra[name] for row in rows],
        }
    if problems:
        raise FingerprintError(problems)
    return columns


def _add_columns(document: dict[str, Any], columns: Mapping[str, dict[str, Any]]) -> None:
    present = document["extra"]["columns"]
    twice = sorted(set(present) & set(columns))
    if twice:
        raise FingerprintError(
            [
                Problem(
                    where=f"extra.columns.{name}",
                    what="the table of features and an extractor give the same column",
                    fix="Rename the column of the table.",
                )
                for name in twice
            ]
        )
    present.update(columns)
