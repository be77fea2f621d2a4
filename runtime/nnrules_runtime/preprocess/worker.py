"""What a worker process does: one case, for all configurations that want it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnrules.dataset import Case

from nnrules_runtime.preprocess.case import Preprocessing
from nnrules_runtime.preprocess.reading import CaseReader
from nnrules_runtime.preprocess.store_write import write_case

__all__ = ["CaseTask", "Done", "Target", "case_key", "files_digest", "prepare"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """A configuration that a case is prepared for.

    Attributes:
        recipe: its preprocessing.
        store: folder of its store.
    """

    recipe: Preprocessing
    store: Path


@dataclass(frozen=True, slots=True)
class CaseTask:
    """One case to prepare.

    Attributes:
        case: its files.
        files_digest: hash of their content.
        reader: reads them.
        targets: for what.
    """

    case: Case
    files_digest: str
    reader: CaseReader
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A case that has been prepared.

    Attributes:
        seconds: that it took.
        num_bytes: on disk, for each target.
    """

    seconds: float
    num_bytes: tuple[int, ...]


def files_digest(case: Case) -> str:
    """SHA-256 of the content of all files of a case, in order, each with its length."""
    digest = hashlib.sha256()
    for path in (*case.image_paths, *_beside(case.image_paths), case.label_path):
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _beside(paths: Sequence[Path]) -> list[Path]:
    """A 3D TIFF has its spacing in a JSON file of the same name, with or without the channel number."""
    found = []
    for path in paths:
        if path.suffix.lower() in (".tif", ".tiff"):
            stems = {path.stem, re.sub(r"_\d{4}$", "", path.stem)}
            found += sorted(file for stem in stems if (file := path.with_name(f"{stem}.json")).is_file())
    return found


def case_key(recipe: Preprocessing, digest: str) -> str:
    """Hash of everything that a stored case is made from: the recipe, with its format, and the files."""
    return hashlib.sha256(f"{recipe.digest} {digest}".encode()).hexdigest()


def prepare(task: CaseTask) -> Done:
    """Read a case once, and preprocess and store it for each target.

    Raises:
        NnrulesError: the case cannot be read, prepared or written.
    """
    started = time.monotonic()
    image, label, spacing = task.reader.pair(task.case.image_paths, task.case.label_path)
    num_bytes = []
    for target in task.targets:
        recipe = target.recipe
        prepared = recipe.run(image, label, spacing)
        written = write_case(
            target.store,
            task.case.id,
            prepared,
            key=case_key(recipe, task.files_digest),
            recipe=recipe.digest,
            image_dtype=recipe.image_dtype,
            label_dtype=recipe.label_dtype,
            patch_is_2d=recipe.dim == 2,
        )
        num_bytes.append(written)
    return Done(time.monotonic() - started, tuple(num_bytes))
