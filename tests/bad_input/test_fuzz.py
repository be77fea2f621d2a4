"""Damage at random: the shipped rules and documents, changed in ways that no list of cases foresees.

Only :class:`NnrulesError` may come out of it; whatever else does is a traceback in front of a user.
"""

import copy
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from nnrules.dataset import load_dataset
from nnrules.engine.diff import diff_plans
from nnrules.engine.explain import explain
from nnrules.engine.origins import field_origins
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.errors import NnrulesError
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from nnrules.resources import rules_directory

PACK_FOLDER = rules_directory() / "nnunet" / "2.8.0"
RULE_FILES = sorted(PACK_FOLDER.glob("*.yaml"))
# Values that take the place of a scalar, a key or a whole line.
SCALARS = [
    "0", "-1", "1e308", "1e-308", "99999999999999999999", "true", "null", "''", "[]", "{}", "[1, a]", "{a: 1}", "a",
    "spacing", "dim", "1 / 0", "config.patch_size", "cases.spacing", "2 ** 300", "&a 1", "*a", "!!int 1", "- 1", "? a",
    "#", "'", '"', "{", "%", "@", "\t", "=", "|", ">", "x: y: z", "when: true", "otherwise: 1", "\u2028", "\ufeff",
    "\x07",
]  # fmt: skip
JSON_VALUES = [
    None, True, 0, -1, 1.5, 1e308, -1e308, 5e-324, 10**400, "", "a", [], [[]], {}, {"a": None}, [1, "a"], [0, 0, 0],
    [1e308] * 3, [None], "channels[0]", float("nan"), float("inf"),
]  # fmt: skip

# Each example writes its own file over the last one's, so a folder for all of them is right.
RELAXED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


@st.composite
def damaged_rules(draw: st.DrawFn) -> str:
    """One file of the pack as an overlay, with one to three lines damaged."""
    lines = draw(st.sampled_from(RULE_FILES)).read_text(encoding="utf-8").splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        kind = draw(st.sampled_from(["delete", "twice", "move", "indent", "value", "insert", "cut", "other"]))
        if kind == "delete":
            del lines[at]
        elif kind == "twice":
            lines.insert(at, line)
        elif kind == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        elif kind == "indent":
            lines[at] = " " * draw(st.integers(0, 8)) + line.lstrip()
        elif kind == "value":
            lines[at] = line.partition(":")[0] + ": " + draw(st.sampled_from(SCALARS))
        elif kind == "insert":
            place = draw(st.integers(0, len(line)))
            lines[at] = line[:place] + draw(st.sampled_from(SCALARS)) + line[place:]
        elif kind == "cut":
            lines[at] = line[: draw(st.integers(0, len(line)))]
        else:
            lines[at] = draw(st.sampled_from(lines))
        if not lines:
            break
    return "\n".join(lines) + "\n"


def _header(text: str) -> str:
    is_release = "reproduces:" in text
    return "" if is_release else "title: Damaged\nextends: nnunet@2.8.0\n"


@settings(RELAXED, max_examples=200)
@given(text=damaged_rules())
def test_damaged_rules(text: str, good_inputs: Path, tmp_path: Path):
    overlay = tmp_path / "damaged.yaml"
    overlay.write_text(_header(text) + text, encoding="utf-8")
    fingerprint = Fingerprint.load(good_inputs / "fingerprint.json")
    try:
        make_plan(fingerprint, load_pack(overlay))
    except NnrulesError as error:
        check_problems(error)


def check_problems(error: NnrulesError) -> None:
    assert error.problems
    assert all(problem.where and problem.what for problem in error.problems)


Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> list[Place]:
    """Every place of a document, but at most the first three entries of a list."""
    found = [at]
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    )
    for key, item in entries:
        found += places(item, (*at, key))
    return found


@st.composite
def damage(draw: st.DrawFn, document: Any) -> Any:
    """The document with one to three places removed, renamed or replaced."""
    damaged = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([place for place in places(damaged) if place]))
        holder = damaged
        for key in parents:
            holder = holder[key]
        kind = draw(st.sampled_from(["delete", "rename", "replace", "replace", "replace", "swap"]))
        if kind == "delete":
            del holder[last]
        elif kind == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from([*holder, "new", ""]))] = holder.pop(last)
        elif kind == "swap":
            other = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
            holder[last], holder[other] = holder[other], holder[last]
        else:
            holder[last] = copy.deepcopy(draw(st.sampled_from(JSON_VALUES)))
        if not damaged:
            break
    return damaged


@settings(RELAXED, max_examples=200)
@given(data=st.data())
def test_damaged_fingerprints(data: st.DataObject, good_inputs: Path, tmp_path: Path):
    document = data.draw(damage(json.loads((good_inputs / "fingerprint.json").read_text())))
    path = tmp_path / "fingerprint.json"
    path.write_text(json.dumps(document))
    try:
        make_plan(Fingerprint.load(path))
    except NnrulesError as error:
        check_problems(error)


@settings(RELAXED, max_examples=100)
@given(data=st.data())
def test_damaged_datasets(data: st.DataObject, good_inputs: Path, tmp_path: Path):
    document = json.loads((good_inputs / "data" / "dataset.json").read_text())
    document["nnrules"] = {"groups": {"a": "x"}, "orientation": "as_stored"}
    document["dataset"] = {
        "a": {"images": [str(good_inputs / "data/imagesTr/a_0000.nii.gz")], "label": "b.nii.gz"}
    }
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(data.draw(damage(document))))
    try:
        load_dataset(path, require_files=False)
    except NnrulesError as error:
        check_problems(error)


@settings(RELAXED, max_examples=150)
@given(data=st.data())
def test_damaged_plans(data: st.DataObject, good_inputs: Path, tmp_path: Path):
    document = json.loads((good_inputs / "plan.json").read_text())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data.draw(damage(document))))
    try:
        plan = Plan.load(path)
        fields = field_origins(plan)
        chosen = [
            name
            for name, _, _ in fields
            if name.endswith(("patch_size", "batch_size", "target_spacing", "scheme"))
        ]
        for name in chosen:
            explain(plan, name, flips=False)
        diff_plans(plan, Plan.load(good_inputs / "plan.json"))
    except NnrulesError as error:
        check_problems(error)
