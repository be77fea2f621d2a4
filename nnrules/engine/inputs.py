"""The names under which rules read the fingerprint and the budget, with their types and units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nnrules.engine.types import BOOL, COLUMN, MATRIX, NUM, STR, ListType, Type
from nnrules.fingerprint import Fingerprint

__all__ = ["BUDGET_INPUTS", "CHANNEL_INPUTS", "FINGERPRINT_INPUTS", "Input", "extra_type"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One name that rules may read.

    Attributes:
        name: dotted name in rules.
        type: its type.
        doc: meaning and unit.
        read: how it is read; returns None where the fingerprint lacks it.
        extractor: the extractor that provides it, for the message when it is missing.
    """

    name: str
    type: Type
    doc: str
    read: Callable[..., Any]
    extractor: str = "geometry"


_FINGERPRINT: tuple[Input, ...] = (
    Input(
        name="dataset.num_training",
        type=NUM,
        doc="Training cases that dataset.json declares (numTraining); nnU-Net v2 counts these.",
        read=lambda f: f.dataset.num_training,
    ),
    Input(
        name="dataset.num_channels",
        type=NUM,
        doc="Input channels (modalities).",
        read=lambda f: len(f.dataset.channel_names),
    ),
    Input(
        name="dataset.channel_names",
        type=ListType(STR),
        doc="Names of the input channels, in order.",
        read=lambda f: tuple(f.dataset.channel_names),
    ),
    Input(
        name="dataset.num_labels",
        type=NUM,
        doc="Entries of `labels`, counting background, regions and an ignore label (nnU-Net v2's class count).",
        read=lambda f: len(f.dataset.labels),
    ),
    Input(
        name="dataset.num_foreground_labels",
        type=NUM,
        doc="Distinct label values above 0, without the ignore label.",
        read=lambda f: len([v for v in f.dataset.label_values if v > 0 and v != f.dataset.ignore_label]),
    ),
    Input(
        name="dataset.label_names",
        type=ListType(STR),
        doc="Names of the labels and regions.",
        read=lambda f: tuple(f.dataset.labels),
    ),
    Input(
        name="dataset.has_regions",
        type=BOOL,
        doc="Whether a label is a region made of several label values.",
        read=lambda f: f.dataset.has_regions,
    ),
    Input(
        name="dataset.has_ignore_label",
        type=BOOL,
        doc="Whether some voxels are not annotated.",
        read=lambda f: f.dataset.ignore_label is not None,
    ),
    Input(
        name="dataset.orientation_policy",
        type=STR,
        doc="as_stored or canonical, from dataset.json.",
        read=lambda f: f.dataset.orientation_policy,
    ),
    Input(name="cases.count", type=NUM, doc="Cases in the fingerprint.", read=lambda f: f.num_cases),
    Input(
        name="cases.shape",
        type=MATRIX,
        doc="Voxels a case and axis (z, y, x) after the non-zero crop.",
        read=lambda f: f.shape,
    ),
    Input(
        name="cases.shape_before_crop",
        type=MATRIX,
        doc="Voxels a case and axis (z, y, x) as stored.",
        read=lambda f: f.shape_before_crop,
    ),
    Input(
        name="cases.spacing",
        type=MATRIX,
        doc="Voxel spacing a case and axis (z, y, x), mm.",
        read=lambda f: f.spacing,
    ),
    Input(
        name="cases.size_ratio",
        type=COLUMN,
        doc="Voxels after the non-zero crop over voxels before it, a case.",
        read=lambda f: f.size_ratio,
    ),
    Input(
        name="cases.has_groups",
        type=BOOL,
        doc="Whether cases are assigned to groups (patients, sites).",
        read=lambda f: f.group is not None and any(group is not None for group in f.group),
    ),
    Input(
        name="cases.num_groups",
        type=NUM,
        doc="Distinct groups; a case without a group counts as a group of its own.",
        read=lambda fingerprint: _num_groups(fingerprint),  # noqa: PLW0108 - defined below
    ),
    Input(
        name="cases.has_subjects",
        type=BOOL,
        doc="Whether several images are declared to show one subject.",
        read=lambda f: f.subject is not None and any(subject is not None for subject in f.subject),
    ),
    Input(
        name="crop.median_size_ratio",
        type=NUM,
        doc="Median over the cases of voxels after the non-zero crop over voxels before it.",
        read=lambda f: f.median_size_ratio,
    ),
    Input(
        name="classes.rarest_share",
        type=NUM,
        doc="Voxels of the rarest class over voxels of the background, pooled over the cases.",
        read=lambda f: f.rarest_share,
        extractor="labels",
    ),
)


def _num_groups(fingerprint: Fingerprint) -> int:
    if fingerprint.group is None:
        return fingerprint.num_cases
    named = {group for group in fingerprint.group if group is not None}
    return len(named) + sum(group is None for group in fingerprint.group)


FINGERPRINT_INPUTS: Mapping[str, Input] = {entry.name: entry for entry in _FINGERPRINT}

_STATISTICS = {
    "mean": "Mean",
    "std": "Standard deviation",
    "min": "Minimum",
    "median": "Median",
    "max": "Maximum",
    "percentile_00_5": "0.5th percentile",
    "percentile_99_5": "99.5th percentile",
}

CHANNEL_INPUTS: Mapping[str, Input] = {
    entry.name: entry
    for entry in (
        Input(
            name="channel.name",
            type=STR,
            doc="Name of this channel in dataset.json.",
            read=lambda f, index: f.dataset.channel_names[index],
        ),
        Input(
            name="channel.index",
            type=NUM,
            doc="Position of this channel, from 0.",
            read=lambda _, index: index,
        ),
        *(
            Input(
                name=f"channel.intensity.{key}",
                type=NUM,
                doc=f"{text} of this channel over the foreground voxels of all cases.",
                read=lambda f, index, key=key: _statistic(f, index, key),
                extractor="intensity",
            )
            for key, text in _STATISTICS.items()
        ),
    )
}


def _statistic(fingerprint: Fingerprint, index: int, key: str) -> float | None:
    channels = fingerprint.intensity
    statistics = channels[index] if channels is not None and index < len(channels) else None
    return None if statistics is None else statistics.get(key)


BUDGET_INPUTS: Mapping[str, tuple[Type, str]] = {
    "budget.gpu_memory_gb": (NUM, "GPU memory that planning aims at, GB; the pack or preset has a default."),
}


def extra_type(declared: str) -> Type:
    """The type of a per-case column declared as number, boolean or text."""
    return COLUMN if declared in ("number", "boolean") else ListType(STR)
