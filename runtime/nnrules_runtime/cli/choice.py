"""The empirical choice, for people: all candidates, what postprocessing does, and who was chosen why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nnrules_runtime.cli.output import aligned
from nnrules_runtime.quantities import metric

if TYPE_CHECKING:
    from nnrules.plan import Plan

    from nnrules_runtime.select.empirical import Candidate, Empirical
    from nnrules_runtime.select.suppression import Trial

__all__ = ["choice_lines"]

# More columns than this do not fit beside each other.
_SHOWN_CLASSES = 8


def choice_lines(empirical: Empirical, plan: Plan) -> Iterator[str]:
    """All that is said about a choice."""
    yield _table(empirical)
    for candidate in empirical.candidates:
        yield from _postprocessing(candidate)
    yield ""
    yield _verdict(empirical)
    if empirical.postprocessing.steps:
        applied = plan.document["postprocessing"]["applied"]
        yield {
            "automatically": "predictions are postprocessed in this way",
            "on_request": "predictions are postprocessed in this way on request: "
            "`nnrules run predict … --postprocessing`",
        }[applied]


def _table(empirical: Empirical) -> str:
    scores = [entry.scores for entry in empirical.candidates if entry.scores is not None]
    classes = list(scores[0].dice) if scores else []
    shown = classes if len(classes) <= _SHOWN_CLASSES else []
    # NaN differs from itself, and is shown as undefined in both columns.
    has_score = any(f"{entry.score}" != f"{entry.mean}" for entry in scores)
    rows = [["candidate", *shown, "mean Dice", *(["score"] if has_score else []), ""]]
    for entry in empirical.candidates:
        mark = "chosen" if entry.members == empirical.members else ""
        if entry.scores is None:
            rows.append([entry.name, *("-" for _ in rows[0][1:-1]), mark])
        else:
            values = [*(entry.scores.dice[name] for name in shown), entry.scores.mean]
            values += [entry.scores.score] if has_score else []
            rows.append([entry.name, *map(metric, values), mark])
    return aligned(rows, numbers=slice(1, -1))


def _postprocessing(candidate: Candidate) -> Iterator[str]:
    """What was tried for a candidate, and what it gained."""
    if candidate.trials is None or candidate.scores is None or candidate.postprocessed is None:
        return
    yield ""
    yield f"postprocessing of {candidate.name}: only the largest component stays"
    if candidate.trials:
        rows = [["of", "before", "after", ""], *(_trial(trial) for trial in candidate.trials)]
        yield aligned(rows, numbers=slice(1, -1))
    else:
        yield "of nothing: it is not tried for so few classes"
    if candidate.postprocessing.steps:
        before, after = candidate.scores.mean, candidate.postprocessed.mean
        yield f"mean Dice {metric(before)}, with the accepted steps {metric(after)}"
    else:
        yield "no step is accepted"


def _trial(trial: Trial) -> list[str]:
    verdict = "accepted" if trial.accepted else "not accepted"
    if len(trial.before) == 1 and trial.step.name in trial.before:
        (before,), (after,) = trial.before.values(), trial.after.values()
        return [trial.step.name, metric(before), metric(after), verdict]
    fallen = [name for name, value in trial.after.items() if value < trial.before[name]]
    if not trial.accepted and fallen:
        verdict += f": {', '.join(fallen)} fell"
    return [trial.step.name, metric(trial.mean_before), metric(trial.mean_after), verdict]


def _verdict(empirical: Empirical) -> str:
    text = f"chosen: {empirical.chosen.name} ({_reason(empirical)}"
    if empirical.tied:
        others = [members for members in empirical.tied if members != empirical.members]
        text += ", shared with " + ", ".join(" + ".join(members) for members in others)
    text += ")"
    folds = set(empirical.folds.values())
    if len(folds) == 1:
        (shared,) = folds
        text += f", fold{'s' if shared[1:] else ''} {', '.join(map(str, shared))}"
    if empirical.num_cases:
        text += f"; {empirical.num_cases} case{'s' if empirical.num_cases > 1 else ''} scored"
    return text


def _reason(empirical: Empirical) -> str:
    match empirical.chosen_by:
        case "score":
            return "highest score"
        case "only_candidate":
            return "there was no other candidate"
        case "plan":
            return "no case was held out to compare on"
        case "hand":
            return "by hand"
