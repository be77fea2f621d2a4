"""Twenty steps of training against those recorded from nnunetv2 2.8.1: its weights, its batches, fp32 on a CPU."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from nnrules.plan import Plan
from safetensors.torch import load_file
from torch import Tensor

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.network import build_network
from nnrules_runtime.network.names import to_our_names
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.train.loss import Loss
from nnrules_runtime.train.optimizer import GradientClipping, build_optimizer
from nnrules_runtime.train.pseudo_dice import PseudoDice
from nnrules_runtime.train.schedule import LearningRate
from nnrules_runtime.train.trainer import Trainer
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "g_training"
RECORDED_FINGERPRINT = CHECKOUT.parent / "shared" / "golden" / "runtime" / "a_preprocessing" / "hippocampus"
REASON = "the recorded training is not beside the checkout (../shared/golden/runtime/g_training)"
EPOCHS, ITERATIONS = 4, 5

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


class Batch(NamedTuple):
    image: Tensor
    target: Tensor


class Step(NamedTuple):
    rate: float
    loss: float
    norm: float


class Parts(NamedTuple):
    trainer: Trainer
    rate: LearningRate


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((RECORDED / "trace.json").read_text())
    return recorded


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    with np.load(RECORDED / "batches.npz") as file:
        images, targets = file["data"], file["target0"]
    return [
        Batch(torch.from_numpy(image), torch.from_numpy(target[:, 0]))
        for image, target in zip(images, targets, strict=True)
    ]


@pytest.fixture(scope="module")
def small_plan(trace: dict[str, Any], plan_request: Callable[..., Plan]) -> Plan:
    """Our plan for the recorded dataset, with the small network, patch and batch that were recorded."""
    fingerprint = json.loads((RECORDED_FINGERPRINT / "dataset_fingerprint.json").read_text())
    planned = plan_request("ExperimentPlanner", fingerprint, trace["dataset_json"])
    document = copy.deepcopy(dict(planned.document))
    configuration = document["configurations"]["3d_fullres"]
    wanted = trace["plans_configuration"]
    network = wanted["architecture"]["arch_kwargs"]
    configuration["patch_size"] = wanted["patch_size"]
    configuration["batch_size"] = wanted["batch_size"]
    configuration["loss"]["batch_dice"] = wanted["batch_dice"]
    architecture = configuration["architecture"]
    architecture["features_per_stage"] = network["features_per_stage"]
    for ours, theirs in (
        ("num_stages", "n_stages"),
        ("strides", "strides"),
        ("kernel_sizes", "kernel_sizes"),
        ("blocks_per_stage_encoder", "n_conv_per_stage"),
        ("blocks_per_stage_decoder", "n_conv_per_stage_decoder"),
    ):
        assert architecture[ours] == network[theirs]
    document["training"]["epochs"] = EPOCHS
    document["training"]["num_iterations_per_epoch"] = ITERATIONS
    return Plan.from_document(document)


def parts_of(plan: Plan, weights: dict[str, Tensor]) -> Parts:
    """What the training of this plan is made of, with given weights."""
    with reading(plan) as root:
        configuration, training = (
            root.section("configurations").section("3d_fullres"),
            root.section("training"),
        )
        labels = LabelSet.from_plan(root)
        network = build_network(configuration)
        network.skip_unweighted_heads(
            configuration.section("loss").section("deep_supervision").value("weights")
        )
        network.load_state_dict(weights)
        profile = choose_profile(
            training, device="cpu", precision="float32", compile=False, channels_last=False, num_threads=2
        )
        trainer = Trainer(
            network,
            Loss.from_plan(configuration, labels),
            build_optimizer(training, network),
            clip=GradientClipping.from_plan(training),
            pseudo_dice=PseudoDice.from_plan(training, labels),
            profile=profile,
            loss_scaling=training.section("mixed_precision").value("loss_scaling"),
            seed=0,
        )
        return Parts(trainer, LearningRate.from_plan(training))


def steps_of(parts: Parts, batches: list[Batch]) -> list[Step]:
    """Train; the norm is that of the gradients before clipping."""
    norms: list[float] = []
    clip = parts.trainer._clip

    def recording_clip(network: torch.nn.Module) -> Tensor:
        norm = clip(network)
        norms.append(float(norm))
        return norm

    parts.trainer._clip = recording_clip
    steps = []
    parts.trainer.begin_training()
    for index, batch in enumerate(batches):
        epoch, iteration = divmod(index, ITERATIONS)
        rate = parts.rate(epoch)
        parts.trainer.set_learning_rate(rate)
        loss = float(parts.trainer.train_step(batch, epoch=epoch, iteration=iteration))
        steps.append(Step(rate, loss, norms[-1]))
    return steps


def worst(steps: list[Step], recorded: list[dict[str, Any]]) -> tuple[float, float]:
    """The largest difference of a loss, and the largest relative one of a norm."""
    pairs = list(zip(steps, recorded, strict=True))
    losses = [abs(step.loss - entry["loss"]) for step, entry in pairs]
    norms = [abs(step.norm / entry["grad_norm_before_clipping"] - 1) for step, entry in pairs]
    return max(losses), max(norms)


def test_twenty_steps(
    trace: dict[str, Any],
    batches: list[Batch],
    small_plan: Plan,
    record_property: Callable[[str, object], None],
) -> None:
    parts = parts_of(small_plan, to_our_names(load_file(RECORDED / "initial_weights.safetensors")))
    steps = steps_of(parts, batches)
    recorded = trace["steps"]
    assert [step.rate for step in steps] == [entry["lr"] for entry in recorded]  # exact

    first, _ = worst(steps[:5], recorded[:5])
    loss, norm = worst(steps, recorded)
    final = to_our_names(load_file(RECORDED / "final_weights.safetensors"))
    ours = parts.trainer.network.state_dict()
    assert final.keys() == ours.keys()
    weight = max(float((ours[name] - tensor).abs().max()) for name, tensor in final.items())
    figures = {
        "loss, first 5 steps": (first, 1e-4),
        "loss, 20 steps": (loss, 1e-3),
        "relative gradient norm, 20 steps": (norm, 1e-2),
        "final weights": (weight, 1e-3),
    }
    record_property("largest differences", {name: value for name, (value, _) in figures.items()})
    assert not {name: value for name, (value, allowed) in figures.items() if value > allowed}, figures


def test_steps_whose_gradients_are_clipped(
    trace: dict[str, Any],
    batches: list[Batch],
    small_plan: Plan,
    record_property: Callable[[str, object], None],
) -> None:
    weights = load_file(RECORDED / "initial_weights.safetensors")
    weights = {
        name: tensor * 40 if "seg_layers" in name and name.endswith("weight") else tensor
        for name, tensor in weights.items()
    }
    recorded = trace["clip_trace"]["steps"]
    assert max(entry["grad_norm_before_clipping"] for entry in recorded) > 12
    steps = steps_of(parts_of(small_plan, to_our_names(weights)), batches[: len(recorded)])
    loss = max(abs(step.loss / entry["loss"] - 1) for step, entry in zip(steps, recorded, strict=True))
    _, norm = worst(steps, recorded)
    record_property("largest relative differences of loss and norm", (loss, norm))
    assert loss < 1e-3, (loss, norm)
    assert norm < 1e-2, (loss, norm)
