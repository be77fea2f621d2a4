"""The documentation says what is: its rules compile, its tables are current, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nnrules
import pytest
import yaml
from nnrules.authoring.rule_tests import run_rule_tests
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.packs import load_pack
from nnrules.fingerprint import Fingerprint
from nnrules.functions import BUILTINS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "tests").glob("*.md")])
RULES_PAGE = (DOCS / "rule-language.md").read_text(encoding="utf-8")
YAML_BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", RULES_PAGE, re.DOTALL | re.MULTILINE)
HEADER = "title: an example of the documentation\nextends: nnunet@2.8.0\n"


def block(start: str) -> str:
    (found,) = (text for text in YAML_BLOCKS if text.startswith(start))
    return found


def fingerprint(spacing: list[float], shape: list[int], motion_mm: float = 0.0) -> Fingerprint:
    """Twenty equal CT cases."""
    statistics = dict.fromkeys(("min", "percentile_00_5", "mean", "median"), 0.0)
    statistics |= {"std": 1.0, "max": 2.0, "percentile_99_5": 2.0}
    document = {
        "schema_version": "1.0",
        "created_by": "tests",
        "dataset": {
            "name": "docs",
            "channel_names": ["CT"],
            "labels": {"background": 0, "organ": 1},
            "num_training": 20,
            "file_ending": ".nii.gz",
        },
        "extractors": {"geometry": 1},
        "cases": {
            "id": [f"case_{number:02d}" for number in range(20)],
            "shape": [shape] * 20,
            "spacing": [spacing] * 20,
        },
        "crop": {"median_size_ratio": 1.0},
        "intensity": {"method": "published", "channels": [statistics]},
        "extra": {"columns": {"motion": {"type": "number", "unit": "mm", "values": [motion_mm] * 20}}},
    }
    return Fingerprint.from_document(document, where="docs")


def decided(overlay: Path, path: str, given: Fingerprint) -> object:
    """The value that an overlay decides for one path of the plan."""
    result = evaluate(compile_pack(load_pack(overlay)), given, 8.0)
    values = {
        p: v for decision in result.decisions for p, v in zip(decision.paths, decision.values, strict=True)
    }
    return values[path]


def test_every_yaml_block_of_the_page_is_covered_below():
    starts = ("# our_rules.yaml", "params:", "facts:", "extra:", "functions:", "    given:", "tests:")
    assert len(YAML_BLOCKS) == len(starts)
    assert all(block(start) for start in starts)


@pytest.mark.parametrize(("in_plane_mm", "expected_mm"), [(0.4, 0.5), (0.7, 0.7)])
def test_the_overlay_does_what_the_page_says(tmp_path: Path, in_plane_mm: float, expected_mm: float):
    overlay = tmp_path / "our_rules.yaml"
    overlay.write_text(block("# our_rules.yaml"))
    given = fingerprint([5.0, in_plane_mm, in_plane_mm], [100, 512, 512])
    assert decided(overlay, "target_spacing", given) == [5.0, expected_mm, expected_mm]


@pytest.mark.parametrize("start", ["params:", "facts:"])
def test_params_and_facts_compile(tmp_path: Path, start: str):
    overlay = tmp_path / "example.yaml"
    overlay.write_text(HEADER + block(start))
    compile_pack(load_pack(overlay))


@pytest.mark.parametrize(("motion_mm", "epochs"), [(0.2, 1000), (1.7, 1500)])
def test_the_rule_reads_the_extra_column(tmp_path: Path, motion_mm: float, epochs: float):
    overlay = tmp_path / "example.yaml"
    overlay.write_text(HEADER + block("extra:"))
    given = fingerprint([1.0, 1.0, 1.0], [64, 64, 64], motion_mm)
    assert decided(overlay, "training.epochs", given) == epochs


def test_the_function_computes_what_its_doc_says(tmp_path: Path):
    rule = """
rules:
  - id: docs.halvings
    title: Call the function
    kind: inferred
    decides: docs.halvings
    value: halvings(median_shape_in_file, 4).times
    because: it is an example
"""
    overlay = tmp_path / "example.yaml"
    overlay.write_text(HEADER + block("functions:") + rule)
    assert decided(overlay, "docs.halvings", fingerprint([1.0, 1.0, 1.0], [7, 40, 64])) == [0, 3, 4]


def test_the_given_branch_is_that_of_the_pack():
    shown = yaml.safe_load(block("    given:"))["given"]["patch_size"]
    released = yaml.safe_load((ROOT / "rules/nnunet/2.8.0/patch.yaml").read_text(encoding="utf-8"))
    (rule,) = (rule for rule in released["rules"] if "architecture.strides" in rule["decides"])
    branch = rule["given"]["patch_size"]
    assert shown["let"] == branch["let"]
    assert shown["value"] == branch["value"]
    assert shown["require"][0]["that"] in [item["that"] for item in branch["require"]]


def test_the_rule_tests_of_the_page_pass(tmp_path: Path):
    overlay = tmp_path / "example.yaml"
    overlay.write_text(HEADER)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "example.yaml").write_text(block("tests:"))
    report = run_rule_tests(overlay)
    assert [(result.status, result.problems) for result in report.results] == [("passed", ())] * 3


def test_generated_tables_are_current():
    result = subprocess.run(
        [sys.executable, str(DOCS / "tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr


HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "hippocampus"


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the shared data are not beside the checkout")
def test_transcripts_are_current():
    result = subprocess.run(
        [sys.executable, str(DOCS / "transcripts.py"), str(HIPPOCAMPUS), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_every_builtin_is_documented():
    for entry in BUILTINS.values():
        assert f"| `{entry.signature}` |" in RULES_PAGE
    assert "`has(name)`" in RULES_PAGE
    assert "`updated(record, field=value, ...)`" in RULES_PAGE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)", text)
    broken = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page: Path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= known


def test_the_public_names_are_sorted_and_documented():
    planning, _ = (DOCS / "api.md").read_text(encoding="utf-8").split("## Executing plans")
    rows = [line.split("`")[1].partition("(")[0] for line in planning.splitlines() if line.startswith("| `")]
    assert list(nnrules.__all__) == sorted(nnrules.__all__)
    assert sorted(rows) == sorted(nnrules.__all__)
