"""Reads nnU-Net v2's ``dataset_fingerprint.json`` together with its ``dataset.json``.

nnU-Net's fingerprint holds spacings and shapes after cropping (array order), the median relative size after
cropping, and seven intensity statistics a channel; it knows neither case ids nor classes, so cases are
numbered and the columns that only nnrules extracts are absent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnrules.dataset_facts import dataset_facts
from nnrules.documents import read_json
from nnrules.errors import DatasetError, FingerprintError, Problem
from nnrules.fingerprint import SCHEMA_VERSION, Fingerprint, dataset_document

__all__ = ["fingerprint_from_nnunet", "is_nnunet_fingerprint", "read_nnunet_fingerprint"]

_FIELDS = ("spacings", "shapes_after_crop", "median_relative_size_after_cropping")
_STATISTICS = ("mean", "std", "min", "median", "max", "percentile_00_5", "percentile_99_5")


def is_nnunet_fingerprint(document: object) -> bool:
    """Whether a JSON document is nnU-Net v2's dataset fingerprint."""
    return isinstance(document, dict) and "shapes_after_crop" in document and "spacings" in document


def _intensity(document: dict[str, Any], num_channels: int, where: str) -> dict[str, Any] | None:
    properties = document.get("foreground_intensity_properties_per_channel")
    if not properties:
        return None
    if not isinstance(properties, dict):
        raise FingerprintError(
            Problem(
                where=f"{where}: foreground_intensity_properties_per_channel",
                what="not an object by channel",
                fix="Let nnU-Net write the file again.",
            )
        )
    channels: list[dict[str, float] | None] = []
    for index in range(num_channels):
        statistics = properties.get(str(index))
        found = statistics if isinstance(statistics, dict) else {}
        values = {key: found[key] for key in _STATISTICS if isinstance(found.get(key), (int, float))}
        # nnU-Net writes NaN for a channel without foreground.
        complete = len(values) == len(_STATISTICS)
        channels.append({key: float(value) for key, value in values.items()} if complete else None)
    return {"method": "nnunetv2_sampled", "channels": channels}


def fingerprint_from_nnunet(
    document: Any,
    dataset_json: Any,
    *,
    where: str = "dataset_fingerprint.json",
    dataset_where: str = "dataset.json",
) -> Fingerprint:
    """Convert nnU-Net v2's fingerprint.

    Args:
        document: parsed ``dataset_fingerprint.json``.
        dataset_json: parsed ``dataset.json``; names, channels, labels and ``numTraining`` come from it.
        where: how the fingerprint is called in errors.
        dataset_where: how dataset.json is called in errors.

    Returns:
        A fingerprint without the columns that nnU-Net does not record (groups, orientations, classes).

    Raises:
        FingerprintError: fields that are missing or of the wrong form.
        DatasetError: a dataset.json that cannot be read.
    """
    missing = [key for key in _FIELDS if not isinstance(document, dict) or key not in document]
    if missing:
        raise FingerprintError(
            Problem(
                where=where,
                what="not a dataset fingerprint of nnU-Net v2",
                got=f"no {', '.join(missing)}",
                expected=", ".join(_FIELDS),
            )
        )
    spacings, shapes = document["spacings"], document["shapes_after_crop"]
    if not isinstance(spacings, list) or not isinstance(shapes, list) or len(spacings) != len(shapes):
        raise FingerprintError(
            Problem(
                where=where,
                what="'spacings' and 'shapes_after_crop' must be lists of one length",
                fix="Let nnU-Net write the file again.",
            )
        )
    facts = dataset_facts(dataset_json, dataset_where, default_num_training=len(spacings))
    section = dataset_document(facts)
    width = len(str(len(spacings)))
    converted: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": "nnU-Net v2",
        "dataset": section,
        "extractors": {"nnunetv2_import": 1},
        "cases": {
            "id": [f"case_{index:0{width}d}" for index in range(len(spacings))],
            "spacing": spacings,
            "shape": shapes,
        },
        "crop": {"median_size_ratio": document["median_relative_size_after_cropping"]},
    }
    intensity = _intensity(document, len(facts.channel_names), where)
    if intensity is not None:
        converted["intensity"] = intensity
    return Fingerprint.from_document(converted, where=where)


def read_nnunet_fingerprint(fingerprint: Path, dataset_json: Path) -> Fingerprint:
    """Read both files and convert; see :func:`fingerprint_from_nnunet`.

    NaN, which nnU-Net writes for the statistics of a channel without foreground, counts as absent.
    """
    return fingerprint_from_nnunet(
        read_json(fingerprint, FingerprintError, nan_as_null=True),
        read_json(dataset_json, DatasetError),
        where=str(fingerprint),
        dataset_where=str(dataset_json),
    )
