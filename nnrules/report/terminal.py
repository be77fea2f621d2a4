"""Plans, explanations and diffs as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnrules.engine.diff import Change, PlanDiff
from nnrules.engine.explain import Explanation, Rounds
from nnrules.engine.values import render
from nnrules.plan import Plan

__all__ = ["diff_view", "explanation_view", "leaves_view", "plan_view", "shown"]

_MAX_ROWS = 24
_RERUN = {
    "preprocess": "preprocessing and everything after it",
    "train": "training and everything after it",
    "predict": "prediction",
    "select": "the empirical choice of configuration and postprocessing",
    "none": "nothing",
}


def shown(value: Any, limit: int = 70) -> str:
    """A JSON value on one line."""
    if isinstance(value, list) and value and not isinstance(value[0], (list, dict, str)):
        # Two or three numbers are a size; more are one a stage.
        text = render(value) if len(value) <= 3 else ", ".join(map(render, value))
    elif isinstance(value, list) and value and isinstance(value[0], list):
        text = _runs([shown(item) for item in value])
    elif isinstance(value, dict):
        text = ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    else:
        text = (
            "none"
            if value is None or value == []
            else ", ".join(map(str, value))
            if isinstance(value, list)
            else render(value)
        )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _cell(value: Any) -> str:
    """A value in a narrow table: four significant digits, no spaces."""
    if value is None:
        return ""
    if isinstance(value, list):
        joiner = " " if value and isinstance(value[0], bool) else "×"
        return joiner.join(_cell(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else shown(value, 40)


def _runs(entries: list[str]) -> str:
    """``1×1, 2×2 (5 times)`` for a list of stages with repetitions."""
    runs: list[tuple[str, int]] = []
    for entry in entries:
        compact = entry.replace(" × ", "×")
        if runs and runs[-1][0] == compact:
            runs[-1] = (compact, runs[-1][1] + 1)
        else:
            runs.append((compact, 1))
    return ", ".join(entry if count == 1 else f"{entry} ({count} times)" for entry, count in runs)


_ROWS: tuple[tuple[str, str], ...] = (
    ("patch size (voxels)", "patch_size"),
    ("batch size", "batch_size"),
    ("spacing (mm)", "spacing"),
    ("median image (voxels)", "median_shape"),
    ("stages", "architecture.num_stages"),
    ("strides", "architecture.strides"),
    ("kernels", "architecture.kernel_sizes"),
    ("features", "architecture.features_per_stage"),
    ("axis order", "transpose_forward"),
    ("batch Dice", "loss.batch_dice"),
)


def _axes(order: list[int]) -> str:
    return ", ".join("zyx"[axis] for axis in order)


def _at(configuration: Mapping[str, Any], path: str) -> Any:
    value: Any = configuration
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def plan_view(plan: Plan) -> RenderableType:
    """The table that ``nnrules plan`` prints."""
    dataset, provenance = plan.document["dataset"], plan.provenance
    pack, budget = provenance["pack"], provenance["budget"]["gpu_memory_gb"]
    preset = f", preset {pack['preset']}" if pack["preset"] else ""
    heading = Text.assemble(
        (dataset["name"] or "dataset", "bold"),
        f" · {provenance['fingerprint']['num_cases']} cases · rules ",
        (f"{pack['name']}@{pack['version']}{preset}", "bold"),
        f" · {render(budget)} GB",
    )
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("")
    # A second stage that takes everything from another configuration needs no column of its own.
    names = [name for name, entry in plan.configurations.items() if "inherits_from" not in entry]
    names.sort(
        key=["2d", "3d_lowres", "3d_fullres"].index
        if set(names) <= {"2d", "3d_lowres", "3d_fullres"}
        else str
    )
    for name in names:
        table.add_column(name, overflow="fold")
    for label, path in _ROWS:
        values = [_at(plan.configurations[name], path) for name in names]
        show = _axes if path == "transpose_forward" else shown
        cells = ["–" if value is None else show(value) for value in values]
        table.add_row(label, *cells, style="bold" if path in ("patch_size", "batch_size") else None)
    parts: list[RenderableType] = [heading, Padding(table, (1, 0, 0, 0))]
    for name, entry in plan.configurations.items():
        if "inherits_from" in entry:
            stage = f", after {entry['previous_stage']}" if entry.get("previous_stage") else ""
            parts.append(Text(f"{name}: as {entry['inherits_from']}{stage}"))
    for name, dropped in provenance["dropped"].items():
        parts.append(Text(f"{name}: not planned, because {dropped['because']}"))
    parts.append(_normalization(plan))
    parts += [
        Text(f"warning ({entry['rule']}): {entry['text']}", style="yellow")
        for entry in provenance["warnings"]
    ]
    return Group(*parts)


def _normalization(plan: Plan) -> Text:
    texts = []
    for channel in plan.document["channels"]:
        chosen = channel["normalization"]
        mask = " inside the non-zero mask" if chosen["use_mask"] else ""
        texts.append(f"{channel['name']} {chosen['scheme']}{mask}")
    return Text("normalisation: " + ", ".join(texts))


def leaves_view(leaves: Iterable[tuple[str, Any, str]]) -> RenderableType:
    """Fields with their values and deciding rules."""
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for name in ("field", "value", "decided by"):
        table.add_column(name, overflow="fold")
    for path, value, origin in leaves:
        table.add_row(path, shown(value), origin)
    return table


def explanation_view(explanation: Explanation) -> RenderableType:
    """What ``nnrules explain PLAN PATH`` prints."""
    parts: list[RenderableType] = [
        Text.assemble((explanation.path, "bold"), " = ", (shown(explanation.value, 400), "bold green"))
    ]
    if explanation.rule is None:
        parts.append(Text(explanation.because))
        return Group(*parts)
    place = f"{explanation.file}:{explanation.line}"
    title = f" · {explanation.title}" if explanation.title else ""
    parts.append(Text(f"{explanation.kind} · rule {explanation.rule} ({place}){title}"))
    if explanation.inherited_from:
        parts.append(Text(f"taken from configuration {explanation.inherited_from}"))
    parts.append(Text(f"because {explanation.because}"))
    others = [path for path in explanation.decides if path != explanation.path]
    if others and len(explanation.decides) <= 6:
        parts.append(Text("decided together with " + ", ".join(others), style="dim"))
    if explanation.inputs:
        table = Table(
            box=SIMPLE, show_edge=False, pad_edge=False, title="what the rule read", title_justify="left"
        )
        for name in ("name", "value", "from"):
            table.add_column(name, overflow="fold")
        for entry in explanation.inputs:
            table.add_row(entry.name, shown(entry.value), entry.origin)
        parts.append(Padding(table, (1, 0, 0, 0)))
    if explanation.untaken:
        table = Table(
            box=SIMPLE, show_edge=False, pad_edge=False, title="cases not taken", title_justify="left"
        )
        for name in ("at", "when", ""):
            table.add_column(name, overflow="fold")
        for case in explanation.untaken:
            table.add_row(case.place, case.when, case.outcome)
        parts.append(Padding(table, (1, 0, 0, 0)))
        parts += [Text(f"  {name} is {text}", style="dim") for name, text in explanation.names]
    parts += [Padding(_rounds(rounds), (1, 0, 0, 0)) for rounds in explanation.rounds]
    for flip in explanation.flips:
        parts.append(Text(f"at {render(flip.gpu_memory_gb)} GB it would be {shown(flip.value)}"))
    if explanation.note:
        parts.append(Text(explanation.note, style="yellow"))
    return Group(*parts)


def _rounds(rounds: Rounds) -> RenderableType:
    table = Table(
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
        title=f"rounds of {rounds.function}",
        title_justify="left",
    )
    varying = [
        index
        for index in range(len(rounds.columns))
        if len(rounds.rows) == 1 or any(row[index] != rounds.rows[0][index] for row in rounds.rows)
    ]
    table.add_column("round", justify="right")
    for index in varying:
        table.add_column(rounds.columns[index], overflow="fold")
    rows = list(enumerate(rounds.rows, 1))
    half = _MAX_ROWS // 2
    cut = len(rows) > _MAX_ROWS
    for number, row in rows[:half] if cut else rows:
        table.add_row(str(number), *(_cell(row[index]) for index in varying))
    if cut:
        table.add_row(
            "…",
            *(f"{len(rows) - _MAX_ROWS} more" if not position else "" for position in range(len(varying))),
        )
        for number, row in rows[-half:]:
            table.add_row(str(number), *(_cell(row[index]) for index in varying))
    fixed = [index for index in range(len(rounds.columns)) if index not in varying]
    parts: list[RenderableType] = [table]
    if fixed:
        parts.append(
            Text("throughout: " + ", ".join(f"{rounds.columns[i]} {shown(rounds.rows[0][i])}" for i in fixed))
        )
    if rounds.stopped:
        parts.append(Text(f"stopped: {rounds.stopped}"))
    return Group(*parts)


def diff_view(diff: PlanDiff) -> RenderableType:
    """What ``nnrules diff A B`` prints."""
    parts: list[RenderableType] = [
        Text(f"{name}: {shown(old, 60)} → {shown(new, 60)}") for name, (old, new) in diff.context.items()
    ]
    if diff.is_empty:
        parts.append(
            Text("No difference: both plans ask for the same network, training and inference.", style="green")
        )
        return Group(*parts)
    for title, changes in (("causes", diff.causes), ("consequences", diff.consequences)):
        if changes:
            parts += [
                Text(""),
                Text(f"{title} ({len(changes)} fields)", style="bold underline"),
                *_groups(changes),
            ]
    parts += [Text(""), Text(f"must run again: {_RERUN[diff.rerun]}", style="bold")]
    return Group(*parts)


def _groups(changes: Iterable[Change]) -> Iterator[RenderableType]:
    """Changes by reason; equal changes of several configurations on one line."""
    reasons: dict[tuple[str, tuple[str | None, str | None]], dict[tuple[str, str, str], list[str]]] = {}
    for change in changes:
        configuration, field = _split(change.path)
        line = (field, shown(change.old, 60), shown(change.new, 60))
        reasons.setdefault((change.why, change.rules), {}).setdefault(line, []).append(configuration)
    for (why, rules), lines in reasons.items():
        yield Text.assemble(("● ", "cyan"), (why, "cyan"))
        places = [
            text.partition(" ")[2].strip("()") if text.split(" ")[0] in why else text
            for text in rules
            if text
        ]
        if places:
            yield Text("  " + " → ".join(dict.fromkeys(places)), style="dim")
        for (field, old, new), configurations in lines.items():
            where = f"{' '.join(configurations)}: " if any(configurations) else ""
            yield Padding(Text.assemble(f"{where}{field}  ", (f"{old} → {new}", "bold")), (0, 0, 0, 4))


def _split(path: str) -> tuple[str, str]:
    """Configuration and field of a path; the configuration is empty for fields of the whole plan."""
    parts = path.split(".", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "configurations" else ("", path)


def console(*, stderr: bool = False) -> Console:
    """A console that keeps to plain text where the output is not a terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=False, emoji=False, markup=False)
