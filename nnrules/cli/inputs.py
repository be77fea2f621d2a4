"""What verbs read: packs, fingerprints, plans, ``--set`` options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnrules.cli.output import ProgressBar
from nnrules.errors import Problem, UsageError

if TYPE_CHECKING:
    from nnrules.engine.model import Pack
    from nnrules.fingerprint import Fingerprint
    from nnrules.plan import Plan

__all__ = ["assignments_of", "extract", "load_fingerprint", "load_plan", "pack_of"]


def pack_of(rules: str | None, preset: str | None) -> Pack:
    """The pack that the options name, with its warnings logged."""
    from nnrules.engine.packs import DEFAULT_PACK, load_pack

    pack = load_pack(rules or DEFAULT_PACK, preset=preset)
    for warning in pack.warnings:
        logging.getLogger("nnrules").warning("%s", warning)
    return pack


def load_fingerprint(path: Path, *, workers: int | None, quiet: bool) -> Fingerprint:
    """A fingerprint file (ours, or nnU-Net v2's beside its dataset.json), or that of a dataset's images."""
    from nnrules.dataset_facts import is_dataset_json
    from nnrules.documents import read_json
    from nnrules.errors import FingerprintError
    from nnrules.fingerprint import Fingerprint
    from nnrules.interop.nnunetv2_read import is_nnunet_fingerprint, read_nnunet_fingerprint

    if not path.is_dir():
        document = read_json(path, FingerprintError)
        if is_nnunet_fingerprint(document):
            # nnU-Net v2 keeps both files in one folder.
            beside = path.with_name("dataset.json")
            if beside.is_file():
                return read_nnunet_fingerprint(path, beside)
            raise UsageError(
                Problem(
                    where=str(path),
                    what="this is nnU-Net v2's fingerprint, which needs its dataset.json, and none lies beside it",
                    fix="Put its dataset.json into the same folder, or name it: --from-nnunet.",
                )
            )
        if not is_dataset_json(document):
            return Fingerprint.from_document(document, where=str(path))
    return extract(path, workers=workers, quiet=quiet)


def extract(
    path: Path,
    *,
    workers: int | None,
    quiet: bool,
    intensity: str = "exact",
    features: Path | None = None,
    cache: Path | None = None,
) -> Fingerprint:
    """The fingerprint of a dataset's images."""
    from nnrules.dataset import load_dataset
    from nnrules.extract import extract_fingerprint

    dataset = load_dataset(path)
    with ProgressBar("fingerprint", quiet=quiet) as progress:
        return extract_fingerprint(
            dataset,
            workers=workers,
            intensity=_statistics(intensity),
            features=features,
            cache=cache,
            progress=progress,
        )


def _statistics(intensity: str) -> Any:
    allowed = ("exact", "nnunetv2_sampled")
    if intensity not in allowed:
        raise UsageError(
            Problem(
                where="--intensity", what="unknown statistics", got=intensity, expected=" or ".join(allowed)
            )
        )
    return intensity


def assignments_of(texts: list[str] | None) -> dict[str, Any]:
    """Fields that ``--set`` options set."""
    from nnrules.engine.overrides import parse_assignment

    assignments: dict[str, Any] = {}
    for text in texts or []:
        path, value = parse_assignment(text)
        if path in assignments:
            raise UsageError(
                Problem(where=f"--set {path}", what="the field is set twice", fix="Leave one out.")
            )
        assignments[path] = value
    return assignments


def load_plan(path: Path) -> Plan:
    """A plan file, checked."""
    from nnrules.plan import Plan

    return Plan.load(path)
