"""Preprocessing of a dataset: what changed, in processes, into stores."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nnrules.dataset import Case, Dataset, unlabelled_cases
from nnrules.errors import Problem, RunError
from nnrules.memory import available_bytes
from nnrules.plan import Plan

from nnrules_runtime.files import make_folder
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.estimate import CaseEstimate, Estimate, estimate_case
from nnrules_runtime.preprocess.plan_fit import check_plan_fits
from nnrules_runtime.preprocess.pool import Failure, Job, attempt, run_in_processes
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.preprocess.store import CaseStore, stored_key
from nnrules_runtime.preprocess.store_lock import locked
from nnrules_runtime.preprocess.store_write import write_index
from nnrules_runtime.preprocess.worker import CaseTask, Done, Target, case_key, files_digest, prepare
from nnrules_runtime.preprocess.worker_start import WORKER_MODULES, start_server
from nnrules_runtime.progress import track
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

__all__ = ["Summary", "open_store", "preprocess_configurations", "preprocess_dataset", "store_folder"]

_LOGGER = logging.getLogger(__name__)

_MEMORY_SHARE = 0.8  # of what is available
# Starting processes takes a second: as long as 20 MB of small compressed images.
_SMALL_BYTES = 4 * 2**20
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did for one store.

    Attributes:
        configurations: the configurations that use it.
        folder: where it is.
        num_done: cases made.
        num_unchanged: cases that were there already.
        num_bytes: size of the cases made.
        seconds: of the whole run.
    """

    configurations: tuple[str, ...]
    folder: Path
    num_done: int
    num_unchanged: int
    num_bytes: int
    seconds: float


def store_folder(plan: Plan, configuration: str, workspace: Workspace) -> Path:
    """Where the cases of a configuration are stored.

    Configurations that preprocess alike, such as the two full-resolution ones of a cascade, share a folder: that of
    the first which inherits from no other.
    """
    with reading(plan) as root:
        digests = {name: Preprocessing.digest_from_plan(root, name) for name in plan.configurations}
    alike = [name for name, digest in digests.items() if digest == digests[configuration]]
    alike.sort(key=lambda name: "inherits_from" in plan.configurations[name])
    return workspace.preprocessed(alike[0])


def open_store(plan: Plan, configuration: str, workspace: Workspace) -> CaseStore:
    """The preprocessed cases of a configuration, all of them there and made as the plan says.

    Raises:
        PlanError: the plan has values that the runtime does not know.
        StoreError: cases are missing, damaged or made for another plan.
    """
    with reading(plan) as root:
        digest = Preprocessing.digest_from_plan(root, configuration)
    store = CaseStore(store_folder(plan, configuration, workspace))
    store.check(digest, store.ids)
    return store


def preprocess_dataset(
    plan: Plan, dataset: Dataset, configuration: str, workspace: Workspace, *, num_workers: int | None = None
) -> CaseStore:
    """Preprocess all training cases of a dataset for one configuration.

    See :func:`preprocess_configurations`, which says what is raised.
    """
    preprocess_configurations(plan, dataset, [configuration], workspace, num_workers=num_workers)
    return CaseStore(store_folder(plan, configuration, workspace))


def preprocess_configurations(
    plan: Plan,
    dataset: Dataset,
    configurations: Sequence[str],
    workspace: Workspace,
    *,
    num_workers: int | None = None,
) -> list[Summary]:
    """Preprocess all training cases of a dataset, each read once for all configurations.

    A case is made again when the content of its files or what the plan says about preprocessing has changed, and
    otherwise left alone. A case that fails does not stop the others. Where processes are spawned, the main module
    of a program that calls this needs the usual ``if __name__ == "__main__"``.

    Args:
        plan: the plan.
        dataset: its dataset.
        configurations: names of configurations of the plan.
        workspace: where the stores are.
        num_workers: processes; 0 works in the calling process. By default one a core, or as many as the memory
            allows, and none for a few small cases.

    Returns:
        What was done, an entry a store.

    Raises:
        PlanError: the plan has values that the runtime does not know.
        UsageError: the plan is for another dataset, or has no such configuration.
        RunError: with the problems of all cases that failed; or another process is at work in the folder.
    """
    started = time.monotonic()
    check_plan_fits(plan, dataset, configurations)
    _say_left_out(dataset)
    with reading(plan) as root:
        reader = CaseReader.from_plan(root)
        recipes = {name: Preprocessing.from_plan(root, name) for name in configurations}
    targets: dict[Path, Target] = {}
    users: dict[Path, list[str]] = {}
    for name, recipe in recipes.items():
        folder = make_folder(store_folder(plan, name, workspace))
        targets.setdefault(folder, Target(recipe, folder))
        users.setdefault(folder, []).append(name)
    with locked(list(targets)):
        for folder in targets:
            _remove_temporary(folder)
            write_index(folder, {case.id: case.group for case in dataset.cases})
        run = _Run(dataset.cases, list(targets.values()), reader, num_workers)
        run.all("preprocessing " + ", ".join(configurations))
    if run.problems:
        raise RunError(run.problems)
    return [
        Summary(
            configurations=tuple(users[folder]),
            folder=folder,
            num_done=run.num_done[folder],
            num_unchanged=len(dataset.cases) - run.num_done[folder],
            num_bytes=run.num_bytes[folder],
            seconds=time.monotonic() - started,
        )
        for folder in targets
    ]


class _Run:
    """One pass over the cases.

    Attributes:
        problems: of cases that failed.
        num_done: cases made, for each store.
        num_bytes: their size.
    """

    def __init__(
        self, cases: Sequence[Case], targets: Sequence[Target], reader: CaseReader, num_workers: int | None
    ) -> None:
        self._cases = cases
        self._targets = targets
        self._reader = reader
        self._wanted_workers = num_workers
        self.problems: list[Problem] = []
        self.num_done = {target.store: 0 for target in targets}
        self.num_bytes = {target.store: 0 for target in targets}

    def all(self, title: str) -> None:
        """Find what changed and make it."""
        num_cores = _num_cores()
        threads = max(1, num_cores if self._wanted_workers is None else self._wanted_workers)
        is_small = self._wanted_workers is None and _total_bytes(self._cases) < _SMALL_BYTES
        if self._wanted_workers != 0 and not is_small and self._looks_new():
            start_server(WORKER_MODULES)  # it is ready when the files have been looked at
        # Hashing and SimpleITK's headers leave Python's lock, and what is hashed is in the page cache afterwards.
        with ThreadPoolExecutor(threads) as executor:
            looked = list(executor.map(self._look, self._cases))
        pending = [entry for entry in looked if isinstance(entry, Job)]
        self.problems += [
            problem for entry in looked if isinstance(entry, Failure) for problem in entry.problems
        ]
        estimates = [CaseEstimate(job.num_bytes, job.task[1]) for job in pending]
        jobs = [Job(job.case_id, job.task[0], job.num_bytes) for job in pending]
        available = available_bytes()
        limit = None if available is None else int(available * _MEMORY_SHARE)
        num_workers = 0 if is_small else _fitting(threads, jobs, limit, wanted=self._wanted_workers)
        estimate = Estimate.of(
            estimates, num_unchanged=sum(entry is None for entry in looked), num_workers=num_workers
        )
        _LOGGER.info("%s: %s", title, estimate.to_text())
        self._warn(estimate, jobs, limit)
        self._do(jobs, num_workers, limit, title)

    def _look(self, case: Case) -> Job[tuple[CaseTask, int]] | Failure | None:
        """What is to be done for a case; ``None`` if nothing."""
        return attempt(self._job_of, Job(case.id, case, 0))

    def _job_of(self, case: Case) -> Job[tuple[CaseTask, int]] | None:
        digest = files_digest(case)
        changed = tuple(
            target
            for target in self._targets
            if stored_key(target.store, case.id) != case_key(target.recipe, digest)
        )
        if not changed:
            return None
        estimate = estimate_case(case, self._reader, [target.recipe for target in changed])
        task = CaseTask(case, digest, self._reader, changed)
        return Job(case.id, (task, estimate.disk_bytes), estimate.memory_bytes)

    def _looks_new(self) -> bool:
        """Whether the first case was made for another recipe or not at all: a guess, for speed alone."""
        return bool(self._cases) and any(
            stored_key(target.store, self._cases[0].id) is None for target in self._targets
        )

    def _do(self, jobs: Sequence[Job[CaseTask]], num_workers: int, limit: int | None, title: str) -> None:
        # The largest first: at the end no process waits long for another.
        ordered = sorted(jobs, key=lambda job: -job.num_bytes)
        results: Iterator[tuple[Job[CaseTask], Done | Failure]]
        if num_workers:
            start_server(WORKER_MODULES)
            results = run_in_processes(prepare, ordered, num_workers=num_workers, limit_bytes=limit)
        else:
            results = ((job, attempt(prepare, job)) for job in ordered)
        is_first = True
        for job, result in track(results, total=len(ordered), title=title):
            if isinstance(result, Failure):
                self.problems += result.problems
                _LOGGER.warning("%s failed: %s", job.case_id, result.problems[0].what)
                continue
            if is_first and len(jobs) > 1:
                left = result.seconds * (len(jobs) - 1) / max(1, num_workers)
                _LOGGER.info(
                    "%s: the first case took %.1f s, about %.0f s to go", title, result.seconds, left
                )
            is_first = False
            for target, num_bytes in zip(job.task.targets, result.num_bytes, strict=True):
                self.num_done[target.store] += 1
                self.num_bytes[target.store] += num_bytes

    def _warn(self, estimate: Estimate, jobs: Sequence[Job[CaseTask]], limit: int | None) -> None:
        """Of what may not suffice."""
        largest = max(jobs, key=lambda job: job.num_bytes, default=None)
        if largest is not None and limit is not None and largest.num_bytes > limit:
            _LOGGER.warning(
                "%s may need %.1f GB of memory and %.1f GB are free: it runs alone",
                largest.case_id,
                largest.num_bytes / 1e9,
                limit / 1e9,
            )
        free = shutil.disk_usage(self._targets[0].store).free
        if estimate.disk_bytes > free:
            _LOGGER.warning(
                "the disk has %.1f GB free and up to %.1f GB may be needed: compression may or may not save it",
                free / 1e9,
                estimate.disk_bytes / 1e9,
            )


def _fitting(threads: int, jobs: Sequence[Job[CaseTask]], limit: int | None, *, wanted: int | None) -> int:
    """How many processes: no more than there are cases, and than the memory holds cases of middling size."""
    if wanted == 0 or not jobs:
        return 0
    number = min(threads, len(jobs))
    if limit is not None and wanted is None:
        middling = sorted(job.num_bytes for job in jobs)[len(jobs) // 2]
        number = min(number, max(1, limit // max(1, middling)))
    return number


def _say_left_out(dataset: Dataset) -> None:
    """Images without a label map are no training cases: say so, lest nobody notices."""
    if left_out := unlabelled_cases(dataset):
        more = len(left_out) - _SHOWN
        _LOGGER.warning(
            "%d of %d images have no label map and are left out: %s%s",
            len(left_out),
            len(left_out) + len(dataset.cases),
            ", ".join(left_out[:_SHOWN]),
            f" and {more} more" if more > 0 else "",
        )


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _total_bytes(cases: Sequence[Case]) -> int:
    paths = [path for case in cases for path in case.image_paths]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _remove_temporary(folder: Path) -> None:
    """What an interrupted run left behind."""
    for entry in folder.iterdir():
        if entry.name.startswith(".") and entry.suffix in (".tmp", ".old"):
            shutil.rmtree(entry, ignore_errors=True)
