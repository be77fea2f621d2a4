"""After a training: its validation cases predicted as new images would be, and scored."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnrules.dataset import Case, Dataset
from nnrules.documents import content_hash, read_json
from nnrules.errors import ModelError, Problem, RunError
from nnrules.image_io import Geometry, read_geometry, write_image
from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.evaluate.case import EvaluationCase
from nnrules_runtime.evaluate.conventions import Evaluation
from nnrules_runtime.evaluate.run import evaluate_cases
from nnrules_runtime.evaluate.summary import Summary
from nnrules_runtime.files import atomic_file, make_folder
from nnrules_runtime.network.model import MODEL_FILE, read_model
from nnrules_runtime.predict.export import crop_box
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.predict.probabilities import write_probabilities
from nnrules_runtime.preprocess.store import CaseStore, StoredCase
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.batches import PreviousStage
from nnrules_runtime.train.cascade import NextStages
from nnrules_runtime.train.case_predictions import Output, predict_cases
from nnrules_runtime.values import reading

__all__ = ["SUMMARY_FILE", "VALIDATION_FOLDER", "is_validated", "validate"]

_LOGGER = logging.getLogger(__name__)
VALIDATION_FOLDER = "validation"
SUMMARY_FILE = "summary.json"
# Which weights the predictions are of, and how they were made; hidden, as the folder holds one file a case for
# whoever reads it.
_WEIGHTS_FILE = ".weights.json"


def is_validated(
    folder: Path, plan: Plan, configuration: str, *, probabilities_of: Iterable[str] = ()
) -> bool:
    """Whether a fold has been validated, with these weights and in this way.

    Args:
        folder: the fold's folder.
        plan: the plan.
        configuration: its configuration.
        probabilities_of: cases whose probabilities must be there, too.
    """
    made = folder / VALIDATION_FOLDER
    return (
        (made / SUMMARY_FILE).is_file()
        and _is_of(_identity(folder, plan, configuration), made)
        and all(_probability_file(made, case_id).is_file() for case_id in probabilities_of)
    )


def validate(
    folder: Path,
    plan: Plan,
    configuration: str,
    *,
    case_ids: Sequence[str],
    dataset: Dataset,
    store: CaseStore,
    profile: Profile,
    probabilities: bool = False,
    previous: PreviousStage | None = None,
    next_stages: NextStages | None = None,
) -> Summary | None:
    """Predict the validation cases of a fold from their preprocessed images, and score them against their labels.

    The sliding window and the way back to the original grid are those of prediction. What was predicted before with
    the same weights is kept, so that an interrupted validation goes on. No other process may validate the same fold.

    Args:
        folder: the fold's folder, with its model.
        plan: the plan.
        configuration: its configuration.
        case_ids: the validation cases.
        dataset: gives their labels.
        store: gives their preprocessed images.
        profile: how to execute.
        probabilities: also write probabilities beside the segmentations, as ``CASE.npz``, in the form of prediction.
        previous: segmentations of the previous stage, for the second stage of a cascade.
        next_stages: what a first stage hands on to the second ones.

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
    profile.apply()  # as the training did, which may have been in another process
    model = read_model(folder, plan.configurations[configuration]["inference"]["checkpoint"], plan=plan)
    made = make_folder(folder / VALIDATION_FOLDER)
    _keep_only_of(_identity(folder, plan, configuration), made)
    _remove_leftovers(made)
    cases = {case.id: case for case in dataset.cases if case.id in set(case_ids)}
    ending = str(plan.document["dataset"]["file_ending"])
    files = {case_id: made / f"{case_id}{ending}" for case_id in case_ids}
    handed_on = {} if next_stages is None else dict(next_stages.outputs(store))
    outputs: list[Output] = [*handed_on.pop(model.checkpoint, ())]
    if probabilities:
        outputs.append(_Probabilities(made, cases))
    # Last: where the segmentation is, all is.
    outputs.append(_Segmentations(files, cases))
    predict_cases(
        model,
        case_ids,
        outputs,
        store=store,
        profile=profile,
        previous=previous,
        title="predicting validation cases",
    )
    for checkpoint, others in handed_on.items():
        predict_cases(
            read_model(folder, checkpoint, plan=plan),
            case_ids,
            others,
            store=store,
            profile=profile,
            previous=previous,
            title=f"predicting with the {checkpoint} weights for the next stage",
        )
    return _score(plan, made, files, cases)


def _score(plan: Plan, made: Path, files: Mapping[str, Path], cases: Mapping[str, Case]) -> Summary:
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


@dataclass(frozen=True, slots=True)
class _Segmentations:
    """Writes each segmentation with the geometry of the case's label map.

    Attributes:
        files: where.
        cases: the cases.
    """

    files: Mapping[str, Path]
    cases: Mapping[str, Case]

    def wants(self, case_id: str) -> bool:
        """Whether it is missing."""
        return not self.files[case_id].is_file()

    def write(self, predictor: Predictor, case: StoredCase, logits: Tensor) -> None:
        """Write it."""
        labels = predictor.export(logits, case.geometry, where=case.id)
        in_file = _geometry(self.cases[case.id])
        write_image(self.files[case.id], predictor.reader.as_in_file(labels, in_file), in_file)


@dataclass(frozen=True, slots=True)
class _Probabilities:
    """Writes the probabilities of each case, as prediction does.

    Attributes:
        folder: where.
        cases: the cases.
    """

    folder: Path
    cases: Mapping[str, Case]

    def wants(self, case_id: str) -> bool:
        """Whether they are missing."""
        return not _probability_file(self.folder, case_id).is_file()

    def write(self, predictor: Predictor, case: StoredCase, logits: Tensor) -> None:
        """Write them."""
        write_probabilities(
            _probability_file(self.folder, case.id),
            predictor.export_probabilities(logits, case.geometry, where=case.id),
            None if predictor.exporter.whole_image else crop_box(case.geometry),
            reader=predictor.reader,
            in_file=_geometry(self.cases[case.id]),
        )


def _probability_file(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}.npz"


def _geometry(case: Case) -> Geometry:
    return read_geometry(_reference(case))


def _reference(case: Case) -> Path:
    if not case.label_path.is_file():
        raise RunError(
            Problem(where=case.id, what="the label of this case is gone", got=str(case.label_path))
        )
    return case.label_path


def _identity(folder: Path, plan: Plan, configuration: str) -> str:
    """What predictions depend on: weights, and the fields of the plan that inference reads."""
    fields = plan.configurations[configuration]
    document = read_json(folder / MODEL_FILE, ModelError)
    weights = document.get("weights", {}) if isinstance(document, dict) else {}
    entry = weights.get(fields["inference"]["checkpoint"], {})
    way = [fields["inference"], fields["resampling"], plan.document["dataset"], plan.document["evaluation"]]
    return json.dumps({"sha256": entry.get("sha256"), "plan": content_hash(way)})


def _is_of(identity: str, folder: Path) -> bool:
    path = folder / _WEIGHTS_FILE
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace") == identity


def _keep_only_of(identity: str, folder: Path) -> None:
    """Remove predictions of other weights, or that were made in another way."""
    if _is_of(identity, folder):
        return
    shutil.rmtree(folder)
    make_folder(folder)
    with atomic_file(folder / _WEIGHTS_FILE) as temporary:
        temporary.write_text(identity, encoding="utf-8")


def _remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a process that was killed."""
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _WEIGHTS_FILE:
            path.unlink(missing_ok=True)


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
