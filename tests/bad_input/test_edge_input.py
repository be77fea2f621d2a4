"""Unusual but valid input must work: one case, one slice, 2D, regions, sizes beyond 64 bits, huge and tiny numbers."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from nnrules.cli import run
from nnrules.plan import Plan

# JSON place → value in fingerprint.json, and what the plan then holds; None: whatever it holds, it must be made.
FINGERPRINTS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "one case": (
        {"cases": {"id": ["a"], "shape": [[36, 50, 35]], "spacing": [[1, 1, 1]]}, "dataset.num_training": 1},
        {"target_spacing": [1.0, 1.0, 1.0]},
    ),
    "one slice": (
        {"cases": {"id": ["a", "b"], "shape": [[1, 256, 256]] * 2, "spacing": [[999.0, 1, 1]] * 2}},
        {"configurations.2d.patch_size": [256, 256]},
    ),
    "two labels": ({"dataset.labels": {"background": 0, "organ": 1}}, None),
    "regions and an ignore label": (
        {
            "dataset.labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
            "dataset.regions_class_order": [1, 2],
            "dataset.ignore_label": 3,
        },
        None,
    ),
    "a hundred channels": (
        {"dataset.channel_names": ["MRI"] * 100, "intensity.channels": [None] * 100},
        {"configurations.3d_fullres.architecture.num_input_channels": 100},
    ),
    "names in every script": (
        {
            "dataset.name": "Größe 大小 🫀 {name} [bold]x[/bold]",
            "dataset.channel_names": ["T1 gewichtet — µ"],
        },
        {"dataset.name": "Größe 大小 🫀 {name} [bold]x[/bold]"},
    ),
    "fractional shapes, as published medians": (
        {"cases": {"id": ["a"], "shape": [[36.5, 50.5, 35.5]], "spacing": [[1, 1, 1]]}},
        None,
    ),
    "images of a nanometre a voxel": (
        {"cases": {"id": ["a"], "shape": [[36, 50, 35]], "spacing": [[1e-12, 1e-12, 1e-12]]}},
        {"target_spacing": [1e-12, 1e-12, 1e-12]},
    ),
    "images of a light year a voxel": (
        {"cases": {"id": ["a"], "shape": [[36, 50, 35]], "spacing": [[1e19, 1e19, 1e19]]}},
        {"target_spacing": [1e19, 1e19, 1e19]},
    ),
    "slices so far apart that no 3D patch has a voxel left between them": (
        {"cases": {"id": ["a"], "shape": [[5, 5000, 5000]], "spacing": [[100, 0.001, 0.001]]}},
        {"configurations.2d.dim": 2},
    ),
    "strongly anisotropic": (
        {"cases": {"id": ["a"], "shape": [[5, 5000, 5000]], "spacing": [[5, 0.1, 0.1]]}},
        None,
    ),
    "more voxels than 64 bits count": (
        {"cases": {"id": ["a"], "shape": [[10_000_000, 10_000_000, 10_000_000]], "spacing": [[1, 1, 1]]}},
        None,
    ),
    "channel without statistics": ({"intensity.channels": [None]}, None),
    "no intensities": ({"intensity": "(absent)"}, None),
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprint_is_planned(name: str, spoil: Any, workspace: Path, capfd: pytest.CaptureFixture[str]):
    changes, expected = FINGERPRINTS[name]
    spoil({"edit": {"fingerprint.json": changes}})

    code = run(["plan", "fingerprint.json", "-o", "out.json"])

    out, err = capfd.readouterr()
    assert code == 0, err
    assert out
    plan = Plan.load(Path("out.json"))
    for path, value in (expected or {}).items():
        assert plan.get(path) == value
    for field in ("validate", "explain"):
        assert run([field, "out.json"]) == 0


# What a file says → the command that must succeed.
COMMANDS: dict[str, dict[str, Any]] = {
    "dataset with one case": {
        "edit": {"data/dataset.json": {
            "numTraining": 1,
            "dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}},
        }},
        "run": "plan data -o out.json",
    },
    "dataset.json with a byte order mark": {
        "files": {"data/dataset.json": "\ufeff" + json.dumps({
            "channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1, "lesion": 2}, "numTraining": 2,
            "file_ending": ".nii.gz"})},
        "run": "fingerprint data -o out.json",
    },
    "images of one voxel": {
        "image": {
            f"data/{folder}/{case}{ending}.nii.gz": {"shape": [1, 1, 1], "kind": "uint8", "fill": 1}
            for folder, ending in (("imagesTr", "_0000"), ("labelsTr", "")) for case in "ab"
        },
        "run": "fingerprint data -o out.json",
    },
    "label maps without foreground": {
        "image": {f"data/labelsTr/{case}.nii.gz": {"kind": "uint8"} for case in "ab"},
        "run": "fingerprint data -o out.json",
    },
    "images of zeros": {
        "image": {f"data/imagesTr/{case}_0000.nii.gz": {} for case in "ab"},
        "run": "fingerprint data -o out.json",
    },
    "single slices with a spacing of zero between slices": {
        "image": {
            f"data/{folder}/{case}{ending}.nii.gz": {"shape": [1, 8, 8], "kind": "uint8", "fill": 1}
            for folder, ending in (("imagesTr", "_0000"), ("labelsTr", "")) for case in "ab"
        },
        "bytes": {
            f"data/{folder}/{case}{ending}.nii.gz": {"at": {88: "00000000"}}
            for folder, ending in (("imagesTr", "_0000"), ("labelsTr", "")) for case in "ab"
        },
        "run": "fingerprint data -o out.json",
    },
    "features with words": {
        "files": {"f.csv": "case,age,scanner [1]\nb,4,\"A, B\"\na,3,C\n"},
        "run": "fingerprint data -o out.json --features f.csv",
    },
    "nnU-Net's NaN for a channel without foreground": {
        "edit": {"nnunet.json": {"foreground_intensity_properties_per_channel": {"0": {"mean": float("nan")}}}},
        "run": "plan --from-nnunet nnunet.json data/dataset.json -o out.json",
    },
    "a patch of more voxels than 64 bits count": {
        "files": {"my.yaml": (
            "title: Deep\nextends: nnunet@2.8.0\nparams:\n  max_stages: {value: 64, unit: stages, doc: any depth}\n"
        )},
        "run": "plan fingerprint.json --rules my.yaml -o out.json "
               "--set configurations.3d_fullres.patch_size=[134217728,134217728,134217728]",
    },
    "by wildcard and by name": {
        "run": "plan fingerprint.json -o out.json "
               "--set configurations.2d.batch_size=5 --set configurations.*.batch_size=4",
    },
    "output over the input": {"run": "plan fingerprint.json -o fingerprint.json"},
    "overlay in Windows' line endings": {
        "files": {"my.yaml": "title: CRLF\r\nextends: nnunet@2.8.0\r\ngpu_memory_gb: 11\r\n"},
        "run": "plan fingerprint.json -o out.json --rules my.yaml",
    },
    "explain a plan whose pack has changed since": {
        "edit": {"plan.json": {"provenance.pack.hash": "sha256:" + "0" * 64}},
        "run": "explain plan.json configurations.3d_fullres.patch_size",
    },
    "explain a plan whose pack is not installed": {
        "edit": {"plan.json": {"provenance.pack.version": "9.9.9"}},
        "run": "explain plan.json configurations.3d_fullres.patch_size",
    },
    "explain all fields below a path": {"run": "explain plan.json configurations.3d_fullres"},
    "overlay of strict YAML 1.2": {
        "files": {"my.yaml": (
            "title: on\nextends: nnunet@2.8.0\nparams:\n"
            "  spacing_margin: {value: 1e-5, unit: mm, doc: 'off'}\n  min_edge: {value: 010, unit: voxels, doc: ten}\n"
        )},
        "run": "plan fingerprint.json -o out.json --rules my.yaml",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_command_succeeds(name: str, spoil: Any, workspace: Path, capfd: pytest.CaptureFixture[str]):
    spoil(COMMANDS[name])

    code = run(shlex.split(COMMANDS[name]["run"]))

    _, err = capfd.readouterr()
    assert code == 0, err
    assert not list(workspace.rglob("*.tmp"))


def test_by_name_wins_over_a_wildcard(spoil: Any, workspace: Path):
    run(shlex.split(COMMANDS["by wildcard and by name"]["run"]))
    plan = Plan.load(workspace / "out.json")
    sizes = {name: configuration["batch_size"] for name, configuration in plan.configurations.items()}
    assert sizes == {"2d": 5, "3d_fullres": 4}


def test_estimates_beyond_64_bits_are_exact(spoil: Any, workspace: Path):
    spoil(COMMANDS["a patch of more voxels than 64 bits count"])
    run(shlex.split(COMMANDS["a patch of more voxels than 64 bits count"]["run"]))
    plan = Plan.load(workspace / "out.json")
    voxels = plan.get("configurations.3d_fullres.memory.feature_map_voxels")
    # 32 feature maps of 2**81 voxels twice in the encoder, at least.
    assert voxels > 2 * 32 * 2**81


def test_a_plan_is_replaced_only_by_a_whole_one(spoil: Any, workspace: Path):
    """The output of a run that fails is what it was before."""
    (workspace / "out.json").write_text("precious")
    assert run(["plan", "fingerprint.json", "-o", "out.json", "--gpu-memory-gb", "-1"]) == 2
    assert (workspace / "out.json").read_text() == "precious"
