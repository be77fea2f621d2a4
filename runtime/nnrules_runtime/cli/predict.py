"""``nnrules run predict``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from nnrules.errors import Problem, RunError, UsageError

from nnrules_runtime.cli.options import DeviceOption, JsonOption, checkpoint_option, folds_option
from nnrules_runtime.cli.output import set_log_level

if TYPE_CHECKING:
    from nnrules_runtime.network.model import Model
    from nnrules_runtime.predict.case_predictor import CasePredictor
    from nnrules_runtime.predict.files import Done
    from nnrules_runtime.predict.inputs import InputCase
    from nnrules_runtime.predict.jobs import Workload

__all__ = ["predict"]

_LOGGER = logging.getLogger(__name__)


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A work folder, its models/CONFIGURATION, the folder of one fold, or a bundle.",
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="A folder of images, or the files of one case, a channel each."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A folder; for one case also a file.")],
    *,
    configurations: Annotated[
        list[str] | None,
        typer.Option(
            "-c",
            "--configuration",
            help="Which one; several (-c A -c B) are averaged. Default: what find-best chose, with its folds; else the "
            "only one that has been trained.",
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            help="Numbers such as 0,1, averaged; or all: the network trained on all cases. Default: those that "
            "find-best chose, else every numbered fold that has been trained. The first stage of a "
            "cascade uses all of its folds.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", metavar="final|best", help="Which weights of a fold. Default: the plan's."
        ),
    ] = None,
    postprocessing: Annotated[
        bool | None,
        typer.Option(
            "--postprocessing/--no-postprocessing",
            help="Postprocess as find-best determined. Default: if the plan says so.",
        ),
    ] = None,
    together: Annotated[
        Path | None,
        typer.Option(
            "--together",
            metavar="FILE",
            help="JSON with lists of cases on one grid whose probabilities are averaged: "
            '[["patient1_a", "patient1_b"], …].',
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="K/N", help="Every N-th case from the K-th: for N machines."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write CASE.npz with the probabilities, too.")
    ] = False,
    device: DeviceOption = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="float32|bfloat16|float16",
            help="Of the networks. Default: what suits the machine.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads on the CPU. Default: all cores.")
    ] = None,
    mirroring: Annotated[
        bool, typer.Option("--mirroring/--no-mirroring", help="Average over mirrored copies, as planned.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--keep", help="Whether results that are there are made again.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Segment images with a trained model or ensemble, in the geometry of the images."""
    from nnrules_runtime.predict.files import predict_jobs
    from nnrules_runtime.predict.inputs import find_cases, group_cases, part_of
    from nnrules_runtime.predict.jobs import plan_jobs
    from nnrules_runtime.predictors import open_predictor

    set_log_level(as_json=as_json)
    cases, problems = find_cases(inputs)
    _check_output(output, cases, is_folder=inputs[0].is_dir())
    groups = part_of(group_cases(cases, together), part)
    predictor = open_predictor(
        model,
        configurations=configurations or None,
        folds=folds_option(folds),
        checkpoint=checkpoint_option(checkpoint),
        device=device,
        precision=precision,
        num_threads=threads,
        mirroring=mirroring,
        postprocessing=postprocessing,
    )
    predictor.profile.apply()
    workload = plan_jobs(predictor, groups, output, probabilities=probabilities, keep=not overwrite)
    predictor.compile_if_it_pays(workload.num_passes)
    profile = [line for line in predictor.profile.lines() if not line.startswith("num_workers")]
    for line in (*profile, workload.to_text()):
        _LOGGER.info("%s", line)
    done: list[Done] = []
    for result in predict_jobs(predictor, workload.jobs):
        done.append(result)
        for problem in result.problems:
            _LOGGER.warning("%s", problem)
    problems = [*problems, *workload.problems, *(problem for result in done for problem in result.problems)]
    _report(predictor, workload, done, problems, as_json=as_json)
    if problems:
        raise RunError(problems)


def _check_output(output: Path, cases: list[InputCase], *, is_folder: bool) -> None:
    from nnrules.image_io import file_ending_of

    if file_ending_of(output) is not None and not output.is_dir() and (is_folder and len(cases) != 1):
        raise UsageError(
            Problem(
                where=str(output),
                what="one output file for several cases",
                got=f"{len(cases)} cases",
                fix="Name a folder.",
            )
        )


def _report(
    predictor: CasePredictor, workload: Workload, done: list[Done], problems: list[Problem], *, as_json: bool
) -> None:
    written = [result for result in done if result.output is not None]
    if as_json:
        document = {
            "configuration": " + ".join(predictor.configurations),
            "members": [
                _member_json(member.predictor.models, () if member.first is None else member.first.models)
                for member in predictor.members
            ],
            "postprocessing": predictor.postprocessing.to_json(),
            "plan_hash": predictor.plan.hash,
            "profile": predictor.profile.to_json(),
            "cases": [
                {
                    "id": result.id,
                    "segmentation": str(result.output),
                    "probabilities": None if result.probabilities is None else str(result.probabilities),
                    "seconds": round(result.seconds, 3),
                }
                for result in written
            ],
            "kept": list(workload.kept),
            "problems": [problem.to_json() for problem in problems],
        }
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True))
        return
    kept = f", {len(workload.kept)} kept" if workload.kept else ""
    where = ""
    if written and (first := written[0].output) is not None:
        where = f" to {first if len(written) == 1 else first.parent}"
    typer.echo(f"{len(written)} {'case' if len(written) == 1 else 'cases'} predicted{where}{kept}")


def _member_json(models: tuple[Model, ...], first: tuple[Model, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "configuration": models[0].configuration,
        "folds": [model.fold for model in models],
        "checkpoint": models[0].checkpoint,
    }
    return document if not first else {**document, "previous_stage": _member_json(first, ())}
