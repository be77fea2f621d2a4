"""``nnrules run all``: every step that is not done, in order."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nnrules.documents import check_writable
from nnrules.errors import Problem, UsageError

from nnrules_runtime.bundle import read_licence
from nnrules_runtime.files import make_folder
from nnrules_runtime.lock import locked
from nnrules_runtime.select.best import FIND_BEST_SCRATCH
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.workflow.actions import perform
from nnrules_runtime.workflow.child import Ended, in_child
from nnrules_runtime.workflow.contents import inputs_of, outputs_of
from nnrules_runtime.workflow.graph import Selection, build_graph, select
from nnrules_runtime.workflow.ledger import Ledger, Standing, Status
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph, Kind, Step
from nnrules_runtime.workflow.trial import TRIAL_SCRATCH
from nnrules_runtime.workspace import Workspace

__all__ = ["Outcome", "StepResult", "current_graph", "run_all"]

_LOGGER = logging.getLogger(__name__)
_LOCK_FILE = "run.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of a step.

    Attributes:
        step: the step.
        how: ``done``, ``skipped`` (it was done before), ``failed``, ``killed``, ``stopped``, or ``not begun``
            because one that it needs has failed.
        problems: why it failed.
        seconds: that it took.
        peak_bytes: memory that it took.
    """

    step: Step
    how: str
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How far a run has come.

    Attributes:
        results: an entry a step, in order.
        stopped: why it ended before its end, at a point from which the same command continues.
    """

    results: list[StepResult] = field(default_factory=list)
    stopped: str | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of all steps that failed."""
        return tuple(problem for result in self.results for problem in result.problems)

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.stopped is None and all(result.how in ("done", "skipped") for result in self.results)


def current_graph(settings: Settings, selection: Selection) -> Graph:
    """The graph with what follows the choice, if that has been made for these settings."""
    graph = build_graph(settings, selection)
    if Ledger(settings).standing(graph[Kind.FIND_BEST.value], graph).status is not Status.DONE:
        return graph
    return build_graph(settings, selection, Empirical.load(settings.workspace.empirical).members)


def run_all(
    settings: Settings,
    *,
    redo: bool = False,
    tell: Callable[[Step, Standing, int, int], None] = lambda *_: None,
    told: Callable[[StepResult], None] = lambda _: None,
) -> Outcome:
    """Do every step that is not done. A step that fails does not keep those from going on that do not need it.

    Args:
        settings: what is to be done.
        redo: whether trainings are begun anew whose plan or data has changed; without, that is refused, as weeks of
            computing may be in them.
        tell: is called before each step that is done now, with its position and the number of steps.
        told: is called with each result.

    Raises:
        RunError: another process works on this folder.
        UsageError, PlanError: see :func:`~nnrules_runtime.workflow.graph.select`.
    """
    selection = select(settings)
    make_folder(settings.workspace.root)
    _check_bundle(settings)  # which may lie there
    with locked(
        settings.workspace.root,
        _LOCK_FILE,
        what="another `nnrules run all` works on this folder",
        fix="Wait for it, or choose another --work.",
    ):
        return _Run(settings, selection, tell, told).all(redo=redo)


def _check_bundle(settings: Settings) -> None:
    """Refuse now what would be refused after days of training."""
    if settings.bundle is not None:
        check_writable(settings.bundle)
    elif settings.licence is not None:
        raise UsageError(
            Problem(
                where="--licence", what="there is no bundle that it could be of", fix="Add --bundle FILE."
            )
        )
    if settings.licence is not None:
        read_licence(settings.licence)


class _Run:
    """One run.

    Args:
        settings: of the run.
        selection: what is trained.
        tell: see :func:`run_all`.
        told: see :func:`run_all`.
    """

    def __init__(
        self,
        settings: Settings,
        selection: Selection,
        tell: Callable[[Step, Standing, int, int], None],
        told: Callable[[StepResult], None],
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._ledger = Ledger(settings)
        self._tell = tell
        self._told = told
        self._redo = False
        self._results: dict[str, StepResult] = {}
        self.outcome = Outcome()

    def all(self, *, redo: bool) -> Outcome:
        """Do the steps up to the choice, and then those that follow from it."""
        self._redo = redo
        _remove_leftovers(self._settings.workspace)
        # What follows an earlier choice is left alone until this one is made.
        self._steps(build_graph(self._settings, self._selection))
        graph = current_graph(self._settings, self._selection)
        self._steps(graph)
        self.outcome.results = [self._results[step.name] for step in graph if step.name in self._results]
        return self.outcome

    def _steps(self, graph: Graph) -> None:
        is_chosen = self._results.get(Kind.FIND_BEST.value) is not None
        for number, step in enumerate(graph, start=1):
            if self.outcome.stopped is not None:
                return
            if step.name in self._results:
                continue
            if step.kind is Kind.BUNDLE and not is_chosen:
                continue  # what it holds is known when the choice is made
            result = self._step(step, graph, number)
            self._results[step.name] = result
            self._told(result)

    def _step(self, step: Step, graph: Graph, number: int) -> StepResult:
        failed = [name for name in step.needs if self._results[name].how not in ("done", "skipped")]
        if failed:
            return StepResult(step=step, how="not begun")
        standing = self._ledger.standing(step, graph)
        if standing.status is Status.DONE:
            return StepResult(step=step, how="skipped")
        self._tell(step, standing, number, len(graph))
        inputs = inputs_of(step, graph, self._settings)
        # Where its result is there no more, it was being done again and goes on.
        again = self._is_done_again(step, standing)
        if again and step.kind is Kind.TRAIN and not self._redo:
            return StepResult(step=step, how="failed", problems=(_lost(step, standing),))
        replaced = self._replaced(step, graph) if again else ()
        ended = self._in_child(step, again=again, replaced=replaced)
        if ended.how == "killed":
            _LOGGER.warning("%s: %s; trying once more", step.title, ended.problems[0])
            # What there was before is gone, or still there to be removed.
            ended = self._in_child(step, again=self._is_done_again(step, standing), replaced=replaced)
        if ended.is_interrupted:
            self.outcome.stopped = str(ended.value or "a signal")
        if ended.how == "done":
            self._ledger.write(step, inputs, seconds=ended.seconds, peak_bytes=ended.peak_bytes)
        problems = tuple(_of_step(step, problem) for problem in ended.problems)
        return StepResult(
            step=step,
            how=ended.how,
            problems=problems,
            seconds=ended.seconds,
            peak_bytes=ended.peak_bytes,
        )

    def _is_done_again(self, step: Step, standing: Standing) -> bool:
        """Whether there is a result of other inputs, which is to be removed first."""
        return standing.status is Status.CHANGED and outputs_of(step, self._settings) is not None

    def _replaced(self, step: Step, graph: Graph) -> tuple[int | str, ...]:
        """The other folds of a training that will be done again, too."""
        return tuple(
            other.fold
            for other in graph.of(Kind.TRAIN)
            if step.kind is Kind.TRAIN
            and other.configurations == step.configurations
            and other.fold is not None
            and other.name not in self._results
            and self._ledger.standing(other, graph).status is Status.CHANGED
        )

    def _in_child(self, step: Step, *, again: bool, replaced: tuple[int | str, ...]) -> Ended:
        log: Path = self._settings.workspace.logs / f"{step.name}.log"
        return in_child(
            perform,
            step,
            self._settings,
            self._selection,
            again,
            replaced,
            log=log,
            title=step.title,
        )


def _remove_leftovers(workspace: Workspace) -> None:
    """Remove what processes that were killed left between steps; nobody else runs here while the lock is held."""
    patterns = (
        f"{FIND_BEST_SCRATCH}*",
        f".{workspace.cross_validation.name}.*",
        f".{workspace.empirical.name}.*",
    )
    found = [path for pattern in (*patterns, f"{TRIAL_SCRATCH}*") for path in workspace.root.glob(pattern)]
    for path in (*found, *workspace.steps.glob(".*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _lost(step: Step, standing: Standing) -> Problem:
    return Problem(
        where=step.title,
        what="this training is finished, and would have to be done again",
        got=standing.reason,
        fix="Take back the change, choose another --work, or add --redo.",
    )


def _of_step(step: Step, problem: Problem) -> Problem:
    """The problem with the step in front."""
    if problem.where.startswith(step.title):
        return problem
    return Problem(
        where=f"{step.title}: {problem.where}",
        what=problem.what,
        got=problem.got,
        expected=problem.expected,
        fix=problem.fix,
    )
