"""Writes a plan as ``nnUNetPlans.json`` of nnU-Net v2.

The document has the keys, types and order of nnunetv2 2.8.1, so that the same plan gives the same bytes as
there. What nnU-Net v2 reads from its plans is written or the export is refused; what it keeps in its code is
compared by origin and warned about (:mod:`nnrules.interop.nnunetv2_limits`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.documents import write_text
from nnrules.errors import Problem
from nnrules.interop.nnunetv2_limits import (
    NETWORK_CLASSES,
    NORMALIZATION_CLASSES,
    image_reader,
    refuse_unwritable,
    warnings_of,
)
from nnrules.plan import Plan

__all__ = ["NnunetPlans", "nnunet_plans", "write_nnunet_plans"]

logger = logging.getLogger(__name__)

_DATASET_NAME = re.compile(r"Dataset\d{3}_.+\Z")
# Order and names of nnunetv2 2.8.1; configurations of other names follow them.
_ORDER = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
_FULL_RESOLUTION = ("2d", "3d_fullres")
_RESAMPLING = "resample_data_or_seg_to_shape"
# nnU-Net's statistic → the field of the plan that stands for it.
_STATISTICS = {"mean": "mean", "std": "std", "percentile_00_5": "clip_lower", "percentile_99_5": "clip_upper"}
_IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetPlans:
    """A plan in the form of nnU-Net v2.

    Attributes:
        document: the content of ``nnUNetPlans.json``, keys in nnU-Net's order.
        warnings: what nnU-Net v2 would do otherwise than the plan says, because it has it in its code.
    """

    document: dict[str, Any]
    warnings: tuple[Problem, ...]


def nnunet_plans(plan: Plan, *, dataset_name: str | None = None) -> NnunetPlans:
    """Convert a plan.

    Args:
        plan: the plan, made by a pack that decides ``exports.nnunetv2`` (nnunet@2.8.0 and what extends it).
        dataset_name: nnU-Net's name of the dataset, such as ``Dataset003_Liver``, by which it finds the
            preprocessed data; default: the name in the plan.

    Returns:
        The document and warnings.

    Raises:
        PlanError: every field that nnU-Net v2 would have to read and cannot.
    """
    refuse_unwritable(plan)
    document = plan.document
    names = document["exports"]["nnunetv2"]
    configurations = {name: _configuration(name, plan) for name in _ordered(plan.configurations)}
    for name, entry in configurations.items():
        parent = plan.configurations[name].get("inherits_from")
        if parent is not None:
            configurations[name] = _differences(parent, entry, configurations[parent])
    first = next(iter(plan.configurations.values()))
    forward = first["transpose_forward"]
    name = document["dataset"]["name"] if dataset_name is None else dataset_name
    converted = {
        "dataset_name": name,
        "plans_name": names["plans_name"],
        "original_median_spacing_after_transp": [float(names["median_spacing"][axis]) for axis in forward],
        "original_median_shape_after_transp": [int(names["median_shape"][axis]) for axis in forward],
        "image_reader_writer": image_reader(plan),
        "transpose_forward": list(forward),
        "transpose_backward": list(first["transpose_backward"]),
        "configurations": configurations,
        "experiment_planner_used": names["planner"],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): _intensity(channel) for index, channel in enumerate(document["channels"])
        },
    }
    return NnunetPlans(document=converted, warnings=(*_name_warnings(name), *warnings_of(plan)))


def write_nnunet_plans(plan: Plan, path: Path, *, dataset_name: str | None = None) -> NnunetPlans:
    """Convert a plan and write it atomically, in nnU-Net's layout.

    Args:
        plan: see :func:`nnunet_plans`.
        path: the file. Where its folder is called like a dataset of nnU-Net (``Dataset003_Liver``), as below
            ``nnUNet_preprocessed``, and no name is given, that is the name.
        dataset_name: see :func:`nnunet_plans`.

    Raises:
        PlanError: see :func:`nnunet_plans`; nothing is written.
        NnrulesError: the folder is missing or not writable.
    """
    folder = path.resolve().parent.name
    if dataset_name is None and _DATASET_NAME.match(folder):
        dataset_name = folder
    converted = nnunet_plans(plan, dataset_name=dataset_name)
    write_text(path, json.dumps(converted.document, indent=4, allow_nan=False))
    logger.info("wrote %s (%s)", path, ", ".join(converted.document["configurations"]))
    return converted


def _ordered(configurations: Mapping[str, Any]) -> list[str]:
    known = [name for name in _ORDER if name in configurations]
    return known + [name for name in configurations if name not in _ORDER]


def _configuration(name: str, plan: Plan) -> dict[str, Any]:
    configuration = plan.configurations[name]
    names = plan.document["exports"]["nnunetv2"]
    channels = plan.document["channels"]
    shared = names["full_resolution_data"] if name in _FULL_RESOLUTION else None
    resampling = configuration["resampling"]
    # nnU-Net v2 keeps the median of the low resolution rounded, and the others as floats.
    number = int if name == "3d_lowres" else float
    entry: dict[str, Any] = {
        "data_identifier": f"{shared or names['plans_name']}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration["batch_size"],
        "patch_size": list(configuration["patch_size"]),
        "median_image_size_in_voxels": [number(edge) for edge in configuration["median_shape"]],
        "spacing": [float(edge) for edge in configuration["spacing"]],
        "normalization_schemes": [
            NORMALIZATION_CLASSES[each["normalization"]["scheme"]] for each in channels
        ],
        "use_mask_for_norm": [each["normalization"]["use_mask"] for each in channels],
        "resampling_fn_data": _RESAMPLING,
        "resampling_fn_seg": _RESAMPLING,
        "resampling_fn_data_kwargs": _interpolation(resampling["data"], is_segmentation=False),
        "resampling_fn_seg_kwargs": _interpolation(resampling["segmentation"], is_segmentation=True),
        "resampling_fn_probabilities": _RESAMPLING,
        "resampling_fn_probabilities_kwargs": _interpolation(
            resampling["probabilities"], is_segmentation=False
        ),
        "architecture": _architecture(configuration),
        "batch_dice": configuration["loss"]["batch_dice"],
    }
    for link in ("next_stage", "previous_stage"):
        if configuration.get(link) is not None:
            entry[link] = configuration[link]
    return entry


def _interpolation(resampling: Mapping[str, Any], *, is_segmentation: bool) -> dict[str, Any]:
    separate = resampling["separate_axis"]
    return {
        "is_seg": is_segmentation,
        "order": resampling["order"],
        "order_z": 0 if separate is None else separate["order"],
        # null lets nnU-Net v2 decide by each image's spacing, false means never.
        "force_separate_z": False if separate is None else None,
    }


def _architecture(configuration: Mapping[str, Any]) -> dict[str, Any]:
    architecture, dim = configuration["architecture"], configuration["dim"]
    network_class, encoder_blocks = NETWORK_CLASSES[architecture["template"]]
    return {
        "network_class_name": network_class,
        "arch_kwargs": {
            "n_stages": architecture["num_stages"],
            "features_per_stage": list(architecture["features_per_stage"]),
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [list(kernel) for kernel in architecture["kernel_sizes"]],
            "strides": [list(stride) for stride in architecture["strides"]],
            encoder_blocks: list(architecture["blocks_per_stage_encoder"]),
            "n_conv_per_stage_decoder": list(architecture["blocks_per_stage_decoder"]),
            "conv_bias": architecture["biases"]["convolution"],
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {
                "eps": architecture["norm"]["epsilon"],
                "affine": architecture["norm"]["affine"],
            },
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": _slope(architecture["nonlinearity"]["negative_slope"]) | {"inplace": True},
        },
        "_kw_requires_import": list(_IMPORTED),
    }


def _slope(negative_slope: float) -> dict[str, float]:
    """nnU-Net v2 leaves PyTorch's own slope unsaid."""
    return {} if negative_slope == 0.01 else {"negative_slope": negative_slope}


def _differences(parent: str, entry: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration that inherits has to say itself; its data are the parent's."""
    own = {key: value for key, value in entry.items() if base.get(key) != value and key != "data_identifier"}
    return {"inherits_from": parent} | own


def _intensity(channel: Mapping[str, Any]) -> dict[str, float]:
    """All measured statistics, with those that the plan normalises by on top."""
    measured = channel.get("intensity") or {}
    used = channel["normalization"].get("statistics") or {}
    values = dict(measured)
    values |= {key: used[own] for key, own in _STATISTICS.items() if own in used}
    return {key: float(values[key]) for key in sorted(values)}


def _name_warnings(name: str) -> list[Problem]:
    if _DATASET_NAME.match(name):
        return []
    return [
        Problem(
            where="dataset_name",
            what="nnU-Net v2 finds its data by this name, which does not look like one of its datasets",
            got=repr(name),
            expected="a name such as Dataset003_Liver",
            fix="Give the dataset's name, or write the file into its folder below nnUNet_preprocessed.",
        )
    ]
