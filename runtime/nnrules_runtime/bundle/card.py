"""The card of a bundle: what a stranger must know before using it, as Markdown.

It is made of the plan, the choice and the records of training. None of these holds ids of cases or paths; a name of
the dataset is all that tells where the data come from, unless the authors add words of their own.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, nan
from pathlib import Path
from typing import Any

import jinja2
from nnrules.plan import Plan

from nnrules_runtime.bundle.texts import Licence
from nnrules_runtime.network.model import Model
from nnrules_runtime.quantities import duration, metric
from nnrules_runtime.select.empirical import Empirical, candidate_name
from nnrules_runtime.select.scoring import Scores

__all__ = ["Card", "training_facts"]

_TEMPLATE = "card.md.j2"
# Written by nnrules_runtime.train, which is built on this package.
_TRAINING_FILE = "training.json"
_AXES = "zyx"
_SPECIAL = re.compile(r"([\\`*\[\]<>|])")


def training_facts(model: Model) -> Mapping[str, Any]:
    """What is recorded of the training of a network; empty for one that was imported."""
    try:
        facts = json.loads((model.folder / _TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a card without them is better than no bundle
        return {}
    return facts if isinstance(facts, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card is made of.

    Attributes:
        title: name of the bundle.
        file: name of its file.
        plan: its plan.
        members: the configurations that predict.
        models: the networks of each configuration.
        facts: :func:`training_facts` of each of them.
        empirical: the choice, if there was one.
        licence: its licence, if it has one.
        words: Markdown of the authors.
    """

    title: str
    file: str
    plan: Plan
    members: tuple[str, ...]
    models: Mapping[str, Sequence[Model]]
    facts: Mapping[str, Sequence[Mapping[str, Any]]]
    empirical: Empirical | None
    licence: Licence | None
    words: str | None

    def render(self) -> str:
        """The text."""
        document = self.plan.document
        text = (
            _environment()
            .get_template(_TEMPLATE)
            .render(
                title=self.title,
                file=shlex.quote(self.file),
                members=self.members,
                channels=list(self._channels()),
                labels=list(self._labels()),
                regions=any(isinstance(value, list) for value in document["dataset"]["labels"].values()),
                orientation=document["dataset"].get("orientation_policy", "as_stored"),
                spacing=_sizes(document["target_spacing"]),
                images=self._images(),
                networks=list(self._networks()),
                choice=_choice(self.empirical),
                postprocessing=() if self.empirical is None else self.empirical.postprocessing.steps,
                automatic=document["postprocessing"]["applied"] == "automatically",
                num_cases=self.plan.provenance["fingerprint"]["num_cases"],
                pack=self.plan.provenance["pack"],
                plan_hash=self.plan.hash,
                licence=self.licence,
                words=self.words,
            )
        )
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def _channels(self) -> list[dict[str, Any]]:
        """What goes in: a channel a row."""
        rows = []
        for number, channel in enumerate(self.plan.document["channels"]):
            seen = channel.get("intensity") or channel["normalization"].get("statistics")
            rows.append(
                {
                    "number": number,
                    "name": channel["name"],
                    "scheme": channel["normalization"]["scheme"],
                    "range": None
                    if not seen
                    else f"{seen['percentile_00_5']:.4g} to {seen['percentile_99_5']:.4g}",
                }
            )
        return rows

    def _labels(self) -> list[dict[str, Any]]:
        """What comes out: a label or region a row, in the order of dataset.json."""
        dataset = self.plan.document["dataset"]
        names = list(dataset.get("label_order") or dataset["labels"])
        rows = []
        for name in names:
            value = dataset["labels"][name]
            values = value if isinstance(value, list) else [value]
            if values != [dataset.get("ignore_label")]:
                rows.append({"name": name, "values": ", ".join(map(str, values))})
        return rows

    def _images(self) -> dict[str, Any] | None:
        """Spacing and size of the training images, where the plan has them."""
        inputs = self.plan.provenance["inputs"]
        found = {}
        for key in ("spacing", "shape"):
            entry = inputs.get(f"cases.{key}")
            if not isinstance(entry, dict) or not {"min", "median", "max"} <= entry.keys():
                return None
            found[key] = {name: _sizes(entry[name]) for name in ("min", "median", "max")}
        return found

    def _networks(self) -> list[dict[str, Any]]:
        """A configuration a row."""
        rows = []
        for name, models in self.models.items():
            configuration = self.plan.configurations[name]
            facts = self.facts[name]
            rows.append(
                {
                    "name": name,
                    "is_member": name in self.members,
                    "previous": configuration.get("previous_stage"),
                    "patch": _sizes(configuration["patch_size"]),
                    "spacing": _sizes(configuration["spacing"]),
                    "axes": "".join(_AXES[axis] for axis in configuration["transpose_forward"]),
                    "folds": ", ".join(str(model.fold) for model in models),
                    "checkpoint": models[0].checkpoint,
                    "epochs": _distinct(model.epoch for model in models),
                    "iterations": _distinct(entry.get("iterations") for entry in facts),
                    "time": _time(facts),
                    "profile": _distinct(_profile(entry) for entry in facts),
                }
            )
        return rows


def _choice(empirical: Empirical | None) -> dict[str, Any] | None:
    """How the choice was made: a candidate a row, with the Dice of each class."""
    if empirical is None:
        return None
    chosen = empirical.chosen
    scored = [candidate for candidate in empirical.candidates if candidate.scores is not None]
    classes = list(chosen.scores.dice) if chosen.scores is not None else []
    rows = [
        _row(candidate.name, candidate.scores, classes, is_chosen=candidate is chosen)
        for candidate in (scored if classes else ())
        if candidate.scores is not None
    ]
    if classes and chosen.postprocessing.steps and chosen.postprocessed is not None:
        rows.append(_row(f"{chosen.name}, postprocessed", chosen.postprocessed, classes))
    return {
        "by": empirical.chosen_by,
        "num_folds": max(map(len, empirical.scored_folds.values()), default=0),
        "num_cases": empirical.num_cases,
        "classes": classes,
        "rows": rows,
        "skipped": [f"{candidate_name(entry.members)}: {entry.reason}" for entry in empirical.skipped],
    }


def _row(name: str, scores: Scores, classes: Sequence[str], *, is_chosen: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "is_chosen": is_chosen,
        "mean": metric(scores.mean),
        "scores": [metric(scores.dice.get(label, nan)) for label in classes],
    }


def _profile(facts: Mapping[str, Any]) -> str | None:
    profile = facts.get("profile")
    if not isinstance(profile, dict):
        return None
    version = facts.get("torch")
    parts = [profile.get("device"), profile.get("precision"), f"torch {version}" if version else None]
    return ", ".join(str(part) for part in parts if part)


def _time(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Time of training of all folds."""
    seconds = [entry.get("seconds") for entry in facts]
    numbers = [value for value in seconds if isinstance(value, (int, float)) and isfinite(value)]
    return duration(sum(numbers)) if len(numbers) == len(facts) and numbers else None


def _distinct(values: Any) -> str | None:
    """Each value once, in order; ``None`` where none is known."""
    known = list(dict.fromkeys(value for value in values if value is not None))
    return "; ".join(map(str, known)) or None


def _sizes(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)


def _cell(value: object) -> str:
    """A text in Markdown, or in a cell of a table, without a meaning of its own there."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # this is Markdown: see ``cell``
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment
