"""A picture of a training so far: losses, pseudo Dice, learning rate and time over the epochs."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnrules_runtime.files import atomic_file

__all__ = ["PICTURE_FILE", "can_draw", "draw_progress"]

_LOGGER = logging.getLogger(__name__)
PICTURE_FILE = "progress.png"


def can_draw() -> bool:
    """Whether matplotlib is there; says once how to get it where it is not. Called once a training."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    _LOGGER.info("no %s: the extra `report` draws it (pip install 'nnrules[report]')", PICTURE_FILE)
    return False


def draw_progress(epochs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the epochs of a ``metrics.jsonl``.

    Args:
        epochs: its lines; not empty.
        path: the picture to write, PNG.

    Raises:
        RunError: it cannot be written.
    """
    # Not pyplot: a figure of its own keeps no global state and needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 10), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rate, seconds = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    x = [entry["epoch"] for entry in epochs]

    def line(axes: Any, field: str, **style: Any) -> None:
        y = [float("nan") if entry.get(field) is None else entry[field] for entry in epochs]
        axes.plot(x, y, **style)

    line(losses, "loss", color="tab:blue", label="training loss")
    line(losses, "validation_loss", color="tab:red", label="validation loss")
    losses.set_ylabel("loss")
    dice = losses.twinx()
    line(dice, "mean_dice", color="tab:green", linestyle=":", label="pseudo Dice")
    line(dice, "average_dice", color="tab:green", label="pseudo Dice, moving average")
    dice.set_ylabel("pseudo Dice")
    dice.set_ylim(0, 1)
    lines = losses.get_lines() + dice.get_lines()
    losses.legend(lines, [entry.get_label() for entry in lines], loc="best", fontsize="small")
    line(rate, "learning_rate", color="tab:gray")
    rate.set_ylabel("learning rate")
    line(seconds, "seconds", color="tab:gray")
    seconds.set_ylabel("seconds an epoch")
    seconds.set_ylim(bottom=0)
    seconds.set_xlabel("epoch")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
