"""Which trained networks a path and options stand for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.errors import ModelError
from nnrules.plan import Plan

from nnrules_runtime.predict.models import find_first_stage, find_models, first_stage_folds, read_models

MakeWork = Callable[..., Path]


def names(work: Path, folders: list[Path]) -> list[str]:
    return [str(folder.relative_to(work / "models")) for folder in folders]


def test_every_numbered_fold(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0, 2, "all"))
    wanted = ["3d_fullres/fold_0", "3d_fullres/fold_2"]
    assert names(work, find_models(work)) == wanted
    assert names(work, find_models(work / "models" / "3d_fullres")) == wanted
    assert names(work, find_models(work / "models", configuration="3d_fullres")) == wanted
    assert names(work, find_models(work / "models" / "3d_fullres" / "fold_2")) == wanted[1:]
    assert names(work, find_models(work, folds=[2])) == wanted[1:]
    assert names(work, find_models(work, folds=["all"])) == ["3d_fullres/fold_all"]


def test_all_where_there_is_no_other(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=("all",))
    assert names(work, find_models(work)) == ["3d_fullres/fold_all"]


def test_unfinished_folds_are_passed_over_unless_asked_for(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0,))
    (work / "models" / "3d_fullres" / "fold_1").mkdir()
    assert names(work, find_models(work)) == ["3d_fullres/fold_0"]
    with pytest.raises(ModelError, match=r"not trained to an end; got fold_1; expected one of fold_0"):
        find_models(work, folds=[0, 1])


def test_several_configurations(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0,), configurations=("2d", "3d_fullres"))
    assert names(work, find_models(work, configuration="2d")) == ["2d/fold_0"]
    with pytest.raises(
        ModelError, match=r"several configurations have been trained; expected one of 2d, 3d_fullres"
    ):
        find_models(work)
    with pytest.raises(ModelError, match=r"no such configuration; got 3d; expected one of 2d, 3d_fullres"):
        find_models(work, configuration="3d")


@pytest.mark.parametrize(
    ("path", "said"),
    [("absent", "there is no such folder"), ("file", "this is no folder"), ("", "no fold has been trained")],
)
def test_no_models(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=said):
        find_models(tmp_path / path)


def test_work_folder_without_models(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match="no configuration has been trained to an end"):
        find_models(tmp_path)


def test_one_fold_is_no_choice_of_folds(make_work: MakeWork, tmp_path: Path) -> None:
    fold = make_work(tmp_path, folds=(0,)) / "models" / "3d_fullres" / "fold_0"
    assert find_models(fold, folds=[0]) == [fold]
    with pytest.raises(ModelError, match="this folder holds one fold; got 1, 2"):
        find_models(fold, folds=[1, 2])


def test_checkpoint_is_the_plans(
    make_work: MakeWork, make_small_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    changes = {"configurations.3d_fullres.inference.checkpoint": "best"}
    work = make_work(tmp_path, folds=(0,), plan=make_small_plan(changes=changes), checkpoint="best")
    (model,) = read_models(find_models(work))
    assert model.checkpoint == "best"
    with pytest.raises(
        ModelError, match=r"this training has not ended; got no final weights.*--checkpoint best"
    ):
        read_models(find_models(work), "final")


def test_damaged_models_are_named_together(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0, 1, 2))
    for fold in (0, 2):
        (file,) = (work / "models" / "3d_fullres" / f"fold_{fold}").glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError) as caught:
        read_models(find_models(work))
    assert [("fold_0" in p.where, "fold_2" in p.where) for p in caught.value.problems] == [
        (True, False),
        (False, True),
    ]


def test_networks_of_two_plans_are_not_averaged(
    make_work: MakeWork, make_small_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    one = make_work(tmp_path / "one", folds=(0,))
    plan = make_small_plan(changes={"configurations.3d_fullres.architecture.features_per_stage": [4, 8, 16]})
    other = make_work(tmp_path / "other", folds=(0,), plan=plan)
    folders = [*find_models(one), *find_models(other)]
    with pytest.raises(ModelError, match="another network than the first"):
        read_models(folders)


def test_a_training_in_progress_names_the_weights_that_it_has(make_work: MakeWork, tmp_path: Path) -> None:
    work = make_work(tmp_path, folds=(0,), checkpoint="best")
    with pytest.raises(
        ModelError, match=r"this training has not ended.*nnrules run train.*--checkpoint best"
    ):
        read_models(find_models(work))
    (model,) = read_models(find_models(work), "best")
    assert model.checkpoint == "best"


def test_which_folds_of_a_first_stage_predict() -> None:
    assert first_stage_folds([0, 1, "all"], [0]) == (0, 1)
    assert first_stage_folds([0, 1, "all"], ["all"]) == ("all",)
    assert first_stage_folds([0, 1], ["all"]) == (0, 1)
    assert first_stage_folds(["all"], [0]) == ("all",)
    assert first_stage_folds([], [0]) == ()


def test_the_first_stage_lies_beside_the_second(
    make_work: MakeWork, make_small_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_small_plan(cascade=True)
    second = "3d_cascade_fullres"
    work = make_work(tmp_path, folds=(0, 1), configurations=("3d_lowres", second), plan=plan)
    (model,) = read_models(find_models(work, configuration=second, folds=[1]))
    assert names(work, find_first_stage([model])) == ["3d_lowres/fold_0", "3d_lowres/fold_1"]
    monkeypatch.chdir(work / "models" / second)
    (model,) = read_models(find_models(Path(), folds=[0]))
    assert [path.name for path in find_first_stage([model])] == ["fold_0", "fold_1"]
    (work / "models" / "3d_lowres").rename(work / "elsewhere")
    with pytest.raises(
        ModelError, match="second stage of a cascade, and the first, 3d_lowres, is not beside it"
    ):
        find_first_stage([model])
