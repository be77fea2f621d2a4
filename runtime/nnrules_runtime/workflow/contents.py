"""What a step reads and what it leaves, as digests: a step is done again exactly where one of them has changed.

Digests are taken from what is small: keys of preprocessed cases, model.json, which has the digest of the weights in
it, summaries, fields of the plan. Nothing large is read to find out that nothing is to be done.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnrules.documents import content_hash, read_json
from nnrules.errors import ModelError

from nnrules_runtime.files import digest_of_file
from nnrules_runtime.network.model import MODEL_FILE
from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.dataset import store_folder
from nnrules_runtime.preprocess.store import stored_key
from nnrules_runtime.train.cascade import stages_of
from nnrules_runtime.train.checkpoint import training_fields
from nnrules_runtime.train.validation import SUMMARY_FILE, VALIDATION_FOLDER
from nnrules_runtime.values import reading
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph, Kind, Step

__all__ = ["inputs_of", "outputs_of"]

Digests = dict[str, str]


def inputs_of(step: Step, graph: Graph, settings: Settings) -> Digests:
    """What a step reads: what the plan and the settings say to it, and what the steps before it left.

    Args:
        step: the step.
        graph: its graph.
        settings: of the run.

    Returns:
        Name → digest; names are fit for people.
    """
    digests = {
        f"result of {graph[name].title}": content_hash(_result(graph[name], settings)) for name in step.reads
    }
    for title, value in _read_of_plan(step, settings).items():
        digests[title] = content_hash(value)
    if step.kind is Kind.PREPROCESS:
        digests["images and labels"] = _files(settings)
    if step.kind is Kind.TRAIN:
        # Its own cases, not all that preprocessing left: another configuration more or less changes nothing here.
        digests["preprocessed cases"] = content_hash(_stores(step, settings))
    return digests


def outputs_of(step: Step, settings: Settings) -> Digests | None:
    """What a step has left; ``None`` where part of it is missing.

    Raises:
        NnrulesError: a document that it left cannot be read.
    """
    match step.kind:
        case Kind.PREPROCESS:
            return _stores(step, settings)
        case Kind.TRAIN:
            return _weights(_fold(step, settings))
        case Kind.VALIDATE:
            folder = _fold(step, settings) / VALIDATION_FOLDER
            if step.probabilities and not _has_probabilities(folder):
                return None
            return _documents([folder / SUMMARY_FILE], sizes_in=folder)
        case Kind.FIND_BEST:
            # A refit changes the folds that predict, and is undone where none is asked for.
            return _choice(settings, folds=settings.refit is None)
        case Kind.REFIT:
            return _choice(settings, folds=True, choice=False)
        case Kind.POSTPROCESS:
            folder = settings.workspace.cross_validation
            return _documents([folder / SUMMARY_FILE], sizes_in=folder)
        case Kind.BUNDLE:
            return None if settings.bundle is None else _stat(settings.bundle)


def _result(step: Step, settings: Settings) -> Digests | None:
    """What a step has left for those after it: of the choice not the folds, which a refit changes."""
    if step.kind is Kind.FIND_BEST:
        return _choice(settings, folds=False)
    return outputs_of(step, settings)


def _read_of_plan(step: Step, settings: Settings) -> dict[str, Any]:
    """Parts of the plan and of the settings that a step reads, by what they are called in messages."""
    document = settings.plan.document
    match step.kind:
        case Kind.PREPROCESS:
            with reading(settings.plan) as root:
                return {
                    f"preprocessing of {name}": Preprocessing.digest_from_plan(root, name)
                    for name in step.configurations
                }
        case Kind.TRAIN:
            assert step.fold is not None
            name = step.configurations[0]
            cases = [[case.id, case.group] for case in settings.dataset.cases]
            splits = None if settings.splits is None else digest_of_file(settings.splits)
            return {
                "plan: what training reads": training_fields(settings.plan, name, step.fold),
                "cases, groups and splits": [cases, splits],
                **{
                    f"plan: inference of {stage}": document["configurations"][stage]["inference"]
                    for stage in stages_of(settings.plan, name)
                    if stage != name
                },
            }
        case Kind.VALIDATE:
            configuration = document["configurations"][step.configurations[0]]
            return {
                "plan: inference": configuration["inference"],
                "plan: evaluation": document["evaluation"],
                "plan: labels": document["dataset"],
            }
        case Kind.FIND_BEST | Kind.POSTPROCESS:
            return {
                "plan: empirical": document["empirical"],
                "plan: postprocessing": document["postprocessing"],
                "candidates": list(step.configurations),
            }
        case Kind.REFIT:
            return {"refit": settings.refit}
        case Kind.BUNDLE:
            return {
                "plan": settings.plan.hash,
                "licence": _licence(settings.licence),
                "file": str(settings.bundle),
                "choice": list(step.configurations),
            }


def _fold(step: Step, settings: Settings) -> Path:
    assert step.fold is not None
    return settings.workspace.fold(step.configurations[0], step.fold)


def _files(settings: Settings) -> str:
    """Names, sizes and times of the dataset's files: where they are alike, nobody has touched a file."""
    entries = []
    for case in settings.dataset.cases:
        stats = [path.stat() for path in (*case.image_paths, case.label_path) if path.is_file()]
        entries.append([case.id, case.group, [[stat.st_size, stat.st_mtime_ns] for stat in stats]])
    return content_hash(entries)


def _stores(step: Step, settings: Settings) -> Digests | None:
    folders = {store_folder(settings.plan, name, settings.workspace) for name in step.configurations}
    digests = {}
    for folder in sorted(folders):
        keys = {case.id: stored_key(folder, case.id) for case in settings.dataset.cases}
        if None in keys.values():
            return None
        digests[folder.name] = content_hash(keys)
    return digests


def _weights(folder: Path) -> Digests | None:
    """Digests of final and best weights, as model.json states them; they are compared when weights are read."""
    path = folder / MODEL_FILE
    if not path.is_file():
        return None
    document = read_json(path, ModelError)
    weights = document.get("weights", {}) if isinstance(document, dict) else {}
    if "final" not in weights or not all((folder / entry["file"]).is_file() for entry in weights.values()):
        return None
    return {name: entry["sha256"] for name, entry in weights.items()}


def _choice(settings: Settings, *, folds: bool, choice: bool = True) -> Digests | None:
    """The choice itself, and the folds that predict, which a refit changes."""
    path = settings.workspace.empirical
    if not path.is_file():
        return None
    document = read_json(path, ModelError)
    if not isinstance(document, dict):
        return None
    digests = {}
    if choice:
        chosen = {key: value for key, value in document.items() if key != "folds"}
        digests["choice"] = content_hash(chosen)
    if folds:
        digests["folds"] = content_hash(document.get("folds"))
    return digests


def _has_probabilities(folder: Path) -> bool:
    """Whether every case that was validated has them."""
    if not (folder / SUMMARY_FILE).is_file():
        return False
    document = read_json(folder / SUMMARY_FILE, ModelError)
    return all((folder / f"{entry['id']}.npz").is_file() for entry in document["cases"])


def _licence(text: str | None) -> str | None:
    """Its text where a file is named: that may change."""
    return digest_of_file(Path(text)) if text is not None and Path(text).is_file() else text


def _documents(paths: Iterable[Path], *, sizes_in: Path | None = None) -> Digests | None:
    """Digests of small files; and of names and sizes of all files in a folder."""
    if not all(path.is_file() for path in paths):
        return None
    digests = {path.name: digest_of_file(path) for path in paths}
    if sizes_in is not None:
        sizes = {
            str(path.relative_to(sizes_in)): path.stat().st_size
            for path in sorted(sizes_in.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(sizes_in).parts)
        }
        digests["files"] = content_hash(sizes)
    return digests


def _stat(path: Path) -> Digests | None:
    """A large file, by size and time."""
    if not path.is_file():
        return None
    stat = path.stat()
    return {path.name: content_hash([stat.st_size, stat.st_mtime_ns])}
