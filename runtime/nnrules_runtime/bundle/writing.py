"""Making a bundle of a work folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from nnrules.documents import canonical_json, check_writable, read_json
from nnrules.errors import ModelError, Problem, UsageError
from nnrules.plan import Plan

from nnrules_runtime.bundle.archive_write import Content, write_archive
from nnrules_runtime.bundle.card import Card, training_facts
from nnrules_runtime.bundle.manifest import (
    CARD_FILE,
    EMPIRICAL_FILE,
    LICENCE_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    PLAN_FILE,
    BundledConfiguration,
    Digest,
    Manifest,
)
from nnrules_runtime.bundle.reading import Bundle, open_bundle
from nnrules_runtime.bundle.texts import Licence, read_licence, read_text
from nnrules_runtime.network.identity import network_digest
from nnrules_runtime.network.model import Checkpoint, Model, trained_folds
from nnrules_runtime.predict.models import find_models, first_stage_folds, read_models
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.workspace import Workspace

__all__ = ["write_bundle"]

_LOGGER = logging.getLogger(__name__)
_SHOWN_FIELDS = 5


def write_bundle(
    workspace: Workspace,
    path: Path,
    *,
    plan: Plan | None = None,
    empirical: Empirical | None = None,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: Checkpoint | None = None,
    licence: str | Path | None = None,
    card: Path | None = None,
    name: str | None = None,
) -> Bundle:
    """Write what predicts into one file; the same content gives the same bytes.

    Args:
        workspace: with the trained networks.
        path: the bundle, by custom ``NAME.nnrules``; an existing file is replaced.
        plan: the plan of all networks; default: the one beside them.
        empirical: the choice of find-best, with its postprocessing.
        configurations: chosen by hand in place of it; the first stage of a cascade comes along by itself. Default,
            without a choice: the only one that has been trained.
        folds: of the members; default: those of the choice, else all that have been trained, or ``all``.
        checkpoint: which weights; default: what the plan says (``inference.checkpoint``).
        licence: a file with the text, or an SPDX identifier.
        card: a Markdown file whose text becomes part of the card.
        name: for people; default: the dataset's.

    Returns:
        The bundle, opened.

    Raises:
        ModelError: networks are missing, damaged, or of several plans.
        UsageError: a text cannot be read, or there is no such configuration.
        RunError: the file cannot be written.
    """
    check_writable(path)
    terms = None if licence is None else read_licence(licence)
    words = None if card is None else read_text(card, "--card")
    members = _members(workspace, empirical, configurations)
    chosen = None if empirical is None else _choice_of(empirical, members)
    if chosen is not None:
        members = chosen.members
    plan = plan or _common_plan(workspace, members)
    for member in members:
        _stages(plan, member, str(workspace.root))  # says which configurations there are
    averaged = _member_folds(workspace, members, empirical=chosen, folds=folds)
    groups = _networks(workspace, plan, averaged, checkpoint=checkpoint)
    if chosen is not None:
        chosen = _given_away(chosen, averaged)
    title = name or plan.document["dataset"]["name"] or "model"
    if terms is None:
        _LOGGER.warning(
            "the bundle has no licence, without which nobody else may use it; --licence states one"
        )
    text = Card(
        title=title,
        file=path.name,
        plan=plan,
        members=members,
        models=groups,
        facts={name: [training_facts(model) for model in models] for name, models in groups.items()},
        empirical=chosen,
        licence=terms,
        words=words,
    ).render()
    contents = [
        *_documents(plan, chosen, terms, text),
        *(content for models in groups.values() for model in models for content in _contents(model)),
    ]
    contents.sort(key=lambda content: content.entry.name)
    manifest = Manifest(
        name=title,
        created_by={"nnrules": version("nnrules"), "torch": version("torch")},
        plan_hash=plan.hash,
        members=members,
        configurations={
            stage: _configuration(plan, models, averaged.get(stage)) for stage, models in groups.items()
        },
        licence=None if terms is None else terms.spdx,
        content={item.entry.name: Digest(item.entry.size, item.sha256) for item in contents},
    )
    write_archive(path, [Content.of(MANIFEST_FILE, manifest.to_bytes()), *contents])
    return open_bundle(path)


def _member_folds(
    workspace: Workspace,
    members: Sequence[str],
    *,
    empirical: Empirical | None,
    folds: Sequence[int | str] | None,
) -> dict[str, tuple[int | str, ...]]:
    """The folds of each member that are averaged."""
    found = {}
    for name in members:
        wanted = folds or (None if empirical is None else empirical.folds.get(name))
        chosen = find_models(workspace.models(name), folds=wanted)
        names = {folder: fold for fold, folder in trained_folds(workspace.models(name)).items()}
        found[name] = tuple(names[folder] for folder in chosen)
    return found


def _networks(
    workspace: Workspace,
    plan: Plan,
    member_folds: Mapping[str, Sequence[int | str]],
    *,
    checkpoint: Checkpoint | None,
) -> dict[str, tuple[Model, ...]]:
    """The networks of each member, and of the first stages that cascades among them need, as a work folder has them."""
    needed: dict[str, list[int | str]] = {}
    for member, folds in member_folds.items():
        stages = _stages(plan, member, str(workspace.root))
        wanted = {member: tuple(folds)}
        for first, second in reversed([*pairwise(stages)]):
            wanted[first] = first_stage_folds(trained_folds(workspace.models(first)), wanted[second])
        for stage in stages:
            here = needed.setdefault(stage, [])
            here += [fold for fold in wanted[stage] if fold not in here]
    return {
        stage: read_models(find_models(workspace.models(stage), folds=folds), checkpoint, plan=plan)
        for stage, folds in needed.items()
    }


def _configuration(
    plan: Plan, models: Sequence[Model], member_folds: Sequence[int | str] | None
) -> BundledConfiguration:
    folds = tuple(model.fold for model in models)
    return BundledConfiguration(
        network_digest=network_digest(plan, models[0].configuration),
        checkpoint=models[0].checkpoint,
        folds=folds,
        member_folds=None if member_folds is None or set(member_folds) == set(folds) else tuple(member_folds),
    )


def _members(
    workspace: Workspace, empirical: Empirical | None, configurations: Sequence[str] | None
) -> tuple[str, ...]:
    """The configurations that predict."""
    if configurations:
        return tuple(dict.fromkeys(configurations))
    if empirical is not None:
        return empirical.members
    return (find_models(workspace.root)[0].parent.name,)


def _choice_of(empirical: Empirical, members: Sequence[str]) -> Empirical | None:
    """The choice as it is for these members, chosen by hand or not; ``None``: they are no candidate."""
    if set(members) == set(empirical.members):
        return empirical
    for candidate in empirical.candidates:
        if set(members) == set(candidate.members):
            return replace(
                empirical,
                members=candidate.members,
                folds={},
                postprocessing=candidate.postprocessing,
                chosen_by="hand",
                tied=(),
            )
    return None


def _stages(plan: Plan, member: str, where: str) -> list[str]:
    """A member after the first stages that it needs."""
    stages = [member]
    while True:
        if stages[0] not in plan.configurations:
            raise UsageError(
                Problem(
                    where=f"{where}: {stages[0]}",
                    what="the plan has no such configuration",
                    expected="one of " + ", ".join(plan.configurations),
                )
            )
        previous = plan.configurations[stages[0]].get("previous_stage")
        if previous is None:
            return stages
        stages.insert(0, previous)


def _given_away(empirical: Empirical, folds: Mapping[str, tuple[int | str, ...]]) -> Empirical:
    """The choice with the folds that are averaged, and without what concerns nobody else."""
    return replace(
        empirical.without_case_ids(),
        folds=dict(folds),
        # What stands in brackets names cases, and what helps is about the work folder.
        skipped=tuple(
            replace(entry, reason=entry.reason.partition(" (")[0], fix=None) for entry in empirical.skipped
        ),
    )


def _common_plan(workspace: Workspace, members: Sequence[str]) -> Plan:
    """The plan of the members, which lies beside each.

    Trainings may have been shortened one by one with ``--set training.…``, which changes no prediction. Whatever else
    differs would make a bundle predict otherwise than the work folder.
    """
    for name in members:
        find_models(workspace.models(name))  # says what is missing
    plans = {name: Plan.load(_plan_file(workspace, name)) for name in members}
    first, *others = plans.values()
    fields = dict(first.leaves())
    for name, other in list(plans.items())[1:]:
        theirs = dict(other.leaves())
        differing = [
            path
            for path in sorted(fields.keys() | theirs.keys())
            if fields.get(path) != theirs.get(path) and _matters(path)
        ]
        if differing:
            more = ", …" if len(differing) > _SHOWN_FIELDS else ""
            raise ModelError(
                Problem(
                    where=str(_plan_file(workspace, name)),
                    what=f"{name} was trained with another plan than {members[0]}",
                    got="other values of " + ", ".join(differing[:_SHOWN_FIELDS]) + more,
                    fix="Name the plan that decides with --plan.",
                )
            )
    if any(other.hash != first.hash for other in others):
        _LOGGER.info(
            "the members were trained with other settings of training; the plan is that of %s", members[0]
        )
    return first


def _matters(path: str) -> bool:
    """Whether a field of a plan can change predictions."""
    return not path.startswith("training.") or path.startswith("training.mixed_precision.")


def _plan_file(workspace: Workspace, configuration: str) -> Path:
    return workspace.models(configuration) / PLAN_FILE


def _documents(
    plan: Plan, empirical: Empirical | None, licence: Licence | None, card: str
) -> Iterable[Content]:
    yield Content.of(PLAN_FILE, canonical_json(dict(plan.document)).encode())
    yield Content.of(CARD_FILE, card.encode())
    if empirical is not None:
        yield Content.of(EMPIRICAL_FILE, canonical_json(empirical.to_json()).encode())
    if licence is not None:
        yield Content.of(LICENCE_FILE, licence.text.encode())


def _contents(model: Model) -> Iterable[Content]:
    """The weights of a fold, and its model.json with those weights alone."""
    document: Mapping[str, Any] = read_json(model.folder / MODEL_FILE, ModelError)
    alone = {**document, "weights": {model.checkpoint: document["weights"][model.checkpoint]}}
    folder = Manifest.folder(model.configuration, model.fold)
    yield Content.of(f"{folder}/{MODEL_FILE}", canonical_json(alone).encode())
    weights = Content.of(f"{folder}/{model.file.name}", model.file)
    if weights.sha256 != alone["weights"][model.checkpoint]["sha256"]:
        raise ModelError(
            Problem(
                where=str(model.file),
                what="these weights were exchanged while they were put into a bundle",
                fix="Bundle again when no training writes there.",
            )
        )
    yield weights
