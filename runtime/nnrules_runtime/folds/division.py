"""How the cases of a dataset are divided: by the plan's policy, or by a file of the user's own."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from nnrules.dataset import Dataset

from nnrules_runtime.folds.policy import Fold, FoldPolicy, Groups
from nnrules_runtime.folds.presence import Presence, class_presence
from nnrules_runtime.folds.splits import read_splits
from nnrules_runtime.preprocess.store import CaseStore

__all__ = ["Division"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The folds of a dataset.

    Attributes:
        policy: what the plan says.
        case_ids: the training cases.
        groups: their groups.
        presence: the classes that each case shows, where the plan deals cases by them.
        listed: the folds of a file of the user's own; ``None``: those of the plan.
        source: the name of that file.
    """

    policy: FoldPolicy
    case_ids: tuple[str, ...]
    groups: Groups
    presence: Presence | None = field(default=None, repr=False)
    listed: tuple[Fold, ...] | None = None
    source: str | None = None

    @classmethod
    def of(
        cls,
        policy: FoldPolicy,
        dataset: Dataset,
        *,
        splits: Path | None = None,
        store: CaseStore | None = None,
    ) -> Division:
        """The division of a dataset.

        Args:
            policy: what the plan says.
            dataset: the dataset.
            splits: a file of the user's own, see :func:`~nnrules_runtime.folds.splits.read_splits`.
            store: its preprocessed cases. Only folds that are dealt by class need it
                (:meth:`needs_store`), and only before one of them is asked for.

        Raises:
            RunError: the file is not what it should be.
            StoreError: a case that is needed has not been preprocessed.
        """
        case_ids = tuple(case.id for case in dataset.cases)
        groups = {case.id: case.group for case in dataset.cases}
        listed = None
        if splits is not None:
            listed = read_splits(splits, case_ids, groups, by_group=policy.by_group)
        elif not policy.by_group and any(group is not None for group in groups.values()):
            _LOGGER.warning(
                "the dataset declares groups, but the plan divides cases (folds.unit): plan again to keep them together"
            )
        needed = store is not None and cls.needs_store(policy, splits)
        return cls(
            policy=policy,
            case_ids=case_ids,
            groups=groups,
            presence=class_presence(store, case_ids) if store is not None and needed else None,
            listed=listed,
            source=None if splits is None else splits.name,
        )

    @staticmethod
    def needs_store(policy: FoldPolicy, splits: Path | None) -> bool:
        """Whether folds can be told only with preprocessed cases, whose classes are known."""
        return policy.stratified and splits is None

    @property
    def num_folds(self) -> int:
        """Number of folds of the split.

        Raises:
            RunError: there are too few cases, and the plan refuses that.
        """
        if self.listed is not None:
            return len(self.listed)
        return self.policy.outline(self.case_ids, self.groups)[0]

    @property
    def held_out(self) -> bool:
        """Whether each fold validates cases that it does not train on; errors as :attr:`num_folds`."""
        return self.listed is not None or self.policy.outline(self.case_ids, self.groups)[1]

    def folds(self) -> list[Fold]:
        """All folds of the split; errors as :meth:`~nnrules_runtime.folds.policy.FoldPolicy.split`."""
        if self.listed is not None:
            return list(self.listed)
        return self.policy.split(self.case_ids, self.groups, self.presence)

    def fold(self, name: int | str, *, configuration: str | None = None) -> Fold:
        """One fold; see :meth:`~nnrules_runtime.folds.policy.FoldPolicy.fold`."""
        return self.policy.fold(
            name,
            self.case_ids,
            self.groups,
            configuration=configuration,
            presence=self.presence,
            listed=self.listed,
        )

    def holders(self) -> dict[str, int]:
        """The fold that holds each case out; the lowest where several do, none for a case that none does."""
        found: dict[str, int] = {}
        for number, fold in enumerate(self.folds()):
            if fold.held_out:
                for case_id in fold.validation:
                    found.setdefault(case_id, number)
        return found
