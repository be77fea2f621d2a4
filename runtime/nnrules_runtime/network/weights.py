"""Files of weights: safetensors, which hold numbers and text and can run nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from nnrules.errors import ModelError, Problem
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from nnrules_runtime.files import atomic_file
from nnrules_runtime.network.nnunetv2 import load_nnunetv2_weights
from nnrules_runtime.network.state import check_finite, check_state, state_of

__all__ = ["load_nnunetv2_weights", "load_weights", "read_weights", "save_weights"]

# A zip archive (torch.save) and the protocols 2 to 5 of pickle.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MARK_BYTES = 4
_LENGTH_BYTES = 8
_IDENTITY = {"network": "network_digest", "plan": "plan_hash", "configuration": "configuration"}


def save_weights(path: Path, network: nn.Module | Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write weights; the file appears whole or not at all.

    Args:
        path: where; an existing file is replaced.
        network: the network, or its state dict.
        metadata: text to keep with it, e.g. ``plan_hash``, ``network_digest``, ``configuration``.

    Raises:
        RunError: the file cannot be written.
    """
    state = state_of(network) if isinstance(network, nn.Module) else network
    # Plain layout, as the format has no other; nothing shared, as the format admits none.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=dict(metadata))
        except SafetensorError as exc:  # how the library reports a full disk
            raise OSError(str(exc)) from None
        _sort_header(temporary)


def _sort_header(path: Path) -> None:
    """Give the same weights the same bytes: the library writes metadata in an order that differs from call to call."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise RuntimeError(f"{path}: the sorted header is longer than the header")
        stream.seek(_LENGTH_BYTES)
        stream.write(text.ljust(length))


def read_weights(
    source: Path | bytes, *, where: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and its metadata.

    Args:
        source: the file, or its content.
        where: what errors call it; default: its path.

    Raises:
        ModelError: the file is missing, a pickle, cut off, no safetensors, or holds NaN or infinity.
    """
    place = where or (str(source) if isinstance(source, Path) else "weights")
    _check_kind(_start(source, place) if isinstance(source, Path) else source[:_MARK_BYTES], place)
    try:
        tensors, metadata = _from_file(source) if isinstance(source, Path) else _from_bytes(source)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as exc:
        raise ModelError(
            Problem(
                where=place,
                what="these weights cannot be read: the file is damaged or cut off",
                got=f"{type(exc).__name__} {exc}".partition("\n")[0],
                expected="a safetensors file",
                fix="Copy it again from where it was written, or train again.",
            )
        ) from None
    check_finite(tensors, place)
    return tensors, metadata


def _from_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt", device="cpu") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no mapping
        return tensors, stream.metadata() or {}


def _from_bytes(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = load(content)
    # The library gives the metadata of files only. By here it has checked the header: its length, then JSON.
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    return tensors, dict(header.get("__metadata__") or {})


def load_weights(
    source: Path | bytes,
    network: nn.Module,
    *,
    where: str | None = None,
    expected: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Put the weights of a file into a network; on any error the network is as before.

    Args:
        source: a file of :func:`save_weights`, or its content.
        network: with the same parameter names and shapes.
        where: what errors call it; default: its path.
        expected: metadata that the file should have (``network_digest``, ``plan_hash``, ``configuration``), named in
            the error when names or shapes differ.

    Returns:
        The metadata of the file.

    Raises:
        ModelError: as :func:`read_weights`, or other names or shapes than the network's.
    """
    place = where or (str(source) if isinstance(source, Path) else "weights")
    tensors, metadata = read_weights(source, where=place)
    check_state(tensors, network, place, identity=_identity(metadata, expected or {}))
    target = network.state_dict()
    by_plain_name = dict(zip(state_of(network), target, strict=True))
    network.load_state_dict({by_plain_name[name]: tensor for name, tensor in tensors.items()})
    return metadata


def _identity(metadata: Mapping[str, str], expected: Mapping[str, str]) -> str:
    pairs = [
        f"{label} {metadata[key]} instead of {expected[key]}"
        for label, key in _IDENTITY.items()
        if key in metadata and key in expected and metadata[key] != expected[key]
    ]
    return f" ({', '.join(pairs)})" if pairs else ""


def _start(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MARK_BYTES)
    except OSError as exc:
        raise ModelError(
            Problem(
                where=where,
                what="there are no weights to read",
                got=exc.strerror or str(exc),
                fix="Check the path, or train first.",
            )
        ) from None


def _check_kind(start: bytes, where: str) -> None:
    if start.startswith(_PICKLES):
        raise ModelError(
            Problem(
                where=where,
                what="this is a pickle, which can run any code when it is read",
                got="a file of torch.save or pickle",
                expected="a safetensors file",
                fix="Import a checkpoint of nnU-Net v2 as a model; other pickles are never opened.",
            )
        )
