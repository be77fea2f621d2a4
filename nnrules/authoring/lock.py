"""``pack.lock``: a hash for each released version, so that no released version changes unnoticed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.documents import read_json, write_json
from nnrules.engine.packs import available_packs, version_hash
from nnrules.errors import PackError, Problem
from nnrules.resources import rules_directory

__all__ = ["LockReport", "check_locks", "lock_packs"]

_NAME = "pack.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockReport:
    """How the versions of one pack stand against its lock.

    Attributes:
        pack: name of the pack.
        locked: version → hash in the lock.
        changed: versions whose files are no longer what was released.
        missing: versions in the lock that have no folder.
        unlocked: versions that have no entry yet.
    """

    pack: str
    locked: dict[str, str]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    unlocked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every version is locked and as it was released."""
        return not (self.changed or self.missing or self.unlocked)

    def problems(self) -> list[Problem]:
        """What is wrong, with the way out."""
        unlocked = [
            Problem(
                where=f"{self.pack}/{_NAME}: {version}",
                what="this version is not locked",
                fix="Run `nnrules rules lock`.",
            )
            for version in self.unlocked
        ]
        return [*self.broken_promises(), *unlocked]

    def broken_promises(self) -> list[Problem]:
        """Released versions that changed or are gone."""
        changed = [
            Problem(
                where=f"{self.pack}/{_NAME}: {version}",
                what=f"{self.pack}@{version} is released and its files have changed",
                fix="Undo the change, or make a new version of it (a new folder and 'latest' in pack.yaml).",
            )
            for version in self.changed
        ]
        missing = [
            Problem(
                where=f"{self.pack}/{_NAME}: {version}",
                what="a released version is gone",
                fix="Restore its folder.",
            )
            for version in self.missing
        ]
        return changed + missing

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "pack": self.pack,
            "ok": self.ok,
            "locked": self.locked,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "unlocked": list(self.unlocked),
        }


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    document = read_json(path, PackError)
    versions = document.get("versions") if isinstance(document, dict) else None
    if not isinstance(versions, dict) or not all(isinstance(value, str) for value in versions.values()):
        raise PackError(
            Problem(
                where=str(path),
                what="not a lock of rule packs",
                expected='{"versions": {"1.0.0": "sha256:…"}}',
            )
        )
    return dict(versions)


def _report(pack: str, versions: Iterable[str]) -> tuple[LockReport, dict[str, str]]:
    folder = rules_directory() / pack
    locked = _read(folder / _NAME)
    current = {version: version_hash(folder / version) for version in versions}
    report = LockReport(
        pack=pack,
        locked=locked,
        changed=tuple(name for name, digest in locked.items() if name in current and current[name] != digest),
        missing=tuple(name for name in locked if name not in current),
        unlocked=tuple(name for name in current if name not in locked),
    )
    return report, current


def _chosen(packs: Iterable[str] | None) -> dict[str, list[str]]:
    available = available_packs()
    names = list(available) if packs is None else list(dict.fromkeys(packs))
    unknown = [name for name in names if name not in available]
    if unknown:
        raise PackError(
            [Problem(where=name, what="no such rule pack", expected=", ".join(available)) for name in unknown]
        )
    return {name: available[name] for name in names}


def check_locks(packs: Iterable[str] | None = None) -> tuple[LockReport, ...]:
    """Compare released versions with their lock.

    Args:
        packs: names without versions; default: all shipped packs.

    Raises:
        PackError: no such pack, or a lock that is not one.
    """
    return tuple(_report(name, versions)[0] for name, versions in _chosen(packs).items())


def lock_packs(packs: Iterable[str] | None = None, *, accept_changes: bool = False) -> tuple[LockReport, ...]:
    """Write the hash of every version that has none yet.

    Args:
        packs: names without versions; default: all shipped packs.
        accept_changes: also take over versions that changed since they were locked; only right before a
            release.

    Returns:
        The state before; nothing is written for any pack when one of them is refused.

    Raises:
        PackError: a released version has changed or is gone.
    """
    states = {name: _report(name, versions) for name, versions in _chosen(packs).items()}
    refused = [
        problem
        for report, _ in states.values()
        if report.missing or not accept_changes
        for problem in report.broken_promises()
    ]
    if refused:
        raise PackError(refused)
    for name, (_, current) in states.items():
        write_json(rules_directory() / name / _NAME, {"versions": current})
    return tuple(report for report, _ in states.values())
