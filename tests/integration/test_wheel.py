"""What is in the wheel, built as a release would be, but without the network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def files_below(folder: str) -> set[str]:
    """Paths below a folder of the checkout, relative to the checkout."""
    found = (
        path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_rule_and_schema_is_in_it(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    for folder in ("rules", "schemas"):
        expected = files_below(folder)
        assert expected
        assert {f"nnrules/_data/{name}" for name in expected} <= names


def test_every_module_is_in_it(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    assert files_below("nnrules") <= names
    assert "nnrules/py.typed" in names
    assert "nnrules_runtime/__init__.py" in names


def test_nothing_else_is_in_it(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nnrules", "nnrules_runtime"}


def test_licence_and_entry_point(wheel: zipfile.ZipFile):
    (licence,) = (name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
    assert b"Apache License" in wheel.read(licence)
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "nnrules = nnrules.cli:main" in wheel.read(entry_points).decode()
