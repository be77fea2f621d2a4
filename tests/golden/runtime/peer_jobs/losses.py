"""The loss that a trainer builds from plans, with its gradient; targets of all levels as its data loader makes them."""

from types import SimpleNamespace

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def answer(document, given):
    manager = PlansManager(document["plans"])
    labels = manager.get_label_manager(document["dataset"])
    trainer = SimpleNamespace(
        label_manager=labels,
        configuration_manager=manager.get_configuration(document["configuration"]),
        is_ddp=False,
        enable_deep_supervision=True,
        _do_i_compile=lambda: False,
    )
    trainer._get_deep_supervision_scales = lambda: nnUNetTrainer._get_deep_supervision_scales(trainer)
    steps = []
    if labels.has_regions:
        regions = list(labels.foreground_regions)
        if labels.has_ignore_label:
            regions.append(labels.ignore_label)
        steps.append(ConvertSegmentationToRegionsTransform(regions=regions, channel_in_seg=0))
    steps.append(DownsampleSegForDSTransform(ds_scales=trainer._get_deep_supervision_scales()))
    samples = []
    for target in given["target"]:
        value = {"segmentation": torch.from_numpy(target)[None]}
        for step in steps:
            value = step(**value)
        samples.append(value["segmentation"])
    targets = [torch.stack(level) for level in zip(*samples, strict=True)]
    logits = [torch.from_numpy(given[f"logits/{level}"]).requires_grad_() for level in range(len(targets))]
    value = nnUNetTrainer._build_loss(trainer)(logits, targets)
    value.backward()
    gradients = {
        f"gradient/{level}": (torch.zeros_like(one) if one.grad is None else one.grad).numpy()
        for level, one in enumerate(logits)
    }
    return {"levels": len(targets)}, {"value": np.array(value.item()), **gradients}
