"""The demo's tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrules.demo.parity import Cell
from nnrules.demo.scores import PackScore

__all__ = ["cells_view", "differences_view", "scores_view", "shown_cell"]

_EQUAL, _DIFFERENT = "green", "bold red"
# Published name, heading, width in characters; together with the gaps they fill 97 columns.
_COLUMNS = (
    ("patch_size", "patch", 13),
    ("batch_size", "batch", 5),
    ("strides", "strides", 19),
    ("kernel_sizes", "kernels", 13),
    ("target_spacing", "spacing (mm)", 16),
    ("median_shape", "median shape", 13),
)
_CONFIGURATION_WIDTH = 11
_LEGEND = (
    "✓ the plan equals the paper; otherwise published → planned. Strides and kernels: one digit an axis,\n"
    "4×222 is four stages of 2, 2, 2. Spacing and median shape were published for 3d_lowres only."
)


def shown_cell(cell: str, value: Any) -> str:
    """A published or planned value in few characters."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if cell in ("strides", "kernel_sizes"):
        runs = [
            (entry, len(list(run))) for entry, run in groupby("".join(map(str, stage)) for stage in value)
        ]
        return " ".join(entry if count == 1 else f"{count}×{entry}" for entry, count in runs)
    if cell == "target_spacing":
        return "×".join(f"{entry:.2f}" for entry in value)
    if isinstance(value, Sequence):
        return "×".join(f"{entry:g}" for entry in value)
    return f"{value:g}"


def cells_view(datasets: Sequence[Mapping[str, Any]], cells: Iterable[Cell]) -> RenderableType:
    """Published against planned: a block a dataset, a line a configuration.

    Args:
        datasets: the ``datasets`` of paper_plans.json.
        cells: their cells, in the same order.
    """
    by_dataset: dict[str, dict[str, dict[str, Cell]]] = {}
    for cell in cells:
        by_dataset.setdefault(cell.dataset, {}).setdefault(cell.configuration, {})[cell.cell] = cell
    heading = _grid()
    heading.add_row("", *(Text(title, style="bold") for _, title, _ in _COLUMNS))
    parts: list[RenderableType] = [heading]
    for dataset in datasets:
        facts = dataset["table_A1"]
        name = Text.assemble(
            (f"{dataset['id']} {dataset['name']}", "bold"),
            f" · {facts['modality_text']} · {facts['n_training_cases']} cases",
        )
        block = _grid()
        for configuration, values in by_dataset.get(dataset["id"], {}).items():
            block.add_row(*_row(configuration, values))
        parts += [name, block]
    parts.append(Padding(Text(_LEGEND, style="dim"), (1, 0, 0, 0)))
    return Group(*parts)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=_CONFIGURATION_WIDTH, no_wrap=True)
    for _, _, width in _COLUMNS:
        grid.add_column(width=width)
    return grid


def _row(configuration: str, cells: Mapping[str, Cell]) -> list[Text]:
    title = Text(configuration)
    decision = cells.get("present")
    if decision is not None:
        title.append(" ✓" if decision.equal else " ✗", style=_EQUAL if decision.equal else _DIFFERENT)
        if len(cells) == 1:  # the paper has no such configuration
            return [
                title,
                Text("none", style=_EQUAL) if decision.equal else Text("none\n→ planned", style=_DIFFERENT),
            ]
    return [title, *(_compared(cells[name]) if name in cells else Text() for name, _, _ in _COLUMNS)]


def _compared(cell: Cell) -> Text:
    published = shown_cell(cell.cell, cell.published)
    if cell.equal:
        return Text.assemble(published, (" ✓", _EQUAL))
    return Text(f"{published}\n→ {shown_cell(cell.cell, cell.planned)}", style=_DIFFERENT)


def differences_view(cells: Iterable[Cell], misses: Iterable[Mapping[str, Any]]) -> RenderableType:
    """The cells that differ, each with its known reason.

    Args:
        cells: compared cells.
        misses: entries of ``misses`` in paper_parity.json: dataset, configuration, cell, reason.
    """
    reasons = {(miss["dataset"], miss["configuration"], miss["cell"]): miss["reason"] for miss in misses}
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("cell", no_wrap=True)
    table.add_column("published → planned", max_width=26)
    table.add_column("why")
    for cell in cells:
        if not cell.equal:
            reason = reasons.get((cell.dataset, cell.configuration, cell.cell))
            values = (shown_cell(cell.cell, value) for value in (cell.published, cell.planned))
            table.add_row(
                Text(f"{cell.dataset} {cell.configuration} {cell.cell}"),
                Text(" → ".join(values)),
                Text(reason) if reason else Text("no known reason", style=_DIFFERENT),
            )
    return table


def scores_view(scores: Iterable[PackScore]) -> RenderableType:
    """One line a pack: equal cells by configuration and in all."""
    scores = list(scores)
    configurations = ("2d", "3d_fullres", "3d_lowres")
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("rules", width=52)
    totals = [scores[0].of_configuration(name)[1] for name in configurations] if scores else []
    for title, total in zip(configurations, totals, strict=False):
        table.add_column(f"{title}\nof {total}", justify="right", no_wrap=True)
    for title in ("all", "refined"):
        table.add_column(f"{title}\nof {sum(totals)}", justify="right", no_wrap=True)
    footnotes: list[RenderableType] = []
    for entry in scores:
        table.add_row(
            Text.assemble((entry.pack, "bold"), "\n", (entry.title, "dim")),
            *(Text(str(entry.of_configuration(name)[0])) for name in configurations),
            Text(str(entry.num_equal), style="bold"),
            Text(str(entry.num_equal_refined), style="bold"),
        )
        footnotes += [
            Text(f"{entry.pack} gives no plan for {dataset}: {reason}", style="yellow")
            for dataset, reason in entry.without_plan.items()
        ]
    return Group(table, *footnotes)
