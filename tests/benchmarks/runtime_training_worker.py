"""Training steps of the runtime, as ``nnrules run train`` makes them, in a process of their own.

``python runtime_training_worker.py JOB`` preprocesses what is missing and saves the first batch. Lines on standard
input: ``step PRECISION`` makes a step on that batch, ``cached N W`` N of them after W that do not count, ``loaded N W``
the same with batches of the loader. The answer to ``step`` is its seconds; to the others the mean seconds of a step and
the share of the time that went by waiting for a batch.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from nnrules.dataset import load_dataset
from nnrules.plan import Plan
from runtime_worker import MARK

from nnrules_runtime.preprocess.dataset import preprocess_dataset
from nnrules_runtime.profile import choose_profile, keep_freed_memory
from nnrules_runtime.train.batches import BatchSource
from nnrules_runtime.train.loader import BatchLoader, batch_keys, cache_bytes_per_process
from nnrules_runtime.train.optimizer import build_optimizer
from nnrules_runtime.train.recipe import Recipe
from nnrules_runtime.train.sampling import Phase
from nnrules_runtime.train.start import draw_weights
from nnrules_runtime.train.trainer import Trainer
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

SEED = 1


class Steps:
    """One training, of which single steps are measured.

    Args:
        job: plan, dataset, configuration, work, batch, num_threads.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        plan, dataset = Plan.load(Path(job["plan"])), load_dataset(Path(job["dataset"]))
        self._name, self._threads = job["configuration"], job["num_threads"]
        self._plan = plan
        self._recipe = Recipe.from_plan(plan, self._name)
        self._store = preprocess_dataset(plan, dataset, self._name, Workspace(Path(job["work"])))
        groups = {case.id: case.group for case in dataset.cases}
        self._fold = self._recipe.folds.fold(0, list(groups), groups, configuration=self._name)
        self._profile = self._profile_of(None)
        self._profile.apply()
        keep_freed_memory()
        self._cached = self._source().batch(0, 0)
        np.savez(job["batch"], image=self._cached.image.numpy(), target=self._cached.target.numpy())
        self._trainers: dict[str, Trainer] = {}

    def facts(self) -> dict[str, Any]:
        """What is measured, for the table."""
        return {
            "profile": self._profile.to_json(),
            "batch": list(self._cached.image.shape),
            "cases": len(self._fold.train),
        }

    def step(self, precision: str) -> float:
        """Seconds of a step on the saved batch."""
        trainer = self._trainer(precision)
        start = time.perf_counter()
        float(trainer.train_step(self._cached, epoch=0, iteration=0))
        return time.perf_counter() - start

    def cached(self, count: int, warm_up: int) -> dict[str, float]:
        """Steps on the saved batch."""
        seconds = [self.step(self._profile.precision) for _ in range(warm_up + count)]
        return {"seconds": statistics.fmean(seconds[warm_up:]), "waiting": 0.0}

    def loaded(self, count: int, warm_up: int) -> dict[str, float]:
        """Steps with batches of the loader."""
        trainer = self._trainer(self._profile.precision)
        keys = batch_keys(warm_up + count, 0, num_epochs=1)
        seconds = []
        with BatchLoader(
            {Phase.TRAIN: self._source()}, keys, num_workers=self._profile.num_workers
        ) as loader:
            for iteration in range(warm_up + count):
                if iteration == warm_up:
                    loader.take_wait_s()
                start = time.perf_counter()
                float(trainer.train_step(next(loader), epoch=0, iteration=iteration))
                seconds.append(time.perf_counter() - start)
            waited = loader.take_wait_s()
        seconds = seconds[warm_up:]
        return {"seconds": statistics.fmean(seconds), "waiting": waited / sum(seconds)}

    def _source(self) -> BatchSource:
        return BatchSource(
            self._store,
            self._fold.train,
            self._recipe.sampler,
            self._recipe.augmentation,
            seed=SEED,
            cache_bytes=cache_bytes_per_process(self._profile.num_workers),
        )

    def _profile_of(self, precision: str | None) -> Any:
        with reading(self._plan) as root:
            return choose_profile(
                root.section("training"), device="cpu", precision=precision, num_threads=self._threads
            )

    def _trainer(self, precision: str) -> Trainer:
        if precision not in self._trainers:
            profile = self._profile_of(precision)
            recipe = Recipe.from_plan(self._plan, self._name)
            network = recipe.network
            draw_weights(network, recipe.configuration, SEED)
            network.to(memory_format=profile.memory_format(network.architecture.dim))  # type: ignore[call-overload]
            optimizer = build_optimizer(recipe.training, network)
            trainer = Trainer(
                network,
                recipe.loss,
                optimizer,
                clip=recipe.clip,
                pseudo_dice=recipe.pseudo_dice,
                profile=profile,
                loss_scaling=recipe.loss_scaling,
                seed=SEED,
            )
            trainer.set_learning_rate(recipe.rate(0))
            trainer.begin_training()
            self._trainers[precision] = trainer
        return self._trainers[precision]


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    steps = Steps(json.loads(Path(sys.argv[1]).read_text()))
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "facts":
            answer: Any = steps.facts()
        elif verb == "step":
            answer = steps.step(arguments[0])
        else:
            answer = (steps.cached if verb == "cached" else steps.loaded)(*map(int, arguments))
        answers.write(f"{MARK}{json.dumps(answer)}\n")
        answers.flush()


if __name__ == "__main__":
    main()
