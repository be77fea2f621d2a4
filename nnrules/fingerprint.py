"""The fingerprint document: what rules may know about a training set.

``fingerprint.json`` is columnar: each list below ``cases`` has one entry a case. This module reads,
checks and writes it and gives its columns as numpy arrays; :mod:`nnrules.extract` makes one from images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules.dataset_facts import DatasetFacts
from nnrules.documents import content_hash, read_json, write_json
from nnrules.errors import FingerprintError
from nnrules.fingerprint_check import check_document

__all__ = ["SCHEMA_VERSION", "ExtraColumn", "Fingerprint", "dataset_document"]

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]


SCHEMA_VERSION = "1.0"
"""Version of the document that this module reads and writes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtraColumn:
    """A property with one value a case that nnrules does not know.

    Attributes:
        type: ``"number"``, ``"boolean"`` or ``"string"``.
        unit: as text, or ``None``.
        values: one entry a case; float64, bool or str.
    """

    type: str
    unit: str | None
    values: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fingerprint:
    """A fingerprint that has been checked.

    n is the number of cases, C that of channels; rows follow ``case_ids``. Arrays are read-only. What an
    imported fingerprint need not have is ``None``.

    Attributes:
        document: the JSON document; not to be changed.
        hash: ``sha256:…`` of the document without ``created_by``: equal content, equal hash.
        dataset: what dataset.json declares.
        case_ids: n ids.
        shape: (n, 3), voxels, zyx, after the crop to non-zero voxels; whole numbers except where the
            fingerprint was made from published medians.
        spacing: (n, 3), mm, zyx.
        shape_before_crop: (n, 3), voxels, zyx.
        size_ratio: (n,), voxels after the crop divided by voxels before it.
        orientation: n codes such as ``"LPS"``; empty for 2D.
        channels_present: (n, C) of bool.
        class_voxels: label value to (n,) counts of voxels.
        group: n names, or ``None`` where a case has none.
        subject: likewise.
        median_size_ratio: median of ``size_ratio``.
        rarest_share: voxels of the rarest label a voxel of background.
        extractors: extractors that ran and their versions.
        intensity_method: ``"exact"``, ``"nnunetv2_sampled"`` or ``"published"``.
        intensity: one mapping a channel (``mean``, ``std``, ``min``, ``median``, ``max``,
            ``percentile_00_5``, ``percentile_99_5``), ``None`` for a channel without foreground; published
            statistics may lack ``min``, ``median`` and ``max``.
        extra_columns: properties with one value a case.
        extra_values: properties with one value for the dataset.
    """

    document: dict[str, Any]
    hash: str
    dataset: DatasetFacts
    case_ids: tuple[str, ...]
    shape: FloatArray
    spacing: FloatArray
    shape_before_crop: FloatArray | None
    size_ratio: FloatArray | None
    orientation: tuple[str, ...] | None
    channels_present: npt.NDArray[np.bool_] | None
    class_voxels: Mapping[int, npt.NDArray[np.int64]] | None
    group: tuple[str | None, ...] | None
    subject: tuple[str | None, ...] | None
    median_size_ratio: float
    rarest_share: float | None
    extractors: Mapping[str, int | str]
    intensity_method: str | None
    intensity: tuple[Mapping[str, float] | None, ...] | None
    extra_columns: Mapping[str, ExtraColumn]
    extra_values: Mapping[str, Any]

    @property
    def num_cases(self) -> int:
        """Number of cases."""
        return len(self.case_ids)

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return len(self.dataset.channel_names)

    @classmethod
    def load(cls, path: Path | str) -> Fingerprint:
        """Read and check a fingerprint.json.

        Raises:
            FingerprintError: when it is missing, not JSON, or breaks the schema; with all problems.
        """
        return cls.from_document(read_json(Path(path), FingerprintError), where=str(path))

    @classmethod
    def from_document(cls, document: Any, *, where: str = "fingerprint") -> Fingerprint:
        """Check a parsed document and give access to it.

        Args:
            document: parsed JSON; kept, so the caller must not change it afterwards.
            where: name of the document in messages.

        Raises:
            FingerprintError: with all problems; those of a column name the case.
        """
        check_document(document, where)
        cases = document["cases"]
        extra = document.get("extra", {})
        intensity = document.get("intensity")
        class_voxels = cases.get("class_voxels")
        return cls(
            document=document,
            hash=content_hash({key: value for key, value in document.items() if key != "created_by"}),
            dataset=_dataset_facts(document["dataset"]),
            case_ids=tuple(cases["id"]),
            shape=_array(cases["shape"], np.float64),
            spacing=_array(cases["spacing"], np.float64),
            shape_before_crop=_optional_floats(cases, "shape_before_crop"),
            size_ratio=_optional_floats(cases, "size_ratio"),
            orientation=_optional_tuple(cases, "orientation"),
            channels_present=(
                _array(cases["channels_present"], np.bool_) if "channels_present" in cases else None
            ),
            class_voxels=(
                MappingProxyType({int(key): _array(value, np.int64) for key, value in class_voxels.items()})
                if class_voxels is not None
                else None
            ),
            group=_optional_tuple(cases, "group"),
            subject=_optional_tuple(cases, "subject"),
            median_size_ratio=float(document["crop"]["median_size_ratio"]),
            rarest_share=document.get("classes", {}).get("rarest_share"),
            extractors=MappingProxyType(document["extractors"]),
            intensity_method=intensity["method"] if intensity else None,
            intensity=tuple(intensity["channels"]) if intensity else None,
            extra_columns=MappingProxyType(
                {name: _extra_column(column) for name, column in extra.get("columns", {}).items()}
            ),
            extra_values=MappingProxyType(
                {name: item["value"] for name, item in extra.get("values", {}).items()}
            ),
        )

    def save(self, path: Path) -> None:
        """Write the document atomically, as canonical JSON.

        Raises:
            NnrulesError: when the folder is missing or not writable.
        """
        write_json(path, self.document)
        logger.info("wrote %s (%d cases)", path, self.num_cases)


def _array(values: Any, dtype: Any) -> npt.NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    return array


def _optional_floats(cases: Mapping[str, Any], name: str) -> FloatArray | None:
    return _array(cases[name], np.float64) if name in cases else None


def _optional_tuple(cases: Mapping[str, Any], name: str) -> tuple[Any, ...] | None:
    return tuple(cases[name]) if name in cases else None


def _extra_column(column: Mapping[str, Any]) -> ExtraColumn:
    dtypes: Mapping[str, Any] = {"number": np.float64, "boolean": np.bool_, "string": np.str_}
    return ExtraColumn(
        type=column["type"],
        unit=column.get("unit"),
        values=_array(column["values"], dtypes[column["type"]]),
    )


def dataset_document(facts: DatasetFacts) -> dict[str, Any]:
    """The section ``dataset`` of a fingerprint document."""
    return {
        "name": facts.name,
        "channel_names": list(facts.channel_names),
        "labels": {
            name: list(value) if isinstance(value, tuple) else value for name, value in facts.labels.items()
        },
        "label_order": list(facts.labels),
        "regions_class_order": None if facts.regions_class_order is None else list(facts.regions_class_order),
        "ignore_label": facts.ignore_label,
        "num_training": facts.num_training,
        "file_ending": facts.file_ending,
        "orientation_policy": facts.orientation_policy,
    }


def _dataset_facts(section: Mapping[str, Any]) -> DatasetFacts:
    order = section.get("label_order", list(section["labels"]))
    labels = {name: section["labels"][name] for name in order}
    regions = section.get("regions_class_order")
    return DatasetFacts(
        name=section["name"],
        format="nnunetv2",  # labels and channels stand in its form here, wherever they came from
        channel_names=tuple(section["channel_names"]),
        labels={name: tuple(value) if isinstance(value, list) else value for name, value in labels.items()},
        regions_class_order=None if regions is None else tuple(regions),
        ignore_label=section.get("ignore_label"),
        num_training=section["num_training"],
        file_ending=section["file_ending"],
        orientation_policy=section.get("orientation_policy", "as_stored"),
        licence=None,
        reference=None,
    )
