"""Predictions of cases that were held out, as validation left them in a work folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.dataset import Dataset
from nnrules.documents import read_json
from nnrules.errors import ModelError, Problem, RunError
from nnrules.plan import Plan
from nnrules.schema import validate

from nnrules_runtime.network.identity import differences, network_fields
from nnrules_runtime.network.model import MODEL_FILE, PLAN_FILE
from nnrules_runtime.workspace import Workspace

__all__ = ["HeldOut", "Validated", "shown"]

_SUMMARY_FILE = "summary.json"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """A configuration with predictions of validation cases.

    Attributes:
        configuration: its name.
        folds: the folds whose cases they are.
        predictions: label map of each case, by ascending id.
    """

    configuration: str
    folds: tuple[int, ...]
    predictions: Mapping[str, Path]

    def probabilities(self, case_id: str) -> Path:
        """Where the probabilities of a case lie, if they were asked for."""
        return self.predictions[case_id].with_name(f"{case_id}.npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The predictions of held-out cases in a work folder.

    Attributes:
        plan: the plan.
        dataset: its dataset.
        workspace: the work folder.
        num_folds: folds that a cross-validation of this dataset has.
    """

    plan: Plan
    dataset: Dataset
    workspace: Workspace
    num_folds: int

    def pooled(self, configuration: str, folds: Sequence[int] | None) -> Validated | list[Problem]:
        """The cases of several folds together.

        Args:
            configuration: a configuration of the plan.
            folds: which; ``None``: as many as it takes for every case of the dataset, each once.

        Returns:
            The cases, or what is missing.

        Raises:
            RunError: files are gone or damaged, or folds hold out the same cases.
            ModelError: the models are of another plan.
        """
        self._check_plan(configuration)
        if folds is None:
            return self._whole_dataset(configuration)
        found = {fold: self._of_fold(configuration, fold) for fold in folds}
        missing = [fold for fold, cases in found.items() if cases is None]
        if missing:
            return [self._not_validated(configuration, missing)]
        pooled: dict[str, Path] = {}
        twice: set[str] = set()
        for cases in found.values():
            twice.update(pooled.keys() & (cases or {}).keys())
            pooled.update(cases or {})
        if twice:
            raise RunError(
                Problem(
                    where=str(self.workspace.models(configuration)),
                    what="several of these folds hold out the same cases, so that they would count twice",
                    got=shown(twice),
                    fix="Choose folds of one split with --folds.",
                )
            )
        return _validated(configuration, folds, pooled)

    def train_command(self, configuration: str, folds: Sequence[int | str], *options: str) -> str:
        """The command that trains and validates a fold, and in words which others need it as well."""
        parts = [
            f"nnrules run train PLAN {self.dataset.path} -c {configuration} --fold {folds[0]}",
            f"--work {self.workspace.root}",
            *options,
        ]
        others = ", ".join(map(str, folds[1:]))
        return f"`{' '.join(parts)}`" + (f" (likewise --fold {others})" if others else "")

    def _whole_dataset(self, configuration: str) -> Validated | list[Problem]:
        """All cases of the dataset, each predicted by the fold that held it out.

        Folds are taken from the lowest number on; those beyond the split hold out cases again and are left alone.
        """
        wanted = {case.id for case in self.dataset.cases}
        pooled: dict[str, Path] = {}
        used: list[int] = []
        for fold in self._numbered(configuration):
            cases = self._of_fold(configuration, fold)
            if cases and not pooled.keys() & cases.keys():
                pooled.update(cases)
                used.append(fold)
            if wanted <= pooled.keys():
                return _validated(configuration, used, pooled)
        missing = [fold for fold in range(self.num_folds) if fold not in used]
        if missing:
            return [self._not_validated(configuration, missing)]
        return [
            Problem(
                where=str(self.workspace.models(configuration)),
                what="some cases of the dataset were held out by no fold",
                got=shown(wanted - pooled.keys()),
                fix="Were they added after the training? Train again, or choose on what there is with "
                f"--folds {','.join(map(str, used))}.",
            )
        ]

    def _of_fold(self, configuration: str, fold: int) -> dict[str, Path] | None:
        """Label map of each validation case of a fold; ``None`` where it has not been validated to the end."""
        folder = self.workspace.validation(configuration, fold)
        path = folder / _SUMMARY_FILE
        if not path.is_file():
            return None
        document: dict[str, Any] = read_json(path, RunError)
        validate(document, "summary", where=str(path), error=RunError)
        # Names of files only: a summary must not lead elsewhere.
        cases = {entry["id"]: folder / Path(entry["prediction"]).name for entry in document["cases"]}
        problems = [
            Problem(
                where=str(file),
                what="the prediction of a validation case is gone",
                fix=f"Delete {path} and validate again with {self.train_command(configuration, [fold])}.",
            )
            for file in cases.values()
            if not file.is_file()
        ]
        known = {case.id for case in self.dataset.cases}
        if not cases.keys() <= known:
            problems.append(
                Problem(
                    where=str(path),
                    what="predictions of cases that the dataset does not have",
                    got=shown(cases.keys() - known),
                    fix="Name the dataset that the models were trained on.",
                )
            )
        if problems:
            raise RunError(problems)
        return cases

    def _numbered(self, configuration: str) -> list[int]:
        """Numbers of the folds that have a folder, ascending."""
        folders = self.workspace.models(configuration).glob("fold_*")
        names = (path.name.removeprefix("fold_") for path in folders)
        return sorted(int(name) for name in names if name.isdecimal())

    def _not_validated(self, configuration: str, folds: Sequence[int]) -> Problem:
        files = (self.workspace.fold(configuration, fold) / MODEL_FILE for fold in folds)
        done = "validated" if all(file.is_file() for file in files) else "trained and validated"
        return Problem(
            where=f"configuration {configuration}",
            what=f"not all folds have been {done}",
            got=f"nothing of fold{'s' if folds[1:] else ''} {', '.join(map(str, folds))}",
            fix=f"Run {self.train_command(configuration, folds)}; or choose among others with --configurations, or "
            "on fewer folds with --folds.",
        )

    def _check_plan(self, configuration: str) -> None:
        """Refuse predictions of models whose weights mean something else in this plan."""
        path = self.workspace.models(configuration) / PLAN_FILE
        if not path.is_file():
            return
        stored = Plan.load(path)
        if configuration not in stored.configurations:
            return
        trained, now = network_fields(stored, configuration), network_fields(self.plan, configuration)
        problems = differences(trained, now, str(path.parent))
        if problems:
            raise ModelError(problems)


def shown(case_ids: Iterable[str]) -> str:
    """The first few ids, and how many more there are."""
    names = sorted(case_ids)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")


def _validated(configuration: str, folds: Sequence[int], pooled: Mapping[str, Path]) -> Validated:
    return Validated(
        configuration=configuration,
        folds=tuple(folds),
        predictions={case_id: pooled[case_id] for case_id in sorted(pooled)},
    )
