"""nnrules: from a dataset's fingerprint to an explained segmentation plan, by versioned rules.

The public interface of the planning side::

    from nnrules import Fingerprint, Plan, diff_plans, load_pack, make_plan

    fingerprint = Fingerprint.load("fingerprint.json")
    plan = make_plan(fingerprint, load_pack("nnunet@2.8.0"), gpu_memory_gb=8)
    plan.get("configurations.3d_fullres.patch_size")

Names are loaded when they are first used, so that importing the package costs nothing; torch is never imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnrules.engine.diff import PlanDiff, diff_plans
    from nnrules.engine.explain import Explanation, explain
    from nnrules.engine.model import Pack
    from nnrules.engine.packs import load_pack
    from nnrules.engine.planning import make_plan
    from nnrules.errors import NnrulesError
    from nnrules.fingerprint import Fingerprint
    from nnrules.plan import Plan

__all__ = [
    "Explanation",
    "Fingerprint",
    "NnrulesError",
    "Pack",
    "Plan",
    "PlanDiff",
    "diff_plans",
    "explain",
    "load_pack",
    "make_plan",
]

__version__ = "0.1.0"

_HOMES = {
    "Explanation": "nnrules.engine.explain",
    "Fingerprint": "nnrules.fingerprint",
    "NnrulesError": "nnrules.errors",
    "Pack": "nnrules.engine.model",
    "Plan": "nnrules.plan",
    "PlanDiff": "nnrules.engine.diff",
    "diff_plans": "nnrules.engine.diff",
    "explain": "nnrules.engine.explain",
    "load_pack": "nnrules.engine.packs",
    "make_plan": "nnrules.engine.planning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nnrules' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
