"""Work folders with drawn networks, and choices among them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.network import build_network, initialize
from nnrules_runtime.network.model import write_model
from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.select.empirical import Candidate, Empirical, Skipped
from nnrules_runtime.select.scoring import Scores
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

CASES = tuple(f"patient-{number:03d}" for number in range(6))


def small(plan: Plan) -> Plan:
    """The plan with networks of two features a stage."""
    document = copy.deepcopy(dict(plan.document))
    for configuration in document["configurations"].values():
        architecture = configuration["architecture"]
        architecture["features_per_stage"] = [2] * architecture["num_stages"]
    return Plan.from_document(document)


@pytest.fixture(scope="session")
def plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    """``2d`` and ``3d_fullres``."""
    fingerprint = make_fingerprint([(20, 24, 22)] * 6, [(1.0, 1.0, 1.0)] * 6, channels=("T1", "T2"))
    return small(make_plan(fingerprint, "nnunet@2.8.0"))


@pytest.fixture(scope="session")
def cascade_plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    """With ``3d_lowres`` and ``3d_cascade_fullres``."""
    fingerprint = make_fingerprint([(300, 300, 300)] * 6, [(1.0, 1.0, 1.0)] * 6)
    return small(make_plan(fingerprint, "nnunet@2.8.0"))


@pytest.fixture(scope="session")
def make_work() -> Callable[..., Workspace]:
    """A work folder with trained folds: ``make_work(folder, plan, {"2d": [0, 1]})``."""

    def make(
        folder: Path, plan: Plan, folds: Mapping[str, Sequence[int | str]], *, checkpoint: str = "final"
    ) -> Workspace:
        workspace = Workspace(folder)
        for name, numbers in folds.items():
            with reading(plan) as root:
                section = root.section("configurations").section(name)
                network = build_network(section)
            for seed, fold in enumerate(numbers):
                initialize(network, section, torch.Generator().manual_seed(seed))
                write_model(
                    workspace.fold(name, fold), network, plan=plan, configuration=name, fold=fold, epoch=3,
                    checkpoint=checkpoint,  # type: ignore[arg-type]
                )  # fmt: skip
        return workspace

    return make


@pytest.fixture(scope="session")
def make_choice() -> Callable[..., Empirical]:
    """A choice with one step of postprocessing: ``make_choice(plan, ("2d",), folds=(0, 1))``."""

    def make(plan: Plan, members: tuple[str, ...], folds: tuple[int | str, ...], **more: Any) -> Empirical:
        def scores(value: float) -> Scores:
            dice = {"organ": value, "tumour": float("nan")}
            return Scores(dice=dice, mean=value, score=value)

        step = Step(name="all foreground", labels=(1, 2), components=Components(connectivity="full"))
        steps = Postprocessing((step,))
        chosen = Candidate(
            members=members,
            scores=scores(0.75),
            trials=(),
            postprocessing=steps,
            postprocessed=scores(0.8125),
        )
        other = Candidate(members=("3d_other",), scores=scores(0.5))
        return Empirical(
            members=members,
            folds=dict.fromkeys(members, folds),
            postprocessing=steps,
            plan_hash=plan.hash,
            chosen_by="score",
            candidates=(other, chosen),
            skipped=(
                Skipped(members=("2d", "other"), reason="no labels (patient-001)", fix="See /our/disk."),
            ),
            scored_folds=dict.fromkeys((*members, "3d_other"), (0, 1)),
            num_cases=len(CASES),
            case_ids=CASES,
            **more,
        )

    return make
