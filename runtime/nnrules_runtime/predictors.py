"""What predicts, from a work folder or a bundle: the chosen model or pair, or what a user names.

The only place that knows where trained networks, the choice among them and its postprocessing come from; the command
and Python users ask here alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nnrules.errors import ModelError, Problem, UsageError
from nnrules.plan import Plan

from nnrules_runtime.bundle import Bundle, open_bundle
from nnrules_runtime.network.model import Checkpoint, Model
from nnrules_runtime.postprocess import Postprocessing
from nnrules_runtime.predict.case_predictor import CasePredictor, Member
from nnrules_runtime.predict.inference_profile import inference_profile
from nnrules_runtime.predict.models import find_first_stage, find_models, read_models
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import Profile
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

__all__ = ["open_predictor"]

_LOGGER = logging.getLogger(__name__)
Folds = Sequence[int | str]


def open_predictor(
    source: Path | str,
    *,
    configurations: str | Sequence[str] | None = None,
    folds: Folds | None = None,
    checkpoint: Checkpoint | None = None,
    device: str | None = None,
    precision: str | None = None,
    num_threads: int | None = None,
    profile: Profile | None = None,
    mirroring: bool = True,
    postprocessing: bool | None = None,
) -> CasePredictor:
    """Load what predicts from a work folder or a bundle.

    ::

        predictor = open_predictor("work")  # or open_predictor("model.nnrules")
        labels = predictor.predict(image, spacing=(3.0, 0.8, 0.8))

    A cascade predicts through both stages; its first stage with all folds that have been trained. Several
    configurations are averaged as the plan says (``empirical.ensembles``).

    Args:
        source: a work folder, the folder of a configuration or of a fold, or a bundle.
        configurations: one, or several that are averaged. Default: what cross-validation chose
            (``empirical.json``), with its folds; without a choice the only configuration that has been trained.
        folds: of these configurations; default: those of the choice, else every numbered fold that has been trained,
            or ``all`` where there is none.
        checkpoint: of these configurations, ``final`` or ``best``; default: the plan's.
        device: where to run, such as ``cuda:0``; default: what is there.
        precision: of the networks; default: what suits the machine.
        num_threads: on a CPU; default: all cores.
        profile: how to execute; overrides the three before.
        mirroring: whether images are mirrored as the plan says.
        postprocessing: whether segmentations are postprocessed as find-best determined; default: if the plan says
            so (``postprocessing.applied``).

    Raises:
        ModelError: a model is missing or damaged, or models do not belong together.
        PlanError: the plan has values that the runtime does not know.
        UsageError: a device or a precision that is not there; or postprocessing is asked for and was not determined.
    """
    path = Path(source)
    found: _Source = _BundleFile(open_bundle(path)) if path.is_file() else _WorkFolder(path)
    names, chosen_folds = _choice(found, configurations)
    groups: list[tuple[Model, ...]] = []
    for name in names:
        wanted = folds if folds is not None else chosen_folds.get(name or "")
        groups.append(found.models(name, wanted, checkpoint))
    plan = groups[0][0].plan
    steps = _postprocessing(
        found.empirical, plan, [models[0].configuration for models in groups], postprocessing
    )
    if profile is None:
        with reading(plan) as root:
            profile = inference_profile(root, device=device, precision=precision, num_threads=num_threads)
    # All is found before anything is loaded.
    stages = [(models, _first_stage(found, models)) for models in groups]
    loaded: dict[tuple[Path, ...], Predictor] = {}
    members: list[Member] = []
    for models, before in stages:
        _LOGGER.info("%s%s", _with_folds(models), f" after {_with_folds(before)}" if before else "")
        first = _load(before, loaded, profile, mirroring=mirroring) if before else None
        members.append(Member(_load(models, loaded, profile, mirroring=mirroring), first))
    return CasePredictor(members, postprocessing=steps)


class _Source(Protocol):
    """Where trained networks are."""

    empirical: Empirical | None

    @property
    def members(self) -> Sequence[str | None]:
        """What predicts where nothing was chosen; ``None``: the only configuration that there is."""

    def models(
        self, configuration: str | None, folds: Folds | None, checkpoint: Checkpoint | None
    ) -> tuple[Model, ...]:
        """The networks of a configuration."""

    def first_stage(self, models: Sequence[Model]) -> tuple[Model, ...]:
        """The networks of the stage before that of some models."""


class _WorkFolder:
    def __init__(self, path: Path) -> None:
        self._path = path
        choice = Workspace(path).empirical
        self.empirical = Empirical.load(choice) if choice.is_file() else None
        self.members: Sequence[str | None] = (None,)

    def models(
        self, configuration: str | None, folds: Folds | None, checkpoint: Checkpoint | None
    ) -> tuple[Model, ...]:
        return read_models(find_models(self._path, configuration=configuration, folds=folds), checkpoint)

    def first_stage(self, models: Sequence[Model]) -> tuple[Model, ...]:
        return read_models(find_first_stage(models))


class _BundleFile:
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.empirical = bundle.empirical
        self.members: Sequence[str | None] = bundle.members

    def models(
        self, configuration: str | None, folds: Folds | None, checkpoint: Checkpoint | None
    ) -> tuple[Model, ...]:
        assert configuration is not None
        models = self._bundle.models(configuration, folds)
        if checkpoint not in (None, models[0].checkpoint):
            raise ModelError(
                Problem(
                    where=str(self._bundle.path),
                    what="the bundle has other weights",
                    got=checkpoint,
                    expected=models[0].checkpoint,
                )
            )
        return models

    def first_stage(self, models: Sequence[Model]) -> tuple[Model, ...]:
        return self._bundle.first_stage(models)


def _choice(
    found: _Source, configurations: str | Sequence[str] | None
) -> tuple[Sequence[str | None], Mapping[str, Folds]]:
    """The configurations that predict, and the folds of those that were chosen."""
    if configurations is not None:
        named = [configurations] if isinstance(configurations, str) else list(configurations)
        return tuple(dict.fromkeys(named)), {}
    if found.empirical is None:
        return found.members, {}
    how = {
        "score": "chosen by cross-validation",
        "only_candidate": "the only candidate of find-best",
        "plan": "what the plan uses without cross-validation",
        "hand": "chosen by hand",
    }[found.empirical.chosen_by]
    _LOGGER.info("%s: %s", " + ".join(found.empirical.members), how)
    return found.empirical.members, found.empirical.folds


def _first_stage(found: _Source, models: Sequence[Model]) -> tuple[Model, ...]:
    """The networks of the stage before that of some models; none if there is no such stage."""
    configuration = models[0].plan.configurations[models[0].configuration]
    return found.first_stage(models) if configuration.get("previous_stage") is not None else ()


def _load(
    models: Sequence[Model],
    loaded: dict[tuple[Path, ...], Predictor],
    profile: Profile,
    *,
    mirroring: bool,
) -> Predictor:
    """The networks of a configuration: once, where two members take them."""
    key = tuple(model.file for model in models)
    if key not in loaded:
        loaded[key] = Predictor(models, profile=profile, mirroring=mirroring)
    return loaded[key]


def _with_folds(models: Sequence[Model]) -> str:
    folds = ", ".join(f"{model.fold} ({model.checkpoint})" for model in models)
    return f"{models[0].configuration}: {'fold' if len(models) == 1 else 'folds'} {folds}"


def _postprocessing(
    empirical: Empirical | None, plan: Plan, names: Sequence[str], wanted: bool | None
) -> Postprocessing:
    """The steps for these configurations, if they are to be applied."""
    determined = None if empirical is None else _determined(empirical, names)
    if determined is None:
        if wanted:
            raise UsageError(
                Problem(
                    where="--postprocessing",
                    what="no postprocessing has been determined for this model",
                    got=" + ".join(names),
                    expected=None if empirical is None else " + ".join(empirical.members),
                    fix="Run `nnrules run find-best` first, and predict with what it chooses.",
                )
            )
        return Postprocessing.none()
    with reading(plan) as root:
        is_automatic = root.section("postprocessing").choice(
            "applied", {"automatically": True, "on_request": False}
        )
    if not determined.steps or wanted is False:
        return Postprocessing.none()
    text = "; ".join(step.to_text() for step in determined.steps)
    if wanted or is_automatic:
        _LOGGER.info("postprocessing: %s", text)
        return determined
    _LOGGER.info("not postprocessed, as the plan says on request; with --postprocessing: %s", text)
    return Postprocessing.none()


def _determined(empirical: Empirical, names: Sequence[str]) -> Postprocessing | None:
    """What find-best determined for these configurations, in whatever order they stand."""
    if set(names) == set(empirical.members):
        return empirical.postprocessing
    for candidate in empirical.candidates:
        if set(names) == set(candidate.members) and candidate.trials is not None:
            return candidate.postprocessing
    return None
