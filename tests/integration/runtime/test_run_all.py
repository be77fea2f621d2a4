"""``nnrules run all``: from images to a bundle, what is done is skipped, what is interrupted goes on."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.cli import run

from nnrules_runtime.train.metrics import METRICS_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SHORT = (
    "--set training.epochs=2 --set training.num_iterations_per_epoch=2 "
    "--set training.num_validation_iterations_per_epoch=1 --seed 5 --threads 1 --workers 0 --precision float32"
)
# What holds times, or is scratch.
_UNSTABLE = {METRICS_FILE, "training.json", "progress.png", "run.lock", "training.lock", ".lock"}


def arguments(folder: Path, work: Path, extra: str = "") -> list[str]:
    text = f"run all {folder}/plan.json {folder}/data --work {work} {SHORT} {extra}"
    return text.split()


def digests(work: Path) -> dict[str, str]:
    """Content of every file but records, logs and times."""
    found = {}
    for path in sorted(work.rglob("*")):
        relative = path.relative_to(work)
        if path.is_file() and path.name not in _UNSTABLE and relative.parts[0] not in ("steps", "logs"):
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def steps(work: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (work / "steps").glob("*.json")}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, write_boxes: Callable[..., Path], shrink: Callable[..., None]
) -> Path:
    """Six images of two boxes, and a plan of them with a cascade, two folds and tiny networks."""
    made: Path = tmp_path_factory.mktemp("whole_method")
    data = write_boxes(
        made / "data", num_cases=6, shape=(56, 60, 58), box=(14, 16, 18), starts=(4, 26), seed=3
    )
    # So little memory that a patch covers a tenth of an image, which asks for a cascade.
    text = f"plan {data} --gpu-memory-gb 0.03 --set folds.num_folds=2 -o {made}/plan.json"
    assert run(text.split()) == 0
    plan = json.loads((made / "plan.json").read_text())
    assert set(plan["configurations"]) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
    for configuration in plan["configurations"].values():
        shrink(configuration, features=(4, 6, 8), patch=None)
    (made / "plan.json").write_text(json.dumps(plan))
    return made


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an undisturbed run."""
    work: Path = tmp_path_factory.mktemp("whole") / "work"
    assert run(arguments(folder, work, f"--bundle {work}/model.nnrules --licence MIT")) == 0
    return work


def test_every_step_left_its_result(whole: Path) -> None:
    done = set(steps(whole))
    assert {"preprocess", "find-best", "postprocess", "bundle"} <= done
    assert sum(name.startswith("train-3d_cascade") for name in done) == 2
    assert (whole / "empirical.json").is_file()
    assert (whole / "model.nnrules").is_file()


def test_a_second_run_repeats_nothing(folder: Path, whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert run(arguments(folder, whole, f"--bundle {whole}/model.nnrules --licence MIT")) == 0
    assert "done in" not in capfd.readouterr().out
    changed = {path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert changed <= {"run.lock"}


def test_status(folder: Path, whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = f"run status {folder}/plan.json {folder}/data --work {whole} --seed 5 --json " + " ".join(
        part for part in SHORT.split(" --seed", maxsplit=1)[:1]
    )
    assert run(text.split()) == 0
    assert {entry["status"] for entry in json.loads(capfd.readouterr().out)} == {"done"}


def test_dry_run_estimates_every_step_and_changes_nothing(
    folder: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert (
        run(arguments(folder, whole, f"--bundle {whole}/model.nnrules --licence MIT --dry-run --json")) == 0
    )
    costs = json.loads(capfd.readouterr().out)
    assert {cost["step"] for cost in costs} == set(steps(whole))
    assert all(cost["seconds"] > 0 for cost in costs)
    assert all(cost["status"] == "done" and cost["measured_seconds"] > 0 for cost in costs)
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert {path.name for path, ns in after.items() if before.get(path) != ns} <= {whole.name}
    assert after.keys() == before.keys()


def test_the_bundle_predicts_elsewhere(folder: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / "model.nnrules", tmp_path / "model.nnrules")
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((folder / "data" / "imagesTr").glob("*"))[:2]:
        shutil.copy(path, images)
    command = [sys.executable, "-m", "nnrules", "run", "predict", "model.nnrules", "images", "out"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def start(folder: Path, work: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nnrules", *arguments(folder, work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_killed_at_random_moments(folder: Path, whole: Path, tmp_path: Path) -> None:
    """20 kills of the whole group of processes; the end is that of an undisturbed run, and no step is done twice."""
    work = tmp_path / "work"
    moments = random.Random(11)
    kills, finished, seen = 0, False, {}
    while not finished:
        process = start(folder, work)
        if kills < 20:
            try:
                process.wait(moments.uniform(2.5, 9.0))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
        output, _ = process.communicate()
        finished = process.returncode == 0
        assert process.returncode in (0, -signal.SIGKILL), output
        for name, record in steps(work).items():
            # A record is written once: a finished step is never done again.
            assert seen.setdefault(name, record) == record
    expected = digests(whole)
    expected.pop("model.nnrules")
    assert digests(work) == expected


def test_a_second_process_is_kept_out(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    process = start(folder, work)
    try:
        deadline = time.monotonic() + 60
        while not (work / "run.lock").is_file() or not (work / "run.lock").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        command = [sys.executable, "-m", "nnrules", *arguments(folder, work)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert second.returncode == 2
    assert "another `nnrules run all` works on this folder" in second.stderr
    assert f"process {process.pid} on" in second.stderr


def test_a_step_that_fails_is_named_and_others_go_on(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    blocked = work / "models" / "2d" / "fold_0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder belongs")
    assert run(arguments(folder, work, "--configurations 2d,3d_fullres --folds 0")) == 2
    captured = capfd.readouterr()
    assert "train 2d fold 0" in captured.err
    assert "train 3d_fullres fold 0: done in" in captured.out
    assert "find-best: not begun" in captured.out


def test_changed_plans_never_cost_a_training_unasked(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    only = "--configurations 2d --folds 0"
    assert run(arguments(folder, work, only)) == 0
    capfd.readouterr()
    other = "--set training.optimizer.momentum=0.9"
    assert run(arguments(folder, work, f"{only} {other}")) == 2
    captured = capfd.readouterr()
    assert "this training is finished, and would have to be done again" in captured.err
    assert run(arguments(folder, work, f"{only} {other} --redo")) == 0
    assert "train 2d fold 0 (again: changed: plan: what training reads)" in capfd.readouterr().out
