"""What nnU-Net v2 can and cannot be told by its plans.

A field that nnU-Net v2 reads from its plans must have a value that it knows, or the export is refused: the
result would be another network or other data. Everything else stands in nnU-Net's code. The rules of
``nnunet@2.8.0`` and ``nnunet-resenc@2.8.0`` describe that code, so a field that one of them decided is as
there; a field that a user or another pack decided is reported, and nnU-Net v2 would do it its own way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nnrules.errors import PlanError, Problem
from nnrules.plan import Plan, value_at

__all__ = [
    "NETWORK_CLASSES",
    "NORMALIZATION_CLASSES",
    "image_reader",
    "refuse_unwritable",
    "warnings_of",
]

NETWORK_CLASSES: Mapping[str, tuple[str, str]] = {
    "plain_unet": ("dynamic_network_architectures.architectures.unet.PlainConvUNet", "n_conv_per_stage"),
    "residual_encoder_unet": (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "n_blocks_per_stage",
    ),
}
"""Template → class in nnunetv2 2.8.1 and its argument for the blocks of the encoder."""

NORMALIZATION_CLASSES: Mapping[str, str] = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
"""Scheme → class in nnunetv2 2.8.1."""

# nnunetv2 2.8.1, the first reader that takes the ending; .tif is read as 2D image where that succeeds.
_READERS = {
    ".png": "NaturalImage2DIO",
    ".bmp": "NaturalImage2DIO",
    ".tif": "NaturalImage2DIO",
    ".nii.gz": "SimpleITKIO",
    ".nrrd": "SimpleITKIO",
    ".mha": "SimpleITKIO",
    ".gipl": "SimpleITKIO",
    ".tiff": "Tiff3DIO",
    ".nii": "NibabelIO",
}

_REPRODUCTIONS = ("nnunet@2.8.0", "nnunet-resenc@2.8.0")

# What the network classes of nnU-Net v2 do, whatever their arguments.
_FIXED_ARCHITECTURE: Mapping[str, Any] = {
    "convolution.order": ["convolution", "norm", "nonlinearity"],
    "convolution.padding": "half_kernel",
    "norm.name": "instance_norm",
    "norm.track_running_statistics": False,
    "nonlinearity.name": "leaky_relu",
    "dropout_probability": 0,
    "biases.head": True,
    "downsampling": "strided_convolution",
    "upsampling": "transposed_convolution",
    "skip_connection.name": "concatenate",
}
_RESIDUAL_BLOCK = {
    "stem": "one_block",
    "layers": ["convolution", "norm", "nonlinearity", "convolution", "norm"],
    "skip_pooling": "average",
    "skip_projection": "convolution_and_norm",
    "skip_projection_bias": False,
    "after_sum": "nonlinearity",
}
# configuration.ANISO_THRESHOLD of nnunetv2 2.8.1
_ANISOTROPY = {"ratio_above": 3, "equal_coarsest_axes": "together"}

# Fields that the export writes, or that follow from written ones.
_WRITTEN = re.compile(
    r"(target_spacing|configurations|exports\..*|channels\[\d+\]\.(name|intensity|normalization)(\..*)?"
    r"|configurations\.[^.]+\.(dim|inherits_from|next_stage|previous_stage|transpose_(forward|backward)|spacing"
    r"|median_shape|patch_size|batch_size|memory|loss\.batch_dice"
    r"|resampling\.(data|segmentation|probabilities)\.(order|separate_axis|separate_axis\.order)"
    r"|architecture\.(?!deep_supervision|initialization).*)(\..*)?)\Z"
)


def image_reader(plan: Plan) -> str | None:
    """nnU-Net v2's reader for the files of this dataset; None where it reads no such files.

    A reader that dataset.json forces (``overwrite_image_reader_writer``) is no part of a plan: put it into
    the exported file by hand.
    """
    ending = plan.document["dataset"]["file_ending"].lower()
    is_3d = any(configuration["dim"] == 3 for configuration in plan.configurations.values())
    return "Tiff3DIO" if ending == ".tif" and is_3d else _READERS.get(ending)


def refuse_unwritable(plan: Plan) -> None:
    """Check every field that nnU-Net v2 reads.

    Raises:
        PlanError: with each field that has no counterpart.
    """
    problems = [*_dataset_problems(plan)]
    for name, configuration in plan.configurations.items():
        place = f"configurations.{name}"
        problems += _architecture_problems(f"{place}.architecture", configuration["architecture"])
        problems += _channel_count_problems(place, configuration, plan.document["dataset"])
    if problems:
        raise PlanError(problems)


def warnings_of(plan: Plan) -> list[Problem]:
    """Fields that nnU-Net v2 has in its code, where a user or another pack decided otherwise."""
    provenance = plan.provenance
    problems = [
        _in_code([path], "set by the user", value)
        for path, value in provenance["overrides"].items()
        if not _WRITTEN.match(path)
    ]
    problems += [
        _in_code([f"configurations.{name}.resampling.anisotropy"], "this plan", found)
        for name, configuration in plan.configurations.items()
        if (found := configuration["resampling"].get("anisotropy")) != _ANISOTROPY
    ]
    own = f"{provenance['pack']['name']}@{provenance['pack']['version']}"
    for entry in provenance["decisions"]:
        paths = [path for path in entry["decides"] if not _WRITTEN.match(path)]
        if paths and not entry.get("override"):
            foreign = _foreign_origin(entry, own, provenance)
            if foreign:
                problems.append(_in_code(paths, foreign, None))
    return problems


def _in_code(paths: list[str], origin: str, value: Any) -> Problem:
    return Problem(
        where=", ".join(paths),
        what="nnU-Net v2 has this in its code and keeps its own way",
        got=origin if value is None else f"{value} ({origin})",
        expected=f"a decision of {' or '.join(_REPRODUCTIONS)}",
    )


def _foreign_origin(entry: Mapping[str, Any], own: str, provenance: Mapping[str, Any]) -> str | None:
    """The rule or parameter of another pack that a decision rests on; None where it is nnU-Net's own."""
    pack = entry.get("pack", own)
    if pack not in _REPRODUCTIONS:
        return f"rule {entry['rule']} of {pack}"
    for parameter in _parameters(entry, provenance, set()):
        place = provenance["params"].get(parameter)
        if place is not None and not _is_reproduction(place["file"]):
            return f"parameter {parameter} = {place['value']} ({place['file']})"
    return None


def _parameters(entry: Mapping[str, Any], provenance: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    for reference in entry.get("reads", {}).values():
        scope, _, name = reference.partition(":")
        if scope == "params":
            yield name
        elif scope == "facts" and name not in seen:
            seen.add(name)
            yield from _parameters(provenance["facts"].get(name, {}), provenance, seen)


def _is_reproduction(file: str) -> bool:
    return any(file.startswith(pack.replace("@", "/") + "/") for pack in _REPRODUCTIONS)


# -- what must be writable ---------------------------------------------------------------------------------


def _dataset_problems(plan: Plan) -> Iterator[Problem]:
    document = plan.document
    if "nnunetv2" not in document.get("exports", {}):
        pack = document["provenance"]["pack"]
        yield Problem(
            where="exports.nnunetv2",
            what="the pack does not say how nnU-Net v2 calls its plans",
            got=f"{pack['name']}@{pack['version']}",
            expected=f"{' or '.join(_REPRODUCTIONS)}, or a pack that extends one of them",
        )
    if image_reader(plan) is None:
        yield Problem(
            where="dataset.file_ending",
            what="nnU-Net v2 cannot read such files",
            got=document["dataset"]["file_ending"],
            expected=", ".join(_READERS),
            fix="Convert the images.",
        )
    orders = {name: entry["transpose_forward"] for name, entry in plan.configurations.items()}
    if len({tuple(order) for order in orders.values()}) > 1:
        yield Problem(
            where=", ".join(f"configurations.{name}.transpose_forward" for name in orders),
            what="nnU-Net v2 has one order of axes for all configurations",
            got=", ".join(str(order) for order in orders.values()),
        )
    for index, channel in enumerate(document["channels"]):
        scheme = channel["normalization"]["scheme"]
        if scheme not in NORMALIZATION_CLASSES:
            yield _unknown(f"channels[{index}].normalization.scheme", scheme, NORMALIZATION_CLASSES)


def _unknown(where: str, got: object, known: Mapping[str, object]) -> Problem:
    return Problem(where=where, what="nnU-Net v2 has no such value", got=str(got), expected=", ".join(known))


def _architecture_problems(place: str, architecture: Mapping[str, Any]) -> Iterator[Problem]:
    if architecture["template"] not in NETWORK_CLASSES:
        yield _unknown(f"{place}.template", architecture["template"], NETWORK_CLASSES)
    wanted = dict(_FIXED_ARCHITECTURE)
    wanted["biases.transposed_convolution"] = architecture["biases"]["convolution"]
    wanted["decoder_kernel_sizes"] = architecture["kernel_sizes"][:-1]
    wanted["residual_block"] = (
        _RESIDUAL_BLOCK if architecture["template"] == "residual_encoder_unet" else None
    )
    for path, expected in wanted.items():
        got = value_at(architecture, path)
        if got != expected:
            yield Problem(
                where=f"{place}.{path}",
                what="the networks of nnU-Net v2 cannot be built so",
                got=str(got),
                expected=str(expected),
            )


def _channel_count_problems(
    place: str, configuration: Mapping[str, Any], dataset: Mapping[str, Any]
) -> Iterator[Problem]:
    """nnU-Net v2 counts inputs and outputs by itself, from dataset.json."""
    regions = [value if isinstance(value, list) else [value] for value in dataset["labels"].values()]
    ignore = dataset.get("ignore_label")
    values = {value for region in regions for value in region} - {0, ignore}
    classes = [region for region in regions if region not in ([0], [ignore])]
    has_regions = any(len(region) > 1 for region in regions)
    counts = {
        "num_input_channels": len(dataset["channel_names"])
        + (len(values) if configuration.get("previous_stage") else 0),
        "num_output_channels": len(classes) if has_regions else len(values) + 1,
    }
    for name, expected in counts.items():
        got = configuration["architecture"][name]
        if got != expected:
            yield Problem(
                where=f"{place}.architecture.{name}",
                what="nnU-Net v2 takes this number from dataset.json",
                got=str(got),
                expected=str(expected),
            )
