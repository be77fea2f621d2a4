"""Training steps of nnU-Net v2 on the CPU. Runs in its own environment: ``python train_step.py JOB``.

The trainer is nnU-Net's own, with the network, loss and optimizer of its plans. It is given one batch of patches
again and again. Each line on standard input makes a step; ``answer SECONDS`` is written to standard output.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main(job):
    answers, sys.stdout = sys.stdout, sys.stderr  # nnU-Net prints
    torch.set_num_threads(job["num_threads"])
    plans, dataset = (json.loads(Path(job[name]).read_text()) for name in ("plans", "dataset"))
    trainer = nnUNetTrainer(
        plans | {"continue_training": False}, job["configuration"], 0, dataset, torch.device("cpu")
    )
    folder = Path(trainer.preprocessed_dataset_folder)
    folder.mkdir(parents=True)
    (folder / "none.b2nd").touch()  # the trainer looks which kind of files there are; it reads none
    trainer.initialize()
    trainer.network.train()
    batch = batch_of(trainer, np.load(job["batch"]))
    for _ in sys.stdin:
        start = time.perf_counter()
        trainer.train_step(batch)
        print(f"answer {time.perf_counter() - start}", file=answers, flush=True)


def batch_of(trainer, arrays):
    image, target = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["target"])[:, None]
    patch = tuple(trainer.configuration_manager.patch_size)
    if tuple(image.shape[2:]) != patch or len(image) != trainer.configuration_manager.batch_size:
        raise ValueError(f"a batch of {tuple(image.shape)} where the plans have {patch}")
    targets = [
        torch.nn.functional.interpolate(target.float(), scale_factor=scale, mode="nearest-exact").to(
            target.dtype
        )
        for scale in trainer._get_deep_supervision_scales()
    ]
    return {"data": image, "target": targets}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
