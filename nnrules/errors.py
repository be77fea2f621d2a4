"""The errors that users see.

The tree::

    NnrulesError                 base: everything the CLI turns into a message and exit code 2
    ├── UsageError               a wrong option or argument
    ├── DatasetError             dataset.json, its files, or its optional nnrules block
    │   └── ImageError           one image or label file
    ├── FingerprintError         fingerprint.json or a table of features
    ├── PackError                a rule pack: unknown, wrong version, changed after release
    │   └── RuleError            one place in a rule file (file:line:column and a caret)
    │       └── EvaluationError  a rule that failed on a fingerprint
    ├── RefusedError             a rule refuses the dataset, with the reason that the pack gives
    ├── PlanError                plan.json, or an override that cannot be
    └── RunError                 executing a plan: the machine, a work folder, a training
        ├── StoreError           preprocessed cases: missing, damaged, of another plan
        └── ModelError           weights, checkpoints, model folders: missing, damaged, of another plan

Each error carries one or more :class:`Problem` and prints all of them: validation never stops at the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "DatasetError",
    "EvaluationError",
    "FingerprintError",
    "ImageError",
    "ModelError",
    "NnrulesError",
    "PackError",
    "PlanError",
    "Problem",
    "RefusedError",
    "RuleError",
    "RunError",
    "StoreError",
    "UsageError",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, with everything needed to put it right.

    Attributes:
        where: file:line:column for rules, a JSON path for data, a case id for images.
        what: what is wrong, in one clause.
        got: the offending value, as text; ``None`` where there is none to show.
        expected: what would have been accepted.
        fix: one sentence that says what to do.
        excerpt: source lines with a caret below the place, for rules.
    """

    where: str
    what: str
    got: str | None = None
    expected: str | None = None
    fix: str | None = None
    excerpt: str | None = None

    def __str__(self) -> str:
        """Read as ``where: what; got …; expected …. How to fix.``."""
        text = f"{self.where}: {self.what}"
        if self.got is not None:
            text += f"; got {self.got}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        text += "."
        if self.fix:
            text += f" {self.fix}"
        if self.excerpt:
            text += "\n" + self.excerpt
        return text

    def to_json(self) -> dict[str, str]:
        """The problem as a JSON object without empty fields."""
        fields = ("where", "what", "got", "expected", "fix", "excerpt")
        return {name: value for name in fields if (value := getattr(self, name)) is not None}


class NnrulesError(Exception):
    """Base of every error that a user can cause and can put right.

    Args:
        problems: one problem or several; all are shown.
    """

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[NnrulesError], tuple[tuple[Problem, ...]]]:
        """Errors cross process borders with their problems."""
        return (type(self), (self.problems,))


class UsageError(NnrulesError):
    """A wrong option or argument."""


class DatasetError(NnrulesError):
    """A dataset.json, the files that it names, or its optional nnrules block."""


class ImageError(DatasetError):
    """One image or label file that cannot be read or does not fit."""


class FingerprintError(NnrulesError):
    """A fingerprint.json or a table of per-case features."""


class PackError(NnrulesError):
    """A rule pack that is unknown, malformed or changed after its release."""


class RuleError(PackError):
    """One or more places in rule files."""


class EvaluationError(RuleError):
    """A rule that failed while it was evaluated on a fingerprint."""


class RefusedError(NnrulesError):
    """A rule refuses this dataset and says why."""


class PlanError(NnrulesError):
    """A plan.json that breaks its schema or its meaning, or an override that cannot be."""


class RunError(NnrulesError):
    """A plan that cannot be executed here or now."""


class StoreError(RunError):
    """Preprocessed cases that are missing, damaged, or made for another plan."""


class ModelError(RunError):
    """Weights, a checkpoint or a model folder that is missing, damaged, or of another plan."""
