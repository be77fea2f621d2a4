"""nnunet@0.6.0, 1.0.0 and 1.7.0 against recorded plans of nnU-Net v1, field by field.

v1 has a planner for 2D and one for 3D; a plan of ours answers both. Of the "pool late" planner
(ExperimentPlanner) only the one of nnunet 1.0 is a pack; that of 1.7.1 is not.
"""

from typing import Any

import pytest
from nnrules.engine.planning import make_plan
from nnrules.errors import EvaluationError, RefusedError
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet
from nnrules.plan import Plan

PACKS = {
    ("nnunet 1.0", "ExperimentPlanner3D_v21"): ("nnunet@1.0.0", None),
    ("nnunet 1.0", "ExperimentPlanner2D_v21"): ("nnunet@1.0.0", None),
    ("nnunet 1.0", "ExperimentPlanner"): ("nnunet@0.6.0", None),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21"): ("nnunet@1.7.0", None),
    ("nnunet 1.7.1", "ExperimentPlanner2D_v21"): ("nnunet@1.7.0", None),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21_11GB"): ("nnunet@1.7.0", "11GB"),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21_16GB"): ("nnunet@1.7.0", "16GB"),
    ("nnunet 1.7.1", "ExperimentPlanner3D_v21_32GB"): ("nnunet@1.7.0", "32GB"),
}
SCHEMES = {"nonCT": "zscore", "CT": "ct", "noNorm": "none"}


def _requests(case: dict[str, Any]) -> list[tuple[dict[str, Any], str, str | None]]:
    return [
        (request, *PACKS[key])
        for request in case["plans"]
        if (key := (request["package"], request["planner"])) in PACKS
    ]


def test_every_recorded_plan_is_planned_alike(v1_case: dict[str, Any]) -> None:
    fingerprint = fingerprint_from_nnunet(v1_case["fingerprint"], v1_case["dataset_json"])
    wrong = []
    for request, pack, preset in _requests(v1_case):
        is_2d = "2D" in request["planner"]
        if "error" in request:
            _check_refused(v1_case, request, pack, is_2d=is_2d)
            continue
        plan = make_plan(fingerprint, pack, preset=preset, check=False)
        found = _differences(plan, request["result"], is_2d=is_2d)
        wrong += [f"{request['package']} {request['planner']}: {text}" for text in found]
    assert not wrong, "\n".join(wrong)


def _check_refused(case: dict[str, Any], request: dict[str, Any], pack: str, *, is_2d: bool) -> None:
    """Where the released planner raised, we plan nothing, and say so."""
    fingerprint = fingerprint_from_nnunet(case["fingerprint"], case["dataset_json"])
    try:
        plan = make_plan(fingerprint, pack, check=False)
    except (RefusedError, EvaluationError):
        return
    name = "2d" if is_2d else "3d_fullres"
    assert name not in plan.configurations, f"{request['planner']} raised {request['error'][:100]}"
    assert name in plan.provenance["dropped"]


def _differences(plan: Plan, result: dict[str, Any], *, is_2d: bool) -> list[str]:
    stages = result["stages"]
    names = ["2d"] if is_2d else ["3d_fullres"] if len(stages) == 1 else ["3d_lowres", "3d_fullres"]
    found = []
    if not is_2d:
        cascade = {"3d_lowres", "3d_cascade_fullres"} & set(plan.configurations)
        if bool(cascade) != (len(stages) == 2) or len(cascade) == 1:
            found.append(f"{len(stages)} stages, but {sorted(plan.configurations)}")
    for name, stage in zip(names, stages, strict=True):
        if name not in plan.configurations:
            found.append(f"{name} is missing")
            continue
        compared = _stage_differences(plan.configurations[name], stage, result, is_2d=is_2d)
        found += [f"{name}.{text}" for text in compared]
    for index, channel in enumerate(plan.document["channels"]):
        wanted = (
            SCHEMES[result["normalization_schemes"][str(index)]],
            result["use_mask_for_norm"][str(index)],
        )
        got = (channel["normalization"]["scheme"], channel["normalization"]["use_mask"])
        if got != wanted:
            found.append(f"channels[{index}]: got {got}, expected {wanted}")
    return found


def _stage_differences(
    configuration: dict[str, Any], stage: dict[str, Any], result: dict[str, Any], *, is_2d: bool
) -> list[str]:
    architecture, first = configuration["architecture"], 1 if is_2d else 0
    # v1 lists halvings only; the first stage of ours does not stride.
    strides = [[1] * len(stage["patch_size"]), *stage["pool_op_kernel_sizes"]]
    fields = [
        ("patch_size", configuration["patch_size"], stage["patch_size"]),
        ("batch_size", configuration["batch_size"], stage["batch_size"]),
        ("median_shape", configuration["median_shape"], stage["median_patient_size_in_voxels"][first:]),
        ("strides", architecture["strides"], strides),
        ("kernels", architecture["kernel_sizes"], stage["conv_kernel_sizes"]),
        ("num_stages", architecture["num_stages"], len(strides)),
        ("features", architecture["features_per_stage"][0], result["base_num_features"]),
        ("dummy_2d", configuration["augmentation"]["dummy_2d"], stage["do_dummy_2D_data_aug"]),
        ("transpose_forward", configuration["transpose_forward"], result["transpose_forward"]),
        ("transpose_backward", configuration["transpose_backward"], result["transpose_backward"]),
    ]
    found = [f"{name}: got {got}, expected {wanted}" for name, got, wanted in fields if got != wanted]
    pairs = zip(configuration["spacing"], stage["current_spacing"][first:], strict=True)
    if max(abs(got - wanted) for got, wanted in pairs) > 1e-9:
        found.append(f"spacing: got {configuration['spacing']}, expected {stage['current_spacing']}")
    return found


def test_the_comparison_can_fail(request: pytest.FixtureRequest) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(request.path.parent / "conftest.py"))
    cases = conftest.oracle("v1")
    assert sum(len(_requests(case)) for case in cases) >= 200
    assert {key for case in cases for key in ((p["package"], p["planner"]) for p in case["plans"])} >= set(
        PACKS
    )
    case = next(case for case in cases if len(case["plans"][0].get("result", {}).get("stages", [])) == 2)
    fingerprint = fingerprint_from_nnunet(case["fingerprint"], case["dataset_json"])
    recorded, pack, preset = _requests(case)[0]
    plan = make_plan(fingerprint, pack, preset=preset, check=False)
    result = recorded["result"]
    assert not _differences(plan, result, is_2d=False)
    low, full = result["stages"]
    for field, value in (
        ("patch_size", [8, 8, 8]), ("batch_size", 99),
        ("pool_op_kernel_sizes", []), ("conv_kernel_sizes", []),
        ("current_spacing", [9.0, 9.0, 9.0]), ("median_patient_size_in_voxels", [1, 1, 1]),
        ("do_dummy_2D_data_aug", None),
    ):  # fmt: skip
        assert _differences(plan, {**result, "stages": [low, {**full, field: value}]}, is_2d=False), field
    assert _differences(plan, {**result, "stages": [full]}, is_2d=False)
