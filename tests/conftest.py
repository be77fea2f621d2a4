"""Small packs and fingerprints that tests of several folders are made of."""

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.evaluate import evaluate
from nnrules.engine.machine import Evaluation
from nnrules.engine.model import Pack
from nnrules.engine.overrides import resolve_overrides
from nnrules.engine.packs import load_pack
from nnrules.fingerprint import Fingerprint

HEAD = """
title: Test pack
gpu_memory_gb: 8
configurations:
  flat: {dim: 2, doc: two axes}
  deep: {dim: 3, doc: three axes}
"""
STATISTICS = {
    "mean": 60.5, "std": 45.25, "min": -900.0, "median": 70.0, "max": 1500.0, "percentile_00_5": -80.0,
    "percentile_99_5": 210.0,
}  # fmt: skip
LISTING = """
  - {id: listing, title: t, kind: inferred, decides: configurations, constant: [flat, deep], because: b}
"""


@pytest.fixture(scope="session")
def make_fingerprint() -> Callable[..., Fingerprint]:
    """A fingerprint of some cases; what is not given is ordinary."""

    def make(
        shape: Sequence[Sequence[float]] = ((40, 200, 180), (50, 210, 190), (60, 220, 200)),
        spacing: Sequence[Sequence[float]] = ((3.0, 0.8, 0.8), (2.5, 0.7, 0.7), (5.0, 0.9, 0.9)),
        *,
        channels: Sequence[str] = ("CT",),
        labels: Mapping[str, Any] | None = None,
        num_training: int | None = None,
        intensity: Sequence[Mapping[str, float] | None] | None = None,
        cases: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Fingerprint:
        labels = labels or {"background": 0, "organ": 1, "tumour": 2}
        document: dict[str, Any] = {
            "schema_version": "1.0",
            "created_by": "tests",
            "dataset": {
                "name": "Made",
                "channel_names": list(channels),
                "labels": dict(labels),
                "label_order": list(labels),
                "regions_class_order": None,
                "ignore_label": None,
                "num_training": len(shape) if num_training is None else num_training,
                "file_ending": ".nii.gz",
                "orientation_policy": "as_stored",
            },
            "extractors": {"geometry": 1},
            "cases": {
                "id": [f"case_{number:03d}" for number in range(len(shape))],
                "shape": [list(row) for row in shape],
                "spacing": [list(row) for row in spacing],
                **(cases or {}),
            },
            "crop": {"median_size_ratio": 1.0},
        }
        statistics = [dict(STATISTICS) for _ in channels] if intensity is None else list(intensity)
        if statistics:
            document["intensity"] = {"method": "exact", "channels": statistics}
        if extra is not None:
            document["extra"] = {"columns": dict(extra)}
        return Fingerprint.from_document(document)

    return make


@pytest.fixture(scope="session")
def write_pack(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write rules (and other keys) into an overlay file."""
    folder = tmp_path_factory.mktemp("packs")
    numbers = itertools.count()

    def write(text: str, *, head: str = HEAD, name: str | None = None) -> Path:
        path = folder / (name or f"pack{next(numbers)}.yaml")
        path.write_text(textwrap.dedent(head).lstrip() + textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def make_pack(write_pack: Callable[..., Path]) -> Callable[..., Pack]:
    """A pack of the given text below a head with the configurations ``flat`` (2D) and ``deep`` (3D).

    ``rules`` are written below ``rules:`` after one that lists both configurations.
    """

    def make(rules: str = "", *, more: str = "", head: str = HEAD, listing: str = LISTING) -> Pack:
        body = textwrap.dedent(more) + "\nrules:" + listing + textwrap.indent(textwrap.dedent(rules), "  ")
        return load_pack(write_pack(body, head=head))

    return make


@pytest.fixture(scope="session")
def run_pack(make_fingerprint: Callable[..., Fingerprint]) -> Callable[..., Evaluation]:
    """Compile and evaluate a pack."""

    def run(
        pack: Pack, fingerprint: Fingerprint | None = None, *, gb: float = 8.0, traced: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> Evaluation:  # fmt: skip
        program = compile_pack(pack, traced=traced)
        chosen = resolve_overrides(program, overrides or {})
        return evaluate(program, fingerprint or make_fingerprint(), gb, chosen)

    return run


@pytest.fixture(scope="session")
def decide(
    make_pack: Callable[..., Pack], run_pack: Callable[..., Evaluation]
) -> Callable[..., dict[str, Any]]:
    """The decided values of some rules, by plan path."""

    def values(rules: str, fingerprint: Fingerprint | None = None, **options: Any) -> dict[str, Any]:
        more = {key: options.pop(key) for key in ("more", "head", "listing") if key in options}
        evaluation = run_pack(make_pack(rules, **more), fingerprint, **options)
        return {
            path: value
            for decision in evaluation.decisions
            for path, value in zip(decision.paths, decision.values, strict=True)
            if path != "configurations"
        }

    return values
