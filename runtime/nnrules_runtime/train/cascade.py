"""The training side of a cascade: cases as the first stage's held-out model sees them, on the second stage's grid.

Each fold of the first stage predicts the cases that it did not train on, so that the second stage learns from
segmentations as imperfect as those of new images (paper, Methods, Configuration of 3D U-Net cascade). They are written
when a fold of the first stage is validated; what is missing is made when the second stage is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.documents import content_hash
from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.folds import Division, Fold
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.network.model import Checkpoint
from nnrules_runtime.predict.export_cascade import CascadeUpsampler
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.geometry import CaseGeometry
from nnrules_runtime.preprocess.store import CaseStore, StoredCase
from nnrules_runtime.train.model_files import final_weights
from nnrules_runtime.train.previous_stage import Origin, PreviousStageStore
from nnrules_runtime.values import Section, reading
from nnrules_runtime.workspace import Workspace

__all__ = ["NextStages", "OntoGrid", "StageLink", "stages_of", "weights_for"]

_FORMAT = 1
"""Raised when segmentations are made in another way, so that old ones are made again."""

# What of a first stage's inference does not reach the second one's grid.
_NOT_HANDED_ON = ("files", "checkpoint")


def stages_of(plan: Plan, configuration: str) -> tuple[str, ...]:
    """A configuration after the stages that come before it, first to last."""
    stages = [configuration]
    while (before := plan.configurations[stages[0]].get("previous_stage")) is not None:
        stages.insert(0, before)
    return tuple(stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLink:
    """How the prediction of a first stage becomes an input of a second one.

    Attributes:
        first: the configuration that predicts.
        second: the one that takes the segmentation as input.
        checkpoint: which weights of the first stage predict.
        upsampler: takes predictions to the second stage's grid.
        grid: preprocessing of the second stage, which defines that grid.
        settings: hash of what the plan says about all this.
    """

    first: str
    second: str
    checkpoint: Checkpoint
    upsampler: CascadeUpsampler
    grid: Preprocessing
    settings: str

    @classmethod
    def from_plan(cls, root: Section, second: str) -> StageLink:
        """Read ``cascade.input`` and ``cascade.upsampling`` of a second stage.

        Args:
            root: the plan.
            second: a configuration with a previous stage.
        """
        configurations = root.section("configurations")
        configuration = configurations.section(second)
        first: str = configuration.value("previous_stage")
        before = configurations.section(first)
        given = configuration.section("cascade").section("input")
        given.require("encoding", "one_hot")
        given.require("labels", "foreground")
        given.require("fold", "held_out")
        order, other = configuration.value("transpose_forward"), before.value("transpose_forward")
        if order != other:
            configuration.refuse(
                "transpose_forward",
                "the stages of a cascade must have their axes in one order",
                got=repr(order),
                expected=f"{other!r}, as {first}",
            )
        return cls(
            first=first,
            second=second,
            checkpoint=given.require("checkpoint", "final", "best"),
            upsampler=CascadeUpsampler.from_plan(root, configuration, LabelSet.from_plan(root)),
            grid=Preprocessing.from_plan(root, second),
            settings=_settings(before, configuration),
        )

    def origin(self, weights: str, case_key: str, fold: int) -> Origin:
        """What a segmentation is made from.

        Args:
            weights: SHA-256 of the first stage's weights.
            case_key: key of the case as preprocessed for the first stage.
            fold: the fold whose weights these are.
        """
        key = hashlib.sha256(f"{self.settings} {self.grid.digest} {weights} {case_key}".encode()).hexdigest()
        return Origin(key=key, weights=weights, settings=self.settings, fold=fold)

    def segmentation(
        self, logits: Tensor, geometry: CaseGeometry, *, where: str
    ) -> npt.NDArray[np.integer[Any]]:
        """The segmentation of a case on the second stage's grid.

        Args:
            logits: ``(K, Z, Y, X)`` of the first stage.
            geometry: of the case, as preprocessed for the first stage.
            where: the case, for errors.

        Returns:
            ``(Z', Y', X')``.

        Raises:
            RunError: the plan refuses the spacing.
        """
        shape, spacing = self.grid.network_grid(geometry.crop_shape, geometry.transposed_spacing)
        return self.upsampler.segmentation(
            logits,
            shape,
            original_spacing=geometry.transposed_spacing,
            network_spacing=spacing,
            previous_stage_spacing=geometry.network_spacing,
            where=where,
        )


def weights_for(link: StageLink, folder: Path) -> tuple[Checkpoint, str] | None:
    """The weights of a fold that predict for a second stage, with their SHA-256.

    A training in which no epoch was better than the first may have no best weights: then the final ones predict, as
    in nnunet 1.7.1.

    Args:
        link: to the second stage.
        folder: the fold of the first stage.

    Returns:
        ``None`` where the fold has not been trained to its end.

    Raises:
        ModelError: ``model.json`` cannot be read.
    """
    weights = final_weights(folder)
    if weights is None:
        return None
    if link.checkpoint in weights:
        return link.checkpoint, weights[link.checkpoint]
    return "final", weights["final"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OntoGrid:
    """Keeps the segmentation of a case on the second stage's grid.

    Attributes:
        link: to the second stage.
        segmentations: where they are kept.
        cases: the cases as preprocessed for the first stage.
        weights: SHA-256 of the weights that predict.
        fold: whose weights these are.
        case_ids: the cases that this fold has held out.
    """

    link: StageLink
    segmentations: PreviousStageStore
    cases: CaseStore
    weights: str
    fold: int
    case_ids: Collection[str]

    def wants(self, case_id: str) -> bool:
        """Whether there is none, or it was made from something else."""
        if case_id not in self.case_ids:
            return False
        found = self.segmentations.origin(case_id)
        return found is None or found.key != self._origin(case_id).key

    def write(self, predictor: Predictor, case: StoredCase, logits: Tensor) -> None:
        """Make it."""
        del predictor
        labels = self.link.segmentation(logits, case.geometry, where=case.id)
        is_2d = self.link.grid.dim == 2
        self.segmentations.write(case.id, labels, self._origin(case.id), patch_is_2d=is_2d)

    def _origin(self, case_id: str) -> Origin:
        return self.link.origin(self.weights, self.cases.case(case_id).key, self.fold)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStages:
    """What a fold of a first stage hands on when it is validated.

    Attributes:
        links: to each second stage.
        workspace: where segmentations are kept.
        folder: the fold's folder.
        fold: its number.
        case_ids: the cases that it holds out, and hands on.
    """

    links: tuple[StageLink, ...]
    workspace: Workspace
    folder: Path
    fold: int
    case_ids: tuple[str, ...]

    @classmethod
    def of(
        cls, plan: Plan, configuration: str, workspace: Workspace, fold: Fold, division: Division
    ) -> NextStages | None:
        """For a fold; ``None`` where there is nothing to hand on.

        Folds beyond the split and the fold of all cases hand nothing on: a case comes from the fold of the split
        that held it out.

        Raises:
            PlanError: the plan has values that the runtime does not know.
        """
        seconds = [
            name
            for name, entry in plan.configurations.items()
            if entry.get("previous_stage") == configuration
        ]
        if not seconds or not isinstance(fold.name, int) or fold.is_random or not fold.held_out:
            return None
        holders = division.holders()
        with reading(plan) as root:
            links = tuple(StageLink.from_plan(root, name) for name in seconds)
        return cls(
            links=links,
            workspace=workspace,
            folder=workspace.fold(configuration, fold.name),
            fold=fold.name,
            case_ids=tuple(case_id for case_id in fold.validation if holders.get(case_id) == fold.name),
        )

    def is_done(self) -> bool:
        """Whether all was handed on with the weights that there are; preprocessed cases are not looked at."""
        for link in self.links:
            chosen = weights_for(link, self.folder)
            store = PreviousStageStore(self.workspace.previous_stage(link.second))
            for origin in map(store.origin, self.case_ids):
                if chosen is None or origin is None:
                    return False
                if (origin.weights, origin.settings) != (chosen[1], link.settings):
                    return False
        return True

    def outputs(self, cases: CaseStore) -> Mapping[Checkpoint, Sequence[OntoGrid]]:
        """What is to be made, by the weights that predict it.

        Args:
            cases: the cases as preprocessed for the first stage.
        """
        found: dict[Checkpoint, list[OntoGrid]] = {}
        for checkpoint, output in self._outputs(cases):
            found.setdefault(checkpoint, []).append(output)
        return found

    def _outputs(self, cases: CaseStore) -> Iterator[tuple[Checkpoint, OntoGrid]]:
        for link in self.links:
            chosen = weights_for(link, self.folder)
            assert chosen is not None, "a fold is validated when it is trained"
            store = PreviousStageStore(self.workspace.previous_stage(link.second))
            yield (
                chosen[0],
                OntoGrid(
                    link=link,
                    segmentations=store,
                    cases=cases,
                    weights=chosen[1],
                    fold=self.fold,
                    case_ids=frozenset(self.case_ids),
                ),
            )


def _settings(first: Section, second: Section) -> str:
    """Hash of the plan's fields that a segmentation depends on, besides preprocessing."""
    inference, resampling = first.section("inference"), second.section("resampling")
    names = [name for name in inference.keys() if name not in _NOT_HANDED_ON]  # noqa: SIM118 - no mapping
    return content_hash(
        {
            "format": _FORMAT,
            "inference": {name: inference.value(name) for name in names},
            "mirror_axes": first.value("mirror_axes"),
            "anisotropy": resampling.value("anisotropy"),
            "upsampling": second.section("cascade").value("upsampling"),
        }
    )
