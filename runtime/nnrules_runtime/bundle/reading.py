"""A bundle in use: its plan, its choice and its networks, straight from the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.documents import parse_json
from nnrules.errors import ModelError, Problem
from nnrules.plan import Plan
from nnrules.schema import validate

from nnrules_runtime.bundle.archive import Archive, damaged
from nnrules_runtime.bundle.manifest import (
    CARD_FILE,
    EMPIRICAL_FILE,
    LICENCE_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    PLAN_FILE,
    Manifest,
)
from nnrules_runtime.network.identity import network_digest
from nnrules_runtime.network.model import Model, model_from_document
from nnrules_runtime.predict.models import first_stage_folds
from nnrules_runtime.select.empirical import Empirical

__all__ = ["Bundle", "open_bundle"]

# Documents are read whole: a plan has about 100 kB.
_MAX_DOCUMENT_BYTES = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class _BundledWeights:
    """The weights of a network, read and verified when they are wanted; picklable."""

    archive: Archive
    name: str
    sha256: str

    def read(self) -> bytes:
        return self.archive.read(self.name, self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A file that predicts anywhere; :func:`open_bundle` gives one.

    Attributes:
        path: the file.
        manifest: what it holds.
        plan: the plan of all its networks.
        empirical: what was chosen, and its postprocessing; ``None`` where the configuration was chosen by hand.
        card: Markdown for people.
        licence_text: the licence, where there is one.
    """

    path: Path
    manifest: Manifest
    plan: Plan
    empirical: Empirical | None
    card: str
    licence_text: str | None
    _archive: Archive
    _models: Mapping[str, tuple[Model, ...]]

    @property
    def members(self) -> tuple[str, ...]:
        """The configurations that predict; the probabilities of several are averaged."""
        return self.manifest.members

    @property
    def folds(self) -> Mapping[str, tuple[int | str, ...]]:
        """The folds of each configuration, also of first stages."""
        return {name: entry.folds for name, entry in self.manifest.configurations.items()}

    def models(self, configuration: str, folds: Sequence[int | str] | None = None) -> tuple[Model, ...]:
        """The networks of a configuration. Their weights are read and verified when they are built.

        Args:
            configuration: a member, or the first stage of one.
            folds: which ones; default: those that are averaged where it is a member, else all.

        Raises:
            ModelError: the bundle has none of such a configuration or fold.
        """
        if configuration not in self._models:
            raise self._not_there("configuration", [configuration], list(self._models))
        models = {model.fold: model for model in self._models[configuration]}
        averaged = self.manifest.configurations[configuration].member_folds or tuple(models)
        wanted = averaged if folds is None else tuple(dict.fromkeys(folds))
        if missing := [fold for fold in wanted if fold not in models]:
            raise self._not_there("fold", missing, list(models))
        return tuple(models[fold] for fold in wanted)

    def first_stage(self, models: Sequence[Model]) -> tuple[Model, ...]:
        """The networks of the stage before that of some models, as in a work folder; errors as :meth:`models`."""
        name = models[0].plan.configurations[models[0].configuration]["previous_stage"]
        held = [model.fold for model in self._models.get(name, ())]
        return self.models(name, first_stage_folds(held, [model.fold for model in models]))

    def verify(self) -> Iterator[str]:
        """Compare everything with its digest, one content after the other; nothing of it stays in memory.

        Yields:
            The name of each content that is as it was put in.

        Raises:
            ModelError: one is not.
        """
        for name, digest in self.manifest.content.items():
            self._archive.verify(name, digest.sha256)
            yield name

    def _not_there(self, what: str, got: Sequence[int | str], known: Sequence[int | str]) -> ModelError:
        return ModelError(
            Problem(
                where=str(self.path),
                what=f"the bundle has no such {what}",
                got=", ".join(map(str, got)),
                expected=f"one of {', '.join(map(str, known))}",
                fix="Use the work folder that it was made from, or make a bundle with it.",
            )
        )


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle. Its structure and all of it but the weights is verified now, weights when networks are built.

    Nothing is extracted or executed.

    Args:
        path: a file of :func:`~nnrules_runtime.bundle.write_bundle`.

    Raises:
        ModelError: the file is missing, damaged, of another version, or holds what no bundle holds.
        PlanError: its plan has values that this version does not know.
    """
    archive = Archive.open(Path(path))
    manifest = _manifest(archive)
    documents = _Documents(archive, manifest)
    plan = _plan(documents)
    models = {name: tuple(_models(documents, plan, name)) for name in manifest.configurations}
    used = {model.file.relative_to(archive.path).as_posix() for group in models.values() for model in group}
    extra = [name for name in manifest.content if name.endswith(".safetensors") and name not in used]
    if extra:
        raise damaged(archive.path, "weights that no network of the bundle has", ", ".join(extra[:3]))
    _check_stages(archive.path, plan, manifest)
    return Bundle(
        path=archive.path,
        manifest=manifest,
        plan=plan,
        empirical=_empirical(documents),
        card=documents.text(CARD_FILE),
        licence_text=documents.text(LICENCE_FILE) if LICENCE_FILE in manifest.content else None,
        _archive=archive,
        _models=models,
    )


class _Documents:
    """The contents of a bundle that are no weights, verified."""

    def __init__(self, archive: Archive, manifest: Manifest) -> None:
        self.archive = archive
        self.manifest = manifest

    def content(self, name: str) -> bytes:
        return self.archive.read(name, self.manifest.content[name].sha256, limit=_MAX_DOCUMENT_BYTES)

    def text(self, name: str) -> str:
        try:
            return self.content(name).decode()
        except UnicodeDecodeError:
            raise damaged(self.archive.place(name), "this is no text in UTF-8") from None

    def json(self, name: str) -> Any:
        return parse_json(self.content(name), ModelError, where=str(self.archive.place(name)))


def _manifest(archive: Archive) -> Manifest:
    """The manifest, and that the archive holds what it says, in its order."""
    names = list(archive.entries)
    if names[:1] != [MANIFEST_FILE]:
        raise damaged(archive.path, f"the archive does not begin with {MANIFEST_FILE}: it is no bundle")
    content = archive.read(MANIFEST_FILE, None, limit=_MAX_DOCUMENT_BYTES)
    manifest = Manifest.from_bytes(content, str(archive.place(MANIFEST_FILE)))
    unknown = [name for name in names[1:] if name not in manifest.content]
    missing = [name for name in manifest.content if name not in archive.entries]
    if unknown or missing:
        what = "what the manifest does not name" if unknown else "what the manifest names is missing"
        raise damaged(archive.path, what, ", ".join((unknown or missing)[:3]))
    for name, digest in manifest.content.items():
        if archive.entries[name].size != digest.size:
            what = "this has another size than the manifest says"
            raise damaged(
                archive.place(name), what, f"{archive.entries[name].size}", expected=f"{digest.size}"
            )
    if names[1:] != sorted(names[1:]):  # the same content would be another file
        raise damaged(archive.path, "the archive has another order than a bundle's")
    return manifest


def _plan(documents: _Documents) -> Plan:
    where = str(documents.archive.place(PLAN_FILE))
    plan = Plan.from_document(documents.json(PLAN_FILE), where=where)
    expected = documents.manifest.plan_hash
    if plan.hash != expected:
        raise damaged(where, "this is not the plan of the bundle", plan.hash, expected=expected)
    return plan


def _models(documents: _Documents, plan: Plan, configuration: str) -> Iterator[Model]:
    """The networks of a configuration, described and not read."""
    manifest, archive = documents.manifest, documents.archive
    entry = manifest.configurations[configuration]
    for fold in entry.folds:
        folder = manifest.folder(configuration, fold)
        name = f"{folder}/{MODEL_FILE}"
        where = str(archive.place(name))
        document = documents.json(name)
        validate(document, "model", where=where, error=ModelError)
        stated = (document["configuration"], document["fold"], document["network_digest"])
        if stated != (configuration, fold, entry.network_digest):
            raise damaged(
                where, "this describes another network than the manifest", ", ".join(map(str, stated))
            )
        weights = document["weights"].get(entry.checkpoint)
        if list(document["weights"]) != [entry.checkpoint] or weights is None:
            got = ", ".join(document["weights"])
            raise damaged(where, "the bundle has other weights", got, expected=entry.checkpoint)
        file = f"{folder}/{weights['file']}"
        if file not in manifest.content or manifest.content[file].sha256 != weights["sha256"]:
            raise damaged(where, "the weights that this describes are not in the bundle", file)
        yield model_from_document(
            archive.place(folder),
            document,
            entry.checkpoint,
            stored=plan,
            weights=_BundledWeights(archive=archive, name=file, sha256=weights["sha256"]),
        )


def _check_stages(path: Path, plan: Plan, manifest: Manifest) -> None:
    """Refuse a cascade without its first stage."""
    for name, entry in manifest.configurations.items():
        if network_digest(plan, name) != entry.network_digest:
            raise damaged(path, f"the networks of {name} are of another plan", entry.network_digest)
        previous = plan.configurations[name].get("previous_stage")
        if previous is not None and previous not in manifest.configurations:
            raise damaged(path, f"{name} needs the networks of {previous}, which are missing")


def _empirical(documents: _Documents) -> Empirical | None:
    if EMPIRICAL_FILE not in documents.manifest.content:
        return None
    where = str(documents.archive.place(EMPIRICAL_FILE))
    empirical = Empirical.from_json(documents.json(EMPIRICAL_FILE), where=where)
    if empirical.members != documents.manifest.members:
        got = ", ".join(empirical.members)
        expected = ", ".join(documents.manifest.members)
        raise damaged(where, "another choice than the manifest's", got, expected=expected)
    return empirical
