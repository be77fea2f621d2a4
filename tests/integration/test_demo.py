"""The whole demo: parity with the paper, phantoms, files, and what happens when it cannot be written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from nnrules.dataset import load_dataset
from nnrules.dataset_check import check_dataset
from nnrules.demo.paper import dataset_ids, fingerprint_name
from nnrules.demo.phantom import PHANTOM_KINDS
from nnrules.demo.run import DemoResult, run_demo
from nnrules.errors import NnrulesError, UsageError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from rich.console import Console

WIDTH = 100


def quiet_console() -> Console:
    return Console(file=io.StringIO(), width=WIDTH, markup=False, highlight=False, emoji=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[DemoResult, str]:
    console = quiet_console()
    result = run_demo(tmp_path_factory.mktemp("demo") / "new" / "demo-output", console)
    return result, console.file.getvalue()


def test_paper_scores(demo) -> None:
    """The figures of paper_parity.json: 217 as printed, 223 refined, 225 with D15 under its own planner."""
    scores = {entry.pack: (entry.num_equal, entry.num_equal_refined) for entry in demo[0].scores}

    assert all(entry.num_cells == 226 for entry in demo[0].scores)
    assert scores["nnunet@1.0.0"] == (217, 223)
    assert scores["nnunet@1.0.0, D15 under nnunet@0.6.0"] == (219, 225)
    assert scores["nnunet@1.7.0"][0] == 209
    assert scores["nnunet@2.8.0"][0] == 188
    assert scores["nnunet@0.6.0"][0] == 180
    assert {"nnunet-resenc@2.8.0 M", "preprint@2.0.0"} <= set(scores)
    assert not any(entry.without_plan for entry in demo[0].scores)


def test_each_miss_is_one_that_is_known(demo) -> None:
    result, text = demo

    assert sum(cell.equal for cell in result.cells) == 217
    assert "no known reason" not in text
    for erratum in ("E08", "E09", "E10"):
        assert f"erratum {erratum}" in text


def test_text_fits_the_terminal(demo) -> None:
    lines = demo[1].splitlines()

    assert max(map(len, lines)) <= WIDTH
    assert len(lines) < 300
    assert "…" not in demo[1]


@pytest.mark.parametrize("kind", list(PHANTOM_KINDS))
def test_phantoms_are_planned_from_their_images(demo, kind) -> None:
    result, text = demo
    name = PHANTOM_KINDS[kind].dataset_name

    plan = Plan.load(result.output / "plans" / f"{name}.json")
    fingerprint = Fingerprint.load(result.output / "fingerprints" / f"{name}.json")

    assert plan.document == result.phantoms[kind].document
    assert plan.provenance["fingerprint"]["hash"] == fingerprint.hash
    assert set(plan.configurations) == {"2d", "3d_fullres"}
    assert f"nnrules plan {result.output / 'datasets' / name}" in "".join(text.split("\n"))


def test_phantoms_show_what_planning_looks_at(demo) -> None:
    heart, abdomen, brain = (demo[0].phantoms[kind] for kind in ("heart_mr", "abdomen_ct", "brain_mr"))

    assert heart.get("configurations.3d_fullres.architecture.kernel_sizes")[0] == [1, 3, 3]
    assert heart.get("channels[0].normalization.use_mask") is False
    assert abdomen.get("channels[0].normalization.scheme") == "ct"
    assert abdomen.get("channels[0].normalization.statistics.clip_lower") > -20
    assert [channel["normalization"]["use_mask"] for channel in brain.document["channels"]] == [True, True]


@pytest.mark.parametrize("kind", list(PHANTOM_KINDS))
def test_phantoms_have_nothing_to_complain_about(demo, kind) -> None:
    folder = demo[0].output / "datasets" / PHANTOM_KINDS[kind].dataset_name

    report = check_dataset(load_dataset(folder, require_files=False), workers=1)

    assert report.findings == ()


def test_files(demo) -> None:
    output = demo[0].output

    assert sorted(path.name for path in output.iterdir()) == [
        "datasets",
        "demo.json",
        "fingerprints",
        "plans",
    ]
    assert not list(output.parent.glob(".*"))
    assert sum(path.stat().st_size for path in (output / "datasets").rglob("*")) < 10e6
    for dataset in dataset_ids():
        assert (output / "fingerprints" / f"{fingerprint_name(dataset)}.json").is_file()
        assert (output / "plans" / f"{fingerprint_name(dataset)}.json").is_file()
    document = json.loads((output / "demo.json").read_text(encoding="utf-8"))
    assert document == demo[0].to_json()
    assert len(document["cells"]) == 226


@pytest.mark.slow
def test_second_run_gives_the_same_files_and_keeps_others(demo, tmp_path) -> None:
    first = demo[0].output
    output = tmp_path / "demo-output"
    output.mkdir()
    (output / "demo.json").write_text("{}", encoding="utf-8")
    (output / "datasets").mkdir()
    (output / "datasets" / "mine.txt").write_text("mine", encoding="utf-8")

    run_demo(output, quiet_console())

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    assert contents(output) == contents(first) | {"datasets/mine.txt": b"mine"}


@pytest.mark.parametrize("is_file", [False, True])
def test_other_peoples_files_are_not_touched(tmp_path, is_file) -> None:
    output = tmp_path / "mine"
    if is_file:
        output.write_text("mine", encoding="utf-8")
    else:
        output.mkdir()
        (output / "thesis.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(UsageError, match=r"new or empty folder.*Choose another folder with -o"):
        run_demo(output, quiet_console())

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_when_a_part_fails(tmp_path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise NnrulesError([])

    monkeypatch.setattr("nnrules.demo.run.score_packs", fail)
    with pytest.raises(NnrulesError):
        run_demo(tmp_path / "demo-output", quiet_console())

    assert not any(tmp_path.iterdir())


def test_no_room_for_the_folder(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NnrulesError, match=r"the demo cannot write here.*Choose another folder with -o"):
        run_demo(tmp_path / "file" / "demo-output", quiet_console())
