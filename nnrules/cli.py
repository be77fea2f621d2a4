"""The command line: one function a verb, no logic.

Exit codes: 0 done, 1 a difference or a failed test, 2 an error that the user can put right.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnrules.errors import NnrulesError, Problem, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nnrules.engine.model import Pack
    from nnrules.fingerprint import Fingerprint
    from nnrules.plan import Plan

__all__ = ["app", "main"]

app = typer.Typer(
    name="nnrules",
    help="From a biomedical segmentation dataset to an explained plan.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
rules_app = typer.Typer(help="Rule packs: list, show, check, test.", no_args_is_help=True, rich_markup_mode=None)
export_app = typer.Typer(help="Write plans for other programs.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(rules_app, name="rules")
app.add_typer(export_app, name="export")

RulesOption = Annotated[str | None, typer.Option("--rules", metavar="NAME@VERSION|FILE", help="The rule pack.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="A preset of the pack, e.g. L.")]
MemoryOption = Annotated[
    float | None, typer.Option("--gpu-memory-gb", help="GPU memory to plan for, GB. Default: the pack's.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set a field; what depends on it follows.")
]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Threads. Default: all cores.")]


# -- output -----------------------------------------------------------------------------------------------------------


def _show(view: RenderableType) -> None:
    from nnrules.report.terminal import console

    console().print(view)


def _say(text: str) -> None:
    typer.echo(text)


def _json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True))


class _Progress:
    """A progress bar on a terminal; silent elsewhere and with ``--json``."""

    def __init__(self, text: str, *, quiet: bool) -> None:
        self.text = text
        self.bar: Any = None
        self.quiet = quiet or not sys.stderr.isatty()

    def __enter__(self) -> Callable[[int, int], None] | None:
        if self.quiet:
            return None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self.bar.start()
        task = self.bar.add_task(self.text, total=None)

        def update(done: int, total: int) -> None:
            self.bar.update(task, completed=done, total=total)

        return update

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


# -- inputs -----------------------------------------------------------------------------------------------------------


def _pack(rules: str | None, preset: str | None) -> Pack:
    from nnrules.engine.packs import DEFAULT_PACK, load_pack

    pack = load_pack(rules or DEFAULT_PACK, preset=preset)
    for warning in pack.warnings:
        logging.getLogger("nnrules").warning("%s", warning)
    return pack


def _load_fingerprint(path: Path, *, workers: int | None, quiet: bool) -> Fingerprint:
    """A fingerprint file, or the fingerprint of a dataset.json or its folder."""
    from nnrules.dataset_facts import is_dataset_json
    from nnrules.documents import read_json
    from nnrules.errors import FingerprintError
    from nnrules.fingerprint import Fingerprint
    from nnrules.interop.nnunetv2_read import is_nnunet_fingerprint

    if not path.is_dir():
        document = read_json(path, FingerprintError)
        if is_nnunet_fingerprint(document):
            raise UsageError(
                Problem(
                    where=str(path), what="this is nnU-Net v2's fingerprint, which needs its dataset.json",
                    fix=f"Run `nnrules plan --from-nnunet {path} DATASET_JSON`.",
                )  # fmt: skip
            )
        if not is_dataset_json(document):
            return Fingerprint.from_document(document, where=str(path))
    return _extract(path, workers=workers, quiet=quiet)


def _extract(
    path: Path, *, workers: int | None, quiet: bool, intensity: str = "exact", features: Path | None = None,
    cache: Path | None = None,
) -> Fingerprint:  # fmt: skip
    from nnrules.dataset import load_dataset
    from nnrules.extract import extract_fingerprint

    dataset = load_dataset(path)
    with _Progress("fingerprint", quiet=quiet) as progress:
        return extract_fingerprint(
            dataset, workers=workers, intensity=_choice(intensity), features=features, cache=cache, progress=progress
        )


def _choice(intensity: str) -> Any:
    allowed = ("exact", "nnunetv2_sampled")
    if intensity not in allowed:
        raise UsageError(
            Problem(where="--intensity", what="unknown statistics", got=intensity, expected=" or ".join(allowed))
        )
    return intensity


def _assignments(texts: list[str] | None) -> dict[str, Any]:
    from nnrules.engine.overrides import parse_assignment

    assignments: dict[str, Any] = {}
    for text in texts or []:
        path, value = parse_assignment(text)
        if path in assignments:
            raise UsageError(Problem(where=f"--set {path}", what="the field is set twice", fix="Leave one out."))
        assignments[path] = value
    return assignments


# -- verbs ------------------------------------------------------------------------------------------------------------


@app.command()
def plan(
    source: Annotated[Path | None, typer.Argument(help="dataset.json, its folder, or fingerprint.json.")] = None,
    *,
    rules: RulesOption = None,
    preset: PresetOption = None,
    gpu_memory_gb: MemoryOption = None,
    set_: SetOption = None,
    output: OutputOption = None,
    from_nnunet: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--from-nnunet", metavar="FINGERPRINT DATASET_JSON", help="nnU-Net v2's own two files."),
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plan a dataset: which networks, patches, spacings, training and inference."""
    from nnrules.documents import canonical_json
    from nnrules.engine.planning import make_plan

    if (source is None) == (from_nnunet is None):
        raise UsageError(
            Problem(where="nnrules plan", what="name one dataset", expected="SOURCE, or --from-nnunet with two files")
        )
    pack = _pack(rules, preset)
    assignments = _assignments(set_)
    if from_nnunet is not None:
        from nnrules.interop.nnunetv2_read import read_nnunet_fingerprint

        fingerprint = read_nnunet_fingerprint(*from_nnunet)
    else:
        assert source is not None
        fingerprint = _load_fingerprint(source, workers=workers, quiet=as_json)
    made = make_plan(fingerprint, pack, gpu_memory_gb=gpu_memory_gb, overrides=assignments)
    if output is not None:
        made.save(output)
    if as_json:
        typer.echo(canonical_json(dict(made.document)), nl=False)
        return
    from nnrules.report.terminal import plan_view

    _show(plan_view(made))
    if output is not None:
        _say(f"written to {output}")


@app.command()
def fingerprint(
    dataset: Annotated[Path, typer.Argument(help="dataset.json or its folder.")],
    *,
    output: OutputOption = None,
    features: Annotated[Path | None, typer.Option("--features", help="CSV with a row a case: further columns.")] = None,
    intensity: Annotated[
        str, typer.Option("--intensity", help="exact, or nnunetv2_sampled: nnU-Net v2's statistics to the bit.")
    ] = "exact",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a dataset: everything that rules may know about it."""
    from nnrules.documents import canonical_json

    cache = None if output is None else output.with_name(output.name + ".cache")
    made = _extract(dataset, workers=workers, quiet=as_json, intensity=intensity, features=features, cache=cache)
    if output is not None:
        made.save(output)
    if as_json or output is None:
        typer.echo(canonical_json(made.document), nl=False)
    else:
        _say(f"{made.dataset.name}: {made.num_cases} cases, written to {output}")


@app.command()
def check(
    dataset: Annotated[Path, typer.Argument(help="dataset.json or its folder.")],
    *,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a dataset: every header, label and intensity, with a fix for each finding."""
    from nnrules.dataset import load_dataset
    from nnrules.dataset_check import check_dataset

    loaded = load_dataset(dataset, require_files=False)
    with _Progress("check", quiet=as_json) as progress:
        report = check_dataset(loaded, workers=workers, progress=progress)
    if as_json:
        _json(report.to_json())
    else:
        _say(report.to_text())
    if report.has_errors:
        raise typer.Exit(2)


@app.command()
def validate(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Check a plan file: its schema, and that it does not contradict itself."""
    loaded = _load_plan(plan)
    if as_json:
        _json({"valid": True, "hash": loaded.hash, "configurations": list(loaded.configurations)})
    else:
        _say(f"{plan}: valid, configurations {', '.join(loaded.configurations)}")


def _load_plan(path: Path) -> Plan:
    from nnrules.plan import Plan

    return Plan.load(path)


@app.command()
def explain(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    path: Annotated[str | None, typer.Argument(help="A field, e.g. configurations.3d_fullres.patch_size.")] = None,
    *,
    rules: RulesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a value of a plan is what it is; without PATH, list every field with its rule."""
    from nnrules.engine.explain import explain as explain_field
    from nnrules.engine.explain import field_origins
    from nnrules.report.terminal import explanation_view, leaves_view

    loaded = _load_plan(plan)
    pack = None
    if rules is not None:
        pack = _pack(rules, loaded.provenance["pack"]["preset"])
    fields = field_origins(loaded, path)
    if path is not None and [name for name, _, _ in fields] == [path]:
        explanation = explain_field(loaded, path, pack=pack)
        if as_json:
            _json(explanation.to_json())
        else:
            _show(explanation_view(explanation))
        return
    if as_json:
        _json([{"path": name, "value": value, "decided_by": origin} for name, value, origin in fields])
    else:
        _show(leaves_view(loaded, fields))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A plan, or a fingerprint or dataset with two --rules.")],
    b: Annotated[Path | None, typer.Argument(help="Another plan.")] = None,
    *,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", metavar="NAME@VERSION|FILE", help="Twice: the packs to compare on one fingerprint."),
    ] = None,
    preset: Annotated[list[str] | None, typer.Option("--preset", help="A preset for each --rules, in order.")] = None,
    gpu_memory_gb: MemoryOption = None,
    from_nnunet: Annotated[
        Path | None, typer.Option("--from-nnunet", metavar="DATASET_JSON", help="A is nnU-Net v2's fingerprint.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two plans, or one dataset under two packs: causes, consequences, what must run again."""
    from nnrules.engine.diff import diff_plans
    from nnrules.report.terminal import diff_view

    packs: tuple[Pack | None, Pack | None] = (None, None)
    if b is not None and not rules:
        plans = (_load_plan(a), _load_plan(b))
    elif b is not None and rules and len(rules) <= 2:
        plans = (_load_plan(a), _load_plan(b))
        named = [_pack(name, None) for name in rules]
        packs = (named[0], named[-1])
    elif b is None and rules and len(rules) == 2:
        from nnrules.engine.planning import make_plan

        presets = [*(preset or []), None, None]
        left, right = (_pack(name, chosen) for name, chosen in zip(rules, presets, strict=False))
        if from_nnunet is not None:
            from nnrules.interop.nnunetv2_read import read_nnunet_fingerprint

            loaded = read_nnunet_fingerprint(a, from_nnunet)
        else:
            loaded = _load_fingerprint(a, workers=None, quiet=as_json)
        plans = tuple(make_plan(loaded, pack, gpu_memory_gb=gpu_memory_gb) for pack in (left, right))  # type: ignore[assignment]
        packs = (left, right)
    else:
        raise UsageError(
            Problem(
                where="nnrules diff", what="two plans, or one fingerprint and two --rules, are needed",
                expected="PLAN PLAN, or FINGERPRINT --rules PACK --rules PACK",
            )  # fmt: skip
        )
    found = diff_plans(plans[0], plans[1], packs=packs)
    if as_json:
        _json(found.to_json())
    else:
        _show(diff_view(found))
    if not found.is_empty:
        raise typer.Exit(1)


def _arguments(arguments: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="nnrules", standalone_mode=False)
    except NnrulesError as error:
        _report(error, arguments)
        return 2
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        typer.echo("interrupted", err=True)
        return 130
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return 130
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            typer.echo(f"nnrules: {error.format_message()}", err=True)
            return 2
        raise
    return int(result) if isinstance(result, int) else 0


def _report(error: NnrulesError, arguments: list[str] | None) -> None:
    """Every problem on standard error; as JSON when the verb was asked for JSON."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--json" in given:
        typer.echo(json.dumps({"errors": [problem.to_json() for problem in error.problems]}, ensure_ascii=False, indent=1), err=True)
        return
    for problem in error.problems:
        typer.echo(str(problem), err=True)
    if len(error.problems) > 1:
        typer.echo(f"{len(error.problems)} problems", err=True)


def main() -> None:
    """Entry point of the command ``nnrules``."""
    sys.exit(_arguments())


if __name__ == "__main__":
    main()
