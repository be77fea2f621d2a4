"""The choice that a plan states where no case is held out, so that there is nothing to choose by.

Supplement F, D19: with three cases the authors trained 3D full resolution networks on all of them, as an ensemble.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nnrules.errors import Problem, RunError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.folds import FoldPolicy
from nnrules_runtime.network.model import trained_folds
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.select.empirical import Candidate, Empirical, Skipped
from nnrules_runtime.select.rules import ChoiceRules
from nnrules_runtime.workspace import Workspace

__all__ = ["configurations_for_few", "stated_choice", "stated_configuration", "trained_instances"]

_LOGGER = logging.getLogger(__name__)


def configurations_for_few(plan: Plan, policy: FoldPolicy, rules: ChoiceRules) -> list[str]:
    """The configurations that a plan trains where every model trains on all of few cases."""
    wanted = policy.configurations or plan.configurations
    return [name for name in rules.order if name in plan.configurations and name in wanted]


def stated_configuration(trained: Sequence[str], configurations: Sequence[str] | None = None) -> str:
    """The configuration that predicts where nothing is held out to choose by.

    Args:
        trained: those that the plan trains.
        configurations: leaves only these.

    Raises:
        UsageError: there is none, or there are several.
    """
    chosen = [name for name in trained if configurations is None or name in configurations]
    if len(chosen) != 1:
        raise UsageError(
            Problem(
                where="--configurations",
                what="every model trains on all cases, so that nothing tells which configuration is best"
                if trained
                else "with so few cases the plan trains none of its configurations",
                got=", ".join(configurations) if configurations else None,
                expected=f"one of {', '.join(trained)}" if trained else None,
                fix="Name the one that shall predict with --configurations."
                if trained
                else "Plan again with folds.too_few.configurations that the plan has.",
            )
        )
    return chosen[0]


def stated_choice(
    plan: Plan,
    workspace: Workspace,
    trained: Sequence[str],
    *,
    instances: Sequence[int | str],
    configurations: Sequence[str] | None = None,
) -> Empirical:
    """What predicts where every model trained on all cases: the plan's configuration, all its instances.

    There is no postprocessing, as nothing shows whether it helps.

    Args:
        plan: the plan.
        workspace: the work folder.
        trained: configurations that the plan trains.
        instances: the models that are averaged: numbers, or ``"all"``.
        configurations: leaves only these.

    Raises:
        UsageError: the plan states no such configuration, or several.
        RunError: an instance has not been trained.
    """
    chosen = stated_configuration(trained, configurations)
    found = trained_instances(workspace, chosen, instances)
    _LOGGER.warning(
        "no case is held out, so nothing was compared: %s predicts, %d model%s averaged, without postprocessing",
        chosen, len(found), "s" if len(found) > 1 else "",
    )  # fmt: skip
    return Empirical(
        members=(chosen,),
        folds={chosen: found},
        postprocessing=Postprocessing.none(),
        plan_hash=plan.hash,
        chosen_by="plan",
        candidates=(Candidate(members=(chosen,), scores=None),),
        skipped=tuple(
            Skipped(members=(name,), reason="no case is held out to choose by")
            for name in trained
            if name != chosen
        ),
    )


def trained_instances(
    workspace: Workspace, configuration: str, instances: Sequence[int | str]
) -> tuple[int | str, ...]:
    """The instances of a configuration, each trained on all cases.

    Raises:
        RunError: one has not been trained.
    """
    there = trained_folds(workspace.models(configuration))
    missing = [fold for fold in instances if fold not in there]
    if missing:
        raise RunError(
            Problem(
                where=f"configuration {configuration}",
                what="not all of its models have been trained",
                got=f"nothing of fold{'s' if missing[1:] else ''} {', '.join(map(str, missing))}",
                fix=f"Train with `nnrules run train … -c {configuration} --fold {missing[0]}`, or name those that "
                "there are with --folds.",
            )
        )
    return tuple(instances)
