"""Trainings that are executed or planned in other ways than the default."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnrules.dataset import Dataset, load_dataset
from nnrules.errors import UsageError
from nnrules.plan import Plan
from torch import Tensor

from nnrules_runtime.network.weights import read_weights
from nnrules_runtime.profile import Profile
from nnrules_runtime.train.checkpoint import CHECKPOINT_FILE, read_checkpoint
from nnrules_runtime.train.job import Job, run_job
from nnrules_runtime.train.pseudo_dice import PseudoDice, PseudoDiceResult
from nnrules_runtime.train.run import train_fold
from nnrules_runtime.train.state import Outcome
from nnrules_runtime.train.trainer import Trainer
from nnrules_runtime.workspace import Workspace

MakeJob = Callable[..., Job]
StoppedAfter = Callable[[int, Job], Outcome]
ADAM = {
    "name": "adamw",
    "initial_learning_rate": 0.001,
    "betas": [0.9, 0.999],
    "epsilon": 1e-8,
    "amsgrad": True,
    "weight_decay": 0.01,
    "weight_decay_parameters": "weights",
}


def weights(job: Job) -> dict[str, Tensor]:
    document = json.loads((job.folder / "model.json").read_text())
    return read_weights(job.folder / document["weights"]["final"]["file"])[0]


def epochs(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


def different(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


@pytest.mark.parametrize(
    ("profile", "training"),
    [
        ({"precision": "bfloat16", "channels_last": True}, {}),
        ({"channels_last": True}, {}),
        ({}, {"optimizer": ADAM}),
        ({}, {"gradient_clipping": None}),
    ],
    ids=["bfloat16", "channels_last", "adamw", "no clipping"],
)
def test_stopped_and_continued_equals_uninterrupted(
    *,
    job: MakeJob,
    tiny_plan: Callable[..., Plan],
    cpu_profile: Callable[..., Profile],
    stopped_after: StoppedAfter,
    profile: dict[str, Any],
    training: dict[str, Any],
) -> None:
    options = {"profile": cpu_profile(**profile), "plan": tiny_plan(**training)}
    whole, made = job("whole", **options), job("parts", **options)
    assert run_job(whole).finished
    for count in (2, 7):
        assert not stopped_after(count, made).finished
    assert run_job(made).finished
    assert not different(weights(whole), weights(made))


def test_a_scaled_loss_gives_the_same_weights(
    job: MakeJob, stopped_after: StoppedAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaling by a power of two changes no bit but where numbers under- or overflow."""
    plain, scaled = job("plain"), job("scaled")
    assert run_job(plain).finished
    monkeypatch.setattr(Profile, "scales_loss", True)
    assert not stopped_after(5, scaled).finished
    checkpoint = read_checkpoint(scaled.folder / CHECKPOINT_FILE)
    assert checkpoint.scaler["scale"] == 65536.0
    assert checkpoint.scaler["_growth_tracker"] == 4
    assert run_job(scaled).finished
    first, second = weights(plain), weights(scaled)
    worst = max(float((tensor - second[name]).abs().max()) for name, tensor in first.items())
    assert worst < 1e-6, worst


def test_a_loss_scale_that_overflows_is_halved_and_the_step_left_out(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Profile, "scales_loss", True)
    original = Trainer._loss_of
    count = 0

    def sometimes(self: Trainer, image: Tensor, target: Tensor) -> Tensor:
        nonlocal count
        count += 1
        loss = original(self, image, target)
        return loss * float("inf") if count == 3 else loss

    monkeypatch.setattr(Trainer, "_loss_of", sometimes)
    made = job()
    assert run_job(made).finished
    assert [entry["num_skipped"] for entry in epochs(made)] == [1, 0, 0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
def test_compiled_training_differs_in_rounding_only(
    job: MakeJob, cpu_profile: Callable[..., Profile]
) -> None:
    eager, compiled = job("eager"), job("compiled", profile=cpu_profile(compile=True))
    assert run_job(eager).finished
    assert run_job(compiled).finished
    first, second = weights(eager), weights(compiled)
    worst = max(float((tensor - second[name]).abs().max()) for name, tensor in first.items())
    assert worst < 1e-3, worst


def test_a_time_budget_finishes_its_schedule_in_time(
    job: MakeJob, tiny_plan: Callable[..., Plan], stopped_after: StoppedAfter
) -> None:
    plan = tiny_plan(
        epochs=1000, num_iterations_per_epoch=250, num_validation_iterations_per_epoch=50, seed=None
    )
    made = job(plan=plan, budget_seconds=6.0)
    assert not stopped_after(25, made).finished
    # The budget is the training's: it need not be given again.
    assert run_job(dataclasses.replace(made, budget_seconds=None)).finished
    facts = json.loads((made.folder / "training.json").read_text())
    assert facts["time_budget_seconds"] == 6.0
    assert 4.0 < facts["seconds"] < 8.0
    entries = epochs(made)
    rates = [entry["learning_rate"] for entry in entries]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.004
    assert len(entries) > 3


def test_a_training_that_does_not_learn_starts_again(
    job: MakeJob,
    tiny_plan: Callable[..., Plan],
    stopped_after: StoppedAfter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """nnunet 1.x: new convolutions and less momentum; norms and the optimizer's buffers stay."""
    restart = {"after_epoch_index": 0, "if_mean_dice": 0, "momentum": 0.95, "reinitialize": "convolutions"}
    monkeypatch.setattr(PseudoDice, "result", lambda self: PseudoDiceResult({"a": 0.0, "b": 0.0}, 0.0))
    seen: list[dict[str, Tensor]] = []
    original = Trainer.begin_training
    begin_validation = Trainer.begin_validation

    def copy_of(self: Trainer) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def training(self: Trainer) -> None:
        seen.append(copy_of(self))
        original(self)

    def validation(self: Trainer) -> None:
        seen.append(copy_of(self))
        begin_validation(self)

    monkeypatch.setattr(Trainer, "begin_training", training)
    monkeypatch.setattr(Trainer, "begin_validation", validation)
    made = job(plan=tiny_plan(epochs=2, restart=restart))
    assert not stopped_after(8, made).finished  # in the second epoch
    groups = read_checkpoint(made.folder / CHECKPOINT_FILE).optimizer["param_groups"]
    assert [group["momentum"] for group in groups] == [0.95]
    before, after = seen[1], seen[2]  # at the end of the first epoch, and at the start of the second
    changed = different(before, after)
    assert changed
    convolutions = [name for name in before if name.endswith("weight") and before[name].ndim == 5]
    norms = [name for name in before if ".norm." in name]
    assert set(convolutions) <= set(changed)
    assert not set(norms) & set(changed)
    assert run_job(made).finished


def test_tensorboard(job: MakeJob) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    made = job(tensorboard=True)
    assert run_job(made).finished
    (events,) = (made.folder / "tensorboard").iterdir()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(events)).Reload()
    losses = [(entry.step, entry.value) for entry in found.Scalars("loss")]
    assert losses == [(entry["epoch"], pytest.approx(entry["loss"], rel=1e-6)) for entry in epochs(made)]
    assert {"dice/a", "dice/b", "learning_rate"} <= set(found.Tags()["scalars"])


def test_tensorboard_that_is_not_installed(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if "tensorboard" in name or name.endswith("train.events"):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"nnrules\[tensorboard\]"):
        run_job(job(tensorboard=True))


def test_regions_and_an_ignore_label(
    shrink: Callable[..., None],
    tiny_dataset: Dataset,
    cpu_profile: Callable[..., Profile],
    tmp_path: Path,
) -> None:
    """Nested regions, predicted by sigmoids; a margin without annotation."""
    from nnrules.engine.packs import load_pack
    from nnrules.engine.planning import make_plan
    from nnrules.extract import extract_fingerprint

    folder = tmp_path / "dataset"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in tiny_dataset.cases:
        (folder / "imagesTr" / case.image_paths[0].name).write_bytes(case.image_paths[0].read_bytes())
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label_path)))
        label[:2] = 3
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr" / case.label_path.name))
    document = json.loads(tiny_dataset.path.read_text())
    document["labels"] = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    document["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(document))
    dataset = load_dataset(folder)
    planned = make_plan(extract_fingerprint(dataset, workers=1), load_pack("nnunet@2.8.0"))
    changed = copy.deepcopy(dict(planned.document))
    shrink(changed["configurations"]["3d_fullres"], patch=None)
    changed["training"] |= {
        "epochs": 2, "num_iterations_per_epoch": 3, "num_validation_iterations_per_epoch": 2, "seed": 1,
    }  # fmt: skip
    result = train_fold(
        Plan.from_document(changed),
        dataset,
        "3d_fullres",
        0,
        Workspace(tmp_path / "work"),
        profile=cpu_profile(),
    )
    assert result.outcome.finished
    assert result.summary is not None
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])["dice"]) == {"whole", "core"}
    assert np.isfinite(json.loads(lines[-1])["loss"])
    assert [entry["name"] for entry in result.summary.to_json()["classes"]] == ["whole", "core"]
