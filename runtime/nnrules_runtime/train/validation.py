"""After a training: its validation cases predicted as new images would be, and scored."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnrules.dataset import Case, Dataset
from nnrules.errors import Problem, RunError
from nnrules.image_io import read_geometry, write_image
from nnrules.plan import Plan

from nnrules_runtime.evaluate.case import EvaluationCase
from nnrules_runtime.evaluate.conventions import Evaluation
from nnrules_runtime.evaluate.run import evaluate_cases
from nnrules_runtime.evaluate.summary import Summary
from nnrules_runtime.files import atomic_file, make_folder
from nnrules_runtime.network.model import Model, read_model
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.progress import track
from nnrules_runtime.values import reading

__all__ = ["SUMMARY_FILE", "VALIDATION_FOLDER", "is_validated", "validate"]

_LOGGER = logging.getLogger(__name__)
VALIDATION_FOLDER = "validation"
SUMMARY_FILE = "summary.json"
# Which weights the predictions are of; hidden, as the folder holds one file a case for whoever reads it.
_WEIGHTS_FILE = ".weights.json"


def is_validated(folder: Path) -> bool:
    """Whether a fold has been validated."""
    return (folder / VALIDATION_FOLDER / SUMMARY_FILE).is_file()


def validate(
    folder: Path,
    plan: Plan,
    configuration: str,
    *,
    case_ids: Sequence[str],
    dataset: Dataset,
    store: CaseStore,
    profile: Profile,
) -> Summary | None:
    """Predict the validation cases of a fold from their preprocessed images, and score them against their labels.

    The sliding window and the way back to the original grid are those of prediction. What was predicted before with
    the same weights is kept, so that an interrupted validation goes on.

    Args:
        folder: the fold's folder, with its model.
        plan: the plan.
        configuration: its configuration.
        case_ids: the validation cases.
        dataset: gives their labels.
        store: gives their preprocessed images.
        profile: how to execute.

    Returns:
        The scores, which are also in ``validation/summary.json``; ``None`` where there are no cases.

    Raises:
        ModelError: the model is missing or damaged.
        StoreError: a case is damaged.
        RunError: a file cannot be written or read, or the memory does not suffice.
    """
    if not case_ids:
        _LOGGER.warning("the fold has no validation cases")
        return None
    model = read_model(folder, plan.configurations[configuration]["inference"]["checkpoint"], plan=plan)
    made = make_folder(folder / VALIDATION_FOLDER)
    _keep_only_of(model, made)
    cases = {case.id: case for case in dataset.cases if case.id in set(case_ids)}
    ending = str(plan.document["dataset"]["file_ending"])
    files = {case_id: made / f"{case_id}{ending}" for case_id in case_ids}
    todo = [case_id for case_id, path in files.items() if not path.is_file()]
    if todo:
        predictor = Predictor(model, profile=_for_prediction(profile, plan))
        for case_id in track(todo, total=len(todo), title="predicting validation cases"):
            stored = store.case(case_id)
            labels = predictor.predict_prepared(stored.image(), stored.geometry, where=case_id)
            in_file = read_geometry(cases[case_id].label_path)
            write_image(files[case_id], predictor.reader.as_in_file(labels, in_file), in_file)
    with reading(plan) as root:
        evaluation = Evaluation.from_plan(root)
    pairs = [
        EvaluationCase(id=case_id, prediction=path, reference=_reference(cases[case_id]))
        for case_id, path in files.items()
    ]
    # Surfaces take most of the time and decide nothing here; `nnrules run evaluate` measures them.
    summary = evaluate_cases(evaluation, pairs, surface_tolerance_mm=None, plan_hash=plan.hash)
    summary.save(made / SUMMARY_FILE)
    _LOGGER.info("validation: mean foreground Dice %s", _text(summary.foreground_mean().get("dice")))
    return summary


def _reference(case: Case) -> Path:
    if not case.label_path.is_file():
        raise RunError(
            Problem(where=case.id, what="the label of this case is gone", got=str(case.label_path))
        )
    return case.label_path


def _for_prediction(profile: Profile, plan: Plan) -> Profile:
    """The same way to compute, without what pays only in training."""
    chosen = profile.reasons.get("precision") != "given"
    mixed = plan.document["training"]["mixed_precision"]["in_inference"] or profile.device_type == "cpu"
    precision = "float32" if chosen and not mixed else profile.precision
    return replace(profile, num_workers=0, compile=False, precision=precision)


def _keep_only_of(model: Model, folder: Path) -> None:
    """Remove predictions of other weights."""
    path = folder / _WEIGHTS_FILE
    identity = json.dumps({"file": model.file.name})
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == identity:
        return
    shutil.rmtree(folder)
    make_folder(folder)
    with atomic_file(path) as temporary:
        temporary.write_text(identity, encoding="utf-8")


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
