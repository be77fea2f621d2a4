"""Recorded plans of the released planners, and our plans for the same requests."""

import gzip
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from nnrules.engine.planning import make_plan
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet
from nnrules.interop.nnunetv2_write import nnunet_plans
from nnrules.plan import Plan

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parent / "data"
REAL_PLANS = CHECKOUT.parent / "shared" / "golden" / "real_plans"

PRESETS = {
    "ExperimentPlanner": ("nnunet@2.8.0", None),
    "ResEncUNetPlanner": ("nnunet-resenc@2.8.0", "default"),
    "nnUNetPlannerResEncM": ("nnunet-resenc@2.8.0", "M"),
    "nnUNetPlannerResEncL": ("nnunet-resenc@2.8.0", "L"),
    "nnUNetPlannerResEncXL": ("nnunet-resenc@2.8.0", "XL"),
}

SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}


def oracle(version: str) -> list[dict[str, Any]]:
    """The recorded cases of the planners of nnU-Net ``v1`` or ``v2``."""
    with gzip.open(DATA / f"planner_{version}_public.json.gz", "rt", encoding="utf-8") as stream:
        cases: list[dict[str, Any]] = json.load(stream)["cases"]
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for version in ("v1", "v2"):
        name = f"{version}_case"
        if name in metafunc.fixturenames:
            cases = oracle(version)
            metafunc.parametrize(name, cases, ids=[f"{case['id']}-{case['family']}" for case in cases])
    if "real_pair" in metafunc.fixturenames:
        index = REAL_PLANS / "INDEX.json"
        reason = "the real plans are not beside the checkout (../shared/golden/real_plans)"
        pairs = json.loads(index.read_text()) if index.is_file() else []
        metafunc.parametrize(
            "real_pair",
            pairs or [pytest.param(None, marks=pytest.mark.skip(reason=reason))],
            ids=[f"{pair['dataset']}-{pair['plans']}" for pair in pairs] or ["absent"],
        )


def plan_as(
    planner: str,
    fingerprint: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    *,
    gpu_memory_gb: float | None = None,
    target_spacing: list[float] | None = None,
    suppress_transpose: bool = False,
    check: bool = False,
) -> Plan:
    """What we plan where nnU-Net v2 would be asked for this planner with these options."""
    overrides: dict[str, Any] = {}
    if target_spacing is not None:
        overrides["target_spacing"] = [float(edge) for edge in target_spacing]
    if suppress_transpose:
        overrides["configurations.*.transpose_forward"] = [0, 1, 2]
    pack, preset = PRESETS[planner]
    return make_plan(
        fingerprint_from_nnunet(fingerprint, dataset_json),
        pack,
        preset=preset,
        gpu_memory_gb=gpu_memory_gb,
        overrides=overrides,
        check=check,
    )


def differences(plan: Plan, result: Mapping[str, Any]) -> list[str]:
    """Fields of our plan that differ from a plan of nnU-Net v2 (of 2.5 or later, or from the oracle).

    Everything must be equal; spacings may differ by 1e-9 mm.
    """
    found: list[str] = []

    def compare(where: str, got: Any, wanted: Any) -> None:
        if got != wanted:
            found.append(f"{where}: got {got}, expected {wanted}")

    compare("configurations", sorted(plan.configurations), sorted(result["configurations"]))
    for name in set(plan.configurations) & set(result["configurations"]):
        ours, theirs = plan.configurations[name], result["configurations"][name]
        for field in ("inherits_from", "next_stage", "previous_stage"):
            compare(f"{name}.{field}", ours.get(field), theirs.get(field))
        for field in ("transpose_forward", "transpose_backward"):
            compare(f"{name}.{field}", ours[field], result[field])
        if "inherits_from" in theirs:
            theirs = {**result["configurations"][theirs["inherits_from"]], **theirs}
        for field, got, wanted in _fields(ours, theirs):
            compare(f"{name}.{field}", got, wanted)
        off = max(abs(a - b) for a, b in zip(ours["spacing"], theirs["spacing"], strict=True))
        if off > 1e-9:
            found.append(f"{name}.spacing: got {ours['spacing']}, expected {theirs['spacing']}")
        schemes = [SCHEMES[scheme] for scheme in theirs["normalization_schemes"]]
        channels = [channel["normalization"] for channel in plan.document["channels"]]
        compare(f"{name}.normalization", [channel["scheme"] for channel in channels], schemes)
        compare(f"{name}.mask", [channel["use_mask"] for channel in channels], theirs["use_mask_for_norm"])
    return found


def _fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    network = theirs.get("architecture", {}).get("arch_kwargs", theirs)
    mine = ours["architecture"]
    is_residual = "n_blocks_per_stage" in network
    fields = [
        ("patch_size", ours["patch_size"], theirs["patch_size"]),
        ("batch_size", ours["batch_size"], theirs["batch_size"]),
        ("median_shape", ours["median_shape"], theirs["median_image_size_in_voxels"]),
        ("batch_dice", ours["loss"]["batch_dice"], theirs["batch_dice"]),
        ("template", mine["template"], "residual_encoder_unet" if is_residual else "plain_unet"),
        ("num_stages", mine["num_stages"], network["n_stages"]),
        ("features", mine["features_per_stage"], network["features_per_stage"]),
        ("strides", mine["strides"], network["strides"]),
        ("kernels", mine["kernel_sizes"], network["kernel_sizes"]),
        ("encoder", mine["blocks_per_stage_encoder"],
         network["n_blocks_per_stage" if is_residual else "n_conv_per_stage"]),
        ("decoder", mine["blocks_per_stage_decoder"], network["n_conv_per_stage_decoder"]),
    ]  # fmt: skip
    if "feature_map_estimate" in theirs:
        fields.append(("memory", ours["memory"]["feature_map_voxels"], theirs["feature_map_estimate"]))
    for kind, recorded in (("data", "data"), ("segmentation", "seg"), ("probabilities", "probabilities")):
        resampling = ours["resampling"][kind]
        separate = resampling["separate_axis"]
        wanted = theirs.get(f"resampling_fn_{recorded}_kwargs") or theirs[f"resampling_{recorded}"][1]
        fields += [
            (f"resampling.{kind}.order", resampling["order"], wanted["order"]),
            (f"resampling.{kind}.order_z", separate["order"], wanted["order_z"]),
            (f"resampling.{kind}.is_seg", kind == "segmentation", wanted["is_seg"]),
            (f"resampling.{kind}.by_each_image", separate is not None, wanted["force_separate_z"] is None),
        ]  # fmt: skip
    return fields


@pytest.fixture(scope="session")
def plan_request() -> Callable[..., Plan]:
    return plan_as


@pytest.fixture(scope="session")
def plan_differences() -> Callable[..., list[str]]:
    return differences


@pytest.fixture(scope="session")
def exported() -> Callable[..., dict[str, Any]]:
    """The document that `nnrules export nnunetv2` writes."""

    def export(plan: Plan, dataset_name: str) -> dict[str, Any]:
        return nnunet_plans(plan, dataset_name=dataset_name).document

    return export


@pytest.fixture(scope="session")
def real_plans() -> Path:
    return REAL_PLANS


@pytest.fixture(scope="session")
def peer() -> ModuleType:
    """The module that installs and asks the released nnU-Net v2; not imported, as tests are no package."""
    path = CHECKOUT / "tests" / "benchmarks" / "peer.py"
    spec = importlib.util.spec_from_file_location("nnrules_benchmark_peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def peer_python(peer: ModuleType) -> Path:
    """The interpreter of nnU-Net v2; skips aloud where it is not installed, but on CI installs it."""
    install = bool(os.environ.get("CI")) or os.environ.get("NNRULES_PEER") == "install"
    try:
        found: Path = peer.interpreter(install=install)
    except peer.PeerMissingError as exc:
        pytest.skip(str(exc))
    return found
