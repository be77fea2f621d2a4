"""``empirical.json``: what cross-validation chose, and everything that it was chosen from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from nnrules.documents import read_json, write_json
from nnrules.errors import ModelError, Problem
from nnrules.schema import validate

from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.select.scoring import Scores
from nnrules_runtime.select.suppression import Trial

__all__ = ["EMPIRICAL_SCHEMA_VERSION", "Candidate", "Empirical", "Skipped", "candidate_name"]

EMPIRICAL_SCHEMA_VERSION = "1.0"
"""Version of the document that this module reads and writes."""

_SCHEMA = "empirical"


def candidate_name(members: tuple[str, ...]) -> str:
    """A candidate for people: ``2d``, or ``2d + 3d_fullres``."""
    return " + ".join(members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration or pair that competed.

    Attributes:
        members: its configurations.
        scores: without postprocessing; ``None`` where nothing was held out to score it.
        trials: steps of postprocessing that were tried; ``None``: it was not determined for this candidate.
        postprocessing: the accepted steps.
        postprocessed: scores with them; ``None`` where it was not determined.
    """

    members: tuple[str, ...]
    scores: Scores | None
    trials: tuple[Trial, ...] | None = None
    postprocessing: Postprocessing = field(default_factory=Postprocessing.none)
    postprocessed: Scores | None = None

    @property
    def name(self) -> str:
        """For people."""
        return candidate_name(self.members)

    def to_json(self) -> dict[str, Any]:
        """As in the schema."""
        return {
            "members": list(self.members),
            "scores": None if self.scores is None else self.scores.to_json(),
            "trials": None if self.trials is None else [trial.to_json() for trial in self.trials],
            "postprocessing": self.postprocessing.to_json(),
            "postprocessed": None if self.postprocessed is None else self.postprocessed.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Candidate:
        """The candidate of a document that was checked against the schema."""
        scores, trials, after = document["scores"], document["trials"], document["postprocessed"]
        return cls(
            members=tuple(document["members"]),
            scores=None if scores is None else Scores.from_json(scores),
            trials=None if trials is None else tuple(Trial.from_json(trial) for trial in trials),
            postprocessing=Postprocessing.from_json(document["postprocessing"]),
            postprocessed=None if after is None else Scores.from_json(after),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A configuration or pair that did not compete.

    Attributes:
        members: its configurations.
        reason: why not, in general.
        detail: which folds or cases are concerned.
        fix: what would let it compete; ``None`` where nothing would, or nothing should.
    """

    members: tuple[str, ...]
    reason: str
    detail: str | None = None
    fix: str | None = None

    def __str__(self) -> str:
        """One line."""
        detail = f" ({self.detail})" if self.detail else ""
        fix = f" {self.fix}" if self.fix else ""
        return f"{candidate_name(self.members)} does not compete: {self.reason}{detail}.{fix}"

    def to_json(self) -> dict[str, Any]:
        """As in the schema."""
        return {
            "members": list(self.members),
            "reason": self.reason,
            "detail": self.detail,
            "fix": self.fix,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Skipped:
        """The entry of a document that was checked against the schema."""
        return cls(
            members=tuple(document["members"]),
            reason=document["reason"],
            detail=document["detail"],
            fix=document["fix"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Empirical:
    """The choice.

    Attributes:
        members: configurations of the chosen model (one) or pair (two, whose probabilities are averaged).
        folds: of each member, the folds that predict.
        postprocessing: the accepted steps for the chosen one.
        plan_hash: of the plan that was followed.
        chosen_by: ``score``; ``only_candidate``; ``plan``: nothing was held out, and the plan says what is used; or
            ``hand``: a user's choice among the candidates, in a bundle.
        candidates: all that competed, in the order by which ties are resolved.
        tied: those that share the best score, if several.
        skipped: those that did not compete.
        scored_folds: of each configuration that competed, the folds whose validation cases were scored; none where
            nothing was held out.
        num_cases: how many cases were scored.
        case_ids: which; ``None`` in a copy that is given away.
    """

    members: tuple[str, ...]
    folds: Mapping[str, tuple[int | str, ...]]
    postprocessing: Postprocessing
    plan_hash: str
    chosen_by: Literal["score", "only_candidate", "plan", "hand"]
    candidates: tuple[Candidate, ...]
    tied: tuple[tuple[str, ...], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    scored_folds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    num_cases: int = 0
    case_ids: tuple[str, ...] | None = ()

    @property
    def chosen(self) -> Candidate:
        """The candidate that was chosen."""
        return next(candidate for candidate in self.candidates if candidate.members == self.members)

    def without_case_ids(self) -> Empirical:
        """The same without names of cases, which may identify patients, and without paths."""
        skipped = tuple(replace(entry, detail=None, fix=None) for entry in self.skipped)
        return replace(self, case_ids=None, skipped=skipped)

    def to_json(self) -> dict[str, Any]:
        """The document of ``schemas/empirical.schema.json``."""
        return {
            "schema_version": EMPIRICAL_SCHEMA_VERSION,
            "created_by": f"nnrules {version('nnrules')}",
            "plan_hash": self.plan_hash,
            "members": list(self.members),
            "folds": {name: list(folds) for name, folds in self.folds.items()},
            "postprocessing": self.postprocessing.to_json(),
            "chosen_by": self.chosen_by,
            "tied": [list(members) for members in self.tied],
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "skipped": [entry.to_json() for entry in self.skipped],
            "validation": {
                "folds": {name: list(folds) for name, folds in self.scored_folds.items()},
                "num_cases": self.num_cases,
                "cases": None if self.case_ids is None else list(self.case_ids),
            },
        }

    @classmethod
    def from_json(cls, document: Any, *, where: str = "empirical.json") -> Empirical:
        """Check a parsed document.

        Args:
            document: parsed JSON.
            where: how it is called in errors.

        Raises:
            ModelError: every place that breaks the schema, or that contradicts another one.
        """
        validate(document, _SCHEMA, where=where, error=ModelError)
        problems = list(_contradictions(document, where))
        if problems:
            raise ModelError(problems)
        cases = document["validation"]["cases"]
        return cls(
            members=tuple(document["members"]),
            folds={name: tuple(folds) for name, folds in document["folds"].items()},
            postprocessing=Postprocessing.from_json(document["postprocessing"]),
            plan_hash=document["plan_hash"],
            chosen_by=document["chosen_by"],
            candidates=tuple(Candidate.from_json(entry) for entry in document["candidates"]),
            tied=tuple(tuple(members) for members in document["tied"]),
            skipped=tuple(Skipped.from_json(entry) for entry in document["skipped"]),
            scored_folds={name: tuple(folds) for name, folds in document["validation"]["folds"].items()},
            num_cases=document["validation"]["num_cases"],
            case_ids=None if cases is None else tuple(cases),
        )

    @classmethod
    def load(cls, path: Path) -> Empirical:
        """Read and check a file.

        Raises:
            ModelError: it is missing, no JSON, or no such document.
        """
        return cls.from_json(read_json(path, ModelError), where=str(path))

    def save(self, path: Path) -> None:
        """Check and write the file atomically.

        Raises:
            NnrulesError: it cannot be written.
        """
        document = self.to_json()
        validate(document, _SCHEMA, where=str(path), error=ModelError)
        write_json(path, document)


def _contradictions(document: Mapping[str, Any], where: str) -> Iterator[Problem]:
    fix = "The file was changed by hand: choose again with `nnrules run find-best`."
    members, candidates = document["members"], document["candidates"]
    chosen = next((entry for entry in candidates if entry["members"] == members), None)
    if chosen is None:
        yield Problem(
            where=f"{where}: members",
            what="what was chosen is none of the candidates",
            got=candidate_name(tuple(members)),
            expected="one of " + ", ".join(candidate_name(tuple(entry["members"])) for entry in candidates),
            fix=fix,
        )
    elif chosen["postprocessing"] != document["postprocessing"]:
        yield Problem(
            where=f"{where}: postprocessing",
            what="this is not the postprocessing of the candidate that was chosen",
            fix=fix,
        )
    if sorted(document["folds"]) != sorted(members):
        yield Problem(
            where=f"{where}: folds",
            what="folds are needed for the chosen configurations, and only for them",
            got=", ".join(sorted(document["folds"])),
            expected=", ".join(sorted(members)),
            fix=fix,
        )
    validation = document["validation"]
    scored = validation["folds"]
    if scored and not set(members) <= set(scored):
        yield Problem(
            where=f"{where}: validation.folds",
            what="what was chosen is none of what was scored",
            got=", ".join(sorted(scored)),
            expected=", ".join(sorted(members)),
            fix=fix,
        )
    if validation["cases"] is not None and len(validation["cases"]) != validation["num_cases"]:
        yield Problem(
            where=f"{where}: validation.num_cases",
            what="this is not the number of cases",
            got=str(validation["num_cases"]),
            expected=str(len(validation["cases"])),
            fix=fix,
        )
