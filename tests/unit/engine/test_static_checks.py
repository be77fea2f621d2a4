# ruff: noqa: E501 - rules in one line read like a table
# ruff: noqa: ISC004 - cases that take two lines
"""Mistakes in rules, found when a pack is loaded or compiled: what is said, and the place below the caret.

In the rules of this file ‸ marks the expected place; it is taken out before the rules are read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.packs import load_pack
from nnrules.errors import Problem, RuleError

MARK = "‸"
HEAD = """\
title: Test pack
gpu_memory_gb: 8
configurations:
  flat: {dim: 2, doc: two axes}
  deep: {dim: 3, doc: three axes}
"""
LISTING = "rules:\n  - {id: listing, title: t, kind: inferred, decides: configurations, constant: [flat, deep], because: b}\n"


def problems_of(path: Path) -> list[Problem]:
    with pytest.raises(RuleError) as caught:
        compile_pack(load_pack(path))
    return list(caught.value.problems)


def check(text: str, what: str, tmp_path: Path) -> Problem:
    """The problem at the mark; its caret must stand below it."""
    before = text.partition(MARK)[0]
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(MARK, ""), encoding="utf-8")
    found = problems_of(path)
    at_mark = [
        problem for problem in found if problem.where == f"mine.yaml:{line}:{column}" and what in problem.what
    ]
    assert at_mark, "\n".join(map(str, found))
    source, caret = (at_mark[0].excerpt or "").split("\n")
    assert caret.index("^") - source.index("|") - 2 == column - 1
    return at_mark[0]


def rule(value: str) -> str:
    return (
        f"{HEAD}{LISTING}  - id: mine\n    title: t\n    kind: inferred\n    decides: mine\n    value: {value}\n"
        "    because: b\n"
    )


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("1 + ‸foo", "unknown name 'foo'"),
        ("1 + ‸cases.cuont", "unknown name 'cases.cuont'"),
        ("‸fooo(1)", "unknown function 'fooo'"),
        ("1 + ‸max", "'max' is a function"),
        ("‸max()", "wrong number of arguments for 'max'"),
        ("‸max(v=1)", "'max' takes no named arguments"),
        ("2 * ‸max(3)", "wrong argument for 'max(values, ...)'"),
        ("‸[1, 2] + [1, 2, 3]", "wrong types"),
        ("‸true + 1", "'+' needs numbers"),
        ("1 + ‸-dataset.channel_names", "wrong types"),
        ("‸cases.spacing ** 2", "wrong types"),
        ("‸cases.spacing > 2", "wrong types"),
        ("not ‸1", "nothing counts as true or false by itself"),
        ("cases.count > 1 and ‸cases.count", "nothing counts as true or false by itself"),
        ("1 if ‸[true, false] else 2", "'if' needs one truth value"),
        ("‸1 if cases.count > 1 else 'a'", "both branches must have one type"),
        ("‸1 < [1, 2] < 3", "axis vectors cannot be compared in a chain"),
        ("‸'a' < 'b'", "texts can only be tested for being equal or contained"),
        ("‸1 in 'abc'", "'in' needs a text and a text, or a value and a list"),
        ("‸[1, 2, 3][3]", "no such axis"),
        ("‸[1, 2]['a']", "an index is a number or one truth value an axis"),
        ("‸[1, 2, 3][[true, false]]", "a selection needs an axis vector of equal length"),
        ("1 + sum(‸cases.count[0])", "only axis vectors and lists have entries"),
        ("‸[cases.count, 'a', 2]", "a list needs entries of one type"),
        ("‸cases.count.real", "'.real' needs a record"),
        ("‸has(1)", "has(...) takes one name"),
        ("‸has(nothing)", "'nothing' is not a name that may be absent"),
        ("‸updated(1)", "wrong arguments"),
        ("‸updated(1, a=2)", "updated(...) needs a record"),
        ("‸1 / 0", "division by zero"),
        ("‸1e18 ** 20", "this cannot be computed"),
        ("‸10 ** 300", "this cannot be computed"),
        ("‸[1, 2][[true, false]]", "a selection v[mask] can only be reduced"),
        ("max(‸[1, 2][[true, false]] if cases.count > 1 else [1, 2][[true, true]])", "can only be reduced"),
        ("x ‸= 3", "not an expression"),
        ("cases.count > ‸(", "not an expression"),
        ("‸1 & 2", "not part of the rule language"),
        ("‸__import__('os')", "names may not begin with an underscore"),
        ("‸cases.__class__", "names may not begin with an underscore"),
        ("‸[x for x in [1, 2]]", "not part of the rule language"),
        ("(‸lambda: 1)()", "not part of the rule language"),
        ("‸cases.count.bit_length()", "only named functions can be called"),
        ("[1, 2, 3][‸0:1]", "not part of the rule language"),
        ("1 + ‸1j", "not a number, text or truth value"),
        ("1 + ‸1e19", "the number is too large"),
        ("'µm' == 'x' or ‸foo", "unknown name 'foo'"),
        ("  1 + ‸foo", "unknown name 'foo'"),
        ("‸config.name", "unknown name 'config.name'"),
        ("‸config_deep.nothing", "unknown name 'config_deep.nothing'"),
        ("‸channel.name", "unknown name 'channel.name'"),
        ("‸plan.nothing", "unknown name 'plan.nothing'"),
    ],
)
def test_expressions(value: str, what: str, tmp_path: Path) -> None:
    problem = check(rule(f'"{value}"'), what, tmp_path)
    assert str(problem).startswith("mine.yaml:")


@pytest.mark.parametrize(
    "value",
    [
        ">-\n      cases.count\n      + foo", "|\n      cases.count + foo", "cases.count\n      + foo",
        '"cases.count \\x2b foo"',
    ],
)  # fmt: skip
def test_text_in_another_form_is_pointed_at_as_a_whole(value: str, tmp_path: Path) -> None:
    """No column is made up for text that the file folds, quotes or spreads over lines."""
    path = tmp_path / "mine.yaml"
    path.write_text(rule(value), encoding="utf-8")
    (problem,) = problems_of(path)
    start = 13 if value.startswith('"') else 12
    assert problem.where == f"mine.yaml:12:{start}"
    assert "unknown name 'foo'" in problem.what


def test_suggestions() -> None:
    from nnrules.engine.suggest import suggest

    assert suggest("cases.cuont", ["cases.count", "cases.shape"]) == "Did you mean 'cases.count'?"
    assert suggest("nothing alike", ["cases.count"]) is None


STRUCTURE = [
    (f"{HEAD}‸ruls: []\n", "unknown field 'ruls'"),
    (f"{HEAD}rules: ‸{{a: 1}}\n", "'rules' must be a list"),
    (f"{HEAD}rules:\n  - ‸3\n", "a rule must be a mapping"),
    (f"{HEAD}rules:\n  - ‸{{id: a, title: t, kind: inferred, decides: a}}\n", "rule 'a' lacks cases"),
    (f"{HEAD}rules:\n  - {{id: ‸A b, title: t, kind: inferred, decides: a, constant: 1, because: b}}\n", "not a rule id"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: ‸magic, decides: a, constant: 1, because: b}}\n", "unknown kind"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, scope: ‸all, decides: a, constant: 1, because: b}}\n", "unknown scope"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: ‸'a b', constant: 1, because: b}}\n", "'decides' names fields"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: ‸[a, a], constant: {{a: 1}}, because: b}}\n", "a field stands twice"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, hit: ‸any, constant: 1, because: b}}\n", "unknown hit"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, ‸configurations: [flat], decides: a, constant: 1, because: b}}\n",
     "only rules of scope configuration"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, constant: 1, because: b, ‸cases: []}}\n", "both 'constant' and 'cases'"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, cases: [‸{{constant: 1, because: b}}]}}\n", "either 'when' or 'otherwise'"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, cases: [‸{{otherwise: 1, because: b}}, "
     "{when: 'true', constant: 1, because: b}]}\n", "'otherwise' must be the last case"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, cases: [‸{{when: 'true', because: b}}]}}\n", "a case needs one outcome"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, cases: [‸{{when: 'true', value: 1}}]}}\n", "lacks because"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: a, cases: [{{when: 'true', ‸refuse: '', because: b}}]}}\n", "needs a text"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: [a, b], constant: ‸3, because: b}}\n", "a group needs a value for each field"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: [a, b], ‸constant: {{a: 3}}, because: b}}\n",
     "a group must give each of its fields a value"),
    (f"{HEAD}rules:\n  - {{id: a, title: t, kind: inferred, decides: [a, b], constant: {{a: 3, b: 3}}, because: b, "
     "given: {‸c: {value: {a: 1}, because: b}}}\n", "'c' is not decided by this rule"),
    (f"{HEAD}params: {{‸p: {{value: 3, doc: d}}}}\n", "parameter 'p' has no unit"),
    (f"{HEAD}params: {{p: {{value: ‸[1], unit: mm, doc: d}}}}\n", "must be a number, text or truth value"),
    (f"{HEAD}params: {{‸max: {{value: 3, unit: mm, doc: d}}}}\n", "'max' belongs to the rule language"),
    (f"{HEAD}params: {{‸Edge: {{value: 3, unit: mm, doc: d}}}}\n", "'Edge' is not a name"),
    (f"{HEAD}facts: {{f: {{value: 3, scope: ‸channel, unit: mm, doc: d}}}}\n", "unknown scope"),
    (f"{HEAD}facts: {{‸p: {{value: 3, unit: mm, doc: d}}}}\nparams: {{p: {{value: 3, unit: mm, doc: d}}}}\n", "both a fact and a parameter"),
    (f"{HEAD}facts: {{f: {{value: 1 + ‸zzz, unit: mm, doc: d}}}}\n", "unknown name 'zzz'"),
    (f"{HEAD}functions: {{f: {{doc: d, args: ‸x, return: 1}}}}\n", "'args' must be a list of names"),
    (f"{HEAD}functions: {{f: {{doc: d, args: [‸3], return: 1}}}}\n", "an argument is a name"),
    (f"{HEAD}functions: {{f: {{doc: d, args: [x], repeat: {{at_most: ‸0.5, steps: []}}, return: 1}}}}\n", "'at_most' must be a whole number"),
    (f"{HEAD}functions: {{f: {{doc: d, args: [x], repeat: ‸{{at_most: 3, steps: [{{let: {{a: 1}}}}]}}, return: 1}}}}\n", "the loop never stops"),
    (f"{HEAD}functions: {{f: {{doc: d, args: [x], repeat: {{at_most: 3, steps: [‸{{stop_if: 'true'}}]}}, return: 1}}}}\n", "lacks 'because'"),
    (f"{HEAD}functions: {{f: {{doc: d, args: [x], repeat: {{at_most: 3, steps: [‸{{let: {{a: 1}}, set: {{b: 1}}}}]}}, return: 1}}}}\n",
     "a step does one thing"),
    (HEAD.replace("dim: 2", "dim: ‸4"), "'dim' must be 2 or 3"),
    (HEAD.replace("flat: {dim: 2,", "flat: {dim: 2, inherits_from: ‸none_such,"), "no configuration 'none_such'"),
    (HEAD.replace("gpu_memory_gb: 8", "gpu_memory_gb: ‸-8"), "must be above 0"),
    (HEAD.replace("gpu_memory_gb: 8", "gpu_memory_gb: ‸eight"), "must be a number"),
    (f"{HEAD}default_preset: ‸XL\n", "no such preset"),
    (f"{HEAD}presets: {{‸S: {{doc: d, params: {{nothing: 1}}}}}}\ndefault_preset: S\n", "is no parameter of the pack"),
    (f"{HEAD}extends: ‸nnunet\n", "'extends' names one exact version"),
    (f"{HEAD}extends: ‸nnunet@9.9.9\n", "no such rule pack 'nnunet@9.9.9'"),
    (f"{HEAD}extends: nnunet@2.8.0\nremoves: [‸nothing.here]\n", "there is no rule 'nothing.here' to remove"),
    (f"{HEAD}extra: {{a: {{type: ‸date, doc: d}}}}\n", "unknown type"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what"), STRUCTURE, ids=[what for _, what in STRUCTURE])
def test_structure(text: str, what: str, tmp_path: Path) -> None:
    check(text, what, tmp_path)


WIRING = [
    (LISTING + "  - {id: a, title: t, kind: inferred, decides: x, constant: 1, because: b}\n"
     "  - {‸id: b, title: t, kind: inferred, decides: x, constant: 1, because: b}\n", "'x' is decided twice"),
    (LISTING + "  - {‸id: a, title: t, kind: inferred, decides: x, value: plan.y, because: b}\n"
     "  - {id: b, title: t, kind: inferred, decides: y, value: plan.x, because: b}\n", "depend on each other in a circle"),
    (LISTING + "  - {‸id: a, title: t, kind: inferred, decides: x, value: cases.spacing, because: b}\n", "cannot be a case matrix"),
    (LISTING + "  - {‸id: a, title: t, kind: inferred, scope: configuration, configurations: [none], decides: x, constant: 1, because: b}\n",
     "names an unknown configuration"),
    (LISTING + "  - {id: a, title: t, kind: inferred, decides: x, let: {cases_n: cases.count, ‸q: 1 + zz}, value: cases_n, because: b}\n", ""),
    (LISTING + "  - {id: a, title: t, kind: inferred, decides: x, hit: first, cases: [{when: cases.count > 1, value: 1, because: b}, "
     "‸{when: cases.count > 2, value: \"'a'\", because: b}]}\n", "cases give 'x' different types"),
    (LISTING + "  - {id: a, title: t, kind: inferred, decides: x, cases: [{when: ‸cases.count, value: 1, because: b}]}\n",
     "'when' needs true or false"),
    (LISTING + "  - {id: a, title: t, kind: inferred, scope: configuration, decides: x, cases: [{when: 'zeros(dim) > 1', value: 1, because: b}]}\n", ""),
    (LISTING + "  - {id: a, title: t, kind: inferred, decides: x, value: 1, because: 'of {nothing}'}\n", ""),
    (LISTING + "  - {id: a, title: t, kind: inferred, decides: x, value: [{p: ‸cases.count}, {q: 1}], because: b}\n", "the same fields"),
    ("functions: {f: {doc: d, args: [a], return: ‸g(a)}, g: {doc: d, args: [a], return: f(a)}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: f(1), because: b}\n", ""),
    ("functions: {f: {doc: d, args: [a], return: a}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: '‸f(1, 2)', because: b}\n", "wrong arguments for 'f'"),
    ("functions: {f: {doc: d, args: [a, b], return: a}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: '‸f(1)', because: b}\n", "'f' lacks b"),
    ("functions: {f: {doc: d, args: [a], start: {s: a}, repeat: {at_most: 3, steps: [{stop_if: s > 3, because: b}, "
     "{set: {s: '‸[1, 2]'}}]}, return: s}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: f(1), because: b}\n", "'s' changes its type"),
    ("functions: {‸f: {doc: d, args: [a], start: {s: a}, repeat: {at_most: 3, steps: [{stop_if: s > 3, because: b}, "
     "{set: {q: 1}}]}, return: s}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: f(1), because: b}\n", "which 'start' does not define"),
    ("functions: {f: {doc: d, args: [a], start: {a: ‸a}, return: a}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: f(1), because: b}\n", "'a' is already a name here"),
    ("params: {p: {value: 1, unit: mm, doc: d}}\nfunctions: {‸f: {doc: d, args: [p], return: p}}\n" + LISTING
     + "  - {id: a, title: t, kind: inferred, decides: x, value: f(1), because: b}\n", "would hide the parameter"),
    (LISTING + "  - {id: a, title: t, kind: inferred, scope: configuration, decides: [x, y], value: {x: 1, y: 2}, because: b, "
     "given: {‸x: {value: {x: 1}, because: b}}}\n", "must give the other fields of the group"),
    (LISTING + "  - {id: a, title: t, kind: inferred, scope: configuration, decides: [x, y], value: {x: 1, y: 2}, because: b, "
     "given: {‸x: {value: {y: \"'a'\"}, because: b}}}\n", "'y' has another type here"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "what"), [entry for entry in WIRING if entry[1]], ids=[w for _, w in WIRING if w]
)
def test_wiring(text: str, what: str, tmp_path: Path) -> None:
    check(HEAD + text, what, tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (WIRING[4][0], "unknown name 'zz'"), (WIRING[7][0], "'when' needs true or false"),
        (WIRING[8][0], "unknown name 'nothing'"), (WIRING[10][0], "functions may not call each other in a circle"),
    ],
)  # fmt: skip
def test_wiring_somewhere(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text.replace(MARK, ""), encoding="utf-8")
    assert any(what in problem.what for problem in problems_of(path))


def test_both_places_of_a_double_decision_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + WIRING[0][0].replace(MARK, ""), encoding="utf-8")
    (problem,) = problems_of(path)
    assert problem.got == "rules 'a' (mine.yaml:8:6) and 'b' (mine.yaml:9:6)"


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    rules = "".join(
        f"  - {{id: r{n}, title: t, kind: inferred, decides: x{n}, value: missing{n}, because: b}}\n"
        for n in range(4)
    )
    path.write_text(HEAD + LISTING + rules, encoding="utf-8")
    assert [problem.what for problem in problems_of(path)] == [f"unknown name 'missing{n}'" for n in range(4)]


def test_an_unused_fact_and_an_unused_let_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        HEAD + "facts: {f: {value: nothing_here, unit: mm, doc: d, scope: configuration}}\n" + LISTING
        + "  - {id: a, title: t, kind: inferred, decides: x, let: {q: nor_here}, value: 1, because: b}\n",
        encoding="utf-8",
    )  # fmt: skip
    found = [problem.what for problem in problems_of(path)]
    assert found == ["unknown name 'nor_here'", "unknown name 'nothing_here'"]


def test_dependents_of_a_broken_rule_are_not_reported_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        HEAD + LISTING + "  - {id: a, title: t, kind: inferred, decides: x, value: nothing, because: b}\n"
        "  - {id: b, title: t, kind: inferred, decides: y, value: plan.x + 1, because: b}\n",
        encoding="utf-8",
    )  # fmt: skip
    assert [problem.what for problem in problems_of(path)] == ["unknown name 'nothing'"]


def test_what_cannot_apply_is_not_compiled(decide: Callable[..., dict[str, Any]]) -> None:
    """Conditions on parameters and the configuration's name are decided at once and create no dependency."""
    values = decide(
        """
        - {id: a, title: t, kind: inferred, scope: configuration, configurations: [deep], decides: x, constant: 5, because: b}
        - id: b
          title: t
          kind: inferred
          scope: configuration
          decides: y
          hit: first
          cases:
            - {when: config.name == "deep" and switch, value: config.x, because: b}
            - {otherwise: 0, because: b}
        """,
        more="params: {switch: {value: true, doc: d}}",
    )
    assert values == {"configurations.deep.x": 5, "configurations.deep.y": 5, "configurations.flat.y": 0}
