"""``manifest.json``: what a bundle holds, with digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnrules.documents import canonical_json, parse_json
from nnrules.errors import ModelError, Problem
from nnrules.schema import validate

from nnrules_runtime.bundle.archive import damaged
from nnrules_runtime.bundle.names import is_plain
from nnrules_runtime.network.model import MODEL_FILE, PLAN_FILE, Checkpoint
from nnrules_runtime.workspace import fold_name

__all__ = [
    "CARD_FILE",
    "EMPIRICAL_FILE",
    "LICENCE_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "PLAN_FILE",
    "BundledConfiguration",
    "Digest",
    "Manifest",
]

MANIFEST_FILE = "manifest.json"
EMPIRICAL_FILE = "empirical.json"
CARD_FILE = "README.md"
LICENCE_FILE = "LICENSE"

_FORMAT = "1.0"


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies a content.

    Attributes:
        size: bytes.
        sha256: hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledConfiguration:
    """The networks of a configuration.

    Attributes:
        network_digest: what their weights belong to, see :mod:`nnrules_runtime.network.identity`.
        checkpoint: which weights of each fold there are.
        folds: numbers, or ``"all"``.
        member_folds: those that are averaged where it is a member; ``None``: all. It has others where it is also the
            first stage of a member.
    """

    network_digest: str
    checkpoint: Checkpoint
    folds: tuple[int | str, ...]
    member_folds: tuple[int | str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        name: for people.
        created_by: versions of the programs that wrote it.
        plan_hash: of ``plan.json``.
        members: the configurations that predict; several are averaged.
        configurations: the members, and the first stages that cascades among them need.
        licence: SPDX expression; ``None`` where there is a text only, or none.
        content: everything in the archive but the manifest, by name.
    """

    name: str
    created_by: Mapping[str, str]
    plan_hash: str
    members: tuple[str, ...]
    configurations: Mapping[str, BundledConfiguration]
    licence: str | None
    content: Mapping[str, Digest]

    @staticmethod
    def folder(configuration: str, fold: int | str) -> str:
        """Where a network lies in the archive."""
        return f"models/{configuration}/{fold_name(fold)}"

    def folders(self) -> Iterator[tuple[str, int | str, str]]:
        """Configuration, fold and folder of each network."""
        for name, configuration in self.configurations.items():
            for fold in configuration.folds:
                yield name, fold, self.folder(name, fold)

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {
            "schema_version": _FORMAT,
            "name": self.name,
            "created_by": dict(self.created_by),
            "plan_hash": self.plan_hash,
            "members": list(self.members),
            "configurations": {
                name: {
                    "network_digest": entry.network_digest,
                    "checkpoint": entry.checkpoint,
                    "folds": list(entry.folds),
                    "member_folds": None if entry.member_folds is None else list(entry.member_folds),
                }
                for name, entry in self.configurations.items()
            },
            "licence": self.licence,
            "content": {
                name: {"size": entry.size, "sha256": entry.sha256} for name, entry in self.content.items()
            },
        }

    def to_bytes(self) -> bytes:
        """The canonical document.

        Raises:
            ModelError: a name that the format does not admit, such as that of a configuration with blanks.
        """
        document = self.to_json()
        validate(document, "bundle", where=MANIFEST_FILE, error=ModelError)
        _check(self, MANIFEST_FILE)
        return canonical_json(document).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Parse and check the document.

        Args:
            content: of ``manifest.json``.
            where: what errors call it.

        Raises:
            ModelError: it is of another version, breaks the schema, or contradicts itself.
        """
        document = parse_json(content, ModelError, where=where)
        _check_version(document, where)
        validate(document, "bundle", where=where, error=ModelError)
        manifest = cls(
            name=document["name"],
            created_by=document["created_by"],
            plan_hash=document["plan_hash"],
            members=tuple(document["members"]),
            configurations={
                name: BundledConfiguration(
                    network_digest=entry["network_digest"],
                    checkpoint=entry["checkpoint"],
                    folds=tuple(entry["folds"]),
                    member_folds=None if entry["member_folds"] is None else tuple(entry["member_folds"]),
                )
                for name, entry in document["configurations"].items()
            },
            licence=document["licence"],
            content={
                name: Digest(entry["size"], entry["sha256"]) for name, entry in document["content"].items()
            },
        )
        _check(manifest, where)
        return manifest


def _check_version(document: Any, where: str) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, str) and version.partition(".")[0] != _FORMAT.partition(".")[0]:
        raise ModelError(
            Problem(
                where=f"{where}: schema_version",
                what="this bundle is of another major version",
                got=version,
                expected=_FORMAT,
                fix="Install a version of nnrules that reads it, or bundle again with this one.",
            )
        )


def _check(manifest: Manifest, where: str) -> None:
    """What the schema cannot say."""
    missing = [name for name in manifest.members if name not in manifest.configurations]
    if missing:
        raise damaged(f"{where}: members", "there are no networks of a member", ", ".join(missing))
    for name, entry in manifest.configurations.items():
        unknown_folds = [fold for fold in entry.member_folds or () if fold not in entry.folds]
        if unknown_folds:
            raise damaged(
                f"{where}: {name}", "a member has folds that are missing", ", ".join(map(str, unknown_folds))
            )
    bad = [name for name in [*manifest.configurations, *manifest.content] if not is_plain(name)]
    if bad:
        raise damaged(where, "names that a bundle cannot hold", ", ".join(map(repr, bad[:3])))
    wanted = [PLAN_FILE, CARD_FILE, *(f"{folder}/{MODEL_FILE}" for _, _, folder in manifest.folders())]
    lacking = [name for name in wanted if name not in manifest.content]
    if lacking:
        raise damaged(f"{where}: content", "parts of the bundle are missing", ", ".join(lacking[:3]))
    allowed = {PLAN_FILE, CARD_FILE, EMPIRICAL_FILE, LICENCE_FILE}
    folders = {folder for _, _, folder in manifest.folders()}
    unknown = [
        name for name in manifest.content if name not in allowed and name.rpartition("/")[0] not in folders
    ]
    if unknown:
        raise damaged(f"{where}: content", "parts that no bundle has", ", ".join(unknown[:3]))
