"""Which steps a plan and a dataset ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nnrules.errors import Problem, UsageError
from nnrules.plan import Plan

from nnrules_runtime.train.cascade import stages_of
from nnrules_runtime.train.division import Division
from nnrules_runtime.train.folds import ALL, FoldPolicy
from nnrules_runtime.values import reading
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph, Kind, Step

__all__ = ["Selection", "build_graph", "select"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is trained.

    Attributes:
        folds: the folds of each configuration, in the order in which configurations are trained: a first stage
            stands before its second one.
        candidates: the configurations that may be chosen.
        only_as_first_stage: configurations that are trained because a second stage needs them.
        num_folds: number of all folds, trained or not.
        held_out: whether folds hold cases out, so that validation says something about the choice.
    """

    folds: dict[str, tuple[int, ...]]
    candidates: tuple[str, ...]
    only_as_first_stage: tuple[str, ...]
    num_folds: int
    held_out: bool

    @property
    def needs_probabilities(self) -> bool:
        """Whether pairs are candidates, for which probabilities are averaged."""
        return self.held_out and len(self.candidates) > 1


def select(settings: Settings) -> Selection:
    """What the settings ask for, in the plan's terms.

    Raises:
        UsageError: the plan has no such configuration, or no such fold.
        RunError: there are fewer cases than folds, and the plan refuses that; or a splits file is not what it
            should be.
        PlanError: the plan has values that the runtime does not know.
    """
    plan = settings.plan
    with reading(plan) as root:
        policy = FoldPolicy.from_plan(root)
    division = Division.of(policy, settings.dataset, splits=settings.splits)
    num_folds, held_out = division.num_folds, division.held_out
    planned = tuple(plan.configurations)
    _check(settings, planned, num_folds)
    wanted = settings.configurations
    if wanted is None:
        few = None if held_out else policy.configurations
        wanted = planned if few is None else tuple(name for name in planned if name in few)
    needed = tuple(dict.fromkeys(stage for name in wanted for stage in stages_of(plan, name)))
    ordered = sorted(needed, key=lambda name: (len(stages_of(plan, name)), planned.index(name)))
    first_stages = {stage for name in wanted for stage in stages_of(plan, name) if stage != name}
    every = tuple(range(num_folds))
    folds = {
        name: every
        if settings.folds is None or name in first_stages
        else tuple(fold for fold in every if fold in settings.folds)
        for name in ordered
    }
    return Selection(
        folds=folds,
        candidates=tuple(name for name in ordered if name in wanted),
        only_as_first_stage=tuple(name for name in ordered if name not in wanted),
        num_folds=num_folds,
        held_out=held_out,
    )


def build_graph(settings: Settings, selection: Selection, chosen: Sequence[str] | None = None) -> Graph:
    """All steps.

    Args:
        settings: what is asked for.
        selection: what it means, see :func:`select`.
        chosen: the configurations that find-best chose, if it has: what follows it depends on that. Without, the
            steps of a refit are left out.
    """
    steps = [Step(kind=Kind.PREPROCESS, configurations=tuple(selection.folds))]
    for name, folds in selection.folds.items():
        for fold in folds:
            steps += _training(settings.plan, selection, name, fold)
    tested = tuple(step.name for step in steps if step.kind is Kind.VALIDATE)
    trained = tuple(step.name for step in steps if step.kind is Kind.TRAIN)
    steps.append(
        Step(kind=Kind.FIND_BEST, configurations=selection.candidates, needs=tested if tested else trained)
    )
    if selection.held_out:
        steps.append(
            Step(
                kind=Kind.POSTPROCESS,
                configurations=selection.candidates,
                needs=(Kind.FIND_BEST.value, *tested),
            )
        )
    last = [steps[-1].name]
    if chosen is not None and settings.refit is not None:
        refit = [*_refit(settings, selection, chosen, {step.name for step in steps})]
        names = tuple(step.name for step in refit)
        last = [Kind.REFIT.value, *names]
        steps += [
            *refit,
            Step(
                kind=Kind.REFIT,
                configurations=tuple(chosen),
                needs=(Kind.FIND_BEST.value, *names, *trained),
            ),
        ]
    if settings.bundle is not None:
        steps.append(Step(kind=Kind.BUNDLE, configurations=tuple(chosen or ()), needs=(*last, *trained)))
    return Graph(steps)


def _training(plan: Plan, selection: Selection, name: str, fold: int) -> Iterator[Step]:
    """Training and validation of one fold."""
    last = Kind.VALIDATE if selection.held_out else Kind.TRAIN
    before = tuple(
        f"{last.value}-{stage}-{other}"
        for stage in stages_of(plan, name)
        if stage != name
        for other in selection.folds[stage]
    )
    train = Step(kind=Kind.TRAIN, configurations=(name,), fold=fold, needs=(Kind.PREPROCESS.value, *before))
    yield train
    if selection.held_out:
        yield Step(kind=Kind.VALIDATE, configurations=(name,), fold=fold, needs=(train.name,))


def _refit(
    settings: Settings, selection: Selection, chosen: Sequence[str], known: set[str]
) -> Iterator[Step]:
    """What is trained once the choice is made: the folds that are missing, or all cases."""
    members = tuple(dict.fromkeys(stage for name in chosen for stage in stages_of(settings.plan, name)))
    if settings.refit == "all" and selection.held_out:
        for name in members:
            needs = (Kind.FIND_BEST.value, Kind.PREPROCESS.value)
            yield Step(kind=Kind.TRAIN, configurations=(name,), fold=ALL, needs=needs)
    elif settings.refit == "cv":
        for name in members:
            for fold in range(selection.num_folds):
                step = Step(kind=Kind.TRAIN, configurations=(name,), fold=fold, needs=(Kind.FIND_BEST.value,))
                if step.name not in known:
                    yield step


def _check(settings: Settings, planned: Sequence[str], num_folds: int) -> None:
    """Refuse configurations and folds that are not there, all at once."""
    names = range(num_folds)
    problems = [
        Problem(
            where="--configurations",
            what="the plan has no such configuration",
            got=name,
            expected=", ".join(planned),
        )
        for name in settings.configurations or ()
        if name not in planned
    ]
    problems += [
        Problem(
            where="--folds", what="there is no such fold", got=str(fold), expected=", ".join(map(str, names))
        )
        for fold in settings.folds or ()
        if fold not in names
    ]
    for option, values in (("--configurations", settings.configurations), ("--folds", settings.folds)):
        if values is not None and (not values or len(set(values)) < len(values)):
            what = "one stands twice" if values else "none is named"
            problems.append(Problem(where=option, what=what, got=", ".join(map(str, values)) or None))
    if problems:
        raise UsageError(problems)
