"""A dataset.json with its files: the cases, their channels, labels and groups.

The optional block ``nnrules`` in dataset.json says what nnU-Net's format cannot::

    "nnrules": {
      "groups": {"pattern": "^(patient[0-9]+)_"},      or {"case": "group"}, or [["case", "case"], …]
      "subjects": …the same three forms…,
      "orientation": "as_stored" or "canonical"
    }

``groups`` are cases that must not be split between training and validation (a patient, a site);
``subjects`` are cases that are images of one subject. See ``schemas/dataset.schema.json``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from nnrules.dataset_facts import DatasetFacts, dataset_facts, is_dataset_json
from nnrules.dataset_files import NO_LABEL_MAP, CaseFiles, find_case_files, stray_files
from nnrules.dataset_groups import assign
from nnrules.documents import read_json
from nnrules.errors import DatasetError, Problem
from nnrules.image_geometry import is_utf8, name_problem

__all__ = [
    "Case",
    "Dataset",
    "DatasetFacts",
    "dataset_facts",
    "is_dataset_json",
    "load_dataset",
    "unlabelled_cases",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training case.

    Attributes:
        id: name of the case, unique in its dataset.
        image_paths: one file per channel, or one file that holds all channels.
        label_path: the label map.
        group: patient, site or the like, whose cases stay together in a fold; ``None``: a group of its own.
        subject: the subject that the image shows; ``None`` where not stated.
    """

    id: str
    image_paths: tuple[Path, ...]
    label_path: Path
    group: str | None
    subject: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(DatasetFacts):
    """The facts of a dataset.json and its training cases.

    Attributes:
        path: the dataset.json.
        cases: the training cases, sorted by id.
    """

    path: Path
    cases: tuple[Case, ...]


def load_dataset(path: Path, *, require_files: bool = True) -> Dataset:
    """Load a dataset.json of nnU-Net v2, v1 or the Medical Segmentation Decathlon and find its files.

    A case needs a label map and its channels. A file that belongs to no case is not an error here;
    :func:`nnrules.dataset_check.check_dataset` names such files.

    Args:
        path: dataset.json or its folder.
        require_files: whether a file of a case that is missing is an error. Without it, the paths where the
            file is expected are given, so that a checker can report it together with everything else.

    Raises:
        DatasetError: with every problem of the document, or else with every problem of files and groups.
    """
    document_path = _document_path(path)
    document = read_json(document_path, DatasetError)
    where = str(document_path)
    # Here the files themselves can be counted, below, where the document does not say how many there are.
    facts = dataset_facts(document, where, default_num_training=0)
    found, problems = find_case_files(document, document_path, facts)
    problems += [name_problem(case.label_path) for case in found if not is_utf8(case.label_path)]
    if require_files:
        problems += _missing(found)
    if not found and not problems:
        problems.append(_no_cases(document_path, facts))
    block = document.get("nnrules", {})
    ids = [case.id for case in found]
    # Without cases every id in the block would be unknown: one cause, one message.
    groups = assign(block.get("groups"), ids, f"{where}: nnrules.groups", problems) if ids else {}
    subjects = assign(block.get("subjects"), ids, f"{where}: nnrules.subjects", problems) if ids else {}
    if problems:
        raise DatasetError(problems)
    cases = tuple(
        Case(
            id=case.id,
            image_paths=case.image_paths,
            label_path=case.label_path,
            group=groups.get(case.id),
            subject=subjects.get(case.id),
        )
        for case in found
    )
    values = asdict(facts)
    values["name"] = facts.name or document_path.resolve().parent.name
    if "numTraining" not in document:
        values["num_training"] = len(cases)
    return Dataset(**values, path=document_path, cases=cases)


def unlabelled_cases(dataset: Dataset) -> tuple[str, ...]:
    """Ids of images in imagesTr that are no training cases, as they have no label map.

    Where dataset.json lists its cases, leaving images out is what the list is for: there are none then.

    Args:
        dataset: as loaded.

    Raises:
        DatasetError: dataset.json cannot be read any more.
    """
    used = [(*case.image_paths, case.label_path) for case in dataset.cases]
    strays = stray_files(dataset.path, dataset, used)
    return tuple(
        sorted(stray.case_id for stray in strays if stray.what == NO_LABEL_MAP and stray.case_id is not None)
    )


def _document_path(path: Path) -> Path:
    if not path.is_dir():
        return path
    document_path = path / "dataset.json"
    if not document_path.is_file():
        below = sorted(str(child.parent.name) for child in path.glob("*/dataset.json"))
        raise DatasetError(
            Problem(
                where=str(path),
                what="the folder holds no dataset.json",
                fix=f"Choose a dataset in it: {', '.join(below[:5])}." if below else "Check the path.",
            )
        )
    return document_path


def _missing(found: list[CaseFiles]) -> list[Problem]:
    return [
        Problem(
            where=case.id,
            what="a file of the case is missing",
            expected=str(path),
            fix="Add the file, or remove the case's other files.",
        )
        for case in found
        for path in (*case.image_paths, case.label_path)
        if not path.is_file()
    ]


def _no_cases(document_path: Path, facts: DatasetFacts) -> Problem:
    return Problem(
        where=str(document_path),
        what="no training case found",
        expected=f"imagesTr/<case>_0000{facts.file_ending} and labelsTr/<case>{facts.file_ending} beside it, "
        'or a "dataset" with the paths of each case',
        fix="Check file_ending and the names of the files.",
    )
