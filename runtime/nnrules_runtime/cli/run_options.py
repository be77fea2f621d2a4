"""What ``nnrules run all`` and ``nnrules run status`` are asked: the options that both take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer
from nnrules.errors import Problem, UsageError

from nnrules_runtime.cli.options import (
    DatasetArgument,
    PlanArgument,
    SetOption,
    WorkOption,
    folds_option,
    names_option,
)

if TYPE_CHECKING:
    from nnrules_runtime.workflow.settings import Refit, Settings

__all__ = ["Asked", "asks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be done, as it was typed. Its fields are options, see :func:`asks`."""

    plan: PlanArgument
    dataset: DatasetArgument
    work: WorkOption = Path("work")
    configurations: Annotated[
        str | None,
        typer.Option(
            "--configurations", help="Those to train, such as 2d,3d_fullres. Default: all of the plan."
        ),
    ] = None
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            help="Those to train, such as 0 or 0,1. Default: all. all: one model of all cases, without a choice. The "
            "first stage of a cascade always has every fold.",
        ),
    ] = None
    splits: Annotated[
        Path | None,
        typer.Option(
            "--splits", help="Folds of your own, as nnU-Net's splits_final.json. Default: the plan's."
        ),
    ] = None
    refit: Annotated[
        str | None,
        typer.Option(
            "--refit",
            help="What predicts in the end. cv: all folds of what was chosen; all: one model of it on all cases. "
            "Default: the folds that were trained.",
        ),
    ] = None
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Also write the result to this file, which predicts anywhere."),
    ] = None
    licence: Annotated[
        str | None,
        typer.Option("--licence", help="Licence of the bundle: an SPDX identifier, or a text file."),
    ] = None
    set_: SetOption = None

    def settings(self, *, seed: int | None, profile: Mapping[str, Any] | None = None) -> Settings:
        """Read what the options name.

        Args:
            seed: of all draws; ``None``: the plan's.
            profile: parts of the execution profile that were given.

        Raises:
            UsageError: an option's text is none of those that it may be.
            PlanError, DatasetError: the plan or the dataset is not valid.
        """
        from nnrules.dataset import load_dataset

        from nnrules_runtime.cli.plan_of_run import plan_of_run
        from nnrules_runtime.workflow.settings import Settings
        from nnrules_runtime.workspace import Workspace

        refit = _refit(self.refit)
        changed, changes = plan_of_run(self.plan, self.set_ or [], seed)
        configurations, folds = names_option(self.configurations), folds_option(self.folds)
        return Settings(
            plan=changed,
            dataset=load_dataset(self.dataset),
            workspace=Workspace(self.work),
            configurations=None if configurations is None else tuple(configurations),
            folds=None if folds is None else tuple(folds),
            splits=self.splits,
            refit=refit,
            profile=profile or {},
            bundle=self.bundle,
            licence=self.licence,
            overrides=changes,
        )


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command, whose first parameter is an :class:`Asked`, take the fields of it as options.

    typer reads options from a function's signature: the first parameter gives way to the fields there.
    """
    types = get_type_hints(Asked, include_extras=True)
    asked = {
        field.name: inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(Asked)
    }
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()

    @functools.wraps(command)
    def called(**values: Any) -> None:
        command(Asked(**{name: values.pop(name) for name in asked}), **values)

    called.__signature__ = signature.replace(parameters=[*asked.values(), *own])  # type: ignore[attr-defined]
    return called


def _refit(text: str | None) -> Refit | None:
    if text in (None, "cv", "all"):
        return cast("Refit | None", text)
    raise UsageError(Problem(where="--refit", what="no such choice", got=text, expected="cv or all"))
