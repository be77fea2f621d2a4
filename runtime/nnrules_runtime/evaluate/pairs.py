"""Which prediction belongs to which reference."""

from __future__ import annotations

from pathlib import Path

from nnrules.dataset import load_dataset
from nnrules.errors import Problem, RunError

from nnrules_runtime.evaluate.case import EvaluationCase

__all__ = ["find_pairs"]

_SHOWN_CASES = 5


def find_pairs(
    predictions: Path, references: Path, file_ending: str, *, partial: bool = False
) -> list[EvaluationCase]:
    """Pair the label maps of two folders by their names.

    Args:
        predictions: folder with ``CASE.ending`` files; files of other kinds and hidden ones are left alone.
        references: such a folder, or a dataset.json (or its folder, where it holds no label maps itself), whose
            training labels are the references.
        file_ending: ending of label maps.
        partial: whether references without a prediction are left out instead of refused.

    Returns:
        The cases, sorted by id.

    Raises:
        RunError: everything that is missing or left over.
        DatasetError: the dataset.json is no dataset.
    """
    if not predictions.is_dir():
        what = "not a folder" if predictions.exists() else "no such folder"
        raise RunError(Problem(where=str(predictions), what=what, fix="Name the folder of the predictions."))
    found = _label_maps(predictions, file_ending)
    expected = _references(references, file_ending)
    problems = []
    if not expected:
        problems.append(
            Problem(
                where=str(references),
                what="there are no references",
                expected=f"files that end with {file_ending}, or a dataset.json",
                fix="Name the folder of the reference label maps.",
            )
        )
    elif not found:
        problems.append(
            Problem(
                where=str(predictions),
                what="there are no predictions",
                expected=f"files that end with {file_ending}",
                fix="Name the folder that holds the predicted label maps.",
            )
        )
    else:
        problems += _differences(predictions, set(found) - set(expected), "has no reference", str(references))
        if not partial:
            without = _differences(
                references, set(expected) - set(found), "has no prediction", str(predictions)
            )
            problems += without
    if problems:
        raise RunError(problems)
    return [
        EvaluationCase(id=case_id, prediction=found[case_id], reference=expected[case_id])
        for case_id in sorted(set(found) & set(expected))
    ]


def _label_maps(folder: Path, ending: str) -> dict[str, Path]:
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
    }


def _references(path: Path, ending: str) -> dict[str, Path]:
    if path.is_dir():
        found = _label_maps(path, ending)
        if found or not (path / "dataset.json").is_file():
            return found
    elif not path.exists():
        raise RunError(
            Problem(
                where=str(path),
                what="no such folder or file",
                fix="Name the folder of the reference label maps, or a dataset.json.",
            )
        )
    # A file of a case that is missing is said with everything else, when it is read.
    return {case.id: case.label_path for case in load_dataset(path, require_files=False).cases}


def _differences(folder: Path, case_ids: set[str], what: str, other: str) -> list[Problem]:
    if not case_ids:
        return []
    names = sorted(case_ids)
    shown = ", ".join(names[:_SHOWN_CASES]) + (
        f" and {len(names) - _SHOWN_CASES} more" if names[_SHOWN_CASES:] else ""
    )
    fix = "Name files alike in both folders"
    fix += (
        ", or pass --partial to score the predictions that there are." if what == "has no prediction" else "."
    )
    is_one = len(names) == 1
    return [
        Problem(
            where=str(folder),
            what=f"{'a case' if is_one else f'{len(names)} cases'} {what if is_one else what.replace('has', 'have')} "
            f"in {other}",
            got=shown,
            fix=fix,
        )
    ]
