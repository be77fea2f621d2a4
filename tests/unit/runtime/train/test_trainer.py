"""A whole small training: it learns, repeats itself, stops and continues."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnrules.dataset import Dataset
from nnrules.errors import ModelError, NnrulesError, PlanError, RunError, UsageError
from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.network.weights import read_weights
from nnrules_runtime.preprocess.dataset import preprocess_dataset
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile
from nnrules_runtime.train import loop as loop_module
from nnrules_runtime.train import session as session_module
from nnrules_runtime.train.checkpoint import CHECKPOINT_FILE, read_checkpoint
from nnrules_runtime.train.job import Job, run_job
from nnrules_runtime.train.lock import LOCK_FILE
from nnrules_runtime.train.state import Outcome
from nnrules_runtime.train.stopping import STOP_FILE
from nnrules_runtime.train.trainer import Trainer
from nnrules_runtime.workspace import Workspace

MakeJob = Callable[..., Job]
StoppedAfter = Callable[[int, Job], Outcome]


def weights_file(job: Job, checkpoint: str = "final") -> Path:
    document = json.loads((job.folder / "model.json").read_text())
    return job.folder / document["weights"][checkpoint]["file"]


def weights(job: Job, checkpoint: str = "final") -> dict[str, Tensor]:
    return read_weights(weights_file(job, checkpoint))[0]


def epochs(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


def without_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = {"seconds", "seconds_per_iteration", "share_waiting", "peak_memory_bytes"}
    return [{key: value for key, value in entry.items() if key not in times} for entry in entries]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def whole(
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    tiny_store: CaseStore,
    cpu_profile: Callable[..., Profile],
    tmp_path_factory: pytest.TempPathFactory,
) -> Job:
    """A training that was never interrupted."""
    made = Job(
        plan=tiny_plan(),
        configuration="3d_fullres",
        fold=0,
        dataset=tiny_dataset,
        store=tiny_store,
        workspace=Workspace(tmp_path_factory.mktemp("whole")),
        profile=cpu_profile(),
    )
    assert run_job(made) == Outcome(finished=True, reason=None, epoch=3)
    return made


# -- a whole training ------------------------------------------------------------------------------------------------


def test_what_a_training_leaves_behind(whole: Job) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {
        "model.json", "training.json", "metrics.jsonl", "progress.png", LOCK_FILE,
        weights_file(whole).name, weights_file(whole, "best").name,
    }  # fmt: skip
    assert (whole.folder.parent / "plan.json").is_file()
    facts = json.loads((whole.folder / "training.json").read_text())
    assert (facts["seed"], facts["epochs"], facts["iterations"]) == (7, 3, 12)
    assert facts["profile"]["precision"] == "float32"
    entries = epochs(whole)
    assert [entry["epoch"] for entry in entries] == [0, 1, 2]
    rates = [0.01 * (1 - epoch / 3) ** 0.9 for epoch in range(3)]
    assert [entry["learning_rate"] for entry in entries] == rates
    assert all(entry["num_iterations"] == 4 and entry["num_skipped"] == 0 for entry in entries)
    assert all(set(entry["dice"]) == {"a", "b"} for entry in entries)
    assert entries[0]["is_best"]


def test_the_moving_average_and_the_best_weights(whole: Job) -> None:
    average, best, times = None, None, 0
    for entry in epochs(whole):
        mean = np.mean([value for value in entry["dice"].values() if value is not None])
        assert entry["mean_dice"] == pytest.approx(mean, abs=1e-12)
        average = entry["mean_dice"] if average is None else 0.9 * average + 0.1 * entry["mean_dice"]
        assert entry["average_dice"] == pytest.approx(average, abs=1e-12)
        is_best = best is None or average > best
        assert entry["is_best"] == is_best
        best = average if is_best else best
        times = entry["epoch"] if is_best else times
    document = json.loads((whole.folder / "model.json").read_text())
    assert document["weights"]["best"]["epoch"] == times + 1
    assert document["weights"]["final"]["epoch"] == 3


def test_two_seeded_runs_are_equal_to_the_bit(whole: Job, job: MakeJob) -> None:
    again = job()
    run_job(again)
    assert_same(weights(whole), weights(again))
    assert_same(weights(whole, "best"), weights(again, "best"))
    assert without_times(epochs(whole)) == without_times(epochs(again))


def test_another_seed_and_another_fold_are_other_trainings(
    whole: Job, job: MakeJob, tiny_plan: Callable[..., Plan]
) -> None:
    for other in (job("seed", plan=tiny_plan(seed=8)), job("fold", fold=1)):
        run_job(other)
        assert any(not torch.equal(tensor, weights(other)[name]) for name, tensor in weights(whole).items())


def test_workers_change_nothing(whole: Job, job: MakeJob, cpu_profile: Callable[..., Profile]) -> None:
    other = job(profile=cpu_profile(num_workers=2))
    run_job(other)
    assert_same(weights(whole), weights(other))


def test_a_training_learns(job: MakeJob, tiny_plan: Callable[..., Plan]) -> None:
    longer = job(plan=tiny_plan(epochs=6, num_iterations_per_epoch=25))
    run_job(longer)
    entries = epochs(longer)
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.2
    assert entries[-1]["mean_dice"] > 0.5


# -- stopping and continuing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2, 3, 4, 5, 6, 11])
def test_stopped_and_continued_equals_uninterrupted(
    whole: Job, job: MakeJob, stopped_after: StoppedAfter, count: int
) -> None:
    """Stops in the midst of an epoch, at the end of its training, within validation, and at its end."""
    made = job()
    outcome = stopped_after(count, made)
    assert not outcome.finished
    assert (made.folder / CHECKPOINT_FILE).is_file()
    assert not (made.folder / "training.json").exists()
    assert run_job(made).finished
    assert not (made.folder / CHECKPOINT_FILE).exists()
    assert_same(weights(whole), weights(made))
    assert_same(weights(whole, "best"), weights(made, "best"))
    assert without_times(epochs(whole)) == without_times(epochs(made))


def test_stopped_after_each_iteration_equals_uninterrupted(
    whole: Job, job: MakeJob, stopped_after: StoppedAfter
) -> None:
    made = job()
    sessions = 1
    # One more iteration each time, but a stop within validation repeats it.
    while not stopped_after(3, made).finished:
        sessions += 1
        assert sessions < 20
    assert sessions > 3
    assert_same(weights(whole), weights(made))
    assert without_times(epochs(whole)) == without_times(epochs(made))


def test_a_stop_file_ends_at_a_checkpoint(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job()
    monkeypatch.setattr("nnrules_runtime.train.stopping._SECONDS_BETWEEN_LOOKS", 0.0)
    original = Trainer.train_step

    def step(self: Trainer, *args: Any, **options: Any) -> Tensor:
        (made.folder / STOP_FILE).touch()
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        outcome = run_job(made)
    assert not outcome.finished
    assert outcome.reason is not None
    assert STOP_FILE in outcome.reason
    checkpoint = read_checkpoint(made.folder / CHECKPOINT_FILE)
    assert (checkpoint.epoch, checkpoint.iteration, len(checkpoint.losses)) == (0, 1, 1)


def test_a_time_limit_ends_at_a_checkpoint(job: MakeJob) -> None:
    made = job(max_seconds=0.0)
    assert run_job(made).reason == "the time limit"
    assert read_checkpoint(made.folder / CHECKPOINT_FILE).num_iterations == 1


def test_a_finished_training_is_left_alone_and_restart_repeats_it(whole: Job, job: MakeJob) -> None:
    made = job()
    run_job(made)
    before = weights_file(made).stat().st_mtime_ns
    assert run_job(made).finished
    assert weights_file(made).stat().st_mtime_ns == before
    assert run_job(dataclasses.replace(made, restart=True)).finished
    assert weights_file(made).stat().st_mtime_ns > before
    assert_same(weights(whole), weights(made))
    assert len(epochs(made)) == 3


@pytest.mark.parametrize(
    ("every", "at_last", "written"), [(1, True, 3), (1, False, 2), (2, False, 1), (50, False, 0)]
)
def test_checkpoints_are_written_when_the_plan_says(
    *,
    job: MakeJob,
    tiny_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    at_last: bool,
    written: int,
) -> None:
    checkpoints = dict(tiny_plan().document["training"]["checkpoints"])
    checkpoints |= {"every_num_epochs": every, "at_last_epoch": at_last}
    seen: list[int] = []
    original = session_module.write_checkpoint

    def count(path: Path, checkpoint: Any) -> None:
        seen.append(checkpoint.epoch)
        original(path, checkpoint)

    monkeypatch.setattr(session_module, "write_checkpoint", count)
    made = job(plan=tiny_plan(checkpoints=checkpoints))
    run_job(made)
    assert len(seen) == written
    assert not (made.folder / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize(
    "pack",
    ["nnunet@2.8.0", "nnunet-resenc@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0", "nnunet@0.6.0", "preprint@2.0.0"],
)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_each_pack_trains(
    *,
    job: MakeJob,
    tiny_plan: Callable[..., Plan],
    tiny_dataset: Dataset,
    tmp_path: Path,
    pack: str,
    configuration: str,
) -> None:
    plan = tiny_plan(pack, epochs=2, num_iterations_per_epoch=2)
    store = preprocess_dataset(
        plan, tiny_dataset, configuration, Workspace(tmp_path / "store"), num_workers=0
    )
    made = job(plan=plan, configuration=configuration, store=store)
    assert run_job(made).finished
    assert len(epochs(made)) == 2
    # 1.x only sets the value to exceed in the first epoch.
    assert epochs(made)[0]["is_best"] == pack.endswith("2.8.0")


def test_a_finished_training_of_another_plan_is_not_taken_for_done(
    job: MakeJob, tiny_plan: Callable[..., Plan]
) -> None:
    made = job(plan=tiny_plan(epochs=1))
    run_job(made)
    with pytest.raises(
        ModelError, match=r"training.json: training.epochs: .*got 1; expected 3(.|\n)*--restart"
    ):
        run_job(job())


# -- checkpoints that do not fit --------------------------------------------------------------------------------------


def test_a_training_does_not_continue_with_other_images(
    job: MakeJob, tiny_store: CaseStore, stopped_after: StoppedAfter, tmp_path: Path
) -> None:
    stopped_after(1, job())
    shutil.copytree(tiny_store.folder, tmp_path / "changed")
    header = next((tmp_path / "changed").glob("*/case.json"))
    header.write_text(json.dumps(json.loads(header.read_text()) | {"key": "of another image"}))
    with pytest.raises(
        ModelError, match=r"split.content(.|\n)*other cases than the fold has now(.|\n)*--restart"
    ):
        run_job(job(store=CaseStore(tmp_path / "changed")))
    assert run_job(job()).finished


def test_a_checkpoint_of_another_plan_is_refused(
    job: MakeJob, tiny_plan: Callable[..., Plan], stopped_after: StoppedAfter
) -> None:
    made = job()
    stopped_after(1, made)
    before = (made.folder / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(ModelError, match=r"training.epochs: .*got 3; expected 5(.|\n)*--restart"):
        run_job(dataclasses.replace(made, plan=tiny_plan(epochs=5)))
    assert (made.folder / CHECKPOINT_FILE).read_bytes() == before
    assert run_job(dataclasses.replace(made, plan=tiny_plan(epochs=1), restart=True)).finished


def test_another_profile_is_a_warning(
    job: MakeJob,
    cpu_profile: Callable[..., Profile],
    stopped_after: StoppedAfter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = job()
    stopped_after(1, made)
    with caplog.at_level(logging.WARNING):
        assert run_job(dataclasses.replace(made, profile=cpu_profile(num_threads=2, num_workers=1))).finished
    said = "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert "num_threads 1 → 2" in said
    assert "num_workers" not in said


def test_a_damaged_checkpoint_is_refused(job: MakeJob, stopped_after: StoppedAfter) -> None:
    made = job()
    stopped_after(1, made)
    path = made.folder / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"damaged.*--restart"):
        run_job(made)


# -- bad plans and bad numbers -----------------------------------------------------------------------------------------


def test_plans_that_cannot_be_trained_are_refused(job: MakeJob, tiny_plan: Callable[..., Plan]) -> None:
    document = json.loads(json.dumps(tiny_plan().document))
    document["configurations"]["3d_fullres"]["loss"]["deep_supervision"]["weights"] = None
    made = job(plan=Plan.from_document(document))
    with pytest.raises(PlanError, match=r"deep_supervision.weights"):
        run_job(made)
    assert not made.folder.exists()
    with pytest.raises(UsageError, match=r"no such configuration; expected 2d, 3d_fullres"):
        run_job(job(configuration="3d_lowres"))
    with pytest.raises(RunError, match="no such fold"):
        run_job(job(fold=-1))


def test_a_batch_size_of_zero_is_refused(job: MakeJob, tiny_plan: Callable[..., Plan]) -> None:
    document = json.loads(json.dumps(tiny_plan().document))
    document["configurations"]["3d_fullres"]["batch_size"] = 0
    with pytest.raises(PlanError, match=r"batch_size: .*got 0"):
        run_job(job(plan=Plan.from_document(document)))


def test_losses_that_are_not_finite_are_refused(
    job: MakeJob, tiny_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._loss_of
    seen: list[dict[str, Tensor]] = []

    def broken(self: Trainer, image: Tensor, target: Tensor) -> Tensor:
        seen.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        return original(self, image, target) * float("nan")

    monkeypatch.setattr(Trainer, "_loss_of", broken)
    made = job(plan=tiny_plan(num_iterations_per_epoch=20))
    with pytest.raises(
        RunError, match=r"epoch 1, iteration 4: loss or gradient was not finite 25 times in a row"
    ):
        run_job(made)
    assert_same(seen[0], seen[-1])  # no step was made


def test_a_single_bad_batch_is_left_out(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer._loss_of
    count = 0

    def sometimes(self: Trainer, image: Tensor, target: Tensor) -> Tensor:
        nonlocal count
        count += 1
        loss = original(self, image, target)
        return loss * float("inf") if count == 2 else loss

    monkeypatch.setattr(Trainer, "_loss_of", sometimes)
    made = job()
    assert run_job(made).finished
    assert [entry["num_skipped"] for entry in epochs(made)] == [1, 0, 0]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(made).values())


def test_a_batch_that_cannot_be_made_keeps_what_was_learned(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop_module.Training._next_batch
    count = 0

    class Broken:
        wait_s = 0.0

        def __next__(self) -> Any:
            raise RunError([])

    def fail(self: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            self._batches = Broken()
        return original(self)

    monkeypatch.setattr(loop_module.Training, "_next_batch", fail)
    made = job()
    with pytest.raises(NnrulesError):
        run_job(made)
    assert read_checkpoint(made.folder / CHECKPOINT_FILE).iteration == 3


# -- beginning with other weights --------------------------------------------------------------------------------------


def test_fine_tuning_begins_with_given_weights(
    whole: Job, job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[dict[str, Tensor]] = []
    original = Trainer.begin_training

    def look(self: Trainer) -> None:
        seen.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        original(self)

    monkeypatch.setattr(Trainer, "begin_training", look)
    with caplog.at_level(logging.INFO):
        run_job(job(weights=weights_file(whole)))
    assert_same(seen[0], weights(whole))
    assert "began with the weights of" in caplog.text


def test_heads_of_other_classes_are_drawn_anew(
    whole: Job, job: MakeJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from nnrules_runtime.network.weights import save_weights

    state = {
        name: torch.cat([tensor, tensor[:1]]) if name.startswith("heads.") else tensor
        for name, tensor in weights(whole).items()
    }
    save_weights(tmp_path / "other.safetensors", state, {})
    with caplog.at_level(logging.WARNING):
        run_job(job(weights=tmp_path / "other.safetensors"))
    assert "heads of another shape" in caplog.text
    state.pop("encoder.0.0.conv.weight")
    save_weights(tmp_path / "less.safetensors", state, {})
    with pytest.raises(ModelError, match=r"encoder\.0\.0\.conv\.weight is missing"):
        run_job(job("other", weights=tmp_path / "less.safetensors"))
