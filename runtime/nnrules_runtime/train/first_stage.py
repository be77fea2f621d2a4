"""The first stage of a cascade as its second one finds it: a trained model of each fold, for the cases it held out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnrules.errors import ModelError, Problem, RunError, StoreError
from nnrules.plan import Plan

from nnrules_runtime.folds import Division, Fold
from nnrules_runtime.network.model import Checkpoint, read_model
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.cascade import OntoGrid, StageLink, weights_for
from nnrules_runtime.train.case_predictions import predict_cases
from nnrules_runtime.train.lock import locked
from nnrules_runtime.train.model_files import recorded_split
from nnrules_runtime.train.previous_stage import PreviousStageStore
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

__all__ = ["FirstStage"]

_LOGGER = logging.getLogger(__name__)
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A fold of the first stage.

    Attributes:
        fold: its number.
        folder: where it is.
        checkpoint: which weights predict.
        weights: their SHA-256.
        case_ids: the cases that it predicts.
    """

    fold: int
    folder: Path
    checkpoint: Checkpoint
    weights: str
    case_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStage:
    """The models of the folds that held some cases out.

    Attributes:
        plan: the plan.
        link: to the second stage.
        workspace: where models and segmentations are.
        members: the folds.
        before: the stage before this one, in a cascade of more than two.
    """

    plan: Plan
    link: StageLink
    workspace: Workspace
    members: tuple[_Member, ...]
    before: FirstStage | None

    @classmethod
    def find(
        cls,
        plan: Plan,
        configuration: str,
        workspace: Workspace,
        *,
        division: Division,
        case_ids: Iterable[str],
    ) -> FirstStage:
        """Find the trained folds for some cases. Looks at models only.

        Args:
            plan: the plan.
            configuration: the second stage.
            workspace: where the models are.
            division: the folds of both stages.
            case_ids: the cases that the second stage trains on or validates.

        Raises:
            PlanError: the plan has values that the runtime does not know.
            RunError: a case that no fold holds out; folds that have not been trained, with the command.
            ModelError: a fold was trained on other cases than those that it has now.
        """
        with reading(plan) as root:
            link = StageLink.from_plan(root, configuration)
        wanted = sorted(case_ids)
        holders, folds = division.holders(), division.folds()
        _check_held_out(link, [case_id for case_id in wanted if case_id not in holders], len(wanted))
        members, missing, problems = [], [], []
        for number in sorted({holders[case_id] for case_id in wanted}):
            folder = workspace.fold(link.first, number)
            chosen = weights_for(link, folder)
            if chosen is None:
                missing.append(number)
                continue
            problems += _same_cases(folder, folds[number])
            mine = tuple(case_id for case_id in wanted if holders[case_id] == number)
            members.append(
                _Member(fold=number, folder=folder, checkpoint=chosen[0], weights=chosen[1], case_ids=mine)
            )
        if missing:
            raise RunError(_not_trained(link, missing, workspace))
        if problems:
            raise ModelError(problems)
        before = None
        if plan.configurations[link.first].get("previous_stage") is not None:
            before = cls.find(plan, link.first, workspace, division=division, case_ids=wanted)
        return cls(plan=plan, link=link, workspace=workspace, members=tuple(members), before=before)

    def segmentations(self, stores: Mapping[str, CaseStore], *, profile: Profile) -> PreviousStageStore:
        """The segmentations on the second stage's grid; those that are missing or out of date are made.

        Args:
            stores: the cases as preprocessed for each stage, by configuration.
            profile: how to predict.

        Raises:
            ModelError: weights are missing or damaged.
            StoreError: a case is missing or damaged; a segmentation does not fit its image.
            RunError: another process is at work on a fold that is to predict; or as prediction.
        """
        found = PreviousStageStore(self.workspace.previous_stage(self.link.second))
        previous = None
        for member in self.members:
            output = OntoGrid(
                link=self.link,
                segmentations=found,
                cases=stores[self.link.first],
                weights=member.weights,
                fold=member.fold,
                case_ids=frozenset(member.case_ids),
            )
            todo = [case_id for case_id in member.case_ids if output.wants(case_id)]
            if not todo:
                continue
            if self.before is not None and previous is None:
                previous = self.before.segmentations(stores, profile=profile)
            self._say(member, len(todo))
            with locked(member.folder):
                predict_cases(
                    read_model(member.folder, member.checkpoint, plan=self.plan),
                    todo,
                    [output],
                    store=stores[self.link.first],
                    profile=profile,
                    previous=previous,
                    title=f"predicting with {self.link.first} fold {member.fold}",
                )
        self._check_shapes(found, stores[self.link.second])
        return found

    def _say(self, member: _Member, num_cases: int) -> None:
        _LOGGER.info(
            "%s fold %d predicts %d cases that it did not train on for %s%s",
            self.link.first,
            member.fold,
            num_cases,
            self.link.second,
            ""
            if member.checkpoint == self.link.checkpoint
            else f", with its {member.checkpoint} weights: it has no {self.link.checkpoint} ones",
        )

    def _check_shapes(self, found: PreviousStageStore, cases: CaseStore) -> None:
        problems = []
        for case_id in (case_id for member in self.members for case_id in member.case_ids):
            shape, expected = found.shape(case_id), cases.case(case_id).shape
            if shape != expected:
                problems.append(
                    Problem(
                        where=f"{case_id}: {found.folder}",
                        what="the previous stage's segmentation does not fit the image",
                        got=f"{shape} voxels",
                        expected=str(expected),
                        fix="Remove the folder of the case there and train again.",
                    )
                )
        if problems:
            raise StoreError(problems)


def _check_held_out(link: StageLink, orphans: Sequence[str], num_cases: int) -> None:
    """Refuse cases that every model of the first stage has trained on, or none has validated."""
    if not orphans:
        return
    more = f", … ({len(orphans)} of {num_cases})" if len(orphans) > _SHOWN else ""
    raise RunError(
        Problem(
            where=f"configuration {link.second}",
            what=f"the second stage of a cascade learns from what {link.first} says about cases that it did not train "
            "on, and no fold holds these cases out",
            got=", ".join(orphans[:_SHOWN]) + more,
            fix="Use folds in which every case is validated once: plan with --set folds.too_few.policy=fewer_folds, or "
            "give --splits a file with such folds.",
        )
    )


def _same_cases(folder: Path, fold: Fold) -> list[Problem]:
    """What differs between the cases that a model was trained on and those of the fold now."""
    recorded = recorded_split(folder)
    return [
        Problem(
            where=f"{folder}: {name}",
            what="this fold of the first stage was trained with other cases than it has now",
            got=recorded.get(name, "no such field"),
            expected=now,
            fix="Train both stages with the same dataset and the same --splits; --restart trains a fold anew.",
        )
        for name, now in fold.fields().items()
        if recorded is not None and recorded.get(name) != now
    ]


def _not_trained(link: StageLink, missing: Sequence[int], workspace: Workspace) -> Problem:
    first, *others = missing
    command = f"`nnrules run train PLAN DATASET -c {link.first} --fold {first} --work {workspace.root}`"
    if others:
        command += f", and the same with --fold {', '.join(map(str, others))}"
    return Problem(
        where=f"configuration {link.second}",
        what=f"the second stage of a cascade learns from what the folds of {link.first} say about cases that they held "
        "out, and not all of them are trained",
        got=f"no {'fold' if not others else 'folds'} {', '.join(map(str, missing))} of {link.first}",
        fix=f"Train first: {command}.",
    )
