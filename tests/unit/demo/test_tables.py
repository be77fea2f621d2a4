"""Cells, scores and their tables."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from nnrules.demo.paper import published_fingerprint, published_parity, published_plans
from nnrules.demo.parity import Cell, score
from nnrules.demo.scores import PackScore, plan_paper, score_pool_late
from nnrules.demo.tables import cells_view, differences_view, scores_view, shown_cell
from nnrules.engine.packs import load_pack
from nnrules.fingerprint import Fingerprint
from rich.console import Console


def shown(view) -> str:
    console = Console(file=io.StringIO(), width=100, markup=False, highlight=False, emoji=False)
    console.print(view)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    return text


def cell(**changes) -> Cell:
    plain = Cell(
        dataset="D6",
        configuration="3d_lowres",
        cell="target_spacing",
        published=[2.35, 1.48, 1.48],
        planned=[2.3442, 1.4935, 1.4935],
        equal=False,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("patch_size", [112, 128, 96], "112×128×96"),
        ("median_shape", [138.0, 169.5], "138×169.5"),
        ("batch_size", 107, "107"),
        ("strides", [[1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]], "122 2×222 122"),
        ("strides", [], ""),
        ("target_spacing", [2.4731, 1.8984, 1.8984], "2.47×1.90×1.90"),
        ("present", True, "yes"),
        ("present", False, "no"),
        ("patch_size", None, "none"),
    ],
)
def test_shown_cell(name, value, text) -> None:
    assert shown_cell(name, value) == text


def test_a_dataset_without_plan_has_no_equal_cell() -> None:
    cells = score({}, published_plans())

    assert len(cells) == published_parity()["goal"]["headline"][0]["total"]
    assert not any(entry.equal for entry in cells)


def test_cells_view_shows_equal_and_different_cells() -> None:
    datasets = [entry for entry in published_plans()["datasets"] if entry["id"] in ("D6", "D15")]
    fingerprints = {name: published_fingerprint(name) for name in ("D6", "D15")}
    plans, without_plan = plan_paper(fingerprints, load_pack("nnunet@1.0.0"))
    assert not without_plan
    cells = [entry for entry in score(plans, published_plans()) if entry.dataset in plans]

    lines = shown(cells_view(datasets, cells)).splitlines()

    lung = lines.index("D6 Lung · CT · 63 cases")
    assert lines[lung + 1].split() == ["2d", "512×512", "✓", "12", "✓", "7×22", "✓", "8×33", "✓"]
    assert lines[lung + 3].startswith("3d_lowres ✓ 80×192×160 ✓  2 ✓")
    assert "2.35×1.48×1.48   133×271×271 ✓" in lines[lung + 3]
    assert lines[lung + 4].split() == ["→", "2.34×1.49×1.49"]
    lesion = next(index for index, line in enumerate(lines) if line.startswith("D15 MSLesion"))
    assert lines[lesion + 3].split() == ["→", "128×160×112", "→", "4×222", "221"]
    assert lines[lesion + 4].split() == ["3d_lowres", "✓", "none"]


def test_cells_view_shows_a_wrong_decision() -> None:
    wrong = cell(dataset="D1", cell="present", published=False, planned=True)

    text = shown(cells_view(published_plans()["datasets"][:1], [wrong]))

    assert "3d_lowres ✗ none" in text
    assert "→ planned" in text


def test_differences_name_their_reason() -> None:
    cells = [cell(), cell(dataset="D1"), cell(dataset="D2", equal=True)]

    text = shown(differences_view(cells, published_parity()["misses"]["nnunet_1_0_as_printed"]))

    assert "D6 3d_lowres target_spacing" in text
    lines = text.splitlines()
    assert "2.35×1.48×1.48 →" in lines[2]
    assert "2.34×1.49×1.49" in lines[3]
    assert "input precision" in text
    assert "no known reason" in text
    assert "D2 " not in text


def pack_score(pack: str, *cells: Cell, **changes) -> PackScore:
    plain = PackScore(pack=pack, title="a pack", cells=cells, refined_cells=cells, without_plan={})
    return replace(plain, **changes)


def test_scores_view_counts_by_configuration() -> None:
    score_ = pack_score(
        "nnunet@1.0.0",
        cell(configuration="2d", equal=True),
        cell(configuration="2d"),
        cell(equal=True),
        refined_cells=(cell(), cell(), cell()),
        without_plan={"D7": "refused"},
    )

    text = shown(scores_view([score_]))

    assert text.splitlines()[1].split() == ["rules", "of", "2", "of", "0", "of", "1", "of", "3", "of", "3"]
    assert text.splitlines()[3].split() == ["nnunet@1.0.0", "1", "0", "1", "2", "0"]
    assert "nnunet@1.0.0 gives no plan for D7: refused" in text
    assert score_.to_json()["num_equal"] == 2


def test_pool_late_takes_one_dataset_from_the_older_planner() -> None:
    new = pack_score("nnunet@1.0.0", cell(equal=True), cell(dataset="D15"))
    old = pack_score("nnunet@0.6.0", cell(), cell(dataset="D15", equal=True))

    mixed = score_pool_late([old, new])

    assert mixed is not None
    assert mixed.num_equal == mixed.num_equal_refined == 2
    assert score_pool_late([new]) is None


def test_a_dataset_that_cannot_be_planned_is_named() -> None:
    fingerprint = published_fingerprint("D1")
    # CT without its statistics.
    dataset = {**fingerprint.document["dataset"], "channel_names": ["CT"]}
    broken = Fingerprint.from_document({**fingerprint.document, "dataset": dataset})
    fingerprints = {"D1": broken, "D2": published_fingerprint("D2")}

    plans, without_plan = plan_paper(fingerprints, load_pack("nnunet@1.0.0"))

    assert set(plans) == {"D2"}
    assert "intensity" in without_plan["D1"]
