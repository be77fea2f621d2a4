"""Which cases train and which validate: the plan's policy, applied to the cases at hand.

Nothing is stored: the same cases, groups and plan give the same folds on every machine, so that a fold can be made
again when its model is validated, and every model of a cross-validation knows what the others held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nnrules.documents import content_hash
from nnrules.errors import Problem, RunError

from nnrules_runtime.folds.presence import Presence
from nnrules_runtime.folds.stratify import deal_by_class
from nnrules_runtime.values import Section

__all__ = ["ALL", "Fold", "FoldPolicy", "Groups", "split_folds"]

ALL = "all"
"""The fold that trains on every case."""

Groups = Mapping[str, str | None]
"""Group of each case; ``None`` or no entry: a group of its own."""

_DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One division of the cases.

    Attributes:
        name: the fold's number, or ``"all"``.
        train: ids of the training cases, ascending.
        validation: ids of the validation cases, ascending.
        held_out: whether no validation case is trained on. Where it is ``False`` validation only shows how
            training proceeds and says nothing about other cases.
        is_random: whether it lies beyond the split and was drawn by its number alone.
    """

    name: int | str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: bool = True
    is_random: bool = False

    def fields(self) -> dict[str, str]:
        """What a model records of it, so that a training is not continued with other cases."""
        return {"split.train": _summary(self.train), "split.validation": _summary(self.validation)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPolicy:
    """The ``folds`` of a plan.

    Attributes:
        num_folds: how many folds there are where cases suffice.
        seed: of the shuffling.
        by_group: whether the cases of a group stay together.
        too_few: ``refuse``, ``all_cases``, ``fewer_folds`` or ``hold_out``.
        num_instances: with ``all_cases``, models a configuration.
        configurations: with ``all_cases``, the configurations to train; ``None``: all.
        chosen_by_validation: with ``all_cases``, whether a configuration is chosen by its scores on the training cases.
        extra_train_share: share of the cases that train in folds beyond the split.
        extra_seed_offset: the seed of such a fold is this plus its number.
        extra_from: lowest number of such a fold.
        stratified: whether cases are dealt by the classes that they show.
    """

    num_folds: int
    seed: int
    by_group: bool
    too_few: str
    num_instances: int | None
    configurations: tuple[str, ...] | None
    chosen_by_validation: bool
    extra_train_share: float
    extra_seed_offset: int
    extra_from: int
    stratified: bool = False

    @classmethod
    def from_plan(cls, root: Section) -> FoldPolicy:
        """Read ``folds``."""
        folds = root.section("folds")
        assignment, extra = folds.section("assignment"), folds.section("extra")
        too_few = folds.section("too_few")
        stratified = assignment.choice("method", {"shuffled_kfold": False, "stratified_by_class": True})
        assignment.require("order", "sorted_ids")
        configurations = too_few.value("configurations")
        return cls(
            num_folds=folds.value("num_folds"),
            seed=assignment.value("seed"),
            by_group=folds.choice("unit", {"case": False, "group": True}),
            too_few=too_few.require("policy", "refuse", "all_cases", "fewer_folds", "hold_out"),
            num_instances=too_few.value("num_instances"),
            configurations=None if configurations is None else tuple(configurations),
            chosen_by_validation=bool(too_few.value("selection")),
            extra_train_share=extra.value("train_share"),
            extra_seed_offset=extra.value("seed_offset"),
            extra_from=extra.value("from_fold"),
            stratified=stratified,
        )

    def split(
        self, case_ids: Iterable[str], groups: Groups | None = None, presence: Presence | None = None
    ) -> list[Fold]:
        """All folds of the split.

        Args:
            case_ids: the training cases, in any order.
            groups: their groups; read only where the plan keeps groups together.
            presence: the classes that each case shows; read, and needed, only where :attr:`stratified`.

        Raises:
            RunError: there are fewer cases, or groups, than folds, and the plan refuses that; or fewer than two.
        """
        units = self._units(case_ids, groups)
        everything = _cases(units)
        count, holds_out = self._outline(units)
        if not holds_out:
            return [self._all(everything, number) for number in range(count)]
        if count == 1:
            return [self._hold_out(units)]
        return self._deal(units, count, presence)

    def outline(self, case_ids: Iterable[str], groups: Groups | None = None) -> tuple[int, bool]:
        """The number of folds, and whether they hold cases out; without looking into the cases.

        Args:
            case_ids: as for :meth:`split`.
            groups: as for :meth:`split`.

        Raises:
            RunError: as :meth:`split`.
        """
        return self._outline(self._units(case_ids, groups))

    def num_units(self, case_ids: Iterable[str], groups: Groups | None = None) -> int:
        """Number of what is dealt: cases, or groups, where a case without group is one of its own."""
        return len(self._units(case_ids, groups))

    def holds_nothing_out(self, num_units: int) -> bool:
        """Whether every model trains on all of so many cases or groups."""
        return self.too_few == "all_cases" and num_units < self.num_folds

    def expected_folds(self, num_units: int) -> int:
        """Folds of a cross-validation of so many cases or groups; where the plan refuses them, those of enough."""
        if num_units >= self.num_folds:
            return self.num_folds
        return {"fewer_folds": num_units, "hold_out": 1}.get(self.too_few, self.num_folds)

    def fold(
        self,
        fold: int | str,
        case_ids: Iterable[str],
        groups: Groups | None = None,
        *,
        configuration: str | None = None,
        presence: Presence | None = None,
        listed: Sequence[Fold] | None = None,
    ) -> Fold:
        """One fold: of the split, beyond it, or all cases.

        Args:
            fold: a number, or ``"all"``.
            case_ids: the training cases, in any order.
            groups: their groups; read only where the plan keeps groups together.
            configuration: the one that is to be trained, where that matters.
            presence: as for :meth:`split`.
            listed: the folds of a file of the user's own, in place of those of the plan.

        Raises:
            RunError: as :meth:`split`; there is no such fold; or with so few cases the plan does not train this
                configuration.
        """
        case_ids = tuple(case_ids)
        units = self._units(case_ids, groups)
        if fold == ALL:
            if not units:
                raise self._not_enough(0, 0)
            return self._all(_cases(units), ALL)
        if listed is not None:
            folds = listed
        else:
            folds = self.split(case_ids, groups, presence)
            if self.holds_nothing_out(len(units)) and None not in (configuration, self.configurations):
                self._check_configuration(configuration or "", len(units))
        if not isinstance(fold, int) or fold < 0:
            raise self._no_such_fold(fold, len(folds))
        if fold < len(folds):
            return folds[fold]
        if fold < self.extra_from:
            raise self._no_such_fold(fold, len(folds))
        return self._extra(units, fold)

    def _units(self, case_ids: Iterable[str], groups: Groups | None) -> list[tuple[str, ...]]:
        """What is dealt: single cases, or the cases of a group, in ascending order of their names.

        Python orders text by code points, as numpy does, by which nnU-Net sorts (nnunetv2 2.8.1, do_split).
        """
        ids = sorted(case_ids)
        if not self.by_group:
            return [(case,) for case in ids]
        members: dict[tuple[str, bool], list[str]] = {}
        for case in ids:
            group = (groups or {}).get(case)
            # A case without group that is named like a group does not belong to it.
            members.setdefault((case, True) if group is None else (group, False), []).append(case)
        return [tuple(members[key]) for key in sorted(members)]

    def _outline(self, units: Sequence[tuple[str, ...]]) -> tuple[int, bool]:
        if len(units) >= self.num_folds:
            return self.num_folds, True
        if self.holds_nothing_out(len(units)) and units:
            return self.num_instances or 1, False
        if self.too_few in ("fewer_folds", "hold_out") and len(units) >= 2:
            return self.expected_folds(len(units)), True
        raise self._not_enough(len(units), len(_cases(units)))

    def _deal(
        self, units: Sequence[tuple[str, ...]], num_folds: int, presence: Presence | None
    ) -> list[Fold]:
        """As scikit-learn's ``KFold(num_folds, shuffle=True, random_state=seed)`` deals indices, or by classes.

        The first ``n % num_folds`` folds get one unit more; NumPy keeps the draws of ``RandomState`` forever.
        """
        order = np.arange(len(units))
        np.random.RandomState(self.seed).shuffle(order)
        if not self.stratified:
            parts = [set(chosen.tolist()) for chosen in np.array_split(order, num_folds)]
        elif presence is None:
            raise ValueError("these folds are dealt by the classes that cases show: say which")
        else:
            shown = [{key for case in units[index] for key in presence[case]} for index in order.tolist()]
            places = deal_by_class(shown, num_folds)
            parts = [set() for _ in range(num_folds)]
            for index, place in zip(order.tolist(), places, strict=True):
                parts[place].add(index)
        return [_fold(number, units, validates.__contains__) for number, validates in enumerate(parts)]

    def _hold_out(self, units: Sequence[tuple[str, ...]]) -> Fold:
        """The only fold of few cases; something is left to train on, and something to validate."""
        count = min(max(int(self.extra_train_share * len(units)), 1), len(units) - 1)
        chosen = np.random.RandomState(self.seed).choice(len(units), count, replace=False)
        trains = set(chosen.tolist())
        return _fold(0, units, lambda index: index not in trains)

    def _extra(self, units: Sequence[tuple[str, ...]], number: int) -> Fold:
        """A fold beyond the split (nnunetv2 2.8.1, nnUNetTrainer.do_split)."""
        random = np.random.RandomState(self.extra_seed_offset + number)
        chosen = random.choice(len(units), int(self.extra_train_share * len(units)), replace=False)
        trains = set(chosen.tolist())
        fold = _fold(number, units, lambda index: index not in trains, is_random=True)
        if not fold.train or not fold.validation:
            raise RunError(
                Problem(
                    where=f"fold {number}",
                    what="a random fold of so few cases leaves nothing to train on or nothing to validate",
                    got=f"{len(fold.train)} training and {len(fold.validation)} validation cases",
                    fix="Train --fold all, or set folds.extra.train_share in the plan.",
                )
            )
        return fold

    @staticmethod
    def _all(everything: tuple[str, ...], name: int | str) -> Fold:
        return Fold(name=name, train=everything, validation=everything, held_out=False)

    def _not_enough(self, num_units: int, num_cases: int) -> RunError:
        kind = f"groups ({num_cases} cases)" if self.by_group else "cases"
        fix = (
            "Train --fold all; or plan again with --set folds.too_few.policy=all_cases (no case is held out)"
        )
        if num_units > 1:
            fix += (
                ", =fewer_folds (as many folds as possible) or =hold_out (one fold), or with "
                f"--set folds.num_folds={num_units}"
            )
        return RunError(
            Problem(
                where="plan: folds",
                what=f"there are fewer {'groups' if self.by_group else 'cases'} than folds",
                got=f"{num_units} {kind}",
                expected=f"at least {self.num_folds}",
                fix=f"{fix}.",
            )
        )

    def _no_such_fold(self, fold: int | str, num_folds: int) -> RunError:
        first = max(self.extra_from, num_folds)
        return RunError(
            Problem(
                where=f"fold {fold}",
                what="there is no such fold",
                expected=f"0 to {num_folds - 1}, {first} and above (random {self.extra_train_share:.0%} of the cases), "
                f'or "{ALL}"',
                fix="Choose one of these with --fold.",
            )
        )

    def _check_configuration(self, configuration: str, num_units: int) -> None:
        known = self.configurations or ()
        if configuration not in known:
            raise RunError(
                Problem(
                    where=f"configuration {configuration}",
                    what=f"with only {num_units} cases or groups the plan does not train it",
                    expected=", ".join(known),
                    fix="Train one of these, or plan again with another folds.too_few.configurations.",
                )
            )


def split_folds(root: Section, case_ids: Iterable[str], groups: Groups | None = None) -> list[Fold]:
    """The folds of a plan for these cases; see :meth:`FoldPolicy.split`."""
    return FoldPolicy.from_plan(root).split(case_ids, groups)


def _cases(units: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted(case for unit in units for case in unit))


def _fold(
    number: int,
    units: Sequence[tuple[str, ...]],
    validates: Callable[[int], bool],
    *,
    is_random: bool = False,
) -> Fold:
    train = _cases(unit for index, unit in enumerate(units) if not validates(index))
    validation = _cases(unit for index, unit in enumerate(units) if validates(index))
    return Fold(name=number, train=train, validation=validation, is_random=is_random)


def _summary(case_ids: Sequence[str]) -> str:
    digest = content_hash(list(case_ids)).partition(":")[2][:_DIGEST_DIGITS]
    return f"{len(case_ids)} cases, digest {digest}"
