"""Which cases show which classes: read by stratified folds, and told where a fold lacks one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.preprocess.prepared import LabelKey

if TYPE_CHECKING:
    from nnrules_runtime.folds.policy import Fold
    from nnrules_runtime.preprocess.store import CaseStore

__all__ = ["Presence", "class_presence", "warn_of_missing_classes"]

_LOGGER = logging.getLogger(__name__)
_SHOWN = 3

Presence = Mapping[str, tuple[LabelKey, ...]]
"""The foreground classes or regions that each case shows."""


def class_presence(store: CaseStore, case_ids: Iterable[str]) -> dict[str, tuple[LabelKey, ...]]:
    """The classes that each case shows, before its label map was resampled, which may have removed some.

    Raises:
        StoreError: a case has not been preprocessed, or is damaged.
    """
    return {case_id: store.case(case_id).original_classes for case_id in case_ids}


def warn_of_missing_classes(fold: Fold, presence: Presence, labels: LabelSet) -> None:
    """Say which classes the network of a fold cannot learn, and which its validation does not score.

    Args:
        fold: the fold.
        presence: the classes of its cases at least.
        labels: names the classes.
    """
    nowhere, untrained, unscored = [], [], []
    for head in labels.foreground_heads:
        key, name = labels.heads[head], labels.head_names[head]
        showing = {case_id for case_id in presence if key in presence[case_id]}
        if not showing:
            nowhere.append(name)
        elif showing.isdisjoint(fold.train):
            untrained.append(f"{name} (only {_listed(showing)})")
        elif showing.isdisjoint(fold.validation):
            unscored.append(f"{name} (only {_listed(showing)})")
    if nowhere:
        _LOGGER.warning(
            "fold %s: no case shows %s: the network cannot learn it", fold.name, ", ".join(nowhere)
        )
    if untrained:
        _LOGGER.warning(
            "fold %s: no training case shows %s: the network cannot learn it; another fold can, and --fold all",
            fold.name,
            ", ".join(untrained),
        )
    if unscored:
        _LOGGER.warning(
            "fold %s: no validation case shows %s: it is not scored here", fold.name, ", ".join(unscored)
        )


def _listed(case_ids: set[str]) -> str:
    more = len(case_ids) - _SHOWN
    return ", ".join(sorted(case_ids)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
