"""The engine on fingerprints of real datasets, and as processes."""

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.diff import diff_plans
from nnrules.engine.explain import explain
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import NnrulesError
from nnrules.fingerprint import Fingerprint
from nnrules.interop.nnunetv2_read import read_nnunet_fingerprint
from nnrules.plan import Plan
from nnrules.report.terminal import console, diff_view, explanation_view, plan_view

CHECKOUT = Path(__file__).resolve().parents[2]
REAL_PLANS = CHECKOUT.parent / "shared" / "golden" / "real_plans"
DEMO = CHECKOUT / "nnrules" / "demo" / "data" / "fingerprints"
PACKS = (
    "nnunet@2.8.0",
    "nnunet@1.7.0",
    "nnunet@1.0.0",
    "nnunet@0.6.0",
    "nnunet-resenc@2.8.0",
    "preprint@2.0.0",
)


def printed(view: Any) -> str:
    screen = console()
    with screen.capture() as capture:
        screen.print(view)
    return capture.get()


def everything_works(fingerprint: Fingerprint, folder: Path) -> int:
    """Plan under each pack, save, load, print, explain and compare; returns how many plans were made."""
    plans = []
    for pack in PACKS:
        try:
            plan = make_plan(fingerprint, load_pack(pack))
        except NnrulesError as exc:
            if not all(problem.where and problem.what for problem in exc.problems):
                pytest.fail(str(exc))
            continue
        plan.save(folder / "plan.json")
        again = Plan.load(folder / "plan.json")
        assert again.hash == plan.hash
        assert printed(plan_view(again))
        for name in again.configurations:
            found = explain(again, f"configurations.{name}.patch_size", flips=False)
            assert found.note is None
            assert found.rounds or found.source == "override"
            assert printed(explanation_view(found))
        plans.append(again)
    for old, new in pairwise(plans):
        diff = diff_plans(old, new)
        assert not diff.is_empty
        assert diff.causes
        assert printed(diff_view(diff))
    return len(plans)


@pytest.mark.parametrize("source", sorted(DEMO.glob("D*[0-9a-z].json"))[::6], ids=lambda path: path.stem)
def test_published_fingerprints(source: Path, tmp_path: Path) -> None:
    assert everything_works(Fingerprint.load(source), tmp_path) >= 4


@pytest.mark.shared
def test_fingerprints_of_real_datasets(tmp_path: Path) -> None:
    if not REAL_PLANS.is_dir():
        pytest.skip("the real plans are not beside the checkout (../shared/golden/real_plans)")
    made = 0
    for source in sorted(REAL_PLANS.glob("*/dataset_fingerprint.json"))[::6]:
        made += everything_works(read_nnunet_fingerprint(source, source.with_name("dataset.json")), tmp_path)
    assert made >= 5


def test_planning_as_a_process_is_quick(tmp_path: Path) -> None:
    """Half a second on a quiet machine; the best of five is taken, and twice that allowed for a busy one."""
    command = [
        sys.executable,
        "-c",
        "from nnrules.cli import main; main()",
        "plan",
        str(DEMO / "D03_liver.json"),
        "--json",
    ]
    best = 9.0
    for _ in range(5):
        start = time.perf_counter()
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        best = min(best, time.perf_counter() - start)
        assert json.loads(result.stdout)["configurations"]
    assert best < 1.0
