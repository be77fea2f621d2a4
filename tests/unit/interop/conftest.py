"""A small dataset as nnU-Net v2 describes it, and its plan."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from nnrules.engine.planning import make_plan
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet
from nnrules.plan import Plan

STATISTICS = {
    "max": 900.0, "mean": 60.0, "median": 55.0, "min": -400.0,
    "percentile_00_5": -90.0, "percentile_99_5": 310.0, "std": 40.0,
}  # fmt: skip


@pytest.fixture
def nnunet_fingerprint() -> dict[str, Any]:
    return {
        "spacings": [[0.8, 0.8, 5.0]] * 12,
        "shapes_after_crop": [[400, 380, 60]] * 12,
        "median_relative_size_after_cropping": 0.7,
        "foreground_intensity_properties_per_channel": {"0": dict(STATISTICS), "1": dict(STATISTICS)},
    }


@pytest.fixture
def dataset_json() -> dict[str, Any]:
    return {
        "name": "Twelve",
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": 12,
        "file_ending": ".nii.gz",
    }


@pytest.fixture
def make(nnunet_fingerprint: dict[str, Any], dataset_json: dict[str, Any]) -> Callable[..., Plan]:
    """The plan of the small dataset; ``change`` edits a copy of its document."""

    def plan(
        pack: Any = "nnunet@2.8.0",
        *,
        overrides: dict[str, Any] | None = None,
        change: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Plan:
        fingerprint = fingerprint_from_nnunet(nnunet_fingerprint, dataset_json)
        made = make_plan(fingerprint, pack, overrides=overrides, check=False, **options)
        document = copy.deepcopy(dict(made.document))
        if change is not None:
            change(document)
        return Plan(document)

    return plan
