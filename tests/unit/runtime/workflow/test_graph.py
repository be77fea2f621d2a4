"""The steps that a plan, a dataset and the options of a run ask for."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.dataset import Case, Dataset
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import RunError, UsageError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.workflow.graph import build_graph, select
from nnrules_runtime.workflow.settings import Settings
from nnrules_runtime.workflow.step import Graph, Kind, Step
from nnrules_runtime.workspace import Workspace

SMALL, LARGE = [(36, 50, 35)] * 30, [(300, 500, 500)] * 30


@pytest.fixture(scope="module")
def plan_of(make_fingerprint: Callable[..., Fingerprint]) -> Callable[..., Plan]:
    def make(shapes: list[Any], pack: str = "nnunet@2.8.0") -> Plan:
        return make_plan(make_fingerprint(shapes, [(1.0, 1.0, 1.0)] * len(shapes)), load_pack(pack))

    return make


@pytest.fixture(scope="module")
def settings_of(plan_of: Callable[..., Plan], tiny_dataset: Dataset) -> Callable[..., Settings]:
    def make(shapes: list[Any] = SMALL, *, cases: int = 10, groups: int = 0, **changes: Any) -> Settings:
        pack = changes.pop("pack", "nnunet@2.8.0")
        made = tuple(
            Case(
                id=f"c{number}",
                image_paths=(Path(f"c{number}.nii.gz"),),
                label_path=Path(f"l{number}.nii.gz"),
                group=f"g{number % groups}" if groups else None,
                subject=None,
            )
            for number in range(cases)
        )
        dataset = dataclasses.replace(tiny_dataset, cases=made)
        return Settings(
            plan=plan_of(shapes, pack), dataset=dataset, workspace=Workspace(Path("work")), **changes
        )

    return make


def graph_of(settings: Settings, chosen: tuple[str, ...] | None = None) -> Graph:
    return build_graph(settings, select(settings), chosen)


def trainings(graph: Graph) -> list[str]:
    return [step.title.removeprefix("train ") for step in graph.of(Kind.TRAIN)]


@pytest.mark.parametrize(
    ("shapes", "options", "number"),
    [
        # Supplement G of the paper: 10 trainings without a cascade, 20 with one.
        (SMALL, {}, 10),
        (LARGE, {}, 20),
        # One split for the choice: 2; or 8, as the low resolution keeps its five.
        (SMALL, {"folds": (0,)}, 2),
        (LARGE, {"folds": (0,)}, 8),
        (LARGE, {"configurations": ("3d_fullres",)}, 5),
        (LARGE, {"configurations": ("3d_cascade_fullres",), "folds": (2,)}, 6),
    ],
)
def test_number_of_trainings(
    settings_of: Callable[..., Settings], shapes: list[Any], options: dict[str, Any], number: int
) -> None:
    graph = graph_of(settings_of(shapes, **options))
    assert len(graph.of(Kind.TRAIN)) == len(graph.of(Kind.VALIDATE)) == number


def test_second_stage_waits_for_all_folds_of_the_first(settings_of: Callable[..., Settings]) -> None:
    graph = graph_of(settings_of(LARGE))
    step = graph["train-3d_cascade_fullres-1"]
    assert set(step.needs) == {"preprocess"} | {f"validate-3d_lowres-{fold}" for fold in range(5)}
    order = [step.name for step in graph]
    assert order.index("validate-3d_lowres-4") < order.index("train-3d_cascade_fullres-0")


def test_a_first_stage_that_was_not_asked_for_is_no_candidate(settings_of: Callable[..., Settings]) -> None:
    selection = select(settings_of(LARGE, configurations=("2d", "3d_cascade_fullres")))
    assert selection.only_as_first_stage == ("3d_lowres",)
    assert selection.candidates == ("2d", "3d_cascade_fullres")
    assert selection.needs_probabilities


def test_one_candidate_needs_no_probabilities(settings_of: Callable[..., Settings]) -> None:
    assert not select(settings_of(configurations=("2d",))).needs_probabilities


def test_refit_on_all_cases_trains_every_stage_of_the_choice(settings_of: Callable[..., Settings]) -> None:
    graph = graph_of(settings_of(LARGE, refit="all"), ("2d", "3d_cascade_fullres"))
    assert trainings(graph)[-3:] == ["2d fold all", "3d_lowres fold all", "3d_cascade_fullres fold all"]


def test_refit_by_cross_validation_trains_what_is_missing_of_the_choice(
    settings_of: Callable[..., Settings],
) -> None:
    graph = graph_of(settings_of(folds=(0,), refit="cv"), ("3d_fullres",))
    assert trainings(graph) == ["2d fold 0", *(f"3d_fullres fold {fold}" for fold in range(5))]


def test_without_a_choice_nothing_is_refitted(settings_of: Callable[..., Settings]) -> None:
    assert len(graph_of(settings_of(refit="all")).of(Kind.TRAIN)) == 10


def test_the_bundle_comes_last(settings_of: Callable[..., Settings]) -> None:
    graph = graph_of(settings_of(bundle=Path("a.nnrules"), refit="all"), ("2d",))
    assert [step.kind for step in graph][-1] is Kind.BUNDLE
    assert "train-2d-all" in graph["bundle"].needs


def test_too_few_cases_are_refused_as_the_plan_says(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(RunError, match="fewer cases than folds"):
        select(settings_of(cases=3))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"configurations": ("4d",)}, "no such configuration"),
        ({"configurations": ()}, "none is named"),
        ({"folds": (0, 0)}, "one stands twice"),
        ({"folds": (7,)}, "no such fold"),
    ],
)
def test_wrong_options(settings_of: Callable[..., Settings], options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        select(settings_of(**options))


def test_all_wrong_options_are_named_at_once(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(UsageError) as caught:
        select(settings_of(configurations=("4d", "5d"), folds=(9,)))
    assert len(caught.value.problems) == 3


def test_a_graph_is_in_order() -> None:
    with pytest.raises(ValueError, match="before"):
        Graph([Step(kind=Kind.FIND_BEST, needs=("preprocess",)), Step(kind=Kind.PREPROCESS)])


def with_too_few(settings: Settings, **changes: Any) -> Settings:
    document = copy.deepcopy(dict(settings.plan.document))
    document["folds"]["too_few"] |= changes
    return dataclasses.replace(settings, plan=Plan.from_document(document))


def test_models_of_all_cases_are_neither_validated_nor_compared(settings_of: Callable[..., Settings]) -> None:
    settings = with_too_few(settings_of(cases=3), policy="all_cases", num_instances=2)
    with pytest.raises(UsageError, match="nothing tells which configuration is best"):
        select(settings)
    graph = graph_of(dataclasses.replace(settings, configurations=("2d",)))
    assert trainings(graph) == ["2d fold 0", "2d fold 1"]
    assert not graph.of(Kind.VALIDATE, Kind.POSTPROCESS)


def test_models_of_all_cases_are_validated_where_the_plan_chooses_by_that(
    settings_of: Callable[..., Settings],
) -> None:
    settings = with_too_few(settings_of(cases=3), policy="all_cases", num_instances=1, selection=True)
    selection = select(settings)
    assert selection.needs_probabilities
    assert not selection.held_out
    graph = build_graph(settings, selection)
    assert [step.title for step in graph.of(Kind.VALIDATE)] == [
        "validate 2d fold 0",
        "validate 3d_fullres fold 0",
    ]
