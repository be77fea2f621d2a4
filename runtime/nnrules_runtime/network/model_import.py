"""Trained models of nnU-Net v2 as models of ours."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnrules.documents import read_json
from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan

from nnrules_runtime.network.architecture import Architecture
from nnrules_runtime.network.model import MODEL_FILE, Checkpoint, Model, write_model
from nnrules_runtime.network.nnunetv2 import NnunetCheckpoint, read_nnunetv2_checkpoint
from nnrules_runtime.network.state import check_state
from nnrules_runtime.network.unet import UNet
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import fold_name

__all__ = ["configuration_of", "import_nnunetv2"]

_FILES: dict[Checkpoint, str] = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
_NORMALIZATIONS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
_STATISTICS = {"mean": "mean", "std": "std", "clip_lower": "percentile_00_5", "clip_upper": "percentile_99_5"}
_CLASSES = {
    "PlainConvUNet": "plain_unet",
    "ResidualEncoderUNet": "residual_encoder_unet",
    "InstanceNorm": "instance_norm",
    "BatchNorm": "batch_norm",
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
}


def import_nnunetv2(
    model_folder: Path, plan: Plan, configuration: str, destination: Path
) -> tuple[Model, ...]:
    """Convert all folds of a model folder of nnU-Net v2 (``TRAINER__PLANS__CONFIGURATION``).

    Nothing in the checkpoints is executed. The final checkpoint and the best one are taken where they are there. Folds
    that were imported before are replaced; one that was trained here never is.

    Args:
        model_folder: with ``plans.json``, ``dataset.json`` and ``fold_*/checkpoint_*.pth``.
        plan: ours, of the same preprocessing and network; it decides how the model predicts.
        configuration: the configuration of our plan.
        destination: the folder of the configuration's folds, e.g. ``WORK/models/3d_fullres``.

    Returns:
        The models, by fold, final before best.

    Raises:
        ModelError: a file is missing or damaged, the plan describes other preprocessing or another network, or there
            are trainings at the destination.
    """
    theirs = _read(model_folder / "plans.json")
    dataset = _read(model_folder / "dataset.json")
    found = [
        (folder.name.removeprefix("fold_"), checkpoint, folder / name)
        for folder in sorted(model_folder.glob("fold_*"))
        for checkpoint, name in _FILES.items()
        if (folder / name).is_file()
    ]
    if not found:
        raise ModelError(
            Problem(
                where=str(model_folder),
                what="there is no trained fold",
                expected="fold_0/checkpoint_final.pth, or another fold",
                fix="Name the folder that holds plans.json and fold_*.",
            )
        )
    problems = [
        problem
        for fold in dict.fromkeys(fold for fold, _, _ in found)
        for problem in _trained_here(destination / fold_name(fold))
    ]
    if problems:
        raise ModelError(problems)
    with reading(plan) as root:
        network = UNet(Architecture.from_plan(root.section("configurations").section(configuration)))
    # Everything is read and compared before anything is written.
    checkpoints = []
    for fold, checkpoint, path in found:
        content = read_nnunetv2_checkpoint(path)
        _check_match(plan, configuration, theirs, dataset, _name(content, model_folder))
        check_state(content.weights, network, str(path))
        checkpoints.append((int(fold) if fold.isdecimal() else fold, checkpoint, content))
    return tuple(
        write_model(
            destination / fold_name(fold),
            content.weights,
            plan=plan,
            configuration=configuration,
            fold=fold,
            checkpoint=checkpoint,
            epoch=content.epoch,
            mirror_axes=content.mirror_axes,
            source={"program": "nnunetv2", "trainer": content.trainer},
        )
        for fold, checkpoint, content in checkpoints
    )


def configuration_of(model_folder: Path, plan: Plan) -> str:
    """The configuration of a plan that a model folder is of, by the end of its name.

    Args:
        model_folder: by nnU-Net's custom ``TRAINER__PLANS__CONFIGURATION``.
        plan: ours.

    Raises:
        ModelError: the plan has no configuration of this name.
    """
    name = model_folder.resolve().name.rpartition("__")[2]
    if name not in plan.configurations:
        raise ModelError(
            Problem(
                where=str(model_folder),
                what="the plan has no configuration that the folder's name ends with",
                got=name,
                expected="one of " + ", ".join(plan.configurations),
                fix="Name the configuration with -c.",
            )
        )
    return name


def _trained_here(folder: Path) -> Iterator[Problem]:
    """What keeps a fold from being imported: the files of a training."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    # What an import leaves that was interrupted is no training.
    if all(name.startswith(".") or name.endswith(".safetensors") for name in names):
        return
    with contextlib.suppress(ModelError):
        if _object(_read(folder / MODEL_FILE), "source").get("program") == "nnunetv2":
            return
    yield Problem(
        where=str(folder),
        what="a training is here, which is not replaced by another model",
        got=", ".join(sorted(names)[:3]),
        fix="Import into another work folder, or remove this folder first.",
    )


def _read(path: Path) -> Mapping[str, Any]:
    document = read_json(path, ModelError)
    if not isinstance(document, dict):
        raise ModelError(Problem(where=str(path), what="this is no JSON object", fix="Copy the file again."))
    return document


def _name(content: NnunetCheckpoint, model_folder: Path) -> str:
    """nnU-Net's name of the configuration: in the checkpoint, else the end of the folder's name."""
    return content.configuration or model_folder.name.rpartition("__")[2]


def _check_match(
    plan: Plan, configuration: str, plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str
) -> None:
    configurations = _object(plans, "configurations")
    if name not in configurations:
        raise ModelError(
            Problem(
                where="plans.json",
                what="the configuration of the checkpoint is missing",
                got=name,
                expected="one of " + ", ".join(configurations),
                fix="The files are of different models: copy the folder again.",
            )
        )
    theirs = _inherited(configurations, name)
    ours = plan.configurations[configuration]
    pairs = [
        *_inputs(plan, ours, plans, theirs),
        *_labels(plan, dataset),
        *_network(ours["architecture"], theirs),
    ]
    problems = [
        Problem(
            where=f"plan: {field}",
            what="the model of nnU-Net v2 was trained otherwise",
            got=repr(mine),
            expected=repr(wanted),
            fix="Plan from nnU-Net's own fingerprint (`nnrules plan --from-nnunet`) and its dataset.json.",
        )
        for field, mine, wanted in pairs
        if not _same(mine, wanted)
    ]
    if problems:
        raise ModelError(problems)


def _inherited(configurations: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A configuration with the fields of those that it builds on."""
    chain: list[str] = []
    link: Any = name
    while isinstance(link, str) and link in configurations and link not in chain:
        chain.append(link)
        link = _object(configurations, link).get("inherits_from")
    merged: dict[str, Any] = {}
    for link in reversed(chain):
        merged |= _object(configurations, link)
    return merged


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object below another; without fields where there is anything else. What it lacks then fits no plan."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _inputs(
    plan: Plan, ours: Mapping[str, Any], plans: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """What the network gets: field of our plan, our value, nnU-Net's."""
    yield "patch_size", ours["patch_size"], theirs.get("patch_size")
    yield "spacing", ours["spacing"], theirs.get("spacing")
    yield "transpose_forward", ours["transpose_forward"], plans.get("transpose_forward")
    normalizations = [channel["normalization"] for channel in plan.document["channels"]]
    classes = theirs.get("normalization_schemes")
    schemes = (
        [_NORMALIZATIONS.get(str(name), name) for name in classes] if isinstance(classes, list) else classes
    )
    yield "channels.normalization.scheme", [entry["scheme"] for entry in normalizations], schemes
    masks = theirs.get("use_mask_for_norm")
    yield "channels.normalization.use_mask", [entry["use_mask"] for entry in normalizations], masks
    statistics = _object(plans, "foreground_intensity_properties_per_channel")
    for index, entry in enumerate(normalizations):
        recorded = _object(statistics, str(index))
        for mine, name in _STATISTICS.items() if entry["statistics"] else ():
            yield f"channels[{index}].normalization.{mine}", entry["statistics"][mine], recorded.get(name)
    resampling = _object(theirs, "resampling_fn_data_kwargs")
    if resampling:
        data = ours["resampling"]["data"]
        yield "resampling.data.order", data["order"], resampling.get("order")
        if data["separate_axis"] is not None:
            order = data["separate_axis"]["order"]
            yield "resampling.data.separate_axis.order", order, resampling.get("order_z")


def _labels(plan: Plan, dataset: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What the network's output stands for."""
    ours = plan.document["dataset"]
    theirs = {name: _label(value) for name, value in _object(dataset, "labels").items()}
    mine = {name: _label(value) for name, value in ours["labels"].items()}
    yield "dataset.labels", mine, theirs
    if any(isinstance(value, list) for value in theirs.values()):
        yield "dataset.label_order", ours["label_order"], list(theirs)
        yield "dataset.regions_class_order", ours["regions_class_order"], dataset.get("regions_class_order")


def _label(value: Any) -> Any:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values if len(values) > 1 else values[0]


def _network(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What the shapes of the weights do not show. Plans before nnU-Net 2.3 do not say it; then shapes have to do."""
    architecture = _object(theirs, "architecture")
    network = _object(architecture, "arch_kwargs")
    kind = _class(architecture.get("network_class_name"))
    if kind is not None:
        yield "architecture.template", ours["template"], kind
    if "strides" in network:
        yield "architecture.strides", ours["strides"], network["strides"]
    norm = _class(network.get("norm_op"))
    if norm is not None:
        yield "architecture.norm.name", ours["norm"]["name"], norm
        epsilon = _object(network, "norm_op_kwargs").get("eps", 1e-5)
        yield "architecture.norm.epsilon", ours["norm"]["epsilon"], epsilon
    nonlinearity = _class(network.get("nonlin"))
    if nonlinearity is not None:
        yield "architecture.nonlinearity.name", ours["nonlinearity"]["name"], nonlinearity


def _class(path: Any) -> str | None:
    if not isinstance(path, str):
        return None
    name = path.rpartition(".")[2]
    return _CLASSES.get(name.removesuffix("2d").removesuffix("3d"), name)


def _same(mine: Any, wanted: Any) -> bool:
    if isinstance(mine, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(mine) == len(wanted) and all(map(_same, mine, wanted))
    if isinstance(mine, float) or isinstance(wanted, float):
        is_number = isinstance(mine, (int, float)) and isinstance(wanted, (int, float))
        return is_number and math.isclose(mine, wanted, rel_tol=1e-6, abs_tol=1e-9)
    return bool(mine == wanted)
