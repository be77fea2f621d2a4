"""Small trainings, and their interruption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.dataset import Dataset
from nnrules.plan import Plan

from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.train import session
from nnrules_runtime.train.job import Job, run_job
from nnrules_runtime.train.state import Outcome
from nnrules_runtime.train.stopping import Stop
from nnrules_runtime.workspace import Workspace


@pytest.fixture
def job(
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    tiny_store: CaseStore,
    cpu_profile: Callable[..., Profile],
    tmp_path: Path,
) -> Callable[..., Job]:
    """A training of fold 0 of 3d_fullres in a folder of the test: ``job("work", plan=…, max_seconds=…)``."""

    def make(folder: str = "work", *, plan: Plan | None = None, **options: Any) -> Job:
        values: dict[str, Any] = {
            "plan": plan or tiny_plan(),
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset": tiny_dataset,
            "store": tiny_store,
            "workspace": Workspace(tmp_path / folder),
            "profile": cpu_profile(),
        }
        return Job(**(values | options))

    return make


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Job], Outcome]:
    """Train, and stop after so many iterations; each of training and validation asks once."""

    def run(count: int, job: Job) -> Outcome:
        left = count

        class StopAfter(Stop):
            def reason(self, *, seconds_needed: float = 0.0) -> str | None:
                nonlocal left
                left -= 1
                return "a test" if left < 0 else None

        with monkeypatch.context() as patch:
            patch.setattr(session, "Stop", StopAfter)
            return run_job(job)

    return run
