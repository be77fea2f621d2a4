"""What each kind of step does; runs in the step's own process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nnrules_runtime.bundle import write_bundle
from nnrules_runtime.folds import ALL
from nnrules_runtime.network.model import trained_folds
from nnrules_runtime.preprocess.dataset import preprocess_configurations
from nnrules_runtime.profile import Profile
from nnrules_runtime.select import Empirical, find_best, stated_choice, write_cross_validation
from nnrules_runtime.train.run import TrainingOptions, train_fold
from nnrules_runtime.train.validation import VALIDATION_FOLDER
from nnrules_runtime.workflow.child import Stopped
from nnrules_runtime.workflow.graph import Selection
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Kind, Step

__all__ = ["perform"]


def perform(
    step: Step, settings: Settings, selection: Selection, again: bool, replaced: Sequence[int | str] = ()
) -> Stopped | None:
    """Do a step.

    Args:
        step: the step; what it needs is done.
        settings: of the run.
        selection: what is trained.
        again: whether it was done before, with other inputs: what it left then is removed.
        replaced: of a training that is done again: the other folds that will be, too.

    Returns:
        ``Stopped`` if it ended before its end, at a point from which it continues.

    Raises:
        NnrulesError: for whatever a user can put right.
    """
    if step.kind is Kind.TRAIN:
        return _train(step, settings, again, replaced)
    return _ACTIONS[step.kind](step, settings, selection, again)


def _preprocess(step: Step, settings: Settings, _selection: Selection, _again: bool) -> None:
    preprocess_configurations(
        settings.plan,
        settings.dataset,
        step.configurations,
        settings.workspace,
        num_workers=settings.preprocess_workers,
    )


def _train(step: Step, settings: Settings, again: bool, replaced: Sequence[int | str]) -> Stopped | None:
    options = TrainingOptions(
        validate=False,
        restart=again,
        replaced=replaced,
        overrides=settings.overrides,
        splits=settings.splits,
    )
    return _run(step, settings, options)


def _validate(step: Step, settings: Settings, selection: Selection, again: bool) -> Stopped | None:
    assert step.fold is not None
    folder = settings.workspace.fold(step.configurations[0], step.fold) / VALIDATION_FOLDER
    old = folder.with_name(f".{folder.name}.old")
    if again and folder.exists():
        # Whole, so that what is left of it after a crash is never taken for new predictions.
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)
    options = TrainingOptions(
        overrides=settings.overrides,
        save_probabilities=selection.needs_probabilities,
        splits=settings.splits,
    )
    return _run(step, settings, options)


def _run(step: Step, settings: Settings, options: TrainingOptions) -> Stopped | None:
    assert step.fold is not None
    result = train_fold(
        settings.plan,
        settings.dataset,
        step.configurations[0],
        step.fold,
        settings.workspace,
        profile=Profile.for_training(settings.plan, **settings.profile),
        options=options,
    )
    if result.outcome.finished:
        return None
    return Stopped(f"{result.outcome.reason} in epoch {result.outcome.epoch}")


def _find_best(_step: Step, settings: Settings, selection: Selection, _again: bool) -> None:
    if settings.folds == (ALL,):
        (name,) = selection.candidates
        empirical = stated_choice(settings.plan, settings.workspace, [name], instances=[ALL])
    else:
        # Those that were trained, which need not hold out every case: folds of the user's own, or a single one.
        folds = selection.folds[selection.candidates[0]] if settings.folds is None else settings.folds
        empirical = find_best(
            settings.plan,
            settings.dataset,
            settings.workspace,
            configurations=selection.candidates,
            folds=folds,
            own_splits=settings.splits is not None,
        )
    empirical.save(settings.workspace.empirical)


def _postprocess(_step: Step, settings: Settings, _selection: Selection, _again: bool) -> None:
    write_cross_validation(
        settings.plan, settings.dataset, settings.workspace, Empirical.load(settings.workspace.empirical)
    )


def _refit(_step: Step, settings: Settings, _selection: Selection, _again: bool) -> None:
    """From now on the refitted models predict."""
    empirical = Empirical.load(settings.workspace.empirical)
    folds: dict[str, tuple[int | str, ...]] = {}
    for name in empirical.members:
        trained = trained_folds(settings.workspace.models(name))
        folds[name] = (ALL,) if settings.refit == "all" else tuple(fold for fold in trained if fold != ALL)
    replace(empirical, folds=folds).save(settings.workspace.empirical)


def _bundle(_step: Step, settings: Settings, _selection: Selection, _again: bool) -> None:
    assert settings.bundle is not None
    write_bundle(
        settings.workspace,
        settings.bundle,
        plan=settings.plan,
        empirical=Empirical.load(settings.workspace.empirical),
        licence=settings.licence,
    )


_ACTIONS: Mapping[Kind, Callable[[Step, Settings, Selection, bool], Stopped | None]] = {
    Kind.PREPROCESS: _preprocess,
    Kind.VALIDATE: _validate,
    Kind.FIND_BEST: _find_best,
    Kind.POSTPROCESS: _postprocess,
    Kind.REFIT: _refit,
    Kind.BUNDLE: _bundle,
}
