"""The choice that a plan states where no case is held out, so that there is nothing to choose by.

Supplement F, D19: with three cases the authors trained 3D full resolution networks on all of them, as an ensemble.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nnrules.errors import Problem, RunError, UsageError
from nnrules.plan import Plan

from nnrules_runtime.network.model import trained_folds
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.select.empirical import Candidate, Empirical, Skipped
from nnrules_runtime.select.rules import ChoiceRules, TooFewCases
from nnrules_runtime.workspace import Workspace

__all__ = ["stated_choice", "trained_instances"]

_LOGGER = logging.getLogger(__name__)


def stated_choice(
    plan: Plan,
    workspace: Workspace,
    too_few: TooFewCases,
    rules: ChoiceRules,
    *,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
) -> Empirical:
    """What predicts where every model trained on all cases: the plan's configuration, all its instances.

    There is no postprocessing, as nothing shows whether it helps.

    Args:
        plan: the plan.
        workspace: the work folder.
        too_few: what the plan says about so few cases.
        rules: the order of configurations.
        configurations: leaves only these.
        folds: leaves only these instances.

    Raises:
        UsageError: the plan states no such configuration, or several.
        RunError: an instance has not been trained.
    """
    trained = [
        name
        for name in rules.order
        if name in plan.configurations and name in (too_few.configurations or plan.configurations)
    ]
    chosen = [name for name in trained if configurations is None or name in configurations]
    if len(chosen) != 1:
        raise UsageError(
            Problem(
                where="--configurations",
                what="every model trains on all of so few cases, so that nothing tells which configuration is best"
                if trained
                else "with so few cases the plan trains none of its configurations",
                got=", ".join(configurations) if configurations else None,
                expected=f"one of {', '.join(trained)}" if trained else None,
                fix="Name the one that shall predict with --configurations."
                if trained
                else "Plan again with folds.too_few.configurations that the plan has.",
            )
        )
    members = (chosen[0],)
    instances = trained_instances(workspace, chosen[0], too_few, folds)
    _LOGGER.warning(
        "no case is held out, so nothing was compared: the plan says that %s predicts, %d model%s averaged, without "
        "postprocessing",
        chosen[0], len(instances), "s" if len(instances) > 1 else "",
    )  # fmt: skip
    return Empirical(
        members=members,
        folds={chosen[0]: instances},
        postprocessing=Postprocessing.none(),
        plan_hash=plan.hash,
        chosen_by="plan",
        candidates=(Candidate(members=members, scores=None),),
        skipped=tuple(
            Skipped(members=(name,), reason="no case is held out to choose by")
            for name in trained
            if name not in members
        ),
    )


def trained_instances(
    workspace: Workspace, configuration: str, too_few: TooFewCases, folds: Sequence[int] | None
) -> tuple[int | str, ...]:
    """The instances of a configuration, each trained on all cases.

    Raises:
        RunError: one has not been trained.
    """
    wanted = tuple(range(too_few.num_instances)) if folds is None else tuple(folds)
    missing = [fold for fold in wanted if fold not in trained_folds(workspace.models(configuration))]
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
    return wanted
