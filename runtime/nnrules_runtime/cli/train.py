"""``nnrules run train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnrules_runtime.cli.options import (
    DatasetArgument,
    DeviceOption,
    JsonOption,
    PlanArgument,
    PrecisionOption,
    SeedOption,
    SetOption,
    ThreadsOption,
    WorkOption,
)
from nnrules_runtime.cli.output import set_log_level

if TYPE_CHECKING:
    from nnrules.errors import UsageError

    from nnrules_runtime.train.run import TrainingResult

__all__ = ["STOPPED", "train"]

STOPPED = 3
"""Exit code of a training that stopped before its end, at a checkpoint from which the same command continues."""


def train(
    plan: PlanArgument,
    dataset: DatasetArgument,
    *,
    configuration: Annotated[
        str, typer.Option("-c", "--configuration", help="A configuration of the plan, such as 3d_fullres.")
    ],
    fold: Annotated[
        str,
        typer.Option(
            "--fold", help="Which cases validate: 0, 1, …; all: every case trains, so scores are no test."
        ),
    ] = "0",
    work: WorkOption = Path("work"),
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile. Default: where it pays.")
    ] = None,
    threads: ThreadsOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, help="Processes that prepare batches; 0: none. Default: as the device needs."
        ),
    ] = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0, help="Stop after this time; the same command continues later."),
    ] = None,
    max_hours: Annotated[float | None, typer.Option("--max-hours", min=0, help="The same in hours.")] = None,
    time_budget_minutes: Annotated[
        float | None,
        typer.Option(
            "--time-budget-minutes",
            min=0.1,
            help="Finish the whole schedule in this time, with fewer iterations.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Begin with these weights (fine-tuning): safetensors, or nnU-Net v2's .pth."
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            "--splits",
            help="Folds of your own, as in nnU-Net's splits_final.json. Default: as the plan says.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; what this fold has is deleted.")
    ] = False,
    validation: Annotated[
        bool,
        typer.Option("--validation/--no-validation", help="Predict and score validation cases at the end."),
    ] = True,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Keep probabilities of the validation cases, too: pairs of models are chosen by them.",
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's events, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one fold, and score its validation cases.

    An interrupted run continues when the same command is given again.

    A file STOP in the fold's folder, SIGTERM, Ctrl-C and --max-minutes end it at a checkpoint; the exit code is 3 then.
    """
    from nnrules.dataset import load_dataset

    from nnrules_runtime.cli.plan_of_run import plan_of_run
    from nnrules_runtime.profile import Profile
    from nnrules_runtime.train.run import TrainingOptions, train_fold
    from nnrules_runtime.workspace import Workspace

    set_log_level(as_json=as_json)
    if probabilities and not validation:
        raise _no_probabilities()
    number = _fold(fold)
    changed, changes = plan_of_run(plan, set_ or [], seed)
    profile = Profile.for_training(
        changed,
        device=device,
        precision=precision,
        compile=compile_,
        num_threads=threads,
        num_workers=workers,
    )
    result = train_fold(
        changed,
        load_dataset(dataset),
        configuration,
        number,
        Workspace(work),
        profile=profile,
        options=TrainingOptions(
            max_seconds=_seconds(max_minutes, max_hours),
            budget_seconds=None if time_budget_minutes is None else time_budget_minutes * 60,
            weights=weights,
            restart=restart,
            tensorboard=tensorboard,
            validate=validation,
            save_probabilities=probabilities,
            splits=splits,
            overrides=changes,
        ),
    )
    typer.echo(json.dumps(_document(result), indent=1, sort_keys=True) if as_json else _text(result))
    if not result.outcome.finished:
        raise typer.Exit(STOPPED)


def _fold(text: str) -> int | str:
    from nnrules.errors import Problem, UsageError

    if text == "all":
        return text
    if text.isdecimal():
        return int(text)
    raise UsageError(
        Problem(where="--fold", what="no such fold", got=text, expected="a number from 0, or all")
    )


def _no_probabilities() -> UsageError:
    from nnrules.errors import Problem, UsageError

    return UsageError(
        Problem(
            where="--probabilities",
            what="these are made by validation, which is switched off",
            got="--no-validation",
            fix="Leave one of the options out.",
        )
    )


def _seconds(minutes: float | None, hours: float | None) -> float | None:
    limits = [value * factor for value, factor in ((minutes, 60), (hours, 3600)) if value is not None]
    return min(limits, default=None)


def _document(result: TrainingResult) -> dict[str, Any]:
    return {
        "finished": result.outcome.finished,
        "stopped_by": result.outcome.reason,
        "epochs_done": result.outcome.epoch,
        "folder": str(result.folder),
        "validation": _validation(result),
    }


def _validation(result: TrainingResult) -> dict[str, Any] | None:
    """Mean foreground metrics, of now or of before."""
    from nnrules.documents import read_json
    from nnrules.errors import RunError

    from nnrules_runtime.train.validation import SUMMARY_FILE, VALIDATION_FOLDER

    path = result.folder / VALIDATION_FOLDER / SUMMARY_FILE
    if not result.outcome.finished or not path.is_file():
        return None
    means: dict[str, Any] = read_json(path, RunError)["foreground_mean"]
    return means


def _text(result: TrainingResult) -> str:
    if not result.outcome.finished:
        return (
            f"stopped by {result.outcome.reason} in epoch {result.outcome.epoch}; the same command continues"
        )
    lines = [f"trained: {result.folder}"]
    if (means := _validation(result)) is not None:
        dice = means.get("dice")
        lines.append(
            f"mean foreground Dice of the validation cases: {'undefined' if dice is None else f'{dice:.4f}'}"
        )
    return "\n".join(lines)
