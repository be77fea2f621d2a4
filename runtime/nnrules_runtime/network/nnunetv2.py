"""Checkpoints of nnU-Net v2, read without running anything that is in them.

They are pickles. torch's restricted reader builds tensors, containers, numbers and text; a file that asks for
anything else is refused and nothing of it is executed.
"""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnrules.errors import ModelError, Problem
from torch import Tensor, nn

from nnrules_runtime.network import names
from nnrules_runtime.network.state import check_finite, state_of
from nnrules_runtime.network.unet import UNet

__all__ = ["NnunetCheckpoint", "load_nnunetv2_weights", "read_nnunetv2_checkpoint", "to_nnunetv2_state_dict"]

# How torch names what it did not build.
_ASKED = re.compile(r"(?:Unsupported global: |unsupported )GLOBAL ([\w.]+)")
_FIX = "Nothing in the file was run. Get it from whoever trained the model, or do not use it."


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetCheckpoint:
    """What a checkpoint of nnU-Net v2 holds.

    Attributes:
        weights: parameters with our names, on the CPU.
        mirror_axes: axes that may be mirrored at prediction; ``None`` where the file does not say.
        plans: nnU-Net's plans; ``None`` where the file has none.
        dataset: its dataset.json; likewise.
        configuration: name of the configuration; likewise.
        fold: number of the fold or ``all``; likewise.
        trainer: name of the trainer class; likewise.
        epoch: epochs that were trained; likewise.
    """

    weights: Mapping[str, Tensor]
    mirror_axes: tuple[int, ...] | None = None
    plans: Mapping[str, Any] | None = None
    dataset: Mapping[str, Any] | None = None
    configuration: str | None = None
    fold: int | str | None = None
    trainer: str | None = None
    epoch: int | None = None


def load_nnunetv2_weights(path: Path) -> dict[str, Tensor]:
    """The weights of an nnU-Net v2 checkpoint (``.pth``), with our parameter names, each tensor once.

    Raises:
        ModelError: as :func:`read_nnunetv2_checkpoint`.
    """
    return dict(read_nnunetv2_checkpoint(path).weights)


def read_nnunetv2_checkpoint(path: Path) -> NnunetCheckpoint:
    """Read an nnU-Net v2 checkpoint.

    Raises:
        ModelError: the file is missing or damaged, asks for anything but numbers, text and tensors, is no checkpoint
            of nnU-Net v2, or holds NaN or infinity.
    """
    content = _load(path)
    state = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ModelError(_not_a_checkpoint(path, "no tensors under network_weights"))
    weights = names.to_our_names({str(name): tensor for name, tensor in state.items()})
    if not weights:
        raise ModelError(_not_a_checkpoint(path, "weights of another network: " + ", ".join(list(state)[:3])))
    check_finite(weights, str(path))
    arguments = _mapping(content.get("init_args")) or {}
    fold = arguments.get("fold")
    epoch = content.get("current_epoch")
    return NnunetCheckpoint(
        weights=weights,
        mirror_axes=_axes(content.get("inference_allowed_mirroring_axes")),
        plans=_mapping(arguments.get("plans")),
        dataset=_mapping(arguments.get("dataset_json")),
        configuration=_text(arguments.get("configuration")),
        fold=int(fold) if isinstance(fold, (int, np.integer)) else _text(fold),
        trainer=_text(content.get("trainer_name")),
        epoch=int(epoch) if isinstance(epoch, (int, np.integer)) else None,
    )


def to_nnunetv2_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The state dict that nnU-Net v2 would have for a network, with all its repetitions.

    A bias that our network lacks and nnU-Net v2 always has becomes zeros.

    Args:
        network: ours; it may be wrapped (compiled, distributed).

    Raises:
        ModelError: nnU-Net v2 has no such network.
    """
    unet = next(module for module in network.modules() if isinstance(module, UNet))
    architecture = unet.architecture
    reasons = names.unmappable(architecture)
    if reasons:
        raise ModelError(
            [
                Problem(
                    where="architecture",
                    what=f"nnU-Net v2 cannot express this network: {reason}",
                    fix="Such a network runs with nnrules only.",
                )
                for reason in reasons
            ]
        )
    state = state_of(network)
    if architecture.convolution_bias:
        for name in [
            name for name in state if name.startswith(("up.", "heads.")) and name.endswith("weight")
        ]:
            # A transposed convolution has its outputs on the second axis.
            outputs = state[name].shape[1 if name.startswith("up.") else 0]
            state.setdefault(name.removesuffix("weight") + "bias", torch.zeros(outputs))
    theirs = {names.to_nnunetv2_name(name, architecture): tensor for name, tensor in state.items()}
    return {alias: theirs[name] for alias, name in names.nnunetv2_aliases(theirs, architecture).items()}


@contextlib.contextmanager
def _numpy_numbers() -> Iterator[None]:
    # nnU-Net logs numpy scalars; older numpy calls the module of their constructor numpy.core.
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {
        type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)
    }
    allowed: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*allowed, np.dtype, *kinds]):
        yield


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(
            Problem(
                where=str(path), what="there is no such checkpoint", fix="Check the path of the model folder."
            )
        )
    try:
        with _numpy_numbers():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        found = _ASKED.search(str(exc))
        raise ModelError(
            Problem(
                where=str(path),
                what="this checkpoint holds more than numbers and text"
                if found
                else "this checkpoint is damaged",
                got=found[1] if found else "a stream that is no pickle of numbers and text",
                expected="a checkpoint of nnU-Net v2",
                fix=_FIX,
            )
        ) from None
    except Exception as exc:  # whatever a damaged archive makes torch raise
        raise ModelError(_not_a_checkpoint(path, f"{type(exc).__name__} {exc}".partition("\n")[0])) from None


def _not_a_checkpoint(path: Path, got: str) -> Problem:
    return Problem(
        where=str(path),
        what="this is no checkpoint of nnU-Net v2, or a damaged one",
        got=got[:200],
        expected="a file checkpoint_final.pth or checkpoint_best.pth of nnU-Net v2",
        fix="Check the path, and copy the file again.",
    )


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _axes(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(axis, (int, np.integer)) for axis in value):
        return None
    return tuple(int(axis) for axis in value)
