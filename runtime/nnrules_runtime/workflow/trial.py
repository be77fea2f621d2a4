"""A few real iterations and cases of a configuration on this machine: what its steps will cost.

A formula for the time of a training step would have to know every device; some seconds of the real thing do.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnrules.dataset import Case, Dataset
from nnrules.image_io import read_geometry

from nnrules_runtime.network.architecture import Architecture
from nnrules_runtime.predict.export import crop_box
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.predict.probabilities import write_probabilities
from nnrules_runtime.preprocess.dataset import preprocess_configurations, preprocess_dataset
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.metrics import METRICS_FILE
from nnrules_runtime.train.overrides import with_training
from nnrules_runtime.train.run import TrainingOptions, train_fold
from nnrules_runtime.values import reading
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workspace import Workspace

__all__ = [
    "TRIAL_SCRATCH",
    "PreprocessingTrial",
    "Trial",
    "num_voxels",
    "sample_cases",
    "try_configuration",
    "try_preprocessing",
]

_LOGGER = logging.getLogger(__name__)
TRIAL_SCRATCH = ".trial."
# The first epoch warms up: allocators, page cache, workers.
_EPOCHS, _ITERATIONS, _VALIDATION_ITERATIONS = 2, 4, 1
_FOLD = "all"
# Windows that the trial of a prediction looks at.
_WINDOWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Costs of one configuration.

    Attributes:
        seconds_per_iteration: of training, with waiting for batches.
        seconds_per_validation_iteration: of the validation within an epoch.
        seconds_per_pass: of a patch in prediction; a mirrored one counts as another.
        seconds_per_export_voxel: of the way from the network's output to a label map, a voxel of the image.
        seconds_per_probability_voxel: of the way to a file of probabilities, a voxel of the image; 0 where none is
            written.
        bytes_per_probability_voxel: of such a file.
        seconds_to_start: of a training until its first iteration.
    """

    seconds_per_iteration: float
    seconds_per_validation_iteration: float
    seconds_per_pass: float
    seconds_per_export_voxel: float
    seconds_per_probability_voxel: float
    bytes_per_probability_voxel: float
    seconds_to_start: float

    def to_json(self) -> dict[str, float]:
        """The document."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessingTrial:
    """Costs of preprocessing.

    Attributes:
        seconds_per_voxel: of one process, a voxel of the file.
        bytes_per_voxel: stored, a voxel of the file.
    """

    seconds_per_voxel: float
    bytes_per_voxel: float


class _NoPreviousStage:
    """Stands for the first stage of a cascade: background everywhere costs as much to read and augment."""

    def read(
        self,
        case_id: str,  # noqa: ARG002
        start: tuple[int, int, int],
        stop: tuple[int, int, int],
    ) -> npt.NDArray[Any]:
        """Background."""
        return np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.int16)


def sample_cases(dataset: Dataset) -> Dataset:
    """The dataset with two of its cases: the largest one and one of middling size."""
    ordered = sorted(dataset.cases, key=lambda case: (num_voxels(case), case.id))
    chosen = {case.id: case for case in (ordered[-1], ordered[len(ordered) // 2])}
    return replace(dataset, cases=tuple(sorted(chosen.values(), key=lambda case: case.id)))


def num_voxels(case: Case) -> int:
    """Voxels of a case, from its header."""
    return prod(read_geometry(case.image_paths[0]).shape)


def try_preprocessing(
    settings: Settings, configurations: Sequence[str], scratch: Workspace
) -> PreprocessingTrial:
    """Preprocess two cases in one process.

    Args:
        settings: of the run.
        configurations: those that will be trained.
        scratch: a work folder for this; what is there is used by :func:`try_configuration`.
    """
    sample = sample_cases(settings.dataset)
    started = time.perf_counter()
    summaries = preprocess_configurations(settings.plan, sample, configurations, scratch, num_workers=0)
    seconds = time.perf_counter() - started
    voxels = sum(map(num_voxels, sample.cases))
    return PreprocessingTrial(
        seconds_per_voxel=seconds / voxels,
        bytes_per_voxel=sum(summary.num_bytes for summary in summaries) / voxels,
    )


def try_configuration(settings: Settings, name: str, scratch: Workspace, probabilities: bool) -> Trial:
    """Train and predict for a few seconds.

    Args:
        settings: of the run.
        name: the configuration.
        scratch: where :func:`try_preprocessing` has preprocessed.
        probabilities: whether validation writes them, too.
    """
    sample = sample_cases(settings.dataset)
    # Unseeded, as operators that can be repeated to the bit may be slower; the run itself decides that by its seed.
    plan = with_training(
        settings.plan,
        {
            "training.epochs": _EPOCHS,
            "training.num_iterations_per_epoch": _ITERATIONS,
            "training.num_validation_iterations_per_epoch": _VALIDATION_ITERATIONS,
        },
    )
    second = plan.configurations[name].get("previous_stage") is not None
    profile = Profile.for_training(settings.plan, **settings.profile)
    started = time.perf_counter()
    result = train_fold(
        plan,
        sample,
        name,
        _FOLD,
        scratch,
        profile=replace(profile, compile=False),
        options=TrainingOptions(
            validate=False, restart=True, previous=_NoPreviousStage() if second else None
        ),
    )
    seconds = time.perf_counter() - started
    lines = (result.folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    last = epochs[-1]
    iteration = last["seconds_per_iteration"]
    validation = max(0.0, last["seconds"] - iteration * last["num_iterations"]) / _VALIDATION_ITERATIONS
    predicted = _try_prediction(settings, name, sample, scratch, probabilities=probabilities)
    return Trial(
        seconds_per_iteration=iteration,
        seconds_per_validation_iteration=validation,
        seconds_per_pass=predicted.seconds_per_pass,
        seconds_per_export_voxel=predicted.seconds_per_export_voxel,
        seconds_per_probability_voxel=predicted.seconds_per_probability_voxel,
        bytes_per_probability_voxel=predicted.bytes_per_probability_voxel,
        seconds_to_start=max(0.0, seconds - sum(epoch["seconds"] for epoch in epochs)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prediction:
    """The part of a :class:`Trial` that is about prediction."""

    seconds_per_pass: float
    seconds_per_export_voxel: float
    seconds_per_probability_voxel: float = 0.0
    bytes_per_probability_voxel: float = 0.0


def _try_prediction(
    settings: Settings, name: str, sample: Dataset, scratch: Workspace, *, probabilities: bool
) -> _Prediction:
    """A few windows of the larger case, and the export of all of it, so that the memory is that of the run."""
    predictor = Predictor(scratch.models(name) / f"fold_{_FOLD}")
    stored = max(preprocess_dataset(settings.plan, sample, name, scratch), key=lambda case: prod(case.shape))
    image = stored.image()
    with reading(settings.plan) as root:
        num_inputs = Architecture.from_plan(root.section("configurations").section(name)).num_inputs
    if num_inputs > len(image):  # the labels of the previous stage
        image = np.concatenate([image, np.zeros((num_inputs - len(image), *image.shape[1:]), image.dtype)])
    few = _part(image, predictor)
    predictor.logits(few)  # the first time is slower
    started = time.perf_counter()
    logits = predictor.logits(few)
    per_pass = (time.perf_counter() - started) / predictor.sliding.num_passes(few.shape[1:])
    whole = _repeated(logits, image.shape[1:])
    started = time.perf_counter()
    labels = predictor.export(whole, stored.geometry)
    per_voxel = (time.perf_counter() - started) / labels.size
    if not probabilities:
        return _Prediction(seconds_per_pass=per_pass, seconds_per_export_voxel=per_voxel)
    (case,) = (case for case in sample.cases if case.id == stored.id)
    file = scratch.root / f"{case.id}.npz"
    started = time.perf_counter()
    write_probabilities(
        file,
        predictor.export_probabilities(whole, stored.geometry),
        None if predictor.exporter.whole_image else crop_box(stored.geometry),
        reader=predictor.reader,
        in_file=read_geometry(case.image_paths[0]),
    )
    return _Prediction(
        seconds_per_pass=per_pass,
        seconds_per_export_voxel=per_voxel,
        seconds_per_probability_voxel=(time.perf_counter() - started) / labels.size,
        bytes_per_probability_voxel=file.stat().st_size / labels.size,
    )


def _repeated(logits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Logits of a part ``(K, z, y, x)``, repeated over the whole ``(K, Z, Y, X)``."""
    for axis, edge in enumerate(shape, start=1):
        logits = logits.index_select(axis, torch.arange(edge) % logits.shape[axis])
    return logits


def _part(image: npt.NDArray[np.float32], predictor: Predictor) -> npt.NDArray[np.float32]:
    """A corner of an image that takes a few windows."""
    shape = list(image.shape[1:])
    while predictor.sliding.window.num_tiles(shape) > _WINDOWS:
        window = predictor.sliding.window.size
        axis = max(range(3), key=lambda index: shape[index] / window[index])
        shape[axis] = max(window[axis], shape[axis] - max(1, window[axis] // 2))
    z, y, x = shape
    return np.ascontiguousarray(image[:, :z, :y, :x])
