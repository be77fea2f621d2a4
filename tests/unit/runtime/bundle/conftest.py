"""Plans of small networks, and choices among them."""

from collections.abc import Callable
from typing import Any

import pytest
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.postprocess import Components, Postprocessing, Step
from nnrules_runtime.select.empirical import Candidate, Empirical, Skipped
from nnrules_runtime.select.scoring import Scores

CASES = tuple(f"patient-{number:03d}" for number in range(6))


@pytest.fixture(scope="session")
def plan(make_fingerprint: Callable[..., Fingerprint], narrow: Callable[[Plan], Plan]) -> Plan:
    """``2d`` and ``3d_fullres``."""
    fingerprint = make_fingerprint([(20, 24, 22)] * 6, [(1.0, 1.0, 1.0)] * 6, channels=("T1", "T2"))
    return narrow(make_plan(fingerprint, "nnunet@2.8.0"))


@pytest.fixture(scope="session")
def cascade_plan(make_fingerprint: Callable[..., Fingerprint], narrow: Callable[[Plan], Plan]) -> Plan:
    """With ``3d_lowres`` and ``3d_cascade_fullres``."""
    fingerprint = make_fingerprint([(300, 300, 300)] * 6, [(1.0, 1.0, 1.0)] * 6)
    return narrow(make_plan(fingerprint, "nnunet@2.8.0"))


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
