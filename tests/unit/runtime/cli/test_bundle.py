"""``nnrules run bundle``, ``nnrules run show`` and ``nnrules run import``: options, exit codes, messages."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.cli import run
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.workspace import Workspace

NAME = "3d_fullres"


@pytest.fixture(scope="module")
def plan(make_fingerprint: Callable[..., Fingerprint], narrow: Callable[[Plan], Plan]) -> Plan:
    fingerprint = make_fingerprint([(20, 24, 22)] * 6, [(1.0, 1.0, 1.0)] * 6)
    return narrow(make_plan(fingerprint, "nnunet@2.8.0"))


@pytest.fixture
def work(tmp_path: Path, plan: Plan, make_work: Callable[..., Workspace]) -> Path:
    return make_work(tmp_path / "work", plan, {"2d": [0, 1], NAME: [0, 1]}).root


def test_a_bundle_is_made_and_shown(
    work: Path, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.nnrules"
    made = ["run", "bundle", str(work), str(out), "-c", NAME, "--folds", "1", "--name", "Made"]
    assert run([*made, "--license", "CC-BY-4.0"]) == 0
    text = capsys.readouterr().out
    assert f"written: {out}" in text
    assert "3d_fullres: fold 1 (final)" in text
    assert run(["run", "show", str(out)]) == 0
    text = capsys.readouterr().out
    assert "# Made" in text
    assert "licence: CC-BY-4.0" in text
    assert "all as they were put in" in text
    assert run(["run", "show", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verified"]
    assert document["empirical"] is None
    assert document["manifest"]["members"] == [NAME]
    assert document["manifest"]["plan_hash"] == plan.hash
    assert document["bytes"] == out.stat().st_size


def test_damage_is_shown(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.nnrules"
    assert run(["run", "bundle", str(work), str(out), "-c", NAME, "--licence", "MIT", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    weights = max(document["manifest"]["content"].items(), key=lambda item: item[1]["size"])[0]
    content = bytearray(out.read_bytes())
    content[content.index(b"heads.0.weight")] ^= 1
    out.write_bytes(content)
    assert run(["run", "show", str(out)]) == 2
    said = capsys.readouterr().err
    assert "this is not what was put into the bundle" in said
    assert str(out / Path(weights).parent.parent) in said
    assert run(["run", "show", str(out), "--no-verify"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "several configurations have been trained"),
        (["-c", "4d"], "4d"),
        (["-c", NAME, "--folds", "first"], "--folds: these are no folds"),
        (["-c", NAME, "--folds", "4"], "fold_4"),
        (["-c", NAME, "--checkpoint", "last"], "--checkpoint: there is no such checkpoint"),
        (["-c", NAME, "--checkpoint", "best"], "no such checkpoint"),
        (["-c", NAME, "--licence", "none.txt"], "neither a file nor an SPDX"),
        (["-c", NAME, "--card", "none.md"], "--card none.md"),
        (["-c", NAME, "--plan", "none.json"], "none.json: no such file"),
    ],
)
def test_wrong_options_are_refused(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    out = tmp_path / "b.nnrules"
    assert run(["run", "bundle", str(work), str(out), *more]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_import_needs_a_plan(tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert run(["run", "import", str(folder), str(tmp_path / "work")]) == 2
    said = capsys.readouterr().err
    assert f"nnrules plan --from-nnunet {folder / 'dataset_fingerprint.json'}" in said
    plan.save(tmp_path / "plan.json")
    with_plan = ["--plan", str(tmp_path / "plan.json")]
    assert run(["run", "import", str(folder), str(tmp_path / "work"), *with_plan]) == 2
    assert "plans.json: no such file" in capsys.readouterr().err
    other = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_lowres"
    assert run(["run", "import", str(other), str(tmp_path / "work"), *with_plan]) == 2
    assert "3d_lowres; expected one of 2d, 3d_fullres" in capsys.readouterr().err
    assert (
        run(["run", "import", str(folder), str(other), str(tmp_path / "work"), *with_plan, "-c", NAME]) == 2
    )
    assert "one name for several model folders" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
