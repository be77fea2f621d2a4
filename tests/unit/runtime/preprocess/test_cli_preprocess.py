"""``nnrules run preprocess``."""

import json
from pathlib import Path

import pytest
import typer
from nnrules.errors import UsageError
from typer.testing import CliRunner

from nnrules_runtime.cli.preprocess import preprocess


@pytest.fixture
def files(tmp_path, dataset, plan_for) -> list[str]:
    plan_for(dataset).save(tmp_path / "plan.json")
    return [
        str(tmp_path / "plan.json"),
        str(dataset.path.parent),
        "--work",
        str(tmp_path / "work"),
        "--workers",
        "0",
    ]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(preprocess)
    return app


def test_table_of_what_was_done(app, files, tmp_path):
    result = CliRunner().invoke(app, files, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["configurations", "done", "unchanged", "MB", "folder"]
    assert [line.split()[:3] for line in lines[1:3]] == [["2d", "4", "0"], ["3d_fullres", "4", "0"]]
    assert (tmp_path / "work" / "preprocessed" / "2d" / "c3" / "case.json").is_file()


def test_json_and_one_configuration(app, files):
    for done in (4, 0):
        result = CliRunner().invoke(app, [*files, "-c", "2d", "--json"], catch_exceptions=False)
        (entry,) = json.loads(result.stdout)
        assert entry["configurations"] == ["2d"]
        assert (entry["done"], entry["unchanged"]) == (done, 4 - done)
        assert Path(entry["folder"]).name == "2d"


def test_unknown_configuration(app, files):
    with pytest.raises(UsageError, match="no such configuration; got 3d; expected 2d, 3d_fullres"):
        CliRunner().invoke(app, [*files, "-c", "3d"], catch_exceptions=False)
