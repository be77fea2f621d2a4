"""What takes part in a prediction: configurations, alone or as the second stage of a cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.errors import ModelError, Problem
from torch import Tensor

from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.geometry import CaseGeometry

__all__ = ["Member", "Part", "Prepared", "check_alike", "check_stages"]

Array = npt.NDArray[Any]
Image = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A configuration that takes part.

    Attributes:
        predictor: its networks; in a cascade, those of the second stage.
        first: those of the first stage; ``None`` if it is no second stage.
    """

    predictor: Predictor
    first: Predictor | None = None

    @property
    def entry(self) -> Predictor:
        """Its networks that take the image alone."""
        return self.predictor if self.first is None else self.first


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image that waits for the networks.

    Attributes:
        entries: the preprocessed image for the networks that take it, with its geometry.
        image: ``(C, Z, Y, X)`` as given, where a second stage needs it.
        spacing: mm (z, y, x).
    """

    entries: Mapping[Predictor, tuple[Image, CaseGeometry]]
    image: Array | None
    spacing: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one member predicts of one image.

    Attributes:
        predictor: who exports it.
        values: ``(K, Z, Y, X)`` on the network's grid, as :meth:`Predictor.logits` gives it.
        geometry: of the case in this configuration.
    """

    predictor: Predictor
    values: Tensor
    geometry: CaseGeometry


def check_stages(member: Member) -> None:
    """Refuse a first stage that is not that of the member.

    Raises:
        ModelError: it is another one, or the member needs none.
    """
    wanted = member.predictor.previous_stage
    given = None if member.first is None else member.first.configuration
    if given == wanted or given is None:  # the latter is said when an image is to be predicted
        return
    raise ModelError(
        Problem(
            where=f"plan: configurations.{member.predictor.configuration}",
            what="this network takes the segmentation of another previous stage"
            if wanted
            else "this network takes no segmentation of a previous stage",
            got=given,
            expected=wanted,
        )
    )


def check_alike(leading: Predictor, singles: Sequence[Predictor]) -> None:
    """Refuse networks that see other images or name other classes.

    Args:
        leading: one of them.
        singles: all of them.

    Raises:
        ModelError: names those that differ from the one.
    """
    problems = [
        Problem(
            where=f"plan: configurations.{single.configuration}",
            what=f"its networks have other {what} than those of {leading.configuration}",
            got=str(got),
            expected=str(expected),
            fix="Predict with networks of one dataset.",
        )
        for single in singles
        for what, got, expected in (
            ("labels", _outputs(single), _outputs(leading)),
            ("numbers of channels", single.num_channels, leading.num_channels),
            ("orientations", single.reader, leading.reader),
        )
        if got != expected
    ]
    if problems:
        raise ModelError(problems)


def _outputs(predictor: Predictor) -> tuple[Any, ...]:
    labels = predictor.labels
    return labels.heads, labels.regions_class_order, labels.foreground_labels
