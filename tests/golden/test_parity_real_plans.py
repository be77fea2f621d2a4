"""Plans from real fingerprints against the plans that nnU-Net v2 users published with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.plan import Plan

pytestmark = pytest.mark.shared

_LEGACY = "v2.0"


def _read(folder: Path, pair: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    source = folder / pair["dataset"]
    names = ("dataset_fingerprint.json", "dataset.json", f"{pair['plans']}.json")
    fingerprint, dataset_json, plans = (json.loads((source / name).read_text()) for name in names)
    return fingerprint, dataset_json, plans


def _modern(configuration: dict[str, Any]) -> dict[str, Any]:
    """The fields of nnU-Net v2.0 to v2.4 under the names that came with v2.5."""
    if "architecture" in configuration or "inherits_from" in configuration:
        return configuration
    num_stages = len(configuration["pool_op_kernel_sizes"])
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    network = {
        "n_stages": num_stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(num_stages)],
        "strides": configuration["pool_op_kernel_sizes"],
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "n_conv_per_stage": configuration["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
    }
    return {**configuration, "architecture": {"arch_kwargs": network}}


def test_plan_is_alike(
    real_pair: dict[str, Any],
    real_plans: Path,
    plan_request: Callable[..., Plan],
    plan_differences: Callable[..., list[str]],
) -> None:
    fingerprint, dataset_json, published = _read(real_plans, real_pair)
    published["configurations"] = {key: _modern(value) for key, value in published["configurations"].items()}
    plan = plan_request(real_pair["planner"], fingerprint, dataset_json, check=True)
    assert plan_differences(plan, published) == []


def test_export_has_the_same_bytes(
    real_pair: dict[str, Any],
    real_plans: Path,
    tmp_path: Path,
    plan_request: Callable[..., Plan],
) -> None:
    if real_pair["format"].startswith(_LEGACY):
        pytest.skip("published in the format of nnU-Net v2.0 to v2.4, which the export does not write")
    from nnrules.interop.nnunetv2_write import write_nnunet_plans

    fingerprint, dataset_json, _ = _read(real_plans, real_pair)
    plan = plan_request(real_pair["planner"], fingerprint, dataset_json)
    saved = tmp_path / "plan.json"
    plan.save(saved)
    folder = tmp_path / real_pair["dataset"]
    folder.mkdir()
    target = folder / f"{real_pair['plans']}.json"
    converted = write_nnunet_plans(Plan(json.loads(saved.read_text())), target)
    assert target.read_bytes() == (real_plans / real_pair["dataset"] / target.name).read_bytes()
    assert converted.warnings == ()
