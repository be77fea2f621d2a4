"""Every shipped rule pack against the paper's 226 cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnrules.demo.paper import dataset_ids, published_fingerprint, published_plans
from nnrules.demo.parity import Cell, score
from nnrules.engine.model import Pack
from nnrules.engine.packs import available_packs, load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import NnrulesError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

__all__ = [
    "PAPER_PACK",
    "PackScore",
    "paper_fingerprints",
    "plan_paper",
    "score_pack",
    "score_packs",
    "score_pool_late",
]

PAPER_PACK = "nnunet@1.0.0"
"""The planner that made the paper's tables, but for one dataset."""

_POOL_LATE_PACK = "nnunet@0.6.0"
_POOL_LATE_DATASET = "D15"  # erratum E10: its published plan comes from the older planner


@dataclass(frozen=True, slots=True, kw_only=True)
class PackScore:
    """How many of the published cells a pack reaches.

    Attributes:
        pack: ``name@version``, with the preset where it has several.
        title: what the pack is.
        cells: cells of which planned and published value are compared, inputs as printed.
        refined_cells: the same with refined inputs.
        without_plan: dataset id to the reason why the pack gave no plan; its cells are not equal.
    """

    pack: str
    title: str
    cells: tuple[Cell, ...]
    refined_cells: tuple[Cell, ...]
    without_plan: Mapping[str, str]

    @property
    def num_cells(self) -> int:
        """Number of published cells."""
        return len(self.cells)

    @property
    def num_equal(self) -> int:
        """Equal cells with inputs as printed."""
        return sum(cell.equal for cell in self.cells)

    @property
    def num_equal_refined(self) -> int:
        """Equal cells with refined inputs."""
        return sum(cell.equal for cell in self.refined_cells)

    def of_configuration(self, configuration: str) -> tuple[int, int]:
        """Equal cells and all cells of one configuration, inputs as printed."""
        cells = [cell for cell in self.cells if cell.configuration == configuration]
        return sum(cell.equal for cell in cells), len(cells)

    def to_json(self) -> dict[str, Any]:
        """The score as a JSON object."""
        return {
            "pack": self.pack,
            "title": self.title,
            "num_cells": self.num_cells,
            "num_equal": self.num_equal,
            "num_equal_refined": self.num_equal_refined,
            "without_plan": dict(self.without_plan),
        }


def paper_fingerprints(*, refined: bool = False) -> dict[str, Fingerprint]:
    """Dataset id to fingerprint, for all datasets."""
    return {dataset: published_fingerprint(dataset, refined=refined) for dataset in dataset_ids()}


def plan_paper(
    fingerprints: Mapping[str, Fingerprint], pack: Pack, *, check: bool = False
) -> tuple[dict[str, Plan], dict[str, str]]:
    """Plan datasets with one pack.

    Args:
        fingerprints: dataset id to fingerprint.
        pack: the pack.
        check: validate each plan against its schema.

    Returns:
        Dataset id to plan; and, where the pack gave none, dataset id to the reason.
    """
    plans, without_plan = {}, {}
    for dataset, fingerprint in fingerprints.items():
        try:
            plans[dataset] = make_plan(fingerprint, pack, check=check)
        except NnrulesError as exc:
            without_plan[dataset] = str(exc.problems[0])
    return plans, without_plan


def score_pack(
    pack: Pack, printed: Mapping[str, Fingerprint], refined: Mapping[str, Fingerprint]
) -> PackScore:
    """Score one pack.

    Args:
        pack: the pack.
        printed: fingerprints from the printed inputs.
        refined: fingerprints with the refined inputs.
    """
    plans, without_plan = plan_paper(printed, pack)
    plans_refined, _ = plan_paper(refined, pack)
    return PackScore(
        pack=str(pack.id) + (f" {pack.preset}" if pack.preset else ""),
        title=pack.title,
        cells=tuple(score(plans, published_plans())),
        refined_cells=tuple(score(plans_refined, published_plans())),
        without_plan=without_plan,
    )


def score_packs(
    printed: Mapping[str, Fingerprint], refined: Mapping[str, Fingerprint], packs: Iterable[str] | None = None
) -> list[PackScore]:
    """Score packs, by default all that ship, each with its default preset.

    Raises:
        PackError: a pack is unknown or has mistakes.
    """
    if packs is None:
        packs = [f"{name}@{version}" for name, versions in available_packs().items() for version in versions]
    return [score_pack(load_pack(pack), printed, refined) for pack in packs]


def score_pool_late(scores: Sequence[PackScore]) -> PackScore | None:
    """The paper's pack with the one dataset that the authors planned with its predecessor.

    Args:
        scores: scores that hold both packs.

    Returns:
        The mixed score, or ``None`` where one of the two is missing.
    """
    by_pack = {entry.pack: entry for entry in scores}
    if PAPER_PACK not in by_pack or _POOL_LATE_PACK not in by_pack:
        return None
    new, old = by_pack[PAPER_PACK], by_pack[_POOL_LATE_PACK]

    def mixed(ours: Sequence[Cell], others: Sequence[Cell]) -> tuple[Cell, ...]:
        return tuple(
            other if cell.dataset == _POOL_LATE_DATASET else cell
            for cell, other in zip(ours, others, strict=True)
        )

    return PackScore(
        pack=f"{PAPER_PACK}, {_POOL_LATE_DATASET} under {_POOL_LATE_PACK}",
        title="Each dataset with the planner that its authors used",
        cells=mixed(new.cells, old.cells),
        refined_cells=mixed(new.refined_cells, old.refined_cells),
        without_plan={},
    )
