"""nnunet@2.8.0 and nnunet-resenc@2.8.0 against recorded plans of nnunetv2 2.8.1, field by field."""

from collections.abc import Callable
from typing import Any

from nnrules.plan import Plan

# Fields of the export that the oracle leaves out or names otherwise.
_NOT_RECORDED = {"dataset_name", "foreground_intensity_properties_per_channel", "configurations"}
_RENAMED = {"resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities", "architecture"}


def _plan(
    case: dict[str, Any], request: dict[str, Any], plan_request: Callable[..., Plan], **more: Any
) -> Plan:
    return plan_request(
        request["planner"],
        case["fingerprint"],
        case["dataset_json"],
        gpu_memory_gb=request["gpu_memory_target_in_gb"],
        target_spacing=request.get("overwrite_target_spacing"),
        suppress_transpose=request.get("suppress_transpose", False),
        **more,
    )


def test_every_recorded_plan_is_planned_alike(
    v2_case: dict[str, Any], plan_request: Callable[..., Plan], plan_differences: Callable[..., list[str]]
) -> None:
    wrong = []
    for request in v2_case["plans"]:
        found = plan_differences(_plan(v2_case, request, plan_request), request["result"])
        wrong += [f"{request['planner']}: {text}" for text in found]
    assert not wrong, "\n".join(wrong)


def test_every_recorded_plan_is_exported_alike(
    v2_case: dict[str, Any], plan_request: Callable[..., Plan], exported: Callable[..., dict[str, Any]]
) -> None:
    for request in v2_case["plans"]:
        document = exported(_plan(v2_case, request, plan_request), "Dataset001_Oracle")
        recorded = request["result"]
        top = {key: value for key, value in document.items() if key not in _NOT_RECORDED}
        # The oracle's datasets force SimpleITK's reader, whatever their files end in.
        top["image_reader_writer"] = recorded["image_reader_writer"]
        assert top == {key: value for key, value in recorded.items() if key != "configurations"}
        for name, theirs in recorded["configurations"].items():
            ours = document["configurations"][name]
            shared = {key for key in theirs if key in ours} - _RENAMED
            assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}, name
            types = [type(edge) for edge in ours.get("median_image_size_in_voxels", [])]
            assert types == [type(edge) for edge in theirs.get("median_image_size_in_voxels", [])], name
            if "architecture" in ours:
                network = ours["architecture"]
                assert network["network_class_name"] == theirs["network_class"]
                own = network["arch_kwargs"]
                assert {key: own[key] for key in own if key in theirs} == {
                    key: theirs[key] for key in own if key in theirs
                }, name
                assert {"n_stages", "features_per_stage", "strides", "kernel_sizes"} <= set(theirs)


def test_the_recorded_plans_are_many_and_of_every_planner(
    plan_differences: Callable[..., list[str]], plan_request: Callable[..., Plan], request: Any
) -> None:
    """The comparison itself can fail: each kind of field is told apart."""
    conftest = request.config.pluginmanager.get_plugin(str(request.path.parent / "conftest.py"))
    cases = conftest.oracle("v2")
    requests = [request for case in cases for request in case["plans"]]
    assert len(requests) >= 478
    assert {entry["planner"] for entry in requests} == set(conftest.PRESETS)
    case = next(case for case in cases if len(case["plans"][0]["result"]["configurations"]) == 4)
    result = case["plans"][0]["result"]
    plan = _plan(case, case["plans"][0], plan_request)
    assert not plan_differences(plan, result)
    for field, value in (
        ("patch_size", [8, 8, 8]), ("batch_size", 99), ("batch_dice", None), ("features_per_stage", [1]),
        ("strides", []), ("kernel_sizes", []), ("normalization_schemes", ["NoNormalization"]),
        ("use_mask_for_norm", [None]), ("spacing", [9.0, 9.0, 9.0]), ("n_conv_per_stage", []),
        ("resampling_data", ["", {"is_seg": False, "order": 2, "order_z": 0, "force_separate_z": None}]),
    ):  # fmt: skip
        changed = {**result["configurations"]["3d_fullres"], field: value}
        broken = {**result, "configurations": {**result["configurations"], "3d_fullres": changed}}
        assert plan_differences(plan, broken), field
    assert plan_differences(plan, {**result, "transpose_forward": [2, 1, 0]})
