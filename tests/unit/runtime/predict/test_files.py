"""From files to files, and the command."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from nnrules.errors import NnrulesError, Problem, RunError, UsageError
from nnrules.image_io import read_geometry, read_label
from nnrules.plan import Plan
from typer.testing import CliRunner

from nnrules_runtime.cli.predict import predict
from nnrules_runtime.predict.case_predictor import CasePredictor
from nnrules_runtime.predict.files import predict_jobs
from nnrules_runtime.predict.inputs import find_cases, group_cases
from nnrules_runtime.predict.jobs import plan_jobs
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import choose_profile

PROFILE = choose_profile(device="cpu", precision="float32", num_threads=1)
WriteCase = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def work(make_work: Callable[..., Path], tmp_path: Path) -> Path:
    return make_work(tmp_path / "work", folds=(0,))


@pytest.fixture
def images(write_case: WriteCase, tmp_path: Path) -> Path:
    for number in range(4):
        write_case(tmp_path / "images" / f"case_{number}_0000.nii.gz", (12 + number, 18, 17), seed=number)
    return tmp_path / "images"


def run(predictor: Predictor, images: Path, output: Path, **options: Any) -> dict[str, Any]:
    cases, problems = find_cases([images])
    workload = plan_jobs(predictor, cases, output, **options)
    done = list(predict_jobs(predictor, workload.jobs))
    failed = [*problems, *workload.problems, *(problem for result in done for problem in result.problems)]
    return {
        "written": [result.id for result in done if result.output is not None],
        "kept": list(workload.kept),
        "problems": failed,
    }


def assert_same_grid(one: Path, other: Path) -> None:
    """Equal but for float32 in the headers of NIfTI."""
    found, wanted = read_geometry(one), read_geometry(other)
    assert found.shape == wanted.shape
    for name in ("spacing", "origin_xyz", "direction_xyz"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-6, atol=1e-6)


def test_files_have_the_grid_of_their_images(work: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor(work, profile=PROFILE)
    output = tmp_path / "new" / "output"
    assert run(predictor, images, output)["written"] == [f"case_{number}" for number in range(4)]
    assert sorted(path.name for path in output.iterdir()) == [f"case_{number}.nii.gz" for number in range(4)]
    for number in range(4):
        source = images / f"case_{number}_0000.nii.gz"
        labels, _ = read_label(output / f"case_{number}.nii.gz")
        assert_same_grid(output / f"case_{number}.nii.gz", source)
        array, spacing, _ = predictor.reader.image([source])
        np.testing.assert_array_equal(labels, predictor.predict(array, spacing))


@pytest.mark.parametrize(
    "direction",
    [
        np.diag([-1.0, -1.0, 1.0]),
        np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
        np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]]),
    ],
)
def test_canonical_orientation_is_undone(
    make_work: Callable[..., Path],
    make_small_plan: Callable[..., Plan],
    write_case: WriteCase,
    tmp_path: Path,
    direction: np.ndarray,
) -> None:
    """A plan in RAS: the same patient stored along other axes gets the same labels at the same places."""
    changes = {"dataset.orientation_policy": "canonical",
               "configurations.3d_fullres.inference.files.probability_extent": "crop"}  # fmt: skip
    work = make_work(tmp_path / "work", folds=(0,), plan=make_small_plan(changes=changes))
    predictor = Predictor(work, profile=PROFILE)
    source = write_case(tmp_path / "images" / "a_0000.nii.gz", (15, 20, 18), direction=direction)
    run(predictor, tmp_path / "images", tmp_path / "output", probabilities=True)
    array, spacing, in_file = predictor.reader.image([source])
    labels, geometry = read_label(tmp_path / "output" / "a.nii.gz")
    assert geometry == read_geometry(source)
    np.testing.assert_array_equal(
        labels, predictor.reader.as_in_file(predictor.predict(array, spacing), in_file)
    )
    with np.load(tmp_path / "output" / "a.npz") as file:
        box, probabilities = file["box"], file["probabilities"]
    assert (box[:, 1] - box[:, 0]).tolist() == list(probabilities.shape[1:])
    inside = labels[tuple(slice(*edge) for edge in box)]
    assert (probabilities.argmax(0) == inside).mean() > 0.999


def test_box_of_a_crop(
    make_work: Callable[..., Path], make_small_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """Flipped and permuted axes, with a crop that is not symmetric."""
    from nnrules.image_io import Geometry, write_image

    changes = {"dataset.orientation_policy": "canonical",
               "configurations.3d_fullres.inference.files.probability_extent": "crop"}  # fmt: skip
    work = make_work(tmp_path / "work", folds=(0,), plan=make_small_plan(changes=changes))
    array = np.zeros((20, 24, 22), np.float32)
    array[3:14, 1:20, 5:19] = np.random.default_rng(0).normal(100, 5, (11, 19, 14))
    matrix = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    geometry = Geometry(
        shape=(20, 24, 22),
        spacing=(1.0, 1.0, 1.0),
        origin_xyz=(0.0, 0.0, 0.0),
        direction_xyz=tuple(float(value) for value in matrix.ravel()),
        dimension=3,
        num_channels=1,
    )
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a_0000.nii.gz", array, geometry)
    run(Predictor(work, profile=PROFILE), tmp_path / "images", tmp_path / "output", probabilities=True)
    with np.load(tmp_path / "output" / "a.npz") as file:
        assert file["box"].tolist() == [[3, 14], [1, 20], [5, 19]]
        assert file["probabilities"].shape == (3, 11, 19, 14)


def test_kept_files_are_not_touched(work: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor(work, profile=PROFILE)
    output = tmp_path / "output"
    run(predictor, images, output)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    (output / "case_2.nii.gz").unlink()
    result = run(predictor, images, output, keep=True)
    assert result["written"] == ["case_2"]
    assert result["kept"] == ["case_0", "case_1", "case_3"]
    after = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {f"case_{n}.nii.gz" for n in (0, 1, 3)}
    # Probabilities were not there: they are made.
    assert len(run(predictor, images, output, keep=True, probabilities=True)["written"]) == 4
    assert run(predictor, images, output, keep=True, probabilities=True)["written"] == []


def test_bad_cases_do_not_stop_the_others(
    work: Path, images: Path, write_case: WriteCase, tmp_path: Path
) -> None:
    whole = (images / "case_1_0000.nii.gz").read_bytes()
    (images / "case_1_0000.nii.gz").write_bytes(whole[: len(whole) // 2])  # header readable, voxels missing
    (images / "empty_0000.nii.gz").write_bytes(b"")
    write_case(images / "many_0000.nii.gz")
    write_case(images / "many_0001.nii.gz")
    result = run(Predictor(work, profile=PROFILE), images, tmp_path / "output")
    assert result["written"] == ["case_0", "case_2", "case_3"]
    text = "\n".join(str(problem) for problem in result["problems"])
    assert len(result["problems"]) == 3
    for name in ("case_1", "empty", "many: wrong number of channels; got 2"):
        assert name in text
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "case_0.nii.gz", "case_2.nii.gz", "case_3.nii.gz",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", ["prepare", "logits", "export"])
@pytest.mark.parametrize("bad", [0, 1, 3])
@pytest.mark.parametrize(
    "failure",
    [
        (RunError(Problem(where="image", what="it broke")), "it broke"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory; got Unable to allocate 9 GiB"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_failures_at_each_stage(
    work: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    bad: int,
    failure: tuple[Exception, str],
) -> None:
    error, said = failure
    predictor = Predictor(work, profile=PROFILE, mirroring=False)
    real = getattr(predictor, stage)
    calls = iter(range(100))

    def broken(*arguments: Any, **options: Any) -> Any:
        if next(calls) == bad:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(predictor, stage, broken)
    result = run(predictor, images, tmp_path / "output")
    assert result["written"] == [f"case_{number}" for number in range(4) if number != bad]
    (problem,) = result["problems"]
    assert f"case_{bad}" in str(problem)
    assert said in str(problem)
    assert not (tmp_path / "output" / f"case_{bad}.nii.gz").exists()


@pytest.mark.parametrize("stage", ["prepare", "logits", "export"])
def test_mistakes_of_ours_are_not_hidden(
    work: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    predictor = Predictor(work, profile=PROFILE)

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(predictor, stage, broken)
    with pytest.raises(ZeroDivisionError) as caught:
        run(predictor, images, tmp_path / "output")
    assert caught.value.__notes__ == ["while predicting case_0"]


def test_stages_overlap_and_memory_stays_bounded(
    work: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next case is read while the network works; never are more than one waiting."""
    predictor = Predictor(work, profile=PROFILE, mirroring=False)
    reads, predicted = [0], [0]
    lead: list[int] = []
    real_prepare, real_logits = predictor.prepare, predictor.logits
    next_is_read = threading.Event()

    def prepare(*arguments: Any) -> Any:
        reads[0] += 1
        next_is_read.set()
        return real_prepare(*arguments)

    def logits(*arguments: Any, **options: Any) -> Any:
        if reads[0] < 4:
            next_is_read.clear()
        if predicted[0] == 0:
            assert next_is_read.wait(30) or reads[0] > 1  # read while this case is with the network
        lead.append(reads[0] - predicted[0])
        predicted[0] += 1
        return real_logits(*arguments, **options)

    monkeypatch.setattr(predictor, "prepare", prepare)
    monkeypatch.setattr(predictor, "logits", logits)
    assert len(run(predictor, images, tmp_path / "output")["written"]) == 4
    assert max(lead) <= 2


def test_too_little_memory_for_three_cases_at_once(
    work: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    predictor = Predictor(work, profile=PROFILE, mirroring=False)
    sizes = [predictor.memory((12 + number, 18, 17), (1.5, 1.0, 1.2)) for number in range(4)]
    between = (max(size.peak for size in sizes) + max(size.overlapping for size in sizes)) // 2
    for module in ("files", "jobs"):
        monkeypatch.setattr(f"nnrules_runtime.predict.{module}.available_bytes", lambda: between)
    assert len(run(predictor, images, tmp_path / "output")["written"]) == 4
    assert "one case after the other" in caplog.text


def test_case_that_does_not_fit_is_named_with_bytes(
    work: Path, images: Path, write_case: WriteCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(work, profile=PROFILE, mirroring=False)
    write_case(images / "huge_0000.nii.gz", (100, 120, 120))
    limit = 2 * predictor.memory((15, 18, 17), (1.5, 1.0, 1.2)).peak
    needed = predictor.memory((100, 120, 120), (1.5, 1.0, 1.2)).peak
    assert needed > limit
    monkeypatch.setattr("nnrules_runtime.predict.jobs.available_bytes", lambda: limit)
    result = run(predictor, images, tmp_path / "output")
    assert len(result["written"]) == 4
    (problem,) = result["problems"]
    assert problem.where == "huge"
    assert problem.got == f"{needed:,} bytes for an image of 100 x 120 x 120 voxels"


def test_an_image_is_never_replaced(work: Path, write_case: WriteCase, tmp_path: Path) -> None:
    path = write_case(tmp_path / "images" / "case.nii.gz")
    before = path.read_bytes()
    result = run(Predictor(work, profile=PROFILE), tmp_path / "images", tmp_path / "images")
    assert "would replace the image" in str(result["problems"][0])
    assert path.read_bytes() == before


def test_probabilities(work: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor(work, profile=PROFILE)
    run(predictor, images, tmp_path / "output", probabilities=True)
    labels, _ = read_label(tmp_path / "output" / "case_1.nii.gz")
    with np.load(tmp_path / "output" / "case_1.npz", allow_pickle=False) as file:
        assert file.files == ["probabilities"]
        probabilities = file["probabilities"]
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert (probabilities.argmax(0) == labels).mean() > 0.999


# -- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: object) -> tuple[int, str, NnrulesError | None]:
    app = typer.Typer()
    app.command()(predict)
    fixed = ["--device", "cpu", "--precision", "float32", "--threads", "1"]
    result = CliRunner().invoke(app, [*(str(argument) for argument in arguments), *fixed])
    error = result.exception if isinstance(result.exception, NnrulesError) else None
    if result.exception is not None and error is None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output, error


def test_command(work: Path, images: Path, tmp_path: Path) -> None:
    code, output, _ = command(work, images, tmp_path / "output", "--no-mirroring")
    assert code == 0
    assert f"4 cases predicted to {tmp_path / 'output'}" in output
    code, output, _ = command(work, images, tmp_path / "output", "--no-mirroring", "--keep")
    assert "0 cases predicted, 4 kept" in output


def test_command_for_machines(work: Path, images: Path, tmp_path: Path) -> None:
    (images / "bad_0000.nii.gz").write_bytes(b"no image")
    code, output, error = command(
        work / "models" / "3d_fullres" / "fold_0", images, tmp_path / "output", "--json", "--probabilities"
    )
    assert code != 0
    assert isinstance(error, RunError)
    document = json.loads(output)
    assert [case["id"] for case in document["cases"]] == [f"case_{number}" for number in range(4)]
    assert all(Path(case["probabilities"]).is_file() for case in document["cases"])
    assert document["profile"]["device"] == "cpu"
    assert "bad_0000.nii.gz" in document["problems"][0]["where"]


def test_files_of_one_case_into_one_file(
    make_work: Callable[..., Path],
    make_small_plan: Callable[..., Plan],
    write_case: WriteCase,
    tmp_path: Path,
) -> None:
    work = make_work(tmp_path / "work", folds=(0,), plan=make_small_plan(channels=("T1", "T2")))
    files = [write_case(tmp_path / f"{name}.nrrd", seed=seed) for seed, name in enumerate(("t1", "t2"))]
    output = tmp_path / "found.nii.gz"
    code, _, _ = command(work, *files, output, "--no-mirroring")
    assert code == 0
    assert_same_grid(output, files[0])


def test_parts(work: Path, images: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        assert command(work, images, tmp_path / "output", "--part", f"{number}/3", "--no-mirroring")[0] == 0
    assert len(list((tmp_path / "output").iterdir())) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--folds", "0,x"], "these are no folds"),
        (["--folds", "7"], "not trained to an end; got fold_7"),
        (["--checkpoint", "last"], "no such checkpoint; got last; expected final or best"),
        (["--part", "5/4"], "this is no part"),
        (["-c", "2d"], "no such configuration; got 2d"),
    ],
)
def test_wrong_options(work: Path, images: Path, tmp_path: Path, options: list[str], said: str) -> None:
    _, _, error = command(work, images, tmp_path / "output", *options)
    assert said in str(error)
    assert not (tmp_path / "output").exists()


def test_one_file_for_a_folder(work: Path, images: Path, tmp_path: Path) -> None:
    _, _, error = command(work, images, tmp_path / "output.nii.gz")
    assert isinstance(error, UsageError)
    assert "one output file for several cases" in str(error)


# -- cascades, ensembles, images that belong together ----------------------------------------------------------------

SECOND = "3d_cascade_fullres"


@pytest.fixture
def cascade_work(
    make_work: Callable[..., Path], make_small_plan: Callable[..., Plan], tmp_path: Path
) -> Path:
    plan = make_small_plan(cascade=True)
    return make_work(tmp_path / "cascade", folds=(0,), configurations=("2d", "3d_lowres", SECOND), plan=plan)


def test_a_cascade_on_the_command_line(cascade_work: Path, images: Path, tmp_path: Path) -> None:
    from nnrules_runtime.predictors import open_predictor

    code, output, _ = command(cascade_work, images, tmp_path / "output", "-c", SECOND, "--json")
    assert code == 0
    document = json.loads(output)
    assert document["configuration"] == SECOND
    assert document["members"] == [
        {
            "configuration": SECOND,
            "folds": [0],
            "checkpoint": "final",
            "previous_stage": {"configuration": "3d_lowres", "folds": [0], "checkpoint": "final"},
        }
    ]
    predictor = open_predictor(cascade_work, configurations=SECOND, profile=PROFILE)
    for number in range(4):
        labels, _ = read_label(tmp_path / "output" / f"case_{number}.nii.gz")
        array, spacing, _ = predictor.reader.image([images / f"case_{number}_0000.nii.gz"])
        np.testing.assert_array_equal(labels, predictor.predict(array, spacing))


def test_an_ensemble_on_the_command_line(cascade_work: Path, images: Path, tmp_path: Path) -> None:
    options = ["-c", "2d", "-c", "3d_lowres", "--no-mirroring", "--probabilities"]
    code, output, _ = command(cascade_work, images, tmp_path / "output", *options)
    assert code == 0
    assert "4 cases predicted" in output
    stored = []
    for name in ("2d", "3d_lowres"):
        one = ["-c", name, "--no-mirroring", "--probabilities"]
        assert command(cascade_work, images, tmp_path / name, *one)[0] == 0
        with np.load(tmp_path / name / "case_1.npz") as file:
            stored.append(file["probabilities"])
    with np.load(tmp_path / "output" / "case_1.npz") as file:
        mean = file["probabilities"]
    np.testing.assert_allclose(mean, (stored[0] + stored[1]) / 2, atol=1e-6)
    labels, _ = read_label(tmp_path / "output" / "case_1.nii.gz")
    assert (labels != mean.argmax(0)).mean() < 1e-3


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_case_that_fails_in_a_cascade(
    cascade_work: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from nnrules_runtime.predictors import open_predictor

    predictor = open_predictor(cascade_work, configurations=SECOND, profile=PROFILE, mirroring=False)
    (member,) = predictor.members
    broken = member.first if stage == "first" else member.predictor
    assert broken is not None
    real = broken.logits
    calls = iter(range(100))

    def logits(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise RunError(Problem(where="image", what="it broke"))
        return real(*arguments, **options)

    monkeypatch.setattr(broken, "logits", logits)
    cases, _ = find_cases([images])
    done = list(predict_jobs(predictor, plan_jobs(predictor, cases, tmp_path / "output").jobs))
    assert [result.id for result in done if result.problems] == ["case_2"]
    assert len(list((tmp_path / "output").iterdir())) == 3


def together_file(folder: Path, groups: Any) -> Path:
    path = folder / "together.json"
    path.write_text(json.dumps(groups))
    return path


def test_images_that_belong_together(work: Path, write_case: WriteCase, tmp_path: Path) -> None:
    """Each gets the mask of the mean; others are predicted alone; an incomplete group is made anew as a whole."""
    for seed, name in enumerate(("a_in", "a_out", "b_in")):
        write_case(tmp_path / "images" / f"{name}_0000.nii.gz", (12, 18, 17), seed=seed)
    path = together_file(tmp_path, [["a_in", "a_out"]])
    output = tmp_path / "output"
    arguments = [work, tmp_path / "images", output, "--no-mirroring", "--together", path]
    code, text, _ = command(*arguments, "--probabilities", "--json")
    assert code == 0
    assert [case["id"] for case in json.loads(text)["cases"]] == ["a_in", "a_out", "b_in"]
    predictor = CasePredictor.of(Predictor(work, profile=PROFILE, mirroring=False))
    arrays = {
        name: predictor.reader.image([tmp_path / "images" / f"{name}_0000.nii.gz"])
        for name in ("a_in", "a_out", "b_in")
    }
    wanted = predictor.predict_together([arrays["a_in"][0], arrays["a_out"][0]], arrays["a_in"][1])
    for name in ("a_in", "a_out"):
        np.testing.assert_array_equal(read_label(output / f"{name}.nii.gz")[0], wanted)
        assert (output / f"{name}.npz").is_file()
    array, spacing, _ = arrays["b_in"]
    np.testing.assert_array_equal(read_label(output / "b_in.nii.gz")[0], predictor.predict(array, spacing))
    (output / "a_out.nii.gz").unlink()
    code, text, _ = command(*arguments, "--keep", "--json")
    document = json.loads(text)
    assert [case["id"] for case in document["cases"]] == ["a_in", "a_out"]
    assert document["kept"] == ["b_in"]


def test_images_on_other_grids_are_not_averaged(work: Path, write_case: WriteCase, tmp_path: Path) -> None:
    write_case(tmp_path / "images" / "a_0000.nii.gz", (12, 18, 17))
    write_case(tmp_path / "images" / "b_0000.nii.gz", (12, 18, 17), spacing=(1.5, 1.0, 1.3))
    write_case(tmp_path / "images" / "c_0000.nii.gz", (12, 19, 17))
    path = together_file(tmp_path, [["a", "b", "c"]])
    _, _, error = command(work, tmp_path / "images", tmp_path / "output", "--together", path)
    text = str(error)
    assert "b: this image lies on another grid than a" in text
    assert "c: this image lies on another grid than a" in text
    assert "Resample one onto the grid of the other" in text


def test_parts_keep_groups_whole(images: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([images])
    groups = group_cases(cases, together_file(tmp_path, [["case_3", "case_0"]]))
    assert [[case.id for case in group] for group in groups] == [["case_3", "case_0"], ["case_1"], ["case_2"]]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([["case_0", "nobody"]], r"\[0\]\[1\]: unknown case; got nobody"),
        (
            [["case_0", "case_1"], ["case_1", "case_2"]],
            r"\[1\]\[0\]: the case stands there twice; got case_1",
        ),
        ([["case_0", "case_0"]], r"\[0\]\[1\]: the case stands there twice"),
        ({"case_0": "a"}, "these are no groups of cases"),
        ([[]], "these are no groups of cases"),
        ([[1]], "these are no groups of cases"),
    ],
)
def test_wrong_groups(images: Path, tmp_path: Path, groups: Any, said: str) -> None:
    cases, _ = find_cases([images])
    with pytest.raises(UsageError, match=said):
        group_cases(cases, together_file(tmp_path, groups))
