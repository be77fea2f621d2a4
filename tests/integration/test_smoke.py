"""Does an installed nnrules work at all? `.ci/run` runs this file against the wheel, outside the checkout.

So nothing here may come from the checkout: no fixtures of other files, no data beside this one.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import nnrules
import pytest
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.packs import available_packs, load_pack
from nnrules.resources import rules_directory, schemas_directory

PACKS = [f"{name}@{version}" for name, versions in available_packs().items() for version in versions]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-c", "from nnrules.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def fingerprint(tmp_path: Path) -> Path:
    """Forty cases like the hippocampus."""
    statistics = dict.fromkeys(("min", "percentile_00_5", "mean", "median"), 0.0)
    statistics |= {"std": 1.0, "max": 2.0, "percentile_99_5": 2.0}
    document = {
        "schema_version": "1.0",
        "created_by": "tests",
        "dataset": {
            "name": "smoke",
            "channel_names": ["MRI"],
            "labels": {"background": 0, "anterior": 1, "posterior": 2},
            "num_training": 260,
            "file_ending": ".nii.gz",
        },
        "extractors": {"geometry": 1},
        "cases": {
            "id": [f"case_{number:02d}" for number in range(40)],
            "shape": [[36, 50, 35]] * 40,
            "spacing": [[1.0, 1.0, 1.0]] * 40,
        },
        "crop": {"median_size_ratio": 1.0},
        "intensity": {"method": "published", "channels": [statistics]},
    }
    path = tmp_path / "fingerprint.json"
    path.write_text(json.dumps(document))
    return path


def test_rules_and_schemas_come_with_the_package():
    package = Path(nnrules.__file__).resolve().parent
    home = package if (package / "_data").is_dir() else package.parent
    assert rules_directory().is_relative_to(home)
    assert schemas_directory().is_relative_to(home)
    assert importlib.metadata.version("nnrules") == nnrules.__version__


@pytest.mark.parametrize("spec", PACKS)
def test_every_shipped_pack_compiles(spec: str):
    compile_pack(load_pack(spec))


def test_plan_explain_and_diff(fingerprint: Path, tmp_path: Path):
    planned = run("plan", fingerprint.name, "-o", "plan.json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["configurations"]["3d_fullres"]["patch_size"] == [40, 56, 40]

    explained = run("explain", "plan.json", "configurations.3d_fullres.patch_size", cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    assert "patch.yaml" in explained.stdout

    assert run("validate", "plan.json", cwd=tmp_path).returncode == 0
    assert run("diff", "plan.json", "plan.json", cwd=tmp_path).returncode == 0


def test_bad_input_is_a_message_and_exit_code_2(tmp_path: Path):
    (tmp_path / "broken.json").write_text("{")
    result = run("plan", "broken.json", cwd=tmp_path)
    assert result.returncode == 2
    assert "broken.json" in result.stderr
    assert "Traceback" not in result.stderr
