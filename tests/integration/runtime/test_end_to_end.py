"""The commands of the runtime one after the other, as a user runs them: preprocess, train, predict, evaluate.

Networks are tiny and trainings last a few steps: what is tested is that the parts fit together.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.cli import run
from nnrules.demo.phantom import write_phantom
from nnrules.image_io import read_image, read_label
from nnrules.plan import Plan

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("torch_as_before")]

SHORT = (
    "--set training.epochs=1 --set training.num_iterations_per_epoch=2 "
    "--set training.num_validation_iterations_per_epoch=1 "
    "--device cpu --precision float32 --no-compile --threads 1 --workers 0"
)
TWO_LABELS = {"background": 0, "a": 1, "b": 2}
Make = Callable[..., Path]
Write = Callable[..., None]
ORIGIN = (5.0, -3.0, 2.0)


def call(text: str, *, code: int = 0) -> None:
    assert run(text.split()) == code


@pytest.fixture
def make(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_boxes: Callable[..., Path],
    write_volume: Write,
    shrink: Callable[..., None],
) -> Make:
    """A folder with ``data`` and ``plan.json``, and the current folder."""

    def make_them(
        *,
        labels: Mapping[str, Any] = TWO_LABELS,
        more: Mapping[str, Any] | None = None,
        num_cases: int = 5,
        rules: str = "nnunet@2.8.0",
        has_ignored: bool = False,
    ) -> Path:
        folder = tmp_path / "run"
        write_boxes(
            folder / "data", num_cases=num_cases, origin_xyz=ORIGIN, labels=dict(labels), **(more or {})
        )
        if has_ignored:
            for path in (folder / "data" / "labelsTr").iterdir():
                label, _ = read_label(path)
                label[:, :, -3:] = 3
                write_volume(path, label, origin_xyz=ORIGIN)
        monkeypatch.chdir(folder)
        call(f"plan data -o plan.json --rules {rules}")
        plan = json.loads(Path("plan.json").read_text())
        for configuration in plan["configurations"].values():
            shrink(configuration)
        Plan.from_document(plan)
        Path("plan.json").write_text(json.dumps(plan))
        return folder

    return make_them


def whole_run(configuration: str, *, options: str = "") -> dict[str, Any]:
    """Preprocess, train, predict, evaluate; the summary."""
    call(f"run preprocess plan.json data -c {configuration}")
    call(f"run train plan.json data -c {configuration} {SHORT} {options}")
    call(f"run predict work data/imagesTr out -c {configuration} --threads 1")
    call("run evaluate plan.json out data/labelsTr --csv out/table.csv")
    summary: dict[str, Any] = json.loads(Path("out/summary.json").read_text())
    assert not [path for path in Path().rglob("*") if path.suffix in (".tmp", ".old")]
    return summary


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_phantom(configuration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anisotropic images of two channels, in both dimensions; outputs lie where the images lie."""
    monkeypatch.chdir(tmp_path)
    write_phantom(Path("data"), "brain_mr")
    call("plan data -o plan.json")
    plan = json.loads(Path("plan.json").read_text())
    architecture = plan["configurations"][configuration]["architecture"]
    architecture["features_per_stage"] = [4] * architecture["num_stages"]
    Path("plan.json").write_text(json.dumps(plan))
    call(f"run preprocess plan.json data -c {configuration}")
    call(f"run train plan.json data -c {configuration} {SHORT} --no-validation")
    first = sorted(Path("data/imagesTr").glob("*_0000.*"))[0]
    case = first.name.partition("_0000")[0]
    channels = sorted(Path("data/imagesTr").glob(f"{case}_????.*"))
    call(f"run predict work {' '.join(map(str, channels))} out --no-mirroring --threads 1")
    call("run evaluate plan.json out data/labelsTr --partial")
    _, of_image = read_image([first])
    (output,) = (path for path in Path("out").iterdir() if path.suffix == ".gz")
    labels, of_output = read_label(output)
    assert (of_output.shape, of_output.spacing) == (of_image.shape, of_image.spacing)
    assert of_output.origin_xyz == pytest.approx(of_image.origin_xyz)
    assert set(np.unique(labels)) <= set(range(len(plan["dataset"]["labels"])))


def test_regions(make: Make) -> None:
    make(
        labels={"background": 0, "whole": [1, 2], "core": [2]},
        more={"regions_class_order": [1, 2]},
    )
    summary = whole_run("3d_fullres")
    assert len(summary["mean"]) == 2
    assert {value for path in Path("out").glob("*.nii.gz") for value in np.unique(read_label(path)[0])} <= {
        0,
        1,
        2,
    }


def test_ignore_label(make: Make) -> None:
    make(labels={**TWO_LABELS, "ignore": 3}, has_ignored=True)
    summary = whole_run("3d_fullres")
    assert len(summary["mean"]) == 2
    assert all(np.all(read_label(path)[0] < 3) for path in Path("out").glob("*.nii.gz"))


@pytest.mark.parametrize("rules", ["nnunet-resenc@2.8.0", "nnunet@1.7.0", "nnunet@1.0.0", "preprint@2.0.0"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_rule_packs(make: Make, rules: str, configuration: str) -> None:
    make(rules=rules)
    assert len(whole_run(configuration, options="--no-validation")["cases"]) == 5


def test_all_folds_together(make: Make) -> None:
    """``--fold all`` trains on every case and predicts where there is no numbered fold."""
    make()
    whole_run("3d_fullres", options="--fold all")
    folder = Path("work/models/3d_fullres")
    assert json.loads((folder / "fold_all/model.json").read_text())["fold"] == "all"
    assert not (folder / "fold_0").exists()


def test_folds_are_averaged(make: Make) -> None:
    make()
    for fold in (0, 1):
        call(f"run train plan.json data -c 3d_fullres --fold {fold} {SHORT} --no-validation")
    for name, folds in (("both", ""), ("named", "--folds 0,1"), ("one", "--folds 1")):
        call(f"run predict work data/imagesTr {name} --precision float32 --threads 1 {folds}")
    both, named, one = (
        [read_label(path)[0] for path in sorted(Path(name).glob("*.nii.gz"))]
        for name in ("both", "named", "one")
    )
    assert len(both) == 5
    assert all(np.array_equal(a, b) for a, b in zip(both, named, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(both, one, strict=True))


def test_fine_tuning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A training that begins with the weights of another one."""
    make()
    call(f"run train plan.json data -c 3d_fullres --work first {SHORT} --no-validation")
    (weights,) = Path("first/models/3d_fullres/fold_0").glob("final.*.safetensors")
    call(f"run train plan.json data -c 3d_fullres --work second --weights {weights} {SHORT} --no-validation")
    assert f"began with the weights of {weights}" in caplog.text
    assert list(Path("second/models/3d_fullres/fold_0").glob("final.*.safetensors"))


def test_parts_make_up_the_whole(make: Make) -> None:
    """The cases of ``--part 1/3`` to ``3/3`` are those of one run, and so are their labels."""
    make()
    call(f"run train plan.json data -c 3d_fullres {SHORT} --no-validation")
    call("run predict work data/imagesTr whole --precision float32 --threads 1")
    found: dict[str, bytes] = {}
    for number in (1, 2, 3):
        call(f"run predict work data/imagesTr part{number} --part {number}/3 --precision float32 --threads 1")
        part = {path.name: read_label(path)[0].tobytes() for path in Path(f"part{number}").glob("*.nii.gz")}
        assert not part.keys() & found.keys()
        found |= part
    whole = {path.name: read_label(path)[0].tobytes() for path in Path("whole").glob("*.nii.gz")}
    assert found == whole


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 2), (1, 30, 30), (5, 5, 5)])
def test_images_smaller_than_a_patch(make: Make, write_volume: Write, shape: tuple[int, int, int]) -> None:
    make()
    call(f"run train plan.json data -c 3d_fullres {SHORT} --no-validation")
    Path("small").mkdir()
    write_volume(Path("small/s.nii.gz"), np.random.default_rng(0).normal(0, 1, shape).astype(np.float32))
    call("run predict work small out --threads 1")
    assert read_label(Path("out/s.nii.gz"))[0].shape == shape


def test_training_on_images_smaller_than_a_patch(make: Make, write_volume: Write) -> None:
    make()
    random = np.random.default_rng(0)
    write_volume(Path("data/imagesTr/c1_0000.nii.gz"), random.normal(0, 1, (3, 2, 30)).astype(np.float32))
    write_volume(Path("data/labelsTr/c1.nii.gz"), random.integers(0, 3, (3, 2, 30)).astype(np.uint8))
    write_volume(Path("data/imagesTr/c2_0000.nii.gz"), np.ones((1, 1, 1), np.float32))
    write_volume(Path("data/labelsTr/c2.nii.gz"), np.ones((1, 1, 1), np.uint8))
    for configuration in ("2d", "3d_fullres"):
        call(f"run train plan.json data -c {configuration} --fold 1 {SHORT}")


def test_one_case_is_too_few(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    make(num_cases=1)
    capfd.readouterr()
    call(f"run train plan.json data -c 3d_fullres {SHORT}", code=2)
    said = capfd.readouterr().err
    assert "--fold all" in said
    assert "Traceback" not in said
    call(f"run train plan.json data -c 3d_fullres --fold all {SHORT}")


def test_second_run_does_nothing_again(make: Make) -> None:
    make()
    whole_run("3d_fullres")
    files = {path: path.stat().st_mtime_ns for path in Path("work").rglob("*") if path.is_file()}
    call("run preprocess plan.json data -c 3d_fullres")
    call(f"run train plan.json data -c 3d_fullres {SHORT}")
    changed = [
        path
        for path, time in files.items()
        if path.stat().st_mtime_ns != time and not path.name.endswith(".lock")
    ]
    assert not changed


WITHOUT = """
import importlib.machinery, sys

original = importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == "torch" else original(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
from nnrules.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", ["preprocess", "train", "predict", "evaluate"])
def test_without_torch_the_extra_is_named(tmp_path: Path, verb: str) -> None:
    """A process in which torch cannot be found."""
    command = [sys.executable, "-c", WITHOUT, "run", verb, "a", "b", *([] if verb == "preprocess" else ["c"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert 'pip install "nnrules[runtime]"' in done.stderr
    assert "no torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
