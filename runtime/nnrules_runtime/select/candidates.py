"""Which configurations compete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnrules.errors import Problem, RunError, UsageError

from nnrules_runtime.select.empirical import Skipped
from nnrules_runtime.select.held_out import HeldOut, Validated, shown
from nnrules_runtime.select.rules import ChoiceRules

__all__ = ["find_candidates", "missing_probabilities"]


def find_candidates(
    held_out: HeldOut,
    rules: ChoiceRules,
    *,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
) -> tuple[list[Validated], list[Skipped]]:
    """The configurations that compete.

    Args:
        held_out: the predictions that there are.
        rules: what the plan says.
        configurations: those that shall compete; each must have results then. ``None``: all that the plan lets
            compete; what is missing is left out or refused, as the plan says.
        folds: whose validation cases are scored; ``None``: all cases of the dataset, each predicted once.

    Returns:
        Those that compete, in the plan's order, and those that do not.

    Raises:
        UsageError: there is no such configuration.
        RunError: results are missing or do not belong together, or nothing is left.
        ModelError: models are of another plan.
    """
    skipped: list[Skipped] = []
    problems: list[Problem] = []
    if configurations is None:
        names = _planned(held_out, rules, skipped, problems)
    else:
        names = _named(held_out, rules, configurations, skipped)
    found: list[Validated] = []
    for name in names:
        result = held_out.pooled(name, folds)
        if isinstance(result, Validated):
            found.append(result)
        elif rules.skips_not_trained and configurations is None:
            skipped.append(_as_skipped(name, result))
        else:
            problems += result
    problems += _different_cases(found)
    if problems:
        raise RunError(problems)
    if not found:
        raise RunError(_nothing_left(held_out, skipped))
    return found, skipped


def missing_probabilities(held_out: HeldOut, members: Sequence[Validated]) -> Skipped | None:
    """Why a pair cannot be averaged; ``None`` where it can."""
    reasons, fixes = [], []
    for member in members:
        missing = [case_id for case_id in member.predictions if not member.probabilities(case_id).is_file()]
        if missing:
            total = len(member.predictions)
            reasons.append(f"no probabilities of {len(missing)} of {total} cases by {member.configuration}")
            fixes.append(held_out.train_command(member.configuration, member.folds, "--probabilities"))
    if not reasons:
        return None
    return Skipped(
        members=tuple(member.configuration for member in members),
        reason="; ".join(reasons),
        fix=f"Make them with {' and '.join(fixes)}.",
    )


def _planned(
    held_out: HeldOut, rules: ChoiceRules, skipped: list[Skipped], problems: list[Problem]
) -> list[str]:
    """What the plan lets compete and has."""
    planned = held_out.plan.configurations
    for name in rules.order:
        if name not in planned and rules.skips_not_planned:
            skipped.append(Skipped(members=(name,), reason="the plan does not have it"))
        elif name not in planned:
            problems.append(
                Problem(
                    where=f"configuration {name}",
                    what="it is to compete, and the plan does not have it",
                    expected=", ".join(planned),
                    fix="Name those that shall compete with --configurations.",
                )
            )
    return [name for name in rules.order if name in planned]


def _named(
    held_out: HeldOut, rules: ChoiceRules, configurations: Sequence[str], skipped: list[Skipped]
) -> list[str]:
    """What was asked for, in the plan's order."""
    planned = held_out.plan.configurations
    problems = [
        Problem(
            where="--configurations",
            what="the plan has no such configuration",
            got=name,
            expected=", ".join(planned),
        )
        for name in configurations
        if name not in planned
    ]
    if not configurations:
        problems.append(Problem(where="--configurations", what="none is named", expected=", ".join(planned)))
    if problems:
        raise UsageError(problems)
    skipped += [
        Skipped(
            members=(name,),
            reason="the plan does not let it compete",
            fix="Plan again with it in empirical.candidates.order.",
        )
        for name in dict.fromkeys(configurations)
        if name not in rules.order
    ]
    return [name for name in rules.order if name in configurations]


def _different_cases(found: Sequence[Validated]) -> Iterator[Problem]:
    """Candidates can be compared on the same cases only."""
    for other in found[1:]:
        different = other.predictions.keys() ^ found[0].predictions.keys()
        if different:
            yield Problem(
                where=f"configuration {other.configuration}",
                what=f"its folds hold out other cases than those of {found[0].configuration}",
                got=shown(different),
                fix="Train all configurations with one split.",
            )


def _as_skipped(configuration: str, problems: Sequence[Problem]) -> Skipped:
    return Skipped(
        members=(configuration,),
        reason="; ".join(problem.what for problem in problems),
        detail="; ".join(problem.got for problem in problems if problem.got) or None,
        fix=" ".join(problem.fix for problem in problems if problem.fix) or None,
    )


def _nothing_left(held_out: HeldOut, skipped: Sequence[Skipped]) -> list[Problem]:
    planned = held_out.plan.configurations
    return [
        Problem(where=f"configuration {entry.members[0]}", what=entry.reason, got=entry.detail, fix=entry.fix)
        for entry in skipped
        if entry.members[0] in planned
    ] or [
        Problem(
            where="find-best",
            what="no configuration of the plan competes",
            expected="empirical.candidates.order names one of " + ", ".join(planned),
            fix="Plan again with it in empirical.candidates.order.",
        )
    ]
