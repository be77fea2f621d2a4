"""Which trained networks predict: found below the folder that a user names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from nnrules.documents import read_json
from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan

from nnrules_runtime.network.identity import network_digest
from nnrules_runtime.network.model import MODEL_FILE, PLAN_FILE, Checkpoint, Model, read_model, trained_folds
from nnrules_runtime.workspace import fold_name

__all__ = ["ModelSource", "find_first_stage", "find_models", "first_stage_folds", "models_of", "read_models"]

ModelSource = Path | str | Model


def find_models(
    path: Path, *, configuration: str | None = None, folds: Sequence[int | str] | None = None
) -> list[Path]:
    """The folders of the folds that predict.

    Args:
        path: a work folder, ``models/CONFIGURATION`` in one, or the folder of one fold.
        configuration: which one, where a work folder has several.
        folds: numbers, or ``"all"`` for the network that was trained on all cases. Default: every numbered fold
            that has been trained, or ``all`` where there is none.

    Raises:
        ModelError: there is no such model.
    """
    if not path.is_dir():
        what = "this is no folder" if path.exists() else "there is no such folder"
        fix = "Name a work folder or a folder of models; open_predictor also opens bundles."
        raise ModelError(Problem(where=str(path), what=what, fix=fix))
    if (path / MODEL_FILE).is_file():
        if folds is not None and [fold_name(fold) for fold in folds] != [path.name]:
            raise ModelError(
                Problem(
                    where=str(path),
                    what="this folder holds one fold",
                    got=", ".join(str(fold) for fold in folds),
                    fix="Name the folder above it to choose folds.",
                )
            )
        return [path]
    models = _configuration_folder(path, configuration)
    trained = trained_folds(models)
    numbered = [fold for fold in trained if fold != "all"]
    wanted = list(folds) if folds is not None else (numbered or list(trained))
    missing = [fold for fold in wanted if fold not in trained]
    if missing or not wanted:
        raise ModelError(
            Problem(
                where=str(models),
                what="not trained to an end" if missing else "no fold has been trained to an end",
                got=", ".join(fold_name(fold) for fold in missing) or None,
                expected="one of " + ", ".join(fold_name(fold) for fold in trained) if trained else None,
                fix="Train it with `nnrules run train`, or choose other folds.",
            )
        )
    return [trained[fold] for fold in wanted]


def read_models(
    folders: Sequence[Path], checkpoint: Checkpoint | None = None, *, plan: Plan | None = None
) -> tuple[Model, ...]:
    """Read the models of some folds; their weights are verified.

    Args:
        folders: of the folds.
        checkpoint: which weights; default: what the plan says (``inference.checkpoint``).
        plan: to use instead of the stored ones; it may differ in what weights do not depend on.

    Raises:
        ModelError: one is missing, damaged or of another plan than the first.
    """
    models = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            wanted = checkpoint or _planned_checkpoint(folder, plan)
            _check_ended(folder, wanted)
            models.append(read_model(folder, wanted, plan=plan))
        except ModelError as exc:
            problems.extend(exc.problems)
    if problems:
        raise ModelError(problems)
    _check_same(models)
    return tuple(models)


def models_of(
    sources: ModelSource | Sequence[ModelSource],
    *,
    configuration: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Model, ...]:
    """Models that are named in whatever way.

    Args:
        sources: folders as for :func:`find_models`, or models that have been read; one or several.
        configuration: as for :func:`find_models`.
        folds: as for :func:`find_models`.
        checkpoint: as for :func:`read_models`.

    Raises:
        ModelError: one is missing, damaged, or of another plan than the first.
        ValueError: none is named.
    """
    listed = [sources] if isinstance(sources, (Path, str, Model)) else list(sources)
    if not listed:
        raise ValueError("a predictor needs a model")
    models: list[Model] = []
    for source in listed:
        if isinstance(source, Model):
            models.append(source)
        else:
            folders = find_models(Path(source), configuration=configuration, folds=folds)
            models.extend(read_models(folders, checkpoint))
    _check_same(models)
    return tuple(models)


def first_stage_folds(
    trained: Collection[int | str], second_stage: Collection[int | str]
) -> tuple[int | str, ...]:
    """The folds of a cascade's first stage that predict for some folds of its second stage.

    All numbered ones, whatever those of the second stage are: each second stage was trained on what folds of the
    first one said about cases that they had not seen, as every one of them sees a new image. A second stage that was
    trained on all cases takes a first stage that was, where there is one.

    Args:
        trained: folds of the first stage that there are.
        second_stage: folds of the second stage that predict.
    """
    if set(second_stage) == {"all"} and "all" in trained:
        return ("all",)
    numbered = tuple(fold for fold in trained if fold != "all")
    return numbered or tuple(trained)


def find_first_stage(models: Sequence[Model]) -> list[Path]:
    """The folders of a cascade's first stage beside those of the second stage; see :func:`first_stage_folds`.

    Args:
        models: those of the second stage that predict, in folders.

    Raises:
        ModelError: the first stage is not there.
    """
    model = models[0]
    name = str(model.plan.configurations[model.configuration]["previous_stage"])
    folder = model.folder.resolve().parent.parent / name
    if folder.is_dir():
        folds = first_stage_folds(trained_folds(folder), [entry.fold for entry in models])
        return find_models(folder, folds=folds or None)
    raise ModelError(
        Problem(
            where=str(model.folder.parent),
            what=f"this is the second stage of a cascade, and the first, {name}, is not beside it",
            expected=str(folder),
            fix="Copy the folders of both configurations, or make a bundle with `nnrules run bundle`.",
        )
    )


def _check_same(models: Sequence[Model]) -> None:
    """Refuse to average networks that differ, or that take other inputs.

    Raises:
        ModelError: names those that differ from the first.
    """
    problems = [
        Problem(
            where=str(model.folder),
            what="this is another network than the first, or it takes other inputs",
            got=f"{model.configuration} of a plan with the hash {model.plan.hash}",
            expected=f"{models[0].configuration} of {models[0].plan.hash}",
            fix="Predict with each alone.",
        )
        for model in models[1:]
        if _digest(model) != _digest(models[0])
    ]
    if problems:
        raise ModelError(problems)


def _digest(model: Model) -> str:
    return network_digest(model.plan, model.configuration)


def _planned_checkpoint(folder: Path, plan: Plan | None) -> Checkpoint:
    """What the plan says about the configuration of a model; whatever is wrong is said when the model is read."""
    stored = (path for path in (folder / PLAN_FILE, folder.parent / PLAN_FILE) if path.is_file())
    path = next(stored, None)
    used = Plan.load(path) if plan is None and path is not None else plan
    document = read_json(folder / MODEL_FILE, ModelError)
    name = document.get("configuration") if isinstance(document, dict) else None
    if used is None or not isinstance(name, str) or name not in used.configurations:
        return "final"
    planned: Checkpoint = used.configurations[name]["inference"]["checkpoint"]
    return planned


def _check_ended(folder: Path, checkpoint: Checkpoint) -> None:
    """Name the weights that a training in progress has; whatever else is wrong is said when the model is read."""
    document = read_json(folder / MODEL_FILE, ModelError)
    weights = document.get("weights") if isinstance(document, dict) else None
    if checkpoint == "final" and isinstance(weights, dict) and list(weights) == ["best"]:
        raise ModelError(
            Problem(
                where=str(folder),
                what="this training has not ended",
                got="no final weights",
                fix="Continue it with `nnrules run train`, choose other folds with --folds, or predict with its best "
                "weights so far: --checkpoint best.",
            )
        )


def _configuration_folder(path: Path, configuration: str | None) -> Path:
    """``models/CONFIGURATION`` of a work folder, or the folder itself if it is one."""
    work = path / "models"
    if not work.is_dir():
        if configuration is not None and path.name != configuration and (path / configuration).is_dir():
            return path / configuration
        return path
    found = sorted(folder.name for folder in work.iterdir() if folder.is_dir() and trained_folds(folder))
    if configuration is not None and (work / configuration).is_dir():
        return work / configuration
    if configuration is None and len(found) == 1:
        return work / found[0]
    fix = (
        "Choose with -c (in Python: configuration=), or let `nnrules run find-best` choose."
        if found
        else "Train one with `nnrules run train`."
    )
    raise ModelError(
        Problem(
            where=str(work),
            what="no configuration has been trained to an end"
            if not found
            else "there is no such configuration"
            if configuration is not None
            else "several configurations have been trained",
            got=configuration,
            expected="one of " + ", ".join(found) if found else None,
            fix=fix,
        )
    )
