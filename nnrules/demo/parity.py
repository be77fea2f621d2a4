"""Plans against the paper: cell by cell.

A cell is one printed value of a published configuration: patch size, batch size, strides, kernel sizes, and
for 3d_lowres also spacing and median shape; besides, one decision for each dataset, whether there is a
3d_lowres at all. ``paper_parity.json`` defines them; there are 226.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnrules.plan import Plan

__all__ = ["Cell", "score"]

_LOWRES = "3d_lowres"
_WITHOUT_DECISION = "D19"  # the authors configured 3d_fullres alone, by hand (erratum E22)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One published value and the planned one.

    Attributes:
        dataset: ``D1`` to ``D19``.
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``.
        cell: ``patch_size``, ``batch_size``, ``strides``, ``kernel_sizes``, ``target_spacing`` (mm),
            ``median_shape`` (voxels) or ``present``.
        published: what the paper prints; strides without a leading stride of 1.
        planned: the same field of the plan; ``None`` where the plan lacks it.
        equal: whether they agree; spacings as printed, with two decimals.
    """

    dataset: str
    configuration: str
    cell: str
    published: Any
    planned: Any
    equal: bool


def score(plans: Mapping[str, Plan], published: Mapping[str, Any]) -> Sequence[Cell]:
    """Compare plans with the paper.

    Args:
        plans: dataset id to plan. A dataset without a plan has no equal cell.
        published: the parsed ``paper_plans.json``.

    Returns:
        The cells in the order of the paper: datasets, then 2d, 3d_fullres, 3d_lowres.
    """
    return [cell for dataset in published["datasets"] for cell in _cells(dataset, plans.get(dataset["id"]))]


def _cells(dataset: Mapping[str, Any], plan: Plan | None) -> Iterator[Cell]:
    name = dataset["id"]
    for configuration in ("2d", "3d_fullres", _LOWRES):
        printed = dataset["configurations"].get(configuration)
        planned = _planned(plan.configurations.get(configuration)) if plan is not None else {}
        if configuration == _LOWRES and name != _WITHOUT_DECISION:
            decided = bool(planned) if plan is not None else None
            yield _cell(name, configuration, "present", printed is not None, decided)
        if printed is None:
            continue
        for cell in ("patch_size", "batch_size", "strides", "kernel_sizes"):
            value = printed.get("strides_corrected") or printed[cell] if cell == "strides" else printed[cell]
            yield _cell(name, configuration, cell, value, planned.get(cell))
        if configuration == _LOWRES:
            for cell in ("target_spacing", "median_shape"):
                yield _cell(name, configuration, cell, printed[cell], planned.get(cell))


def _cell(dataset: str, configuration: str, cell: str, published: Any, planned: Any) -> Cell:
    equal = planned == published
    if cell == "target_spacing" and planned is not None:
        equal = [f"{value:.2f}" for value in planned] == [f"{value:.2f}" for value in published]
    return Cell(
        dataset=dataset,
        configuration=configuration,
        cell=cell,
        published=published,
        planned=planned,
        equal=equal,
    )


def _planned(configuration: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a configuration under the names of the paper's tables."""
    if configuration is None:
        return {}
    architecture = configuration["architecture"]
    return {
        "patch_size": configuration["patch_size"],
        "batch_size": configuration["batch_size"],
        # The first stage does not stride; the paper lists downsamplings only.
        "strides": architecture["strides"][1:],
        "kernel_sizes": architecture["kernel_sizes"],
        "target_spacing": configuration["spacing"],
        "median_shape": configuration["median_shape"],
    }
