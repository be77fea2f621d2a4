"""Selections ``v[mask]`` of computed values, reduced by builtins that are called rather than inlined."""

from pathlib import Path

import pytest
from nnrules.demo.paper import published_fingerprint
from nnrules.engine.planning import make_plan

RULES = """\
title: Probe
extends: nnunet@2.8.0
rules:
  - id: patch.batch_size
    title: Probe
    kind: inferred
    scope: configuration
    decides: batch_size
    let:
      squares: plan.target_spacing * plan.target_spacing
    value: round({expression})
    because: probe
"""


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        # D13's target spacing is 5 × 1.56 × 1.56 mm: only the first axis exceeds 2 mm.
        ("mean((plan.target_spacing * plan.target_spacing)[plan.target_spacing > 2])", 25),
        ("mean(squares[plan.target_spacing < 2])", 2),
        ("count((squares > 1)[plan.target_spacing < 2]) + 5", 7),
    ],
)
def test_computed_values_are_selected_and_reduced(tmp_path: Path, expression: str, wanted: int) -> None:
    rules = tmp_path / "probe.yaml"
    rules.write_text(RULES.format(expression=expression), encoding="utf-8")
    plan = make_plan(published_fingerprint("D13"), rules)
    assert plan.get("configurations.3d_fullres.batch_size") == wanted
