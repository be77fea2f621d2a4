"""The verbs on datasets and plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnrules.cli.inputs import assignments_of, extract, load_fingerprint, load_plan, pack_of
from nnrules.cli.options import (
    JsonOption,
    MemoryOption,
    OutputOption,
    PresetOption,
    RulesOption,
    SetOption,
    WorkersOption,
)
from nnrules.cli.output import ProgressBar, say, say_json, show
from nnrules.errors import Problem, UsageError

if TYPE_CHECKING:
    from nnrules.engine.model import Pack

__all__ = ["app", "export_app"]

app = typer.Typer(
    name="nnrules",
    help="From a biomedical segmentation dataset to an explained plan.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
export_app = typer.Typer(help="Write plans for other programs.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(export_app, name="export")


@app.command()
def plan(
    source: Annotated[
        Path | None, typer.Argument(help="dataset.json, its folder, or fingerprint.json.")
    ] = None,
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
            Problem(
                where="nnrules plan",
                what="name one dataset",
                expected="SOURCE, or --from-nnunet with two files",
            )
        )
    pack = pack_of(rules, preset)
    assignments = assignments_of(set_)
    if from_nnunet is not None:
        from nnrules.interop.nnunetv2_read import read_nnunet_fingerprint

        fingerprint = read_nnunet_fingerprint(*from_nnunet)
    else:
        assert source is not None
        fingerprint = load_fingerprint(source, workers=workers, quiet=as_json)
    made = make_plan(fingerprint, pack, gpu_memory_gb=gpu_memory_gb, overrides=assignments)
    if output is not None:
        made.save(output)
    if as_json:
        typer.echo(canonical_json(dict(made.document)), nl=False)
        return
    from nnrules.report.terminal import plan_view

    show(plan_view(made))
    if output is not None:
        say(f"written to {output}")


@app.command()
def fingerprint(
    dataset: Annotated[Path, typer.Argument(help="dataset.json or its folder.")],
    *,
    output: OutputOption = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="CSV with a row a case: further columns.")
    ] = None,
    intensity: Annotated[
        str,
        typer.Option("--intensity", help="exact, or nnunetv2_sampled: nnU-Net v2's statistics to the bit."),
    ] = "exact",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a dataset: everything that rules may know about it."""
    from nnrules.documents import canonical_json, check_writable

    cache = None
    if output is not None:
        check_writable(output)
        cache = output.with_name(output.name + ".cache")
    made = extract(
        dataset, workers=workers, quiet=as_json, intensity=intensity, features=features, cache=cache
    )
    if output is not None:
        made.save(output)
    if as_json or output is None:
        typer.echo(canonical_json(made.document), nl=False)
    else:
        say(f"{made.dataset.name}: {made.num_cases} cases, written to {output}")


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
    with ProgressBar("check", quiet=as_json) as progress:
        report = check_dataset(loaded, workers=workers, progress=progress)
    if as_json:
        say_json(report.to_json())
    else:
        say(report.to_text())
    if report.has_errors:
        raise typer.Exit(2)


@app.command()
def validate(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Check a plan file: its schema, and that it does not contradict itself."""
    loaded = load_plan(plan)
    if as_json:
        say_json({"valid": True, "hash": loaded.hash, "configurations": list(loaded.configurations)})
    else:
        say(f"{plan}: valid, configurations {', '.join(loaded.configurations)}")


@app.command()
def explain(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    path: Annotated[
        str | None, typer.Argument(help="A field, e.g. configurations.3d_fullres.patch_size.")
    ] = None,
    *,
    rules: RulesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a value of a plan is what it is; without PATH, list every field with its rule."""
    from nnrules.engine.explain import explain as explain_field
    from nnrules.engine.origins import field_origins
    from nnrules.report.terminal import explanation_view, leaves_view

    loaded = load_plan(plan)
    pack = None
    if rules is not None:
        pack = pack_of(rules, loaded.provenance["pack"]["preset"])
    fields = field_origins(loaded, path)
    if path is not None and [name for name, _, _ in fields] == [path]:
        explanation = explain_field(loaded, path, pack=pack)
        if as_json:
            say_json(explanation.to_json())
        else:
            show(explanation_view(explanation))
        return
    if as_json:
        say_json([{"path": name, "value": value, "decided_by": origin} for name, value, origin in fields])
    else:
        show(leaves_view(fields))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A plan, or a fingerprint or dataset with two --rules.")],
    b: Annotated[Path | None, typer.Argument(help="Another plan.")] = None,
    *,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules", metavar="NAME@VERSION|FILE", help="Twice: the packs to compare on one fingerprint."
        ),
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", help="A preset for each --rules, in order.")
    ] = None,
    gpu_memory_gb: MemoryOption = None,
    from_nnunet: Annotated[
        Path | None,
        typer.Option("--from-nnunet", metavar="DATASET_JSON", help="A is nnU-Net v2's fingerprint."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two plans, or one dataset under two packs: causes, consequences, what must run again."""
    from nnrules.engine.diff import diff_plans
    from nnrules.report.terminal import diff_view

    packs: tuple[Pack | None, Pack | None] = (None, None)
    if b is not None and not rules:
        plans = (load_plan(a), load_plan(b))
    elif b is not None and rules and len(rules) <= 2:
        plans = (load_plan(a), load_plan(b))
        named = [pack_of(name, None) for name in rules]
        packs = (named[0], named[-1])
    elif b is None and rules and len(rules) == 2:
        from nnrules.engine.planning import make_plan

        presets = [*(preset or []), None, None]
        left, right = (pack_of(name, chosen) for name, chosen in zip(rules, presets, strict=False))
        if from_nnunet is not None:
            from nnrules.interop.nnunetv2_read import read_nnunet_fingerprint

            loaded = read_nnunet_fingerprint(a, from_nnunet)
        else:
            loaded = load_fingerprint(a, workers=None, quiet=as_json)
        plans = tuple(make_plan(loaded, pack, gpu_memory_gb=gpu_memory_gb) for pack in (left, right))  # type: ignore[assignment]
        packs = (left, right)
    else:
        raise UsageError(
            Problem(
                where="nnrules diff",
                what="two plans, or one fingerprint and two --rules, are needed",
                expected="PLAN PLAN, or FINGERPRINT --rules PACK --rules PACK",
            )
        )
    found = diff_plans(plans[0], plans[1], packs=packs)
    if as_json:
        say_json(found.to_json())
    else:
        show(diff_view(found))
    if not found.is_empty:
        raise typer.Exit(1)


@export_app.command("nnunetv2")
def export_nnunetv2(
    plan: Annotated[Path, typer.Argument(help="A plan file.")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="The nnUNetPlans.json to write.")],
    dataset_name: Annotated[
        str | None, typer.Option("--dataset-name", help="nnU-Net's name, e.g. Dataset003_Liver.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the plan as nnU-Net v2's nnUNetPlans.json."""
    from nnrules.interop.nnunetv2_write import write_nnunet_plans

    written = write_nnunet_plans(load_plan(plan), output, dataset_name=dataset_name)
    if as_json:
        say_json({"output": str(output), "warnings": [problem.to_json() for problem in written.warnings]})
        return
    for problem in written.warnings:
        say(f"warning: {problem}")
    say(f"written to {output}: {', '.join(written.document['configurations'])}")


@app.command()
def demo(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the demo writes.")] = Path(
        "demo-output"
    ),
    as_json: JsonOption = False,
) -> None:
    """Plan the paper's 19 datasets against its tables, and three phantoms from images to plans."""
    import io

    from rich.console import Console

    from nnrules.demo.run import run_demo
    from nnrules.report.terminal import console

    result = run_demo(output, Console(file=io.StringIO()) if as_json else console())
    if as_json:
        say_json(result.to_json())
