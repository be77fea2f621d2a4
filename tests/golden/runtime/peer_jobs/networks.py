"""Builds networks from plans, writes them as trained models, and runs them."""

import json
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SPREAD = 0.2  # of norms and biases, so that nothing hides behind 0 and 1


def write_model(folder, plans, dataset, name, seed, mirror_axes, weights=None):
    """Write a model folder as a trainer would, with drawn weights or those of a file; returns the network."""
    torch.manual_seed(seed)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(name)
    network = nnUNetTrainer.build_network_architecture(
        manager,
        configuration,
        determine_num_input_channels(manager, configuration, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=True,
    )
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += SPREAD * torch.randn(parameter.shape)
    if weights is not None:
        with np.load(weights) as file:
            network.load_state_dict({key: torch.from_numpy(file[key]) for key in file.files})
    fold = Path(folder) / "fold_0"
    fold.mkdir(parents=True)
    (fold.parent / "plans.json").write_text(json.dumps(plans))
    (fold.parent / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 1,
        "init_args": {"plans": plans, "configuration": name, "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror_axes,
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    return network


@torch.no_grad()
def answer(document, given):
    found, arrays = [], {}
    for number, request in enumerate(document):
        network = write_model(
            request["folder"],
            request["plans"],
            request["dataset"],
            request["configuration"],
            request["seed"],
            None,
        )
        image = torch.from_numpy(given[f"{number}/image"])
        for level, logits in enumerate(network.train()(image)):
            arrays[f"{number}/train/{level}"] = logits.numpy()
        network.decoder.deep_supervision = False
        arrays[f"{number}/eval"] = network.eval()(image).numpy()
        # What we export as its state must be taken without complaint, and be the same.
        found.append(sorted(network.state_dict()))
    return found, arrays
