"""The prediction of a preprocessed case: windows, their mirrored copies, and the networks of several folds.

Shapes, in transposed axes: an image is ``(C, Z, Y, X)``, a prediction ``(K, Z, Y, X)``; the network sees
``(B, C, Z, Y, X)``, or ``(B, C, Y, X)`` in a 2D configuration, whose windows are single slices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from nnrules.errors import Problem, RunError
from torch import Tensor, nn

from nnrules_runtime.predict.averaging import Activation, Averaging
from nnrules_runtime.predict.batching import BatchSizer, Unit
from nnrules_runtime.predict.stage_input import StageLabels
from nnrules_runtime.predict.window import Importance, Tiles, Triple, Weights, Window
from nnrules_runtime.profile import Profile
from nnrules_runtime.values import Section

__all__ = ["SlidingWindow"]


class SlidingWindow:
    """Predicts preprocessed images with the networks of one configuration.

    Sums are in the plan's type, but what is summed has been weighted so that the weights of a voxel add up to 1
    (see :class:`Weights`). In float16 a logit is thus within some 1e-3 of its size of the exact sum, where
    nnU-Net v2, which divides float16 sums by float16 sums of weights, is up to 0.6 off in corners.

    Args:
        configuration: ``configurations.NAME`` of a plan.
        profile: how the networks are executed.
        mirror_axes: axes of the patch to mirror; ``None``: the plan's, ``()``: none.
    """

    def __init__(
        self, configuration: Section, profile: Profile, *, mirror_axes: Sequence[int] | None = None
    ) -> None:
        mirroring = configuration.section("inference").section("mirroring")
        axes = configuration.value("mirror_axes") if mirror_axes is None else mirror_axes
        axes = tuple(axes or ()) if mirroring.value("enabled") else ()
        self.window = Window.from_plan(configuration)
        self.importance = Importance.from_plan(configuration)
        self.averaging = Averaging.from_plan(configuration, mirrors=bool(axes))
        self.num_classes: int = configuration.section("architecture").value("num_output_channels")
        self.profile = profile
        # All subsets, the empty one first; as axes of one copy (C, *patch).
        self.flips: tuple[tuple[int, ...], ...] = tuple(
            tuple(1 + axis for axis in subset)
            for count in range(len(axes) + 1)
            for subset in itertools.combinations(axes, count)
        )
        self._batches = BatchSizer(profile, self.window.size)

    def prepared(self, network: nn.Module) -> nn.Module:
        """A network on its device, in its memory format, compiled where the profile says so."""
        network = network.to(self.profile.device).eval()
        network = network.to(memory_format=self.profile.memory_format(self.window.dim))  # type: ignore[call-overload]
        if self.profile.compile:
            network.compile()
        return network

    def num_passes(self, shape: Sequence[int]) -> int:
        """Patches that a network sees of an image of this shape (network grid)."""
        return self.window.num_tiles(shape) * len(self.flips)

    @property
    def batch_size(self) -> int:
        """Patches that the network sees at a time; 1 where it is not known yet."""
        return self._batches.size

    def sum_bytes(self, shape: Sequence[int], num_networks: int = 1) -> int:
        """Memory of the sums for an image of this shape (network grid).

        Args:
            shape: voxels.
            num_networks: number of folds.
        """
        voxels = int(np.prod([max(pair) for pair in zip(shape, self.window.size, strict=True)]))
        itemsize = self.averaging.window_dtype.itemsize
        if num_networks > 1 and not self.averaging.is_linear_after_windows:
            itemsize += self.averaging.fold_dtype.itemsize
        return voxels * self.num_classes * itemsize

    @torch.inference_mode()
    def __call__(
        self,
        networks: Sequence[nn.Module],
        image: npt.NDArray[np.float32] | Tensor,
        previous: StageLabels | None = None,
        *,
        where: str = "image",
    ) -> Tensor:
        """Predict one case.

        Args:
            networks: one a fold, as :meth:`prepared` gives them.
            image: ``(C, Z, Y, X)`` float32, preprocessed.
            previous: of the second stage of a cascade: the first stage's segmentation on the same grid, whose
                channels follow those of the image.
            where: the case, for errors.

        Returns:
            What ``inference.folds.average`` names, ``(K, Z, Y, X)`` in the type of the last sum, on the device
            where the sums are.

        Raises:
            RunError: the result is not finite and the plan refuses that, or memory does not suffice.
        """
        image = torch.as_tensor(image)
        shape = tuple(image.shape[1:])
        padding = self.window.padding(shape)
        if not padding.is_empty:
            edges = zip(padding.before[::-1], padding.after[::-1], strict=True)
            image = nn.functional.pad(image, tuple(itertools.chain(*edges)), value=self.window.padding_value)
            previous = None if previous is None else previous.padded(padding)
        tiles = self.window.tiles(image.shape[1:])
        weights = Weights(self.importance, tiles)
        run = _Run(self, image, previous, tiles=tiles, weights=weights, where=where)
        if self.averaging.is_linear_after_windows or len(networks) == 1:
            result = run.sum(networks)
            if self.averaging.folds and not (self.averaging.windows or self.averaging.copies):
                _activate(result, self.averaging.activation)
        else:
            result = self._average_of_activated(run, networks)
        result = result[(slice(None), *padding.inside(shape))]
        if self.averaging.refuses_infinity and not _is_finite(result):
            raise _not_finite(where, result)
        return result

    def _average_of_activated(self, run: _Run, networks: Sequence[nn.Module]) -> Tensor:
        """Folds whose sums of logits are activated one by one, then averaged."""
        total: Tensor | None = None
        for network in networks:
            values = run.sum([network])
            _activate(values, self.averaging.activation)
            if total is None:
                total = torch.zeros_like(values, dtype=self.averaging.fold_dtype)
            for summed, added in zip(total, values, strict=True):
                summed.add_(
                    added.to(torch.float64 if summed.dtype == torch.float64 else torch.float32)
                    / len(networks)
                )
        assert total is not None
        return total


class _Run:
    """One image under one set of weights."""

    def __init__(
        self,
        sliding: SlidingWindow,
        image: Tensor,
        previous: StageLabels | None,
        *,
        tiles: Tiles,
        weights: Weights,
        where: str,
    ) -> None:
        self._of = sliding
        self._image = image
        self._previous = previous
        self._tiles = tiles
        self._weights = weights
        self._where = where
        profile, averaging = sliding.profile, sliding.averaging
        self._device = torch.device(profile.device)
        linear = averaging.is_linear_after_windows
        # Folds that are one sum with the windows take the wider type of the two.
        self._dtype = (
            torch.promote_types(averaging.window_dtype, averaging.fold_dtype)
            if linear
            else averaging.window_dtype
        )

    def sum(self, networks: Sequence[nn.Module]) -> Tensor:
        """The weighted sum over windows, averaged over the networks: ``(K, *padded)``."""
        sizer = self._of._batches
        shape = (self._of.num_classes, *self._image.shape[1:])
        sums: Tensor | None = None
        for network in networks:
            units = [Unit(index, flip) for index in self._tiles for flip in self._of.flips]
            with self._of.profile.autocast():
                for index, values in self._windows(network, units):
                    if sums is None:  # now that the memory of the network is known
                        place = sizer.place_of_sums(shape, self._dtype, self._image, self._where)
                        self._image = self._image.to(place)
                        self._previous = None if self._previous is None else self._previous.to(place)
                        sums = torch.zeros(shape, dtype=self._dtype, device=place)
                    self._add(sums, index, values, 1 / len(networks))
        assert sums is not None
        return sums

    def _windows(self, network: nn.Module, units: list[Unit]) -> Iterator[tuple[Triple, Tensor]]:
        """Each window's prediction ``(K, *patch)`` in float32, averaged over its copies."""
        averaging, num_copies = self._of.averaging, len(self._of.flips)
        total: Tensor | None = None
        num_added = 0
        for batch, outputs in self._of._batches.run(network, units, self._inputs, self._where):
            for unit, output in zip(batch, outputs, strict=True):
                values = averaging.activation(output) if averaging.copies else output
                values = values.flip(unit.flip) if unit.flip else values
                total = values if total is None else total.add_(values) if num_added > 1 else total + values
                num_added += 1
                if num_added == num_copies:
                    mean = total / num_copies if num_copies > 1 else total
                    if averaging.windows and not averaging.copies:
                        mean = averaging.activation(mean)
                    yield unit.index, mean
                    total, num_added = None, 0

    def _inputs(self, batch: Sequence[Unit]) -> Tensor:
        """The patches of a batch on the device, in the layout of the network."""
        patches = []
        for unit in batch:
            box = self._tiles.box(unit.index)
            patch = self._image[(slice(None), *box)].to(self._device, non_blocking=True)
            if self._previous is not None:
                patch = torch.cat([patch, self._previous.channels(box, self._device)])
            patch = patch[:, 0] if self._of.window.dim == 2 else patch
            patches.append(patch.flip(unit.flip) if unit.flip else patch)
        inputs = torch.stack(patches)
        return inputs.contiguous(memory_format=self._of.profile.memory_format(self._of.window.dim))

    def _add(self, sums: Tensor, index: Triple, values: Tensor, share: float) -> None:
        values = values[:, None] if self._of.window.dim == 2 else values
        accurate = torch.float64 if self._dtype == torch.float64 else torch.float32
        values = values.to(sums.device, accurate)
        weights = self._weights.of(index)
        if isinstance(weights, tuple):
            first, second, third = (torch.from_numpy(f).to(sums.device, accurate) for f in weights)
            weight = (share * first)[:, None, None] * second[:, None] * third
        else:
            weight = torch.from_numpy(share * weights).to(sums.device, accurate)
        sums[(slice(None), *self._tiles.box(index))].add_(values * weight)


def _slabs(values: Tensor) -> Iterator[Tensor]:
    """Views along axis 0 of ``(K, Z, Y, X)``, so that what is made of them stays small."""
    return iter(torch.split(values, 8, dim=1))


def _activate(values: Tensor, activation: Activation) -> None:
    """Turn logits ``(K, Z, Y, X)`` into probabilities, in place."""
    for slab in _slabs(values):
        accurate = torch.float64 if values.dtype == torch.float64 else torch.float32
        slab.copy_(activation(slab.to(accurate)))


def _is_finite(values: Tensor) -> bool:
    return all(bool(slab.isfinite().all()) for slab in _slabs(values))


def _not_finite(where: str, values: Tensor) -> RunError:
    number = sum(int((~slab.isfinite()).sum()) for slab in _slabs(values))
    return RunError(
        Problem(
            where=where,
            what="the prediction is not finite",
            got=f"{number} of {values.numel()} values are infinite or not a number",
            fix="Predict with --precision float32; if it stays, the weights or the image are damaged.",
        )
    )
