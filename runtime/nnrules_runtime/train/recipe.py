"""What a plan says about the training of one configuration, read at once and before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from nnrules.plan import Plan

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.folds import FoldPolicy
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.network import UNet, build_network
from nnrules_runtime.network.fit import check_network_fits
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.train.budget import EpochSize
from nnrules_runtime.train.loss import Loss
from nnrules_runtime.train.optimizer import GradientClipping, Restart, build_optimizer
from nnrules_runtime.train.pseudo_dice import MovingAverage, PseudoDice
from nnrules_runtime.train.sampling import PatchSampler
from nnrules_runtime.train.schedule import LearningRate
from nnrules_runtime.train.state import Cadence
from nnrules_runtime.values import Section, reading

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The parts of a training.

    Attributes:
        preprocessing: how cases must have been preprocessed.
        labels: the labels of the dataset.
        folds: which cases train and which validate.
        sampler: places patches.
        augmentation: of training patches.
        validation_augmentation: of validation patches.
        loss: the loss.
        network: with torch's initial weights, on the CPU.
        clip: clips gradients.
        pseudo_dice: counts of the validation patches.
        rate: learning rate of each epoch.
        restart: the second start of a training that does not learn, if the plan has one.
        cadence: when what is written.
        epochs: number of epochs.
        size: length of an epoch.
        seed: of all random draws; ``None``: drawn at the start.
        loss_scaling: whether the loss is scaled against underflow of float16.
        training: the section, for the optimizer.
        configuration: the section, for drawing weights.
    """

    preprocessing: Preprocessing
    labels: LabelSet
    folds: FoldPolicy
    sampler: PatchSampler
    augmentation: Augmentation
    validation_augmentation: Augmentation
    loss: Loss
    network: UNet
    clip: GradientClipping
    pseudo_dice: PseudoDice
    rate: LearningRate
    restart: Restart | None
    cadence: Cadence
    epochs: int
    size: EpochSize
    seed: int | None
    loss_scaling: bool
    training: Section
    configuration: Section

    @classmethod
    def from_plan(cls, plan: Plan, name: str) -> Recipe:
        """Read a plan.

        Args:
            plan: the plan.
            name: one of its configurations.

        Raises:
            PlanError: every value that the runtime does not know.
        """
        with reading(plan) as root:
            configuration = root.section("configurations").section(name)
            training = root.section("training")
            if configuration.value("batch_size") == 0:
                # Old planners say so where not even one sample fits the memory.
                configuration.refuse(
                    "batch_size",
                    "a training needs at least one sample in a batch",
                    got="0",
                    fix="Plan again with more --gpu-memory-gb.",
                )
            labels = LabelSet.from_plan(root)
            check_network_fits(root, configuration, labels)
            loss = Loss.from_plan(configuration, labels)
            network = build_network(configuration)
            network.skip_unweighted_heads(
                configuration.section("loss").section("deep_supervision").value("weights") or (1.0,)
            )
            build_optimizer(training, network)  # so that its numbers are read with all others
            return cls(
                preprocessing=Preprocessing.from_plan(root, name),
                labels=labels,
                folds=FoldPolicy.from_plan(root),
                sampler=PatchSampler.from_plan(configuration, labels),
                augmentation=Augmentation.from_plan(root, configuration, labels),
                validation_augmentation=Augmentation.for_validation(root, configuration, labels),
                loss=loss,
                network=network,
                clip=GradientClipping.from_plan(training),
                pseudo_dice=PseudoDice.from_plan(training, labels),
                rate=LearningRate.from_plan(training),
                restart=Restart.from_plan(training),
                cadence=_cadence(training),
                epochs=training.value("epochs"),
                size=EpochSize(
                    training.value("num_iterations_per_epoch"),
                    training.value("num_validation_iterations_per_epoch"),
                ),
                seed=training.value("seed"),
                loss_scaling=training.section("mixed_precision").require("loss_scaling", True, False),
                training=training,
                configuration=configuration,
            )


def _cadence(training: Section) -> Cadence:
    section = training.section("checkpoints")
    section.require("best_by", "progress_average")
    return Cadence(
        every_num_epochs=section.value("every_num_epochs"),
        at_last_epoch=section.require("at_last_epoch", True, False),
        first_epoch_may_be_best=section.require("first_epoch_may_be_best", True, False),
        average=MovingAverage.from_plan(training),
    )
