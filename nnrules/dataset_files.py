"""Where the files of each training case lie, in the three ways that dataset.json can say so.

- nnU-Net v2: ``imagesTr/CASE_0000.EXT``, ``_0001`` for the second channel and so on, ``labelsTr/CASE.EXT``.
- nnU-Net v2 with ``dataset``: any paths.
- nnU-Net v1: the list ``training``; an image is one file with all channels (Decathlon), or, where that file
  does not exist, stands for ``CASE_0000.nii.gz`` and so on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.dataset_facts import DatasetFacts
from nnrules.documents import read_json
from nnrules.errors import DatasetError, ImageError, Problem
from nnrules.image_io import file_ending_of, read_geometry

__all__ = [
    "IMAGES_FOLDER",
    "LABELS_FOLDER",
    "NO_LABEL_MAP",
    "CaseFiles",
    "channel_number",
    "find_case_files",
    "visible_files",
]

IMAGES_FOLDER = "imagesTr"
LABELS_FOLDER = "labelsTr"

NO_LABEL_MAP = "an image without a label map"
"""What is wrong with an image that would be a training case if it had one."""

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFiles:
    """Paths of one case; files that are expected but absent are among them."""

    id: str
    image_paths: tuple[Path, ...]
    label_path: Path


def channel_number(stem: str) -> tuple[str, int] | None:
    """Case id and channel of a file name without its ending, ``("a_b", 1)`` for ``a_b_0001``."""
    found = _NUMBERED.fullmatch(stem)
    return (found["case"], int(found["channel"])) if found else None


def find_case_files(document: Any, path: Path, facts: DatasetFacts) -> tuple[list[CaseFiles], list[Problem]]:
    """Find the files of every case.

    Args:
        document: the parsed dataset.json.
        path: where it lies; relative paths in it start at its folder.
        facts: what the document says without files.

    Returns:
        The cases sorted by id, and what is wrong with the document's lists of files. A file that is missing
        is no problem here: its path is among those of its case.
    """
    problems: list[Problem] = []
    if facts.format == "nnunetv1" and "training" in document:
        cases = _from_training_list(document["training"], path, facts, problems)
    elif "dataset" in document:
        cases = _from_mapping(document["dataset"], path, facts, problems)
    else:
        cases = _from_folders(path.parent, facts)
    return sorted(cases, key=lambda case: case.id), problems


def _resolve(folder: Path, text: str) -> Path:
    """A path of the document; backslashes, as Windows writes them, separate folders too."""
    direct = folder / text
    if "\\" in text and not direct.exists():
        return folder / text.replace("\\", "/")
    return direct


def _from_folders(folder: Path, facts: DatasetFacts) -> list[CaseFiles]:
    """Cases of the folders imagesTr and labelsTr: those with a label map and at least one channel."""
    ending = facts.file_ending
    num_images: Counter[str] = Counter()
    for file in visible_files(folder / IMAGES_FOLDER):
        numbered = channel_number(file.name.removesuffix(ending)) if file.name.endswith(ending) else None
        if numbered:
            num_images[numbered[0]] += 1
    labels = folder / LABELS_FOLDER
    labelled = {
        file.name.removesuffix(ending) for file in visible_files(labels) if file.name.endswith(ending)
    }
    return [
        CaseFiles(
            id=case_id,
            image_paths=_channel_paths(folder / IMAGES_FOLDER, case_id, num_images[case_id], facts),
            label_path=labels / (case_id + ending),
        )
        for case_id in sorted(labelled & set(num_images))
    ]


def visible_files(folder: Path) -> list[Path]:
    """Files of a folder by name, without hidden ones: macOS leaves ``._name`` beside every copied file."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())


def _channel_paths(folder: Path, case_id: str, num_present: int, facts: DatasetFacts) -> tuple[Path, ...]:
    """One path per channel, unless the files that are there hold all channels already (RGB, 4D)."""

    def paths(count: int) -> tuple[Path, ...]:
        return tuple(folder / f"{case_id}_{number:04d}{facts.file_ending}" for number in range(count))

    wanted = facts.num_channels
    fewer = paths(num_present)
    if num_present < wanted and _total_channels(fewer) == wanted:
        return fewer
    return paths(wanted)


def _total_channels(paths: tuple[Path, ...]) -> int | None:
    try:
        return sum(read_geometry(path).num_channels for path in paths)
    except ImageError:
        return None


def _from_mapping(
    mapping: dict[str, dict[str, Any]], path: Path, facts: DatasetFacts, problems: list[Problem]
) -> list[CaseFiles]:
    cases = []
    for case_id, entry in mapping.items():
        images = tuple(_resolve(path.parent, text) for text in entry["images"])
        if len(images) not in (1, facts.num_channels):
            problems.append(
                Problem(
                    where=f"{path}: dataset.{case_id}.images",
                    what="the number of image files does not fit the channels",
                    got=f"{len(images)} files",
                    expected=f"{facts.num_channels} files, one per channel, or one file with all channels",
                    fix="List the files in the order of channel_names.",
                )
            )
        cases.append(
            CaseFiles(id=case_id, image_paths=images, label_path=_resolve(path.parent, entry["label"]))
        )
    return cases


def _from_training_list(
    training: list[Any], path: Path, facts: DatasetFacts, problems: list[Problem]
) -> list[CaseFiles]:
    cases = []
    for row, entry in enumerate(training):
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(image, str) or not isinstance(label, str):
            problems.append(
                Problem(
                    where=f"{path}: training[{row}]",
                    what="not a training case",
                    got=str(entry)[:80],
                    expected='{"image": "./imagesTr/case.nii.gz", "label": "./labelsTr/case.nii.gz"}',
                    fix="List each case with its image and its label map.",
                )
            )
            continue
        image_path, label_path = _resolve(path.parent, image), _resolve(path.parent, label)
        if image_path.name.startswith("._"):
            continue  # junk that macOS left when the list was written
        cases.append(
            CaseFiles(
                id=label_path.name.removesuffix(facts.file_ending),
                image_paths=_paths_v1(image_path, facts),
                label_path=label_path,
            )
        )
    for case_id, count in Counter(case.id for case in cases).items():
        if count > 1:
            problems.append(
                Problem(
                    where=f"{path}: training",
                    what="a case is listed more than once",
                    got=f"{case_id!r}, {count} times",
                    fix="List every case once; the file name of its label map is its id.",
                )
            )
    return cases


def _paths_v1(image_path: Path, facts: DatasetFacts) -> tuple[Path, ...]:
    """The listed file, or the numbered files for which it stands in the folder of raw data of nnU-Net v1."""
    case_id = image_path.name.removesuffix(facts.file_ending)
    first = image_path.with_name(f"{case_id}_0000{facts.file_ending}")
    if image_path.is_file() or not first.is_file():
        return (image_path,)
    return tuple(
        image_path.with_name(f"{case_id}_{number:04d}{facts.file_ending}")
        for number in range(facts.num_channels)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayFiles:
    """Files in the folders of a dataset that belong to no case.

    Attributes:
        case_id: the case that they would belong to, by their names; ``None`` where the names say none.
        paths: the files.
        what: what is wrong with them.
        expected: what would make them part of a case.
        fix: what to do.
    """

    case_id: str | None
    paths: tuple[Path, ...]
    what: str
    expected: str | None
    fix: str


def stray_files(path: Path, facts: DatasetFacts, used: Iterable[Iterable[Path]]) -> list[StrayFiles]:
    """Find image files in imagesTr and labelsTr that no case uses.

    Nothing is looked for where dataset.json lists its cases under ``dataset``: leaving files out is what
    such a list is for.

    Args:
        path: the dataset.json.
        facts: its facts.
        used: the paths of each case.

    Returns:
        One entry per would-be case and kind of mistake.
    """
    if "dataset" in read_json(path, DatasetError):
        return []
    in_use = {file for files in used for file in files}
    grouped: dict[tuple[str | None, str, str | None, str], list[Path]] = {}
    for folder_name in (IMAGES_FOLDER, LABELS_FOLDER):
        for file in visible_files(path.parent / folder_name):
            if file not in in_use and file_ending_of(file) is not None:
                grouped.setdefault(_why_stray(file, facts, in_use), []).append(file)
    return [
        StrayFiles(case_id=case_id, paths=tuple(files), what=what, expected=expected, fix=fix)
        for (case_id, what, expected, fix), files in grouped.items()
    ]


def _why_stray(file: Path, facts: DatasetFacts, in_use: set[Path]) -> tuple[str | None, str, str | None, str]:
    ending = facts.file_ending
    root = file.parent.parent
    if not file.name.endswith(ending):
        fix = "Convert the files to one format, or remove them."
        return None, "image files with another ending than the dataset's", ending, fix
    stem = file.name.removesuffix(ending)
    if file.parent.name == LABELS_FOLDER:
        expected = f"{IMAGES_FOLDER}/{stem}_0000{ending}"
        return stem, "a label map without an image", expected, "Add the image, or remove the label map."
    if facts.format == "nnunetv1":
        return stem, "an image that the list of training cases leaves out", None, "List it, or remove it."
    numbered = channel_number(stem)
    if numbered is None:
        fix = 'Rename the file, or list the cases with their paths under "dataset".'
        return stem, "an image without a channel number", f"{stem}_0000{ending}", fix
    label = root / LABELS_FOLDER / (numbered[0] + ending)
    if label not in in_use and not label.is_file():
        expected = f"{LABELS_FOLDER}/{label.name}"
        return (
            numbered[0],
            NO_LABEL_MAP,
            expected,
            "Add the label map, or remove the image.",
        )
    expected = f"numbers below {facts.num_channels}"
    fix = "Add the channel to channel_names, or remove the file."
    return numbered[0], "an image with a channel number that dataset.json does not name", expected, fix
