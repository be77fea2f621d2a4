"""What a dataset.json says without its files: names, channels, labels.

Two formats are read, told apart by their labels: nnU-Net v2 maps label names to values (or to lists of
values, the regions); nnU-Net v1 and the Medical Segmentation Decathlon map values to names. The key under
which the channels stand does not decide: v2 files that carry v1's ``modality`` exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnrules.errors import DatasetError, Problem
from nnrules.image_geometry import file_ending_of
from nnrules.schema import validate

__all__ = ["DatasetFacts", "dataset_facts", "is_dataset_json"]

_IGNORE = "ignore"
_MAX_DIGITS = 10
_ENDING_V1 = ".nii.gz"  # nnU-Net v1 reads nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The part of a dataset.json that stands without images.

    Attributes:
        name: name of the dataset; may be empty where the file holds none.
        format: which of the two formats it was read from.
        channel_names: names of the channels in order.
        labels: label name to value, or to the values of a region; in the order of the file. Not to be
            changed.
        regions_class_order: label value to write for each region; ``None`` without regions.
        ignore_label: value of voxels without annotation, the highest of all; ``None`` where there is none.
        num_training: number of training cases that the file declares (``numTraining``).
        file_ending: ending of all files, with its dot.
        orientation_policy: whether axes are taken as stored or turned to the closest RAS first.
        licence: licence of the data, if given.
        reference: origin of the data, if given.
    """

    name: str
    format: Literal["nnunetv2", "nnunetv1"]
    channel_names: tuple[str, ...]
    labels: Mapping[str, int | tuple[int, ...]]
    regions_class_order: tuple[int, ...] | None
    ignore_label: int | None
    num_training: int
    file_ending: str
    orientation_policy: Literal["as_stored", "canonical"]
    licence: str | None
    reference: str | None

    @property
    def num_channels(self) -> int:
        """Number of channels of every case."""
        return len(self.channel_names)

    @property
    def has_regions(self) -> bool:
        """Whether a label stands for several values, so that classes overlap."""
        return _has_regions(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Every value that a label map may hold, rising; background and ignore among them."""
        return tuple(sorted(_values(self.labels)))

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """The values of ``label_values`` without background and ignore."""
        return tuple(value for value in self.label_values if value not in (0, self.ignore_label))

    @property
    def foreground_regions(self) -> tuple[tuple[int, ...], ...]:
        """The values of each foreground class in the order of the file; one value each without regions."""
        return _regions(self.labels)


def _values(labels: Mapping[str, int | tuple[int, ...]]) -> set[int]:
    found: set[int] = set()
    for value in labels.values():
        found.update(value if isinstance(value, tuple) else (value,))
    return found


def _regions(labels: Mapping[str, int | tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    regions = ((name, value if isinstance(value, tuple) else (value,)) for name, value in labels.items())
    return tuple(region for name, region in regions if name != _IGNORE and region != (0,))


def is_dataset_json(document: object) -> bool:
    """Whether a parsed JSON document looks like a dataset.json (of any format, correct or not)."""
    if not isinstance(document, dict) or not isinstance(document.get("labels"), dict):
        return False
    return isinstance(document.get("channel_names"), dict) or isinstance(document.get("modality"), dict)


def dataset_facts(document: Any, where: str, *, default_num_training: int | None = None) -> DatasetFacts:
    """Read the facts of a parsed dataset.json; no file is touched.

    Args:
        document: the parsed JSON.
        where: name of the document for messages, usually its path.
        default_num_training: taken where ``numTraining`` is absent; without it, absence is an error.

    Raises:
        DatasetError: with every problem of form, or else with every problem of meaning.
    """
    validate(document, "dataset", where=where, error=DatasetError)
    problems: list[Problem] = []
    is_v1 = _has_v1_labels(document["labels"])
    channels = _channel_names(document, where, problems)
    labels = (_labels_v1 if is_v1 else _labels_v2)(document["labels"], where, problems)
    order = document.get("regions_class_order")
    if not problems:
        _check_labels(labels, order, where, problems)
    ending = document.get("file_ending") or _ending_of_cases(document, is_v1=is_v1)
    if ending is None:
        problems.append(
            Problem(
                where=f"{where}: file_ending",
                what="the file ending is missing",
                expected='the ending of all image and label files, such as ".nii.gz"',
                fix='Add "file_ending" to dataset.json.',
            )
        )
    num_training = document.get("numTraining", default_num_training)
    if num_training is None:
        problems.append(
            Problem(
                where=f"{where}: numTraining",
                what="the number of training cases is missing",
                fix='Add "numTraining" with the number of training cases.',
            )
        )
    if problems or ending is None or num_training is None:
        raise DatasetError(problems)
    return DatasetFacts(
        name=document.get("name", ""),
        format="nnunetv1" if is_v1 else "nnunetv2",
        channel_names=channels,
        labels=labels,
        # nnU-Net v2 leaves the order unread where there are no regions.
        regions_class_order=tuple(order) if order is not None and _has_regions(labels) else None,
        ignore_label=_ignore_value(labels),
        num_training=num_training,
        file_ending=ending,
        orientation_policy=document.get("nnrules", {}).get("orientation", "as_stored"),
        licence=document.get("licence", document.get("license")),
        reference=document.get("reference"),
    )


def _has_v1_labels(labels: Mapping[str, Any]) -> bool:
    """Values as keys and names as values; v2 may name a label ``"1"``, but never gives it a text as value."""
    return all(key.isdecimal() and isinstance(value, str) for key, value in labels.items())


def _channel_names(document: dict[str, Any], where: str, problems: list[Problem]) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in document else "modality"
    names: dict[str, str] = document[key]
    expected = [str(number) for number in range(len(names))]
    if sorted(names) != sorted(expected):
        problems.append(
            Problem(
                where=f"{where}: {key}",
                what="channel numbers with a gap",
                got=", ".join(sorted(names)),
                expected=", ".join(expected),
                fix="Number the channels from 0 without gaps or leading zeros, as their files are numbered.",
            )
        )
        return ()
    return tuple(names[number] for number in expected)


def _labels_v1(
    labels: Mapping[str, str], where: str, problems: list[Problem]
) -> dict[str, int | tuple[int, ...]]:
    named: dict[str, int | tuple[int, ...]] = {}
    for value, name in labels.items():
        if name in named:
            problems.append(
                Problem(
                    where=f"{where}: labels.{value}",
                    what="two label values have the same name",
                    got=f"{name!r} for {named[name]} and {value}",
                    fix="Give every label its own name.",
                )
            )
        if len(value) > _MAX_DIGITS:
            problems.append(
                Problem(
                    where=f"{where}: labels",
                    what="a label value that no image can hold",
                    got=f"{value[:_MAX_DIGITS]}…, {len(value)} digits",
                    fix="Correct the value.",
                )
            )
            continue
        named[name] = int(value)
    return named


def _labels_v2(
    labels: Mapping[str, Any], where: str, problems: list[Problem]
) -> dict[str, int | tuple[int, ...]]:
    named: dict[str, int | tuple[int, ...]] = {}
    for name, value in labels.items():
        if isinstance(value, str):
            problems.append(
                Problem(
                    where=f"{where}: labels.{name}",
                    what="a label without a value",
                    got=repr(value),
                    expected="a whole number, or a list of them for a region",
                    fix="Write each label as its name, then its value without quotes.",
                )
            )
        else:
            named[name] = tuple(value) if isinstance(value, list) else value
    return named


def _has_regions(labels: Mapping[str, int | tuple[int, ...]]) -> bool:
    return any(isinstance(value, tuple) and len(value) > 1 for value in labels.values())


def _ignore_value(labels: Mapping[str, int | tuple[int, ...]]) -> int | None:
    value = labels.get(_IGNORE)
    return value[0] if isinstance(value, tuple) else value


def _check_labels(
    labels: Mapping[str, int | tuple[int, ...]], order: list[int] | None, where: str, problems: list[Problem]
) -> None:
    """Background, gaps, the ignore label and the order of regions."""

    def report(key: str, what: str, got: object, expected: str, fix: str) -> None:
        problems.append(Problem(where=f"{where}: {key}", what=what, got=str(got), expected=expected, fix=fix))

    values = sorted(_values(labels))
    if labels.get("background", 0) not in (0, (0,)):
        fix = "Set background to 0, in dataset.json and in the label maps."
        report("labels.background", "the background is not 0", labels["background"], "0", fix)
    elif not any(value in (0, (0,)) for value in labels.values()):
        report("labels", "no label has the value 0", values, '"background": 0', "Add the background.")
    if values != list(range(len(values))):
        fix = "Renumber the labels, in dataset.json and in the label maps."
        report("labels", "label values with a gap", values, f"0 to {len(values) - 1}, each once", fix)
    if not _regions(labels):
        report(
            "labels", "no foreground label", ", ".join(labels), "at least one", "Add the labels to segment."
        )
    _check_duplicates(labels, where, problems)
    ignore = labels.get(_IGNORE)
    if isinstance(ignore, tuple) and len(ignore) > 1:
        fix = "Give the voxels without annotation one value of their own."
        report("labels.ignore", "the ignore label is a region", list(ignore), "one value", fix)
    elif ignore is not None and _ignore_value(labels) != values[-1]:
        fix = f"Give ignore the value {values[-1]} and the other label its value."
        report("labels.ignore", "the ignore label is not the highest value", ignore, str(values[-1]), fix)
    if not _has_regions(labels):
        return
    regions = _regions(labels)
    wanted = f"{len(regions)} label values, one per region in the order of labels"
    key, fix = (
        "regions_class_order",
        "List the value to write for each region; later ones are drawn over earlier.",
    )
    if order is None:
        report(key, "regions need an order in which to draw them", "none", wanted, fix)
    elif len(order) != len(regions):
        report(key, "the order does not fit the number of regions", order, wanted, fix)
    elif unknown := sorted(set(order) - set(values)):
        report(key, "the order holds values that are no label", unknown, wanted, fix)


def _check_duplicates(
    labels: Mapping[str, int | tuple[int, ...]], where: str, problems: list[Problem]
) -> None:
    first: dict[frozenset[int], str] = {}
    for name, value in labels.items():
        key = frozenset(value if isinstance(value, tuple) else (value,))
        if key in first:
            problems.append(
                Problem(
                    where=f"{where}: labels.{name}",
                    what="two labels have the same value",
                    got=f"{sorted(key)} for {first[key]!r} and {name!r}",
                    fix="Give every label its own value.",
                )
            )
        first.setdefault(key, name)


def _ending_of_cases(document: dict[str, Any], *, is_v1: bool) -> str | None:
    """The ending of the first case that is listed with its paths; v1 knows only one."""
    for case in document.get("dataset", {}).values():
        return file_ending_of(Path(case["images"][0]))
    return _ENDING_V1 if is_v1 else None
