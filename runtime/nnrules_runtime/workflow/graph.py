"""Which steps a plan and a dataset ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nnrules.errors import Problem, UsageError
from nnrules.plan import Plan

from nnrules_runtime.folds import ALL, Division, FoldPolicy
from nnrules_runtime.select import ChoiceRules, configurations_for_few, stated_configuration
from nnrules_runtime.train.cascade import stages_of
from nnrules_runtime.values import reading
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph, Kind, Step

__all__ = ["Selection", "build_graph", "select"]

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is trained.

    Attributes:
        folds: the folds of each configuration, in the order in which configurations are trained: a first stage
            stands before its second one.
        candidates: the configurations that may be chosen.
        only_as_first_stage: configurations that are trained because a second stage needs them.
        num_folds: number of all folds, trained or not.
        held_out: whether folds hold cases out.
        validated: whether folds are validated: where they hold cases out, or where the plan chooses by cases that
            were trained on.
    """

    folds: dict[str, tuple[int | str, ...]]
    candidates: tuple[str, ...]
    only_as_first_stage: tuple[str, ...]
    num_folds: int
    held_out: bool
    validated: bool

    @property
    def needs_probabilities(self) -> bool:
        """Whether pairs are candidates, for which probabilities are averaged."""
        return self.validated and len(self.candidates) > 1


def select(settings: Settings) -> Selection:
    """What the settings ask for, in the plan's terms.

    Raises:
        UsageError: the plan has no such configuration, or no such fold; or nothing is held out to choose among
            several by.
        RunError: there are fewer cases than folds, and the plan refuses that; or a splits file is not what it
            should be.
        PlanError: the plan has values that the runtime does not know.
    """
    plan = settings.plan
    with reading(plan) as root:
        policy, rules = FoldPolicy.from_plan(root), ChoiceRules.from_plan(root)
    division = Division.of(policy, settings.dataset, splits=settings.splits)
    on_all = settings.folds == (ALL,)
    # The first stage of a cascade has its folds whatever is asked for.
    cascades = [
        name
        for name in settings.configurations or ()
        if "previous_stage" in plan.configurations.get(name, {})
    ]
    needs_folds = not on_all or bool(cascades)
    num_folds, held_out = (division.num_folds, division.held_out) if needs_folds else (0, False)
    held_out = held_out and not on_all
    planned = tuple(plan.configurations)
    _check(settings, planned, num_folds)
    wanted = settings.configurations
    if wanted is None:
        few = None if held_out or on_all else policy.configurations
        wanted = planned if few is None else tuple(name for name in planned if name in few)
    validated = held_out or (policy.chosen_by_validation and not on_all)
    if not validated:
        # Said before days of training, not after.
        stated_configuration(planned if on_all else configurations_for_few(plan, policy, rules), wanted)
    needed = tuple(dict.fromkeys(stage for name in wanted for stage in stages_of(plan, name)))
    ordered = sorted(needed, key=lambda name: (len(stages_of(plan, name)), planned.index(name)))
    first_stages = {stage for name in wanted for stage in stages_of(plan, name) if stage != name}
    every: tuple[int | str, ...] = tuple(range(num_folds))
    chosen = (
        every if settings.folds is None else tuple(fold for fold in (*every, ALL) if fold in settings.folds)
    )
    folds = {name: every if name in first_stages else chosen for name in ordered}
    if settings.splits is not None and held_out:
        _check_disjoint(division, chosen)
    return Selection(
        folds=folds,
        candidates=tuple(name for name in ordered if name in wanted),
        only_as_first_stage=tuple(name for name in ordered if name not in wanted),
        num_folds=num_folds,
        held_out=held_out,
        validated=validated,
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
    steps.append(_step(Kind.FIND_BEST, selection.candidates, reads=tested or trained))
    if selection.held_out:
        steps.append(_step(Kind.POSTPROCESS, selection.candidates, reads=(Kind.FIND_BEST.value, *tested)))
    last = [steps[-1].name]
    if chosen is not None and settings.refit is not None:
        refit = [*_refit(settings, selection, chosen, {step.name for step in steps})]
        names = tuple(step.name for step in refit)
        last = [Kind.REFIT.value, *names]
        steps += [*refit, _step(Kind.REFIT, chosen, reads=(Kind.FIND_BEST.value, *names, *trained))]
    if settings.bundle is not None:
        steps.append(_step(Kind.BUNDLE, chosen or (), reads=(*last, *trained)))
    return Graph(steps)


def _step(kind: Kind, configurations: Sequence[str], *, reads: tuple[str, ...]) -> Step:
    """A step that is done again whenever one before it was."""
    return Step(kind=kind, configurations=tuple(configurations), needs=reads, reads=reads)


def _training(plan: Plan, selection: Selection, name: str, fold: int | str) -> Iterator[Step]:
    """Training and validation of one fold."""
    last = Kind.VALIDATE if selection.validated else Kind.TRAIN
    before = [
        (stage, other) for stage in stages_of(plan, name) if stage != name for other in selection.folds[stage]
    ]
    networks = tuple(f"{Kind.TRAIN.value}-{stage}-{other}" for stage, other in before)
    needs = tuple(f"{last.value}-{stage}-{other}" for stage, other in before)
    train = Step(
        kind=Kind.TRAIN,
        configurations=(name,),
        fold=fold,
        needs=(Kind.PREPROCESS.value, *needs),
        reads=networks,
    )
    yield train
    if selection.validated:
        yield Step(
            kind=Kind.VALIDATE,
            configurations=(name,),
            fold=fold,
            needs=(train.name,),
            reads=(train.name, *networks),
            probabilities=selection.needs_probabilities,
        )


def _refit(
    settings: Settings, selection: Selection, chosen: Sequence[str], known: set[str]
) -> Iterator[Step]:
    """What is trained once the choice is made: the folds that are missing, or all cases."""
    members = tuple(dict.fromkeys(stage for name in chosen for stage in stages_of(settings.plan, name)))
    folds: Sequence[int | str] = (ALL,) if settings.refit == "all" else range(selection.num_folds)
    for name in members:
        for fold in folds:
            (step, *_) = _training(settings.plan, selection, name, fold)
            if step.name not in known:
                # What it reads is the same whether it is trained before the choice or after it.
                yield replace(step, needs=(*step.needs, Kind.FIND_BEST.value))


def _check_disjoint(division: Division, chosen: Sequence[int | str]) -> None:
    """Refuse folds of the user's own that hold out a case twice: it would count twice in the choice."""
    folds = [fold for fold in division.folds() if fold.name in chosen]
    counts = Counter(case for fold in folds for case in fold.validation)
    twice = sorted(case for case, number in counts.items() if number > 1)
    if twice:
        raise UsageError(
            Problem(
                where="--splits",
                what="several folds hold out the same cases, which would count twice in the choice of a model",
                got=", ".join(twice[:_SHOWN])
                + (f" and {len(twice) - _SHOWN} more" if twice[_SHOWN:] else ""),
                fix="Choose folds that share none with --folds.",
            )
        )


def _check(settings: Settings, planned: Sequence[str], num_folds: int) -> None:
    """Refuse what is not there, or does not go together, all at once."""
    names: list[int | str] = [*range(num_folds), ALL]
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
    if settings.folds is not None and ALL in settings.folds and len(settings.folds) > 1:
        problems.append(
            Problem(
                where="--folds",
                what="a model of all cases cannot be compared with those of folds",
                got=", ".join(map(str, settings.folds)),
                fix="For a choice by folds and then one model of all cases: --refit all.",
            )
        )
    if settings.folds == (ALL,) and settings.refit is not None:
        problems.append(
            Problem(where="--refit", what="with --folds all there is no choice after which to train again")
        )
    for option, values in (("--configurations", settings.configurations), ("--folds", settings.folds)):
        if values is not None and (not values or len(set(values)) < len(values)):
            what = "one stands twice" if values else "none is named"
            problems.append(Problem(where=option, what=what, got=", ".join(map(str, values)) or None))
    if problems:
        raise UsageError(problems)
