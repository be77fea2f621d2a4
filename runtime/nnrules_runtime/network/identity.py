"""Which plans a network's weights belong to.

Weights are numbers for one architecture, and they mean something only with the input that they were trained on and
the output that they were trained for. A plan that differs elsewhere - in epochs, loss, sampling, augmentation, patch or
batch size, window step, folds, postprocessing - can use the same weights; a plan that differs here cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnrules.documents import content_hash
from nnrules.errors import Problem
from nnrules.plan import Plan, leaves

__all__ = ["differences", "network_digest", "network_fields"]

# The dataset's name, its number of cases and its file ending may change.
_DATASET = (
    "channel_names",
    "labels",
    "label_order",
    "ignore_label",
    "regions_class_order",
    "orientation_policy",
)
# Where foreground is and how cases are stored concern training; crop and normalisation make the input.
_PREPROCESSING = ("crop", "normalization")
_CONFIGURATION = ("dim", "spacing", "transpose_forward", "preprocessing_steps", "previous_stage")
_RESAMPLING = ("shape_rounding", "anisotropy", "data")
# Initial values, dropout and how many heads training uses change no parameter and no prediction.
_NOT_ARCHITECTURE = ("initialization", "dropout_probability", "deep_supervision.enabled")


def network_fields(plan: Plan, configuration: str) -> dict[str, Any]:
    """The fields of a plan that the weights of a configuration depend on, by dotted path."""
    document = plan.document
    values = plan.configurations[configuration]
    architecture = {
        path: value
        for path, value in leaves(dict(values["architecture"]))
        if not path.startswith(_NOT_ARCHITECTURE)
    }
    cascade = values.get("cascade")
    here: dict[str, Any] = {key: values.get(key) for key in _CONFIGURATION}
    here["resampling"] = {key: values["resampling"][key] for key in _RESAMPLING}
    here["cascade"] = None if cascade is None else {"input": _without(cascade["input"], "checkpoint", "fold")}
    everything = {
        "dataset": {key: document["dataset"].get(key) for key in _DATASET},
        "preprocessing": {key: document["preprocessing"][key] for key in _PREPROCESSING},
        "channels": [_without(channel, "intensity") for channel in document["channels"]],
        f"configurations.{configuration}": here,
    }
    fields = dict(leaves(everything))
    prefix = f"configurations.{configuration}.architecture"
    return fields | {f"{prefix}.{path}": value for path, value in architecture.items()}


def network_digest(plan: Plan, configuration: str) -> str:
    """Hash of :func:`network_fields`: equal digests mean that weights can be exchanged."""
    return content_hash(network_fields(plan, configuration))


def differences(trained: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[Problem]:
    """One problem for each field that differs.

    Args:
        trained: :func:`network_fields` of the plan that the weights belong to.
        now: those of the plan in use.
        where: what the weights are called.
    """
    return [
        Problem(
            where=f"{where}: {path}",
            what="these weights are of another plan",
            got=repr(now.get(path, "no such field")),
            expected=repr(trained.get(path, "no such field")),
            fix="Use the plan beside the weights, or train with this one.",
        )
        for path in sorted(trained.keys() | now.keys())
        if trained.get(path) != now.get(path)
    ]


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
