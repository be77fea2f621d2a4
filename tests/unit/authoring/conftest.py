"""Tiny rule packs, written as overlay files."""

from collections.abc import Callable
from pathlib import Path

import pytest

PACK = """
title: A tiny pack
gpu_memory_gb: 8
configurations:
  2d: {dim: 2, doc: Slices.}
  3d: {dim: 3, doc: Volumes.}
params:
  limit: {value: 10, unit: mm, doc: A limit., source: me}
facts:
  middle: {value: "percentile(cases.spacing, 50)", unit: mm, doc: Median spacing.}
functions:
  halve:
    doc: Halve until short.
    args: [size]
    start: {rest: size, times: 0}
    repeat:
      at_most: 20
      steps:
        - stop_if: rest < 4
          because: short enough
        - set: {rest: rest / 2, times: times + 1}
    return: {rest: rest, times: times}
    source: me
rules:
  - id: plans
    title: Which configurations are planned
    kind: blueprint
    decides: configurations
    constant: [2d, 3d]
    because: both
    source: me
  - id: spacing.coarse
    title: Coarse or fine
    kind: inferred
    decides: grade
    hit: first
    cases:
      - when: max(middle) > limit
        value: '"coarse"'
        because: the median spacing {middle} lies above {limit}
      - otherwise: '"fine"'
        because: it does not
    source: me
  - id: size.halved
    title: Halvings
    kind: inferred
    scope: configuration
    decides: [times, rest]
    let: {result: halve(limit)}
    value: {times: result.times, rest: result.rest}
    because: as often as it goes
    source: me
  - id: flat.refused
    title: Flat images
    kind: inferred
    scope: configuration
    decides: depth
    hit: first
    cases:
      - when: config.name == "3d" and dataset.num_training < 2
        drop_configuration: only {dataset.num_training} case
        because: too few
      - when: dataset.num_training > 99
        refuse: too many
        because: too many
      - when: dataset.num_training > 50
        value: 2
        warn: that is a lot
        because: many
      - otherwise: 1
        because: normal
    source: me
"""


@pytest.fixture
def write_pack(tmp_path: Path) -> Callable[..., Path]:
    """Writes an overlay file and, where given, its tests; returns the path."""

    def write(rules: str = PACK, tests: str | None = None, name: str = "tiny.yaml") -> Path:
        path = tmp_path / name
        path.write_text(rules, encoding="utf-8")
        if tests is not None:
            (tmp_path / "tests").mkdir(exist_ok=True)
            (tmp_path / "tests" / name).write_text(tests, encoding="utf-8")
        return path

    return write
