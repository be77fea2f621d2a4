"""How networks are executed when they predict."""

from __future__ import annotations

from typing import Any

from nnrules_runtime.profile import Profile, choose_profile
from nnrules_runtime.values import Section

__all__ = ["inference_profile"]


def inference_profile(root: Section, **given: Any) -> Profile:
    """The profile for prediction with a plan: without worker processes, in the plan's precision on CUDA.

    Args:
        root: the plan.
        given: see :func:`nnrules_runtime.profile.choose_profile`; ``None`` values are chosen.
    """
    training = root.section("training")
    mixed = training.section("mixed_precision")
    # Without knowing of many patches it is not compiled: see Predictor.compile_if_it_pays.
    given = {"num_workers": 0, "num_steps": 0, **given}
    if mixed.value("in_inference") is False and given.get("precision") is None:
        return choose_profile(None, **given)
    return choose_profile(training, **given)
