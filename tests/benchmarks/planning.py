"""How long planning takes, alone and next to nnU-Net v2's planner."""

from __future__ import annotations

import contextlib
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peer
from measurement import Measurement, median_seconds, skipped
from nnrules.demo.paper import shipped_fingerprint
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import compiled, make_plan
from nnrules.errors import NnrulesError
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet

CHECKOUT = Path(__file__).resolve().parents[2]
ORACLES = CHECKOUT / "tests" / "golden" / "data"
REAL_PLANS = CHECKOUT.parent / "shared" / "golden" / "real_plans"

_PACKS: Mapping[tuple[str, str], tuple[str, str | None]] = {
    ("v2", "ExperimentPlanner"): ("nnunet@2.8.0", None),
    ("v2", "ResEncUNetPlanner"): ("nnunet-resenc@2.8.0", "default"),
    ("v2", "nnUNetPlannerResEncM"): ("nnunet-resenc@2.8.0", "M"),
    ("v2", "nnUNetPlannerResEncL"): ("nnunet-resenc@2.8.0", "L"),
    ("v2", "nnUNetPlannerResEncXL"): ("nnunet-resenc@2.8.0", "XL"),
    ("nnunet 1.0", "ExperimentPlanner3D_v21"): ("nnunet@1.0.0", None),
    ("nnunet 1.0", "ExperimentPlanner"): ("nnunet@0.6.0", None),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21"): ("nnunet@1.7.0", None),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21_11GB"): ("nnunet@1.7.0", "11GB"),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21_16GB"): ("nnunet@1.7.0", "16GB"),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21_32GB"): ("nnunet@1.7.0", "32GB"),
}


def corpus(repeats: int) -> list[Measurement]:
    """All configurations of one fingerprint, from a loaded pack, over the recorded cases."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for version in ("v1", "v2"):
        with gzip.open(ORACLES / f"planner_{version}_public.json.gz", "rt", encoding="utf-8") as stream:
            cases = json.load(stream)["cases"]
        for case in cases:
            fingerprint = fingerprint_from_nnunet(case["fingerprint"], case["dataset_json"])
            for request in case["plans"]:
                chosen = _PACKS.get((request.get("package", "v2"), request["planner"]))
                if chosen is None:
                    continue
                pack = load_pack(chosen[0], preset=chosen[1])
                compiled(pack)
                memory = request.get("gpu_memory_target_in_gb")
                for check, found in seconds.items():
                    runs = []
                    for _ in range(repeats):
                        start = time.perf_counter()
                        with contextlib.suppress(NnrulesError):  # a refusal is an answer, too
                            make_plan(fingerprint, pack, gpu_memory_gb=memory, check=check)
                        runs.append(time.perf_counter() - start)
                    found.append(statistics.median(runs))
    measured = []
    for check, label in ((True, ""), (False, ", without the check of the plan")):
        found = sorted(seconds[check])
        part = f"golden corpus, {len(found)} plans{label}"
        measured += [
            Measurement(f"{part}: median", found[len(found) // 2], target_s=0.015 if check else None),
            Measurement(
                f"{part}: 95th percentile", found[int(len(found) * 0.95)], target_s=0.06 if check else None
            ),
        ]
    return measured


def real_plans(python: Path | None, repeats: int) -> list[Measurement]:
    """Our planner next to the released one on the same fingerprints, in this run."""
    if not (REAL_PLANS / "INDEX.json").is_file():
        return [skipped("real_plans", "../shared/golden/real_plans is absent")]
    if python is None:
        return [skipped("real_plans", "nnU-Net v2 is not installed")]
    requests = []
    for entry in json.loads((REAL_PLANS / "INDEX.json").read_text()):
        folder = REAL_PLANS / entry["dataset"]
        requests.append(
            {
                "planner": entry["planner"],
                "fingerprint": json.loads((folder / "dataset_fingerprint.json").read_text()),
                "dataset_json": json.loads((folder / "dataset.json").read_text()),
                "name": f"{entry['dataset']}, {entry['planner']}",
            }
        )
    liver = next(request for request in requests if request["name"].startswith("Dataset003"))
    residual = {**liver, "planner": "nnUNetPlannerResEncL", "name": "Dataset003_Liver, nnUNetPlannerResEncL"}
    requests.append(residual)
    theirs = peer.ask(python, {"task": "plan", "requests": requests, "meta": False, "repeats": 1})
    ours = []
    for request in requests:
        pack_name, preset = _PACKS["v2", request["planner"]]
        pack = load_pack(pack_name, preset=preset)
        compiled(pack)
        ours.append(median_seconds(lambda: _plan(request, pack), repeats))  # noqa: B023 - called at once
    recorded = slice(len(requests) - 1)  # the last one is not in real_plans
    total = Measurement(
        f"planning all {len(requests) - 1} of real_plans",
        sum(ours[recorded]),
        peer_s=sum(answer["seconds"] for answer in theirs[recorded]),
        target_ratio=20,
    )
    each = [
        Measurement(f"planning {request['name']}", own, peer_s=answer["seconds"])
        for request, own, answer in zip(requests, ours, theirs, strict=True)
    ]
    return [total, *each]


def _plan(request: dict[str, Any], pack: Any) -> None:
    """From parsed files to a checked plan, as the released planner starts from its files."""
    make_plan(fingerprint_from_nnunet(request["fingerprint"], request["dataset_json"]), pack)


def command_line(repeats: int) -> list[Measurement]:
    """`nnrules plan` from a fingerprint, as a whole process."""
    measured = []
    for dataset in ("D4", "D3"):
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "plan.json"
            command = [
                sys.executable,
                "-m",
                "nnrules",
                "plan",
                str(shipped_fingerprint(dataset)),
                "-o",
                str(plan),
            ]
            seconds = median_seconds(
                lambda: subprocess.run(command, check=True, capture_output=True, cwd=CHECKOUT),  # noqa: B023
                repeats,
            )
        measured.append(Measurement(f"`nnrules plan` of {dataset}, whole process", seconds, target_s=0.5))
    return measured
