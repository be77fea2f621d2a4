"""Batches of patches that fill the device, and where the sums of a prediction lie."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from nnrules.errors import Problem, RunError
from nnrules.memory import available_bytes
from torch import Tensor, nn

from nnrules_runtime.predict.window import Triple
from nnrules_runtime.profile import Profile

__all__ = ["BatchSizer", "Unit"]

_LOGGER = logging.getLogger(__name__)

# Measured on one core with AMX (networks of Hippocampus, bfloat16): of patches of 90,000 voxels (40 x 56 x 40) one at
# a time is fastest, and eight are half as slow again, as their activations leave the cache; of patches of 2,240 (56 x
# 40) 16 to 64 are fastest, and one is three times slower.
_VOXELS_THAT_FILL_A_CPU = 1 << 17
_MAX_BATCH = 64
# Of what is free on a GPU, for the sums and for a batch: convolutions want workspace, memory is never in one piece,
# and the next case may be larger than the one for which batches are measured.
_SHARE_OF_SUMS = 0.7
_SHARE_OF_BATCH = 0.35


@dataclass(frozen=True, slots=True)
class Unit:
    """One patch that the network sees.

    Attributes:
        index: its window.
        flip: axes of ``(C, *patch)`` along which it is mirrored.
    """

    index: Triple
    flip: tuple[int, ...]


class BatchSizer:
    """Runs a network over patches, as many at a time as suits the device.

    On a CPU the size follows from the patch. On CUDA the first patch runs alone and its memory is measured; a batch
    that does not fit after all is halved.

    Args:
        profile: how the network is executed.
        patch: voxels of a patch.
    """

    def __init__(self, profile: Profile, patch: Sequence[int]) -> None:
        self._profile = profile
        self._size: int | None = None
        if profile.device_type == "cpu":
            self._size = _clamped(_VOXELS_THAT_FILL_A_CPU * profile.num_threads / 2 / math.prod(patch))
        elif profile.device_type != "cuda":
            self._size = 1
        self._bytes_each = 0

    @property
    def size(self) -> int:
        """Patches a batch; 1 as long as it has to be measured."""
        return self._size or 1

    def run(
        self,
        network: nn.Module,
        units: Sequence[Unit],
        inputs: Callable[[Sequence[Unit]], Tensor],
        where: str,
    ) -> Iterator[tuple[Sequence[Unit], Tensor]]:
        """Batches of units with the network's output ``(B, K, *patch)`` in float32.

        Args:
            network: on the device.
            units: all patches, in order.
            inputs: makes the input of some units.
            where: the case, for errors.

        Raises:
            RunError: a single patch does not fit on the device.
        """
        position = 0
        while position < len(units):
            size = self.size
            batch = units[position : position + size]
            try:
                outputs = self._measured(network, self._filled(batch, inputs))
            except torch.OutOfMemoryError as exc:
                if size == 1:
                    raise _out_of_memory(where, self._profile.device, str(exc)) from None
                torch.cuda.empty_cache()
                self._size = size // 2
                _LOGGER.info("%s: %d patches a batch are too many, now %d", where, size, self._size)
                continue
            yield batch, outputs[: len(batch)].float()
            del outputs
            position += len(batch)

    def place_of_sums(
        self, shape: Sequence[int], dtype: torch.dtype, image: Tensor, where: str
    ) -> torch.device:
        """Where an array of this shape goes with its image: on the device if both fit, else on the host.

        Raises:
            RunError: the host has too little memory for it.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        device = torch.device(self._profile.device)
        if device.type == "cuda":
            free = _free_on(device) - self._bytes_each * self.size
            if num_bytes + image.nbytes <= _SHARE_OF_SUMS * free:
                self._fill(free - num_bytes - image.nbytes)
                return device
            _LOGGER.info(
                "%s: sums of %.1f GB stay on the host, %.1f GB are free on %s",
                where, num_bytes / 1e9, free / 1e9, device,
            )  # fmt: skip
            self._fill(free)
        host = torch.device("cpu")
        available = available_bytes()
        if available is not None and num_bytes > available:
            raise RunError(
                Problem(
                    where=where,
                    what="the prediction does not fit into memory",
                    got=f"{num_bytes:,} bytes for {shape[0]} classes on the network's grid {tuple(shape[1:])}",
                    expected=f"at most {available:,} bytes",
                    fix="Close other programs or use a machine with more memory.",
                )
            )
        return host

    def _measured(self, network: nn.Module, patches: Tensor) -> Tensor:
        if self._size is not None or self._profile.device_type != "cuda":
            outputs: Tensor = network(patches)
            return outputs
        device = patches.device
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        outputs = network(patches)
        self._bytes_each = torch.cuda.max_memory_allocated(device) - before
        return outputs

    def _fill(self, free: int) -> None:
        """Choose the size of batches, now that one patch has been measured."""
        if self._size is None:
            self._size = _clamped(_SHARE_OF_BATCH * free / max(1, self._bytes_each))
            _LOGGER.info("%d patches a batch, %.0f MB each", self._size, self._bytes_each / 1e6)

    def _filled(self, batch: Sequence[Unit], inputs: Callable[[Sequence[Unit]], Tensor]) -> Tensor:
        """A compiled network is made for one size of batch: the last one repeats its last patch."""
        if self._profile.compile and len(batch) < self.size:
            batch = [*batch, *[batch[-1]] * (self.size - len(batch))]
        return inputs(batch)


def _clamped(size: float) -> int:
    """The power of two at most ``size``: few sizes, so that algorithms are chosen and code compiled rarely."""
    return int(2 ** math.floor(math.log2(min(max(size, 1), _MAX_BATCH))))


def _free_on(device: torch.device) -> int:
    """Bytes that torch can still take on a CUDA device, with what it holds in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _out_of_memory(where: str, device: str, got: str) -> RunError:
    return RunError(
        Problem(
            where=where,
            what=f"one patch does not fit into the memory of {device}",
            got=got.splitlines()[0],
            fix="Free memory on the device, or predict with --device cpu.",
        )
    )
