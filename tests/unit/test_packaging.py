"""What the repository promises about itself: versions, licence, cheap imports, no traces of a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nnrules
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_one_version_everywhere():
    runtime = (ROOT / "runtime/nnrules_runtime/__init__.py").read_text(encoding="utf-8")
    assert nnrules.__version__ == PROJECT["version"]
    assert f'__version__ = "{PROJECT["version"]}"' in runtime


def test_the_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (first, *_) = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert first == PROJECT["version"]


def test_constraints_lie_within_the_ranges_of_pyproject():
    extras = PROJECT["optional-dependencies"].values()
    ranges = [
        Requirement(text)
        for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", (
            f"{pin}: a constraint is one version; ranges belong to pyproject.toml"
        )
        declared = [entry for entry in ranges if entry.name.lower() == pin.name.lower()]
        assert declared, f"{pin}: pins what pyproject.toml does not ask for"
        assert all(entry.specifier.contains(specifier.version) for entry in declared)


def test_the_core_does_without_torch():
    assert not [text for text in PROJECT["dependencies"] if Requirement(text).name == "torch"]


def test_the_licence_is_apache():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert text.lstrip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text


HEAVY = ("torch", "nnrules_runtime", "SimpleITK", "jsonschema", "typer", "jinja2", "rich")


@pytest.mark.parametrize(
    "module", ["nnrules", "nnrules.plan", "nnrules.engine.planning", "nnrules.fingerprint"]
)
def test_import_stays_light(module: str):
    loaded = run_python(f"import {module}, sys; print(*(n for n in {HEAVY} if n in sys.modules))")
    assert loaded.split() == []


def committed_files() -> list[Path]:
    """Every file that is or would be committed."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: cannot tell which files are committed")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# Written with brackets, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.$}>*-])/(?:[w]ork|[r]oot|[f]arm|[t]mp|[h]ome/\w+)/|\.[l]ibrary/")


def test_the_pattern_finds_machine_paths():
    found = ["/" + "work/x", '"/' + 'tmp/y"', "(/" + "root/z", "." + "library/a"]
    assert all(MACHINE_PATH.search(text) for text in found)
    assert not any(
        MACHINE_PATH.search(text) for text in ["frame/" + "work/x", "$SCRATCH/" + "tmp/y", "tmp_path"]
    )


def test_no_file_names_a_path_of_one_machine():
    found = []
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = text.splitlines()
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, start=1)
            if MACHINE_PATH.search(line)
        ]
    assert not found


def test_no_large_file_is_committed():
    limit_bytes = 2 * 2**20
    large = [path.relative_to(ROOT) for path in committed_files() if path.stat().st_size > limit_bytes]
    assert not large


@pytest.mark.parametrize("script", [".ci/run"])
def test_scripts_can_be_run(script: str):
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(path)], check=True)
