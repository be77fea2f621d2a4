"""What a trained network says about cases that are preprocessed, handed to whoever needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.network.model import Model
from nnrules_runtime.predict.export import Exporter
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.preprocess.store import CaseStore, StoredCase
from nnrules_runtime.profile import Profile
from nnrules_runtime.progress import track
from nnrules_runtime.train.batches import PreviousStage
from nnrules_runtime.values import reading

__all__ = ["Output", "predict_cases"]


class Output(Protocol):
    """Something that is made from the prediction of a case, and kept."""

    def wants(self, case_id: str) -> bool:
        """Whether it is still to be made."""

    def write(self, predictor: Predictor, case: StoredCase, logits: Tensor) -> None:
        """Make it.

        Args:
            predictor: what predicted; exports as the plan says for validation cases.
            case: the case.
            logits: ``(K, Z, Y, X)`` on the network's grid, see :meth:`Predictor.logits`.
        """


def predict_cases(
    model: Model,
    case_ids: Sequence[str],
    outputs: Sequence[Output],
    *,
    store: CaseStore,
    profile: Profile,
    previous: PreviousStage | None = None,
    title: str,
) -> None:
    """Predict cases from their preprocessed images, as new images would be; those that nobody wants are passed over.

    Args:
        model: the network.
        case_ids: the cases.
        outputs: what is made of each prediction, in order: what is made last is the sign that all is there.
        store: gives the preprocessed images.
        profile: how to execute.
        previous: segmentations of the previous stage, for the second stage of a cascade.
        title: what is being done, for the progress.

    Raises:
        ModelError: the weights are damaged.
        StoreError: a case, or the previous stage's segmentation of it, is damaged or missing.
        RunError: a file cannot be written, or the memory does not suffice.
    """
    todo = [(case_id, [output for output in outputs if output.wants(case_id)]) for case_id in case_ids]
    todo = [(case_id, wanting) for case_id, wanting in todo if wanting]
    if not todo:
        return
    predictor = _predictor(model, profile)
    for case_id, wanting in track(todo, total=len(todo), title=title):
        case = store.case(case_id)
        stage = None if previous is None else previous.read(case_id, (0, 0, 0), case.shape)
        logits = predictor.logits(case.image(), previous=stage, where=case_id)
        for output in wanting:
            output.write(predictor, case, logits)


def _predictor(model: Model, profile: Profile) -> Predictor:
    """One that exports as the plan says for validation cases: nnunet 1.0 does it otherwise in a cascade."""
    predictor = Predictor(model, profile=_for_prediction(profile, model.plan))
    with reading(model.plan) as root:
        configuration = root.section("configurations").section(model.configuration)
        predictor.exporter = Exporter.from_plan(root, configuration, predictor.labels, validation=True)
    return predictor


def _for_prediction(profile: Profile, plan: Plan) -> Profile:
    """The same way to compute, without what pays only in training."""
    chosen = profile.reasons.get("precision") != "given"
    mixed = plan.document["training"]["mixed_precision"]["in_inference"] or profile.device_type == "cpu"
    precision = "float32" if chosen and not mixed else profile.precision
    return replace(profile, num_workers=0, compile=False, precision=precision)
