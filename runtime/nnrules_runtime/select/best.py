"""The empirical choice: every candidate scored on the cases that it had not seen, the best one, its postprocessing."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnrules.dataset import Dataset
from nnrules.errors import Problem, RunError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.evaluate.conventions import Evaluation
from nnrules_runtime.folds import FoldPolicy
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.select.candidates import find_candidates, missing_probabilities
from nnrules_runtime.select.empirical import Candidate, Empirical, Skipped, candidate_name
from nnrules_runtime.select.held_out import HeldOut, Validated
from nnrules_runtime.select.predictions import predictions_of
from nnrules_runtime.select.rules import ChoiceRules
from nnrules_runtime.select.scoring import CasePrediction, Scorer
from nnrules_runtime.select.stated import configurations_for_few, stated_choice, trained_instances
from nnrules_runtime.select.suppression import Suppression
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

__all__ = ["find_best"]

_LOGGER = logging.getLogger(__name__)
FIND_BEST_SCRATCH = ".find_best."


def find_best(
    plan: Plan,
    dataset: Dataset,
    workspace: Workspace,
    *,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int | str] | None = None,
    own_splits: bool = False,
    num_workers: int | None = None,
) -> Empirical:
    """Choose the configuration or pair with the highest Dice, and determine its postprocessing (Methods).

    It reads what validation left in the work folder and writes nothing; :meth:`Empirical.save` does.

    Args:
        plan: says who competes, how scores are formed, and when a step of postprocessing is kept.
        dataset: its dataset, which has the references.
        workspace: the work folder.
        configurations: those that compete, each of which must have been validated; ``None``: as the plan says.
        folds: on whose validation cases; ``[0]`` chooses on one split (Supplement G). ``None``: on all cases.
        own_splits: whether the folds were those of a file of the user's own, which hold cases out however few there
            are.
        num_workers: processes; 1 works in the calling process. By default as it pays.

    Returns:
        The choice with everything that it was made from.

    Raises:
        PlanError: the plan has values that the runtime does not know, or that contradict each other.
        UsageError: there is no such configuration or fold.
        RunError: results are missing, damaged, or cannot be compared.
        ModelError: models are of another plan.
    """
    rules = _Rules.from_plan(plan)
    numbers = _numbers(folds)
    case_ids = [case.id for case in dataset.cases]
    num_units = rules.folds.num_units(case_ids, {case.id: case.group for case in dataset.cases})
    nothing_held_out = rules.folds.holds_nothing_out(num_units) and not own_splits
    instances = range(rules.folds.num_instances or 1)
    if nothing_held_out and not rules.folds.chosen_by_validation:
        trained = configurations_for_few(plan, rules.folds, rules.choice)
        return stated_choice(
            plan, workspace, trained, instances=numbers or instances, configurations=configurations
        )
    _check_enough(rules.folds, num_units, plan, workspace, numbers)
    held_out = HeldOut(
        plan=plan, dataset=dataset, workspace=workspace, num_folds=rules.folds.expected_folds(num_units)
    )
    scored = numbers
    if nothing_held_out:
        # Every instance predicts every case, so that one of them stands for all.
        scored = [numbers[0] if numbers else 0]
        _LOGGER.warning(
            "with only %d cases or groups each model trained on all of them: scores say how well these are known, "
            "not how well others will be segmented",
            num_units,
        )
    found, skipped = find_candidates(held_out, rules.choice, configurations=configurations, folds=scored)
    # Beside the predictions, which fit there; a folder of the system for such files may lie in memory.
    with tempfile.TemporaryDirectory(prefix=FIND_BEST_SCRATCH, dir=workspace.root) as folder:
        contest = _Contest(plan, dataset, rules, Path(folder), num_workers)
        empirical = contest.choose(held_out, found, skipped)
    if nothing_held_out:
        found_instances = {
            name: trained_instances(workspace, name, numbers or instances) for name in empirical.members
        }
        empirical = replace(empirical, folds=found_instances)
    return empirical


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What a plan says about the choice."""

    choice: ChoiceRules
    folds: FoldPolicy
    suppression: Suppression
    evaluation: Evaluation

    @classmethod
    def from_plan(cls, plan: Plan) -> _Rules:
        with reading(plan) as root:
            rules = cls(
                choice=ChoiceRules.from_plan(root),
                folds=FoldPolicy.from_plan(root),
                suppression=Suppression.from_plan(root, LabelSet.from_plan(root)),
                evaluation=Evaluation.from_plan(root),
            )
            if rules.choice.is_postprocessed and not rules.suppression.for_every_candidate:
                root.section("empirical").section("score").refuse(
                    "postprocessed",
                    "candidates cannot be compared after a postprocessing that is determined for the chosen one only",
                    got="true",
                    expected="false, or postprocessing.determined_for 'every_candidate'",
                )
        return rules


class _Contest:
    """Scores candidates and chooses.

    Args:
        plan: the plan.
        dataset: gives references.
        rules: the plan's.
        folder: for labels of averaged probabilities, which are read several times.
        num_workers: processes.
    """

    def __init__(
        self, plan: Plan, dataset: Dataset, rules: _Rules, folder: Path, num_workers: int | None
    ) -> None:
        self._plan = plan
        self._dataset = dataset
        self._rules = rules
        self._folder = folder
        self._scorer = Scorer(
            rules.evaluation,
            rules.suppression.tried,
            score=rules.choice.score,
            num_workers=num_workers,
        )
        self._predictions: dict[tuple[str, ...], list[CasePrediction]] = {}

    def choose(self, held_out: HeldOut, found: Sequence[Validated], skipped: Sequence[Skipped]) -> Empirical:
        """The choice among some configurations and their pairs."""
        rules = self._rules.choice
        by_name = {entry.configuration: entry for entry in found}
        missing = list(skipped)
        pairs = []
        for names in rules.pairs(tuple(by_name)):
            reason = missing_probabilities(held_out, [by_name[name] for name in names])
            if reason is None:
                pairs.append(names)
            else:
                missing.append(reason)
        for entry in missing:
            _LOGGER.log(logging.WARNING if entry.fix else logging.INFO, "%s", entry)
        singles: list[tuple[str, ...]] = [(name,) for name in by_name]
        candidates = {
            members: self._scored([by_name[name] for name in members])
            for members in rules.in_order(singles, pairs)
        }
        if self._rules.suppression.for_every_candidate:
            candidates = {members: self._postprocessed(entry) for members, entry in candidates.items()}
        members, tied = rules.best(self._compared(candidates))
        if not self._rules.suppression.for_every_candidate:
            candidates[members] = self._postprocessed(candidates[members])
        return Empirical(
            members=members,
            folds={name: by_name[name].folds for name in members},
            postprocessing=candidates[members].postprocessing,
            plan_hash=self._plan.hash,
            chosen_by="score" if len(candidates) > 1 else "only_candidate",
            candidates=tuple(candidates.values()),
            tied=tied if len(tied) > 1 else (),
            skipped=tuple(missing),
            scored_folds={name: entry.folds for name, entry in by_name.items()},
            num_cases=len(found[0].predictions),
            case_ids=tuple(found[0].predictions),
        )

    def _compared(self, candidates: Mapping[tuple[str, ...], Candidate]) -> dict[tuple[str, ...], float]:
        """The score of each candidate, NaN where undefined, which is said."""
        scores = {}
        for members, entry in candidates.items():
            compared = entry.postprocessed if self._rules.choice.is_postprocessed else entry.scores
            assert compared is not None
            scores[members] = compared.score
            if math.isnan(compared.score) and len(candidates) > 1:
                _LOGGER.warning("%s cannot win: its mean Dice is undefined", entry.name)
        return scores

    def _scored(self, members: Sequence[Validated]) -> Candidate:
        """A candidate with its scores."""
        names = tuple(member.configuration for member in members)
        self._predictions[names] = predictions_of(
            self._plan,
            self._dataset,
            members,
            dtype=self._rules.choice.dtype,
            kept_in=self._folder,
        )
        (scores,) = self._scorer.scores(
            self._predictions[names], [Postprocessing.none()], title=f"scoring {candidate_name(names)}"
        )
        return Candidate(members=names, scores=scores)

    def _postprocessed(self, candidate: Candidate) -> Candidate:
        """The candidate with its postprocessing."""
        assert candidate.scores is not None
        predictions = self._predictions[candidate.members]
        determined = self._rules.suppression.determine(
            candidate.scores,
            lambda variants: self._scorer.scores(
                predictions, variants, title=f"postprocessing {candidate.name}"
            ),
            evaluated=self._scorer.evaluated,
            tried=self._scorer.tried,
        )
        return replace(
            candidate,
            trials=determined.trials,
            postprocessing=determined.postprocessing,
            postprocessed=determined.scores,
        )


def _numbers(folds: Sequence[int | str] | None) -> list[int] | None:
    """Folds that hold cases out."""
    if folds is None:
        return None
    numbers = [fold for fold in folds if isinstance(fold, int) and fold >= 0]
    if not numbers or len(set(numbers)) < len(folds):
        raise UsageError(
            Problem(
                where="--folds",
                what="a model that was trained on all cases says nothing about others"
                if "all" in folds
                else "no such folds",
                got=", ".join(map(str, folds)) or "none",
                expected="numbers from 0, each once",
            )
        )
    return numbers


def _check_enough(
    policy: FoldPolicy, num_units: int, plan: Plan, workspace: Workspace, folds: Sequence[int] | None
) -> None:
    """With fewer cases than folds a plan may make no folds at all; then nothing needs to be looked for."""
    if folds is not None or policy.too_few != "refuse" or num_units >= policy.num_folds:
        return
    # Unless there are folds of a split of one's own.
    if any(True for name in plan.configurations for _ in workspace.models(name).glob("fold_[0-9]*")):
        return
    raise RunError(
        Problem(
            where="plan: folds",
            what="there is no cross-validation to choose by, as there are fewer cases or groups than folds",
            got=f"{num_units}",
            expected=f"at least {policy.num_folds}",
            fix="Predict with a configuration of your choice, -c; or plan again with "
            "--set folds.too_few.policy=fewer_folds and train again.",
        )
    )
