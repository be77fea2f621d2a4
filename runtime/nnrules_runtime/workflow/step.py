"""A step of the whole method, and the order of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Graph", "Kind", "Step"]


class Kind(StrEnum):
    """What a step does."""

    PREPROCESS = "preprocess"
    TRAIN = "train"
    VALIDATE = "validate"
    FIND_BEST = "find-best"
    POSTPROCESS = "postprocess"
    REFIT = "refit"
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        kind: what it does.
        configurations: of the plan; several for steps that concern several.
        fold: of a training and its validation.
        needs: names of the steps that come before it.
        reads: those of them whose result it is done again for; a training also reads the preprocessed cases of its
            own configuration, see :func:`~nnrules_runtime.workflow.contents.inputs_of`.
        probabilities: whether a validation also leaves probabilities.
    """

    kind: Kind
    configurations: tuple[str, ...] = ()
    fold: int | str | None = None
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    probabilities: bool = False

    @property
    def name(self) -> str:
        """Unique in a graph, fit for a file name: ``train-3d_fullres-0``."""
        if self.fold is None:
            return self.kind.value
        return f"{self.kind.value}-{self.configurations[0]}-{self.fold}"

    @property
    def title(self) -> str:
        """For people: ``train 3d_fullres fold 0``."""
        if self.fold is None:
            return self.kind.value
        return f"{self.kind.value} {self.configurations[0]} fold {self.fold}"


class Graph:
    """Steps, each after those that it needs.

    Args:
        steps: in an order in which they can be done.

    Raises:
        ValueError: two steps have one name, or one needs what does not stand before it.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps: dict[str, Step] = {}
        for step in steps:
            missing = [name for name in (*step.needs, *step.reads) if name not in self._steps]
            if missing or step.name in self._steps:
                raise ValueError(f"{step.name} stands twice or before {missing}")
            self._steps[step.name] = step

    def __iter__(self) -> Iterator[Step]:
        """In the order in which they are done."""
        return iter(self._steps.values())

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._steps)

    def __getitem__(self, name: str) -> Step:
        """The step of this name."""
        return self._steps[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is a step of this name."""
        return name in self._steps

    def of(self, *kinds: Kind) -> tuple[Step, ...]:
        """The steps of these kinds."""
        return tuple(step for step in self if step.kind in kinds)
