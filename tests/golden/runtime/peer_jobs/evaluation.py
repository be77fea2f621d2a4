"""The summary of a folder of predictions."""

import json
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

# Processes would take seconds to start.
THREADS = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))


def answer(document, given):
    labels = PlansManager(document["plans"]).get_label_manager(document["dataset"])
    scored = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    summary = Path(document["predictions"]) / "summary.json"
    with mock.patch.object(evaluate_predictions, "multiprocessing", THREADS):
        compute_metrics_on_folder(
            document["references"],
            document["predictions"],
            str(summary),
            SimpleITKIO(),
            ".nii.gz",
            scored,
            labels.ignore_label,
            num_processes=1,
        )
    return json.loads(summary.read_text()), {}
