"""Postprocessing that is determined for a folder of predictions, and the files after it."""

import json
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.postprocessing import remove_connected_components
from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing

# Processes would take seconds to start.
THREADS = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))


def answer(document, given):
    folder = Path(document["predictions"])
    with (
        mock.patch.object(evaluate_predictions, "multiprocessing", THREADS),
        mock.patch.object(remove_connected_components, "multiprocessing", THREADS),
    ):
        determine_postprocessing(
            str(folder), document["references"], document["plans"], document["dataset"], num_processes=1
        )
    found = json.loads((folder / "postprocessing.json").read_text())
    return {
        "steps": [entry["labels_or_regions"] for entry in found["postprocessing_kwargs"]],
        "before": found["input_folder"]["foreground_mean"]["Dice"],
        "after": found["postprocessed"]["foreground_mean"]["Dice"],
        "folder": str(folder / "postprocessed"),
    }, {}
