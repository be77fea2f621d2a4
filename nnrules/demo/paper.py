"""The nineteen datasets of the nnU-Net preprint as fingerprints.

The preprint (Isensee et al. 2020) prints, for each dataset, what its planner was given: target spacing and
median shape at that spacing (Tables F.1 to F.37), number of training cases, channels and labels (Table A.1).
A fingerprint with this one row repeated for every training case leads a planner to the same inputs, because
the median of equal rows is the row. Two facts of a real fingerprint were not published:

- how much the crop to non-zero voxels removes. ``crop.median_size_ratio`` is 1, nothing removed; it decides
  only whether intensities are normalised inside a mask, which is none of the published cells.
- minimum, median and maximum of the intensities. Only the two percentiles, the mean and the standard
  deviation of CT were printed (as "clip", "subtract" and "divide"); the others are left out of the document.

The printed digits are too few for four datasets. ``paper_parity.json`` gives inputs that round to what was
printed and lead to the published plans (D18: the printed 0.89 mm is an erratum); with them
:func:`published_fingerprint` makes the *refined* variants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nnrules.documents import read_json
from nnrules.errors import FingerprintError, Problem, UsageError
from nnrules.fingerprint import SCHEMA_VERSION, Fingerprint

__all__ = [
    "dataset_ids",
    "fingerprint_name",
    "published_fingerprint",
    "published_parity",
    "published_plans",
    "refined_ids",
    "shipped_fingerprint",
    "write_shipped_fingerprints",
]

_DATA = Path(__file__).resolve().parent / "data"
_SOURCE = "nnU-Net preprint (Isensee et al. 2020), Table A.1 and Tables F.1 to F.37"


@cache
def published_plans() -> Mapping[str, Any]:
    """The published plans and facts, as ``paper_plans.json`` holds them; not to be changed."""
    plans: Mapping[str, Any] = read_json(_DATA / "paper_plans.json", FingerprintError)
    return plans


@cache
def published_parity() -> Mapping[str, Any]:
    """Cells, refined inputs and known misses, as ``paper_parity.json`` holds them; not to be changed."""
    parity: Mapping[str, Any] = read_json(_DATA / "paper_parity.json", FingerprintError)
    return parity


@cache
def _datasets() -> Mapping[str, Mapping[str, Any]]:
    return {dataset["id"]: dataset for dataset in published_plans()["datasets"]}


def dataset_ids() -> tuple[str, ...]:
    """``D1`` to ``D19``."""
    return tuple(_datasets())


def refined_ids() -> tuple[str, ...]:
    """The datasets whose printed inputs are too coarse."""
    return tuple(published_parity()["goal"]["refined_inputs"])


def published_fingerprint(dataset: str, *, refined: bool = False) -> Fingerprint:
    """The fingerprint that the paper's tables describe.

    Args:
        dataset: ``"D1"`` to ``"D19"``.
        refined: replace printed inputs that are too coarse by the refined ones; without effect on datasets
            that have none.

    Returns:
        A fingerprint with one equal row a training case: spacing in mm and shape in voxels (zyx; the shape is
        no whole number where the refined median is none).

    Raises:
        UsageError: there is no such dataset.
    """
    published = _dataset(dataset)
    facts = published["table_A1"]
    inputs = dict(published["configurations"]["3d_fullres"])
    if refined:
        inputs |= {
            name: value
            for name, value in published_parity()["goal"]["refined_inputs"].get(dataset, {}).items()
            if value is not None
        }
    num_training = facts["n_training_cases"]
    width = len(str(num_training - 1))
    labels = _labels(published)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": _SOURCE,
        "dataset": {
            "name": f"{dataset} {published['name']}" + (" (refined)" if refined else ""),
            "channel_names": list(facts["modalities"]),
            "labels": labels,
            "label_order": list(labels),
            "num_training": num_training,
            "file_ending": ".nii.gz",
        },
        "extractors": {"published": 1},
        "cases": {
            "id": [f"{dataset}_{index:0{width}d}" for index in range(num_training)],
            "shape": [list(inputs["median_shape"]) for _ in range(num_training)],
            "spacing": [list(inputs["target_spacing"]) for _ in range(num_training)],
        },
        "crop": {"median_size_ratio": 1},
        "classes": {"rarest_share": facts["rarest_class_ratio"]},
    }
    intensity = _intensity(published["normalization"], len(facts["modalities"]))
    if intensity is not None:
        document["intensity"] = intensity
    return Fingerprint.from_document(document, where=fingerprint_name(dataset, refined=refined))


def fingerprint_name(dataset: str, *, refined: bool = False) -> str:
    """File name without ending, such as ``D03_liver`` or ``D06_lung_refined``.

    Raises:
        UsageError: there is no such dataset.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", _dataset(dataset)["name"])
    slug = re.sub(r"[^a-z0-9]+", "_", words.lower())
    return f"D{int(dataset[1:]):02d}_{slug}" + ("_refined" if refined else "")


def shipped_fingerprint(dataset: str, *, refined: bool = False) -> Path:
    """The example fingerprint file that ships; equal to what :func:`published_fingerprint` gives.

    Raises:
        UsageError: there is no such dataset, or it has no refined variant.
    """
    if refined and _dataset(dataset)["id"] not in refined_ids():
        raise UsageError(
            Problem(
                where=dataset,
                what="this dataset has no refined variant",
                expected=", ".join(refined_ids()),
            )
        )
    return _DATA / "fingerprints" / f"{fingerprint_name(dataset, refined=refined)}.json"


def write_shipped_fingerprints(folder: Path) -> tuple[Path, ...]:
    """Write all example fingerprints, the refined ones last; this made the files that ship.

    Args:
        folder: an existing folder.

    Returns:
        The files.

    Raises:
        NnrulesError: the folder is missing or not writable.
    """
    chosen = [(name, False) for name in dataset_ids()] + [(name, True) for name in refined_ids()]
    paths = []
    for dataset, refined in chosen:
        path = folder / f"{fingerprint_name(dataset, refined=refined)}.json"
        published_fingerprint(dataset, refined=refined).save(path)
        paths.append(path)
    return tuple(paths)


def _dataset(dataset: str) -> Mapping[str, Any]:
    if dataset not in _datasets():
        raise UsageError(
            Problem(where=dataset, what="the paper has no such dataset", expected=", ".join(_datasets()))
        )
    return _datasets()[dataset]


def _labels(published: Mapping[str, Any]) -> dict[str, int]:
    """Background and the classes; the names of the result tables where they were printed."""
    num_classes = published["table_A1"]["n_classes"]
    results = published.get("results")
    names = list(results["classes"]) if results else [published["table_A1"]["targets"]]
    if len(names) != num_classes:
        names = [str(index) for index in range(1, num_classes + 1)]
    names = [f"class {name}" if name.isdecimal() else name for name in names]
    return {"background": 0} | {name: value for value, name in enumerate(names, start=1)}


def _intensity(normalization: Mapping[str, Any], num_channels: int) -> dict[str, Any] | None:
    """The published statistics of CT; other images are normalised one by one and need none."""
    if normalization["scheme"] != "CT":
        return None
    statistics = {
        "mean": normalization["subtract"],
        "std": normalization["divide"],
        "percentile_00_5": normalization["clip_lo"],
        "percentile_99_5": normalization["clip_hi"],
    }
    return {"method": "published", "channels": [dict(statistics) for _ in range(num_channels)]}
