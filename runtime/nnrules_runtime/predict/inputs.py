"""Which cases there are to predict: files of a folder, or files that were named."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nnrules.documents import read_json
from nnrules.errors import ImageError, NnrulesError, Problem, UsageError
from nnrules.image_io import SUPPORTED_ENDINGS, Geometry, file_ending_of, read_geometry

__all__ = ["InputCase", "find_cases", "group_cases", "part_of", "problems_of", "read_grid"]

_T = TypeVar("_T")
_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCase:
    """One case to predict.

    Attributes:
        id: its name; the output is called so.
        paths: files of its channels, in order; a file may hold several.
    """

    id: str
    paths: tuple[Path, ...]

    @property
    def ending(self) -> str:
        """Ending of the first file, in lower case; results are written with it."""
        return file_ending_of(self.paths[0]) or ""


def find_cases(inputs: Sequence[Path]) -> tuple[list[InputCase], list[Problem]]:
    """Find the cases to predict.

    A folder holds ``CASE_0000.EXT``, ``CASE_0001.EXT`` and so on, one a channel (nnU-Net), or files without such
    numbers, each a case. If no file of a folder ends in ``_0000``, such numbers belong to the names of cases. Hidden
    files and files of other kinds are passed over.

    Args:
        inputs: one folder, or the files of a single case in the order of its channels.

    Returns:
        The cases sorted by id, and what is wrong with others; those are not among the cases.

    Raises:
        UsageError: there is no such file or folder, nothing in it, or folders among several files.
    """
    _check_present(inputs)
    if len(inputs) == 1 and inputs[0].is_dir():
        return _cases_in(inputs[0])
    stem = _stem(inputs[0])
    numbered = _NUMBERED.fullmatch(stem)
    return [InputCase(id=numbered["case"] if numbered else stem, paths=tuple(inputs))], []


def part_of(cases: Sequence[_T], part: str | None) -> list[_T]:
    """Every n-th case, beginning with the k-th, for ``"k/n"``; the parts 1/n to n/n make up the whole.

    Raises:
        UsageError: not a part.
    """
    if part is None:
        return list(cases)
    found = re.fullmatch(r"(\d+)/(\d+)", part.strip())
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(
            Problem(
                where="--part", what="this is no part", got=part, expected="k/n with 1 ≤ k ≤ n, such as 2/4"
            )
        )
    return list(cases[number - 1 :: count])


def group_cases(cases: Sequence[InputCase], path: Path | None) -> list[tuple[InputCase, ...]]:
    """Put cases together whose probabilities are averaged: images of one subject on one grid.

    Args:
        cases: all of them.
        path: JSON, a list of lists of case ids: ``[["patient1_a", "patient1_b"], …]``; cases that it does not name
            stay alone. ``None``: all do.

    Returns:
        The cases in the order of the first of each group.

    Raises:
        UsageError: the file is something else, or names a case that is not there or stands in two lists.
    """
    stated = [] if path is None else _stated_groups(path)
    known = {case.id: case for case in cases}
    problems: list[Problem] = []
    group_of: dict[str, tuple[InputCase, ...]] = {}
    for row, ids in enumerate(stated):
        for column, case_id in enumerate(ids):
            if case_id not in known or case_id in group_of or ids.index(case_id) != column:
                what = "unknown case" if case_id not in known else "the case stands there twice"
                where = f"{path}: [{row}][{column}]"
                problems.append(
                    Problem(
                        where=where,
                        what=what,
                        got=case_id,
                        fix="Name each case once, as its image is called.",
                    )
                )
        group = tuple(known[case_id] for case_id in ids if case_id in known)
        group_of |= dict.fromkeys(ids, group)
    if problems:
        raise UsageError(problems)
    return list(dict.fromkeys(group_of.get(case.id, (case,)) for case in cases))


def _stated_groups(path: Path) -> list[list[str]]:
    document: Any = read_json(path, UsageError)
    is_list = isinstance(document, list) and all(isinstance(ids, list) and ids for ids in document)
    if is_list and all(isinstance(case_id, str) for ids in document for case_id in ids):
        return list(document)
    raise UsageError(
        Problem(
            where=str(path),
            what="these are no groups of cases",
            expected='lists of case ids that are averaged: [["patient1_a", "patient1_b"], …]',
        )
    )


def read_grid(case: InputCase, num_channels: int) -> Geometry:
    """The geometry of a case's first file, from headers alone.

    Args:
        case: the case.
        num_channels: what the model takes.

    Raises:
        ImageError: a header cannot be read, or the files do not hold as many channels.
    """
    problems: list[Problem] = []
    geometries: list[Geometry] = []
    for path in case.paths:
        try:
            geometries.append(read_geometry(path))
        except ImageError as exc:
            problems.extend(exc.problems)
    if problems:
        raise ImageError(problems)
    total = sum(geometry.num_channels for geometry in geometries)
    if total != num_channels:
        names = ", ".join(path.name for path in case.paths)
        raise ImageError(
            Problem(
                where=case.id,
                what="wrong number of channels",
                got=f"{total} in {names}",
                expected=f"{num_channels}, as the model was trained with",
                fix=f"Name the channels {case.id}_0000{case.ending}, {case.id}_0001{case.ending} and so on.",
            )
        )
    return geometries[0]


def _check_present(inputs: Sequence[Path]) -> None:
    problems = [
        Problem(where=str(path), what="there is no such file or folder", fix="Check the path.")
        for path in inputs
        if not path.exists()
    ]
    folders = [path for path in inputs if path.is_dir()]
    if folders and len(inputs) > 1:
        problems += [
            Problem(
                where=str(path),
                what="a folder among several inputs",
                expected="one folder, or the files of one case",
                fix="Predict each folder on its own.",
            )
            for path in folders
        ]
    problems += [
        Problem(
            where=str(path),
            what="this is no kind of image that can be read",
            expected=", ".join(SUPPORTED_ENDINGS),
        )
        for path in inputs
        if path.is_file() and file_ending_of(path) is None
    ]
    if problems:
        raise UsageError(problems)


def _stem(path: Path) -> str:
    return path.name[: -len(file_ending_of(path) or "")]


def _cases_in(folder: Path) -> tuple[list[InputCase], list[Problem]]:
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_file()]
    images = [path for path in files if file_ending_of(path) is not None]
    if not images:
        raise UsageError(
            Problem(
                where=str(folder),
                what="there are no images in this folder",
                got=f"{len(files)} other files",
                expected="files that end in " + ", ".join(SUPPORTED_ENDINGS),
            )
        )
    is_numbered = any(_stem(path).endswith("_0000") for path in images)
    groups: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in images:
        found = _NUMBERED.fullmatch(_stem(path)) if is_numbered else None
        groups[found["case"] if found else _stem(path)].append((int(found["channel"]) if found else 0, path))
    cases: list[InputCase] = []
    problems: list[Problem] = []
    for name, channels in sorted(groups.items()):
        wrong = _wrong_channels(name, [number for number, _ in channels], folder)
        if wrong is None:
            cases.append(InputCase(id=name, paths=tuple(path for _, path in sorted(channels))))
        else:
            problems.append(wrong)
    return cases, problems


def _wrong_channels(name: str, numbers: Iterable[int], folder: Path) -> Problem | None:
    """Channels that are missing between others, or there twice."""
    found = sorted(numbers)
    twice = sorted({number for number in found if found.count(number) > 1})
    if twice:
        return Problem(
            where=f"{folder}: {name}",
            what="several files for one channel",
            got=", ".join(f"{number:04d}" for number in twice),
            fix="Keep one of them.",
        )
    missing = sorted(set(range(found[-1])) - set(found))
    if missing:
        return Problem(
            where=f"{folder}: {name}",
            what="channels are missing",
            got=f"no {', '.join(f'{name}_{number:04d}' for number in missing)}",
            fix="Add the files, or take away the other channels of this case.",
        )
    return None


def problems_of(case_id: str, error: NnrulesError) -> list[Problem]:
    """The problems of an error, each naming the case."""
    return [
        problem
        if case_id in problem.where
        else Problem(
            where=f"{case_id}: {problem.where}" if problem.where != "image" else case_id,
            what=problem.what,
            got=problem.got,
            expected=problem.expected,
            fix=problem.fix,
        )
        for problem in error.problems
    ]
