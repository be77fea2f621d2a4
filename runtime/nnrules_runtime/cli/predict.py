"""``nnrules run predict``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from nnrules.errors import Problem, RunError, UsageError

if TYPE_CHECKING:
    from nnrules_runtime.predict.files import Done, Workload
    from nnrules_runtime.predict.inputs import InputCase
    from nnrules_runtime.predict.predictor import Predictor

__all__ = ["predict"]

_LOGGER = logging.getLogger(__name__)


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A work folder, its models/CONFIGURATION, or the folder of one fold."
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="A folder of images, or the files of one case, a channel each."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A folder; for one case also a file.")],
    *,
    configuration: Annotated[
        str | None, typer.Option("-c", "--configuration", help="Which one, if the work folder has several.")
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            help="Numbers such as 0,1, averaged; or all: the network trained on all cases. Default: every numbered "
            "fold that has been trained.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", metavar="final|best", help="Which weights of a fold. Default: the plan's."
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="K/N", help="Every N-th case from the K-th: for N machines."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write CASE.npz with the probabilities, too.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")
    ] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")] = False,
) -> None:
    """Segment images with the networks of a work folder, in the geometry of the images."""
    from nnrules_runtime.predict.files import plan_jobs, predict_jobs
    from nnrules_runtime.predict.inputs import find_cases, part_of

    logging.getLogger("nnrules_runtime").setLevel(logging.WARNING if as_json else logging.INFO)
    cases, problems = find_cases(inputs)
    _check_output(output, cases, is_folder=inputs[0].is_dir())
    cases = part_of(cases, part)
    predictor = _predictor(
        model,
        configuration,
        _folds(folds),
        _checkpoint(checkpoint),
        device=device,
        precision=precision,
        threads=threads,
        mirroring=mirroring,
    )
    workload = plan_jobs(predictor, cases, output, probabilities=probabilities, keep=not overwrite)
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


def _predictor(
    model: Path,
    configuration: str | None,
    folds: list[int | str] | None,
    checkpoint: str | None,
    *,
    device: str | None,
    precision: str | None,
    threads: int | None,
    mirroring: bool,
) -> Predictor:
    from nnrules_runtime.predict.models import find_models, read_models
    from nnrules_runtime.predict.predictor import Predictor, inference_profile
    from nnrules_runtime.values import reading

    folders = find_models(model, configuration=configuration, folds=folds)
    models = read_models(folders, checkpoint)  # type: ignore[arg-type]
    with reading(models[0].plan) as root:
        profile = inference_profile(root, device=device, precision=precision, num_threads=threads)
    profile.apply()
    names = ", ".join(f"{found.folder.name} ({found.checkpoint})" for found in models)
    _LOGGER.info("%s of %s: %s", models[0].configuration, model, names)
    return Predictor(models, profile=profile, mirroring=mirroring)


def _folds(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    if all(entry.isdecimal() or entry == "all" for entry in entries):
        return list(dict.fromkeys(int(entry) if entry.isdecimal() else entry for entry in entries))
    raise UsageError(
        Problem(
            where="--folds", what="these are no folds", got=text, expected="numbers such as 0,1,2, or all"
        )
    )


def _checkpoint(name: str | None) -> str | None:
    if name in (None, "final", "best"):
        return name
    raise UsageError(
        Problem(where="--checkpoint", what="there is no such checkpoint", got=name, expected="final or best")
    )


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
    predictor: Predictor, workload: Workload, done: list[Done], problems: list[Problem], *, as_json: bool
) -> None:
    written = [result for result in done if result.output is not None]
    if as_json:
        document = {
            "configuration": predictor.configuration,
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
