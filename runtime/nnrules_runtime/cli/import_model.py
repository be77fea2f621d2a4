"""``nnrules run import``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from nnrules.errors import Problem, UsageError

from nnrules_runtime.cli.options import JsonOption
from nnrules_runtime.cli.output import set_log_level

if TYPE_CHECKING:
    from nnrules_runtime.network.model import Model

__all__ = ["import_model"]


def import_model(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL",
            help="Model folders of nnU-Net v2, such as nnUNetTrainer__nnUNetPlans__3d_fullres.",
        ),
    ],
    work: Annotated[Path, typer.Argument(metavar="WORK", help="The work folder that gets the networks.")],
    *,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan", help="Our plan of the same preprocessing and networks; it decides how they predict."
        ),
    ] = None,
    configuration: Annotated[
        str | None,
        typer.Option(
            "-c", "--configuration", help="Its configuration. Default: the end of the folder's name."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert trained models of nnU-Net v2, so that a work folder predicts with them. Nothing in them is executed."""
    from nnrules.plan import Plan

    from nnrules_runtime.network.model_import import configuration_of, import_nnunetv2
    from nnrules_runtime.workspace import Workspace

    set_log_level(as_json=as_json)
    if plan is None:
        raise _no_plan(models[0])
    if configuration is not None and len(models) > 1:
        raise UsageError(
            Problem(
                where="-c",
                what="one name for several model folders",
                fix="Leave it out: the names of the folders end with their configurations.",
            )
        )
    loaded = Plan.load(plan)
    workspace = Workspace(work)
    imported: list[Model] = []
    for folder in models:
        name = configuration or configuration_of(folder, loaded)
        imported += import_nnunetv2(folder, loaded, name, workspace.models(name))
    if as_json:
        document = [
            {
                "configuration": model.configuration,
                "fold": model.fold,
                "checkpoint": model.checkpoint,
                "epoch": model.epoch,
                "weights": str(model.file),
            }
            for model in imported
        ]
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True))
        return
    for model in imported:
        epochs = "" if model.epoch is None else f", {model.epoch} epochs"
        typer.echo(f"{model.configuration}, fold {model.fold}, {model.checkpoint}{epochs}: {model.file}")


def _no_plan(folder: Path) -> UsageError:
    """What to type first: rules are not read here, so that a plan must be there."""
    return UsageError(
        Problem(
            where="--plan",
            what="a plan is needed, which says how the networks predict",
            fix="Make one from nnU-Net's own files: `nnrules plan --from-nnunet "
            f"{folder / 'dataset_fingerprint.json'} {folder / 'dataset.json'} -o plan.json`, then add "
            "--plan plan.json. "
            "For a model that was not planned with nnU-Net's default, name its rules with --rules.",
        )
    )
