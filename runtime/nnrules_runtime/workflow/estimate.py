"""What each step will take: time, memory, disk and memory of the GPU."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nnrules.errors import RunError
from nnrules.image_io import read_geometry

from nnrules_runtime.files import make_folder
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.network.describe import describe
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import Profile, num_usable_cores
from nnrules_runtime.train.case_cache import case_bytes, expected_bytes
from nnrules_runtime.train.loader import cache_bytes_per_process
from nnrules_runtime.train.recipe import Recipe
from nnrules_runtime.values import reading
from nnrules_runtime.workflow.child import Ended, in_child
from nnrules_runtime.workflow.graph import Selection
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Kind, Step
from nnrules_runtime.workflow.trial import (
    TRIAL_SCRATCH,
    PreprocessingTrial,
    Trial,
    num_voxels,
    sample_cases,
    try_configuration,
    try_preprocessing,
)
from nnrules_runtime.workspace import Workspace

__all__ = ["Cost", "Estimates", "estimate"]

_LOGGER = logging.getLogger(__name__)
# Scoring, adding up and hashing: a voxel of a case, one process (measured on two machines: 20 to 60 ns).
_SECONDS_PER_SCORED_VOXEL = 4e-8
_WEIGHT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step takes; ``None``: not known.

    Attributes:
        seconds: wall-clock time.
        memory_bytes: of the host, all processes together, at the peak.
        disk_bytes: that it leaves.
        gpu_bytes: memory of the GPU, as the plan has budgeted; ``None`` without a GPU.
    """

    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int
    gpu_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trials:
    """What was measured.

    Attributes:
        preprocessing: of one process; its peak memory.
        configurations: of each configuration; its peak memory.
    """

    preprocessing: tuple[PreprocessingTrial, int | None]
    configurations: Mapping[str, tuple[Trial, int | None]]


@dataclass(frozen=True, slots=True)
class _Grid:
    """A case on the network's grid, of which nothing is cropped.

    Attributes:
        num_voxels: of the grid.
        num_passes: patches that the network sees of it in prediction; a mirrored one counts as another.
    """

    num_voxels: int
    num_passes: int


class Estimates:
    """Costs of the steps of a graph.

    Args:
        settings: of the run.
        selection: what is trained.
        trials: what was measured.
    """

    def __init__(self, settings: Settings, selection: Selection, trials: _Trials) -> None:
        self._settings = settings
        self._selection = selection
        self._trials = trials
        cases = settings.dataset.cases
        self._voxels = {case.id: num_voxels(case) for case in cases}
        self._profile = Profile.for_training(settings.plan, **settings.profile)
        with reading(settings.plan) as root:
            self._num_heads = LabelSet.from_plan(root).num_heads
        self._num_channels = len(settings.plan.document["channels"])
        self._grids = {name: self._grids_of(name) for name in selection.folds}

    def of(self, step: Step) -> Cost:
        """What a step will take."""
        match step.kind:
            case Kind.PREPROCESS:
                return self._preprocessing()
            case Kind.TRAIN:
                return self._training(step.configurations[0])
            case Kind.VALIDATE:
                return self._validation(step)
            case Kind.FIND_BEST | Kind.POSTPROCESS:
                return self._choice(step)
            case Kind.REFIT:
                return Cost(0.0, None, 0)
            case Kind.BUNDLE:
                weights = sum(
                    self._weights(name) * len(folds) for name, folds in self._selection.folds.items()
                )
                return Cost(weights / 5e8, None, weights)

    def _preprocessing(self) -> Cost:
        trial, memory = self._trials.preprocessing
        voxels = sum(self._voxels.values())
        processes = min(self._settings.preprocess_workers or num_usable_cores(), len(self._voxels))
        total = None if memory is None else memory * max(1, processes)
        return Cost(
            trial.seconds_per_voxel * voxels / max(1, processes), total, round(trial.bytes_per_voxel * voxels)
        )

    def _training(self, name: str) -> Cost:
        trial, memory = self._trials.configurations[name]
        training = self._settings.plan.document["training"]
        epoch = (
            training["num_iterations_per_epoch"] * trial.seconds_per_iteration
            + training["num_validation_iterations_per_epoch"] * trial.seconds_per_validation_iteration
        )
        seconds = trial.seconds_to_start + training["epochs"] * epoch
        if memory is not None:
            memory += self._cached(name)
        # Final and best weights; the checkpoint goes at the end.
        return Cost(seconds, memory, 2 * self._weights(name), self._gpu(name))

    def _validation(self, step: Step) -> Cost:
        name = step.configurations[0]
        trial, memory = self._trials.configurations[name]
        # The mean over folds: which cases a fold has may be known only after preprocessing.
        voxels = sum(self._voxels.values()) // self._selection.num_folds
        passes = sum(grid.num_passes for grid in self._grids[name].values()) / self._selection.num_folds
        seconds = trial.seconds_to_start + passes * trial.seconds_per_pass
        per_voxel = trial.seconds_per_export_voxel + _SECONDS_PER_SCORED_VOXEL
        disk = voxels // 10
        if self._selection.needs_probabilities:
            per_voxel += trial.seconds_per_probability_voxel
            disk += round(voxels * trial.bytes_per_probability_voxel)
        return Cost(seconds + voxels * per_voxel, memory, disk, self._gpu(name))

    def _choice(self, step: Step) -> Cost:
        """Reading and scoring each candidate's predictions."""
        number = len(step.configurations)
        candidates = number + number * (number - 1) // 2
        heads = self._num_heads
        voxels = sum(self._voxels.values())
        # Postprocessing scores the chosen one again for each class that it tries.
        scored = voxels * (candidates + heads) if step.kind is Kind.FIND_BEST else voxels
        return Cost(
            scored * _SECONDS_PER_SCORED_VOXEL, None, voxels // 10 if step.kind is Kind.POSTPROCESS else 0
        )

    def _cached(self, name: str) -> int:
        """Decompressed cases that processes keep, above those of the trial, which saw two cases only."""
        training = self._settings.plan.document["training"]
        batch_size = self._settings.plan.configurations[name]["batch_size"]
        num_processes = max(1, self._profile.num_workers)
        limit = cache_bytes_per_process(self._profile.num_workers)
        sizes = {
            case: case_bytes(grid.num_voxels, self._num_channels) for case, grid in self._grids[name].items()
        }
        mean = sum(sizes.values()) / len(sizes)
        held_out = len(sizes) / max(1, self._selection.num_folds)
        phases = {
            "num_iterations_per_epoch": len(sizes) - held_out if self._selection.held_out else len(sizes),
            "num_validation_iterations_per_epoch": held_out,
        }
        kept = sum(
            expected_bytes(
                number, mean, training["epochs"] * training[field] * batch_size / num_processes, limit
            )
            for field, number in phases.items()
        )
        tried = sum(sizes[case.id] for case in sample_cases(self._settings.dataset).cases)
        return round(num_processes * (kept - len(phases) * min(tried, limit)))

    def _grids_of(self, name: str) -> dict[str, _Grid]:
        """Each case on the network's grid."""
        recipe = Recipe.from_plan(self._settings.plan, name)
        predictor = Predictor.from_networks(
            self._settings.plan, name, [recipe.network], profile=self._profile
        )
        found = {}
        for case in self._settings.dataset.cases:
            shape, spacing = predictor.reader.grid(read_geometry(case.image_paths[0]))
            voxels = prod(predictor.network_shape(shape, spacing))
            found[case.id] = _Grid(voxels, predictor.num_passes(shape, spacing))
        return found

    def _weights(self, name: str) -> int:
        recipe = Recipe.from_plan(self._settings.plan, name)
        size = describe(recipe.network, self._settings.plan.configurations[name]["patch_size"])
        return size.num_parameters * _WEIGHT_BYTES

    def _gpu(self, name: str) -> int | None:
        if self._profile.device_type == "cpu":
            return None
        recipe = Recipe.from_plan(self._settings.plan, name)
        configuration = self._settings.plan.configurations[name]
        size = describe(recipe.network, configuration["patch_size"])
        return size.training_bytes(configuration["batch_size"], bytes_per_value=self._profile.dtype.itemsize)


def estimate(settings: Settings, selection: Selection) -> Estimates:
    """Measure a few iterations of each configuration, each in a process of its own, and estimate from them.

    Raises:
        NnrulesError: what would go wrong in the run, too.
    """
    names = tuple(selection.folds)
    root = make_folder(settings.workspace.root)
    with tempfile.TemporaryDirectory(prefix=TRIAL_SCRATCH, dir=root) as folder:
        scratch = Workspace(Path(folder))
        preprocessing = _measured(in_child(try_preprocessing, settings, names, scratch, title="trial"))
        found = {}
        for name in names:
            _LOGGER.info("trying a few iterations of %s", name)
            found[name] = _measured(
                in_child(
                    try_configuration,
                    settings,
                    name,
                    scratch,
                    selection.needs_probabilities,
                    title=f"trial of {name}",
                )
            )
    return Estimates(settings, selection, _Trials(preprocessing=preprocessing, configurations=found))


def _measured(ended: Ended) -> tuple[Any, int | None]:
    if ended.is_interrupted:
        raise KeyboardInterrupt
    if ended.how != "done":
        raise RunError(ended.problems)
    return ended.value, ended.peak_bytes
