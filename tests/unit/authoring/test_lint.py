"""Each check of lint finds what it is for, and nothing in packs that are right."""

from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.authoring.findings import Finding
from nnrules.authoring.lint import lint_pack
from nnrules.engine.packs import load_pack
from nnrules.errors import PackError

Write = Callable[..., Path]

HEAD = """
title: A pack
gpu_memory_gb: 8
configurations:
  2d: {dim: 2, doc: Slices.}
  3d: {dim: 3, doc: Volumes.}
"""
LISTING = """
  - {id: plans, title: Plans, kind: blueprint, decides: configurations, constant: [2d, 3d], because: so,
     source: me}
"""


def findings(write_pack: Write, text: str) -> list[Finding]:
    return list(lint_pack(write_pack(rules=text)).findings)


def checks(write_pack: Write, body: str, rules: str = "") -> list[tuple[str, str]]:
    """Severity and check of every finding; ``rules`` are added to a listing of configurations."""
    return [
        (entry.severity, entry.check)
        for entry in findings(write_pack, f"{HEAD}{body}\nrules:{LISTING}{rules}")
    ]


def cases(*entries: str, hit: str = "first", let: str = "{n: dataset.num_training}") -> str:
    lines = "".join(f"      - {{{entry}, because: so}}\n" for entry in entries)
    return (
        "  - id: a\n    title: A\n    kind: inferred\n    decides: a\n    source: me\n"
        f"    hit: {hit}\n    let: {let}\n    cases:\n{lines}"
    )


def test_a_pack_that_is_right(write_pack: Write) -> None:
    path = write_pack()
    assert [finding for finding in lint_pack(path).findings if finding.check != "literal"] == []


def test_mistakes_that_loading_finds_are_errors_with_their_place(write_pack: Write) -> None:
    (found,) = findings(
        write_pack, HEAD + "rules:\n  - {id: a, title: A, kind: inferred, decides: a, because: b}\n"
    )
    assert (found.severity, found.check) == ("error", "load")
    assert found.problem.where == "tiny.yaml:8:5"
    (found,) = findings(write_pack, HEAD + "rules:" + LISTING + cases("otherwise: m"))
    assert (found.severity, found.check) == ("error", "load")
    assert "'m'" in found.problem.what


def test_every_preset_is_compiled(write_pack: Write) -> None:
    text = (
        HEAD
        + "params: {kind: {value: 2d, doc: Kind., source: me}}\n"
        + "presets: {text: {doc: T., params: {kind: 5}}}\nrules:"
        + LISTING
        + cases('when: kind == "2d", value: 1', "otherwise: 2", let="{}")
    )
    (found,) = [entry for entry in findings(write_pack, text) if entry.severity == "error"]
    assert found.check == "load"


def test_unused_names(write_pack: Write) -> None:
    body = """
params:
  used: {value: 1, unit: mm, doc: Used., source: me}
  in_text: {value: 1, unit: mm, doc: Shown., source: me}
  spare: {value: 1, unit: mm, doc: Spare., source: me}
  preset_only: {value: 1, unit: mm, doc: Exported., source: me}
presets: {p: {doc: P., params: {preset_only: 2}}}
facts:
  needed: {value: used + 1, unit: mm, doc: Needed.}
  lonely: {value: used + 1, unit: mm, doc: Lonely.}
functions:
  called: {doc: Called., args: [x], return: inner(x), source: me}
  inner: {doc: Inner., args: [x], return: x, source: me}
  idle: {doc: Idle., args: [x], return: inner(x), source: me}
"""
    rule = cases("otherwise: called(needed)", let="{spare_let: used}").replace(
        "because: so", "because: '{in_text}'"
    )
    found = findings(write_pack, f"{HEAD}{body}\nrules:{LISTING}{rule}")
    assert {(entry.check, entry.problem.what) for entry in found} == {
        ("unused-param", "no expression reads parameter 'spare'"),
        ("unused-fact", "no rule needs fact 'lonely'"),
        ("unused-function", "no rule needs function 'idle'"),
        ("unused-let", "'spare_let' of rule 'a' is not used"),
    }
    assert {entry.severity for entry in found} == {"warning"}


def test_a_fact_that_is_a_record_is_used_by_its_fields(write_pack: Write) -> None:
    body = """
facts: {pair: {value: both(1), unit: mm, doc: A record.}}
functions: {both: {doc: Both., args: [x], return: {one: x, two: x}, source: me}}
"""
    assert checks(write_pack, body, cases("otherwise: pair.one", let="{}")) == []


def test_unused_names_of_functions(write_pack: Write) -> None:
    body = """
functions:
  f:
    doc: F.
    args: [x, spare]
    start: {y: x, counter: 0}
    repeat:
      at_most: 9
      steps:
        - let: {idle: y + 1}
        - stop_if: y > 2
          because: enough
        - set: {y: y + 1, counter: counter + 1}
        - collect: {kept: y}
    return: y
    source: me
"""
    rule = cases('otherwise: "f(1, 2)"', let="{}")
    found = findings(write_pack, f"{HEAD}{body}\nrules:{LISTING}{rule}")
    assert {(entry.severity, entry.problem.what) for entry in found} == {
        ("note", "argument 'spare' of function 'f' is not used"),
        ("warning", "name 'counter' of function 'f' is not used"),  # it only counts itself
        ("warning", "name 'idle' of function 'f' is not used"),
        ("warning", "name 'kept' of function 'f' is not used"),
    }


@pytest.mark.parametrize(
    ("when", "found"),
    [
        ('config.name == "3d"', False),
        ('config.name == "3D"', True),
        ('"2e" != config.name', True),
        ('config.name in ["2d", "3f"]', True),
        ('"3f" in dataset.channel_names', False),
    ],
)
def test_unknown_configurations(write_pack: Write, when: str, found: bool) -> None:
    rule = cases(f"when: '{when}', value: 1", "otherwise: 2", let="{}").replace(
        "    decides: a\n", "    decides: a\n    scope: configuration\n"
    )
    assert checks(write_pack, "", rule) == ([("error", "unknown-configuration")] if found else [])


@pytest.mark.parametrize(
    ("hit", "whens", "expected"),
    [
        ("first", ("n > 2", "n > 2 and n < 9"), [("warning", "unreachable-case")]),
        ("first", ("n > 2 and n < 9", "n > 2"), []),
        ("first", ("n > 2", "n > 2"), [("warning", "unreachable-case")]),
        ("first", ("n  >  2", "(n > 2)"), [("warning", "unreachable-case")]),
        ("first", ("n > 2", "n > 2 or n < 9"), []),
        ("first", ("true", "n > 2"), [("warning", "unreachable-case")]),
        ("first", ("false", "n > 2"), [("warning", "unreachable-case")]),
        (
            "first",
            ("n < 9 and n > 2", "dataset.has_regions and n > 2 and n < 9"),
            [("warning", "unreachable-case")],
        ),
        ("unique", ("n > 2 and n < 9", "n > 2"), [("error", "overlapping-cases")]),
        ("unique", ("n > 2", "n > 2 and n < 9"), [("error", "overlapping-cases")]),
        ("unique", ("n > 2", "n < 2"), []),
        ("collect", ("n > 2", "n > 2"), [("note", "overlapping-cases")]),
    ],
)
def test_overlapping_and_unreachable_cases(
    write_pack: Write, hit: str, whens: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    entries = [f"when: '{when}', value: {number}" for number, when in enumerate(whens)]
    found = checks(write_pack, "", cases(*entries, "otherwise: 9", hit=hit))
    # 9 is an ordinary number here, and an overlay of 'collect' has no let that matters
    assert [entry for entry in found if entry[1] not in ("literal", "unused-let")] == expected


def test_loops_that_cannot_end(write_pack: Write) -> None:
    body = """
functions:
  f:
    doc: F.
    args: [x]
    start: {y: x}
    repeat:
      at_most: 9
      steps:
        - let: {far: x > 2, near: y > 2}
        - stop_if: far
          because: far
        - stop_if: near
          because: near
        - stop_if: y > 1
          because: near
        - set: {y: y + 1}
    return: y
    source: me
"""
    found = findings(write_pack, f"{HEAD}{body}\nrules:{LISTING}{cases('otherwise: f(1)', let='{}')}")
    assert [(entry.severity, entry.check) for entry in found] == [
        ("error", "endless-loop"),
        ("warning", "same-reason"),
    ]
    assert found[0].problem.where == "tiny.yaml:17:11"


@pytest.mark.parametrize(
    ("expression", "numbers"),
    [
        ("n * 7", 1),
        ("n - 7.5", 1),
        ("n * 2 + 1 - 0.5 * -1", 0),
        ("7", 0),
        ("3 if dim == 3 else 1", 1),  # the comparison with dim is fine, the value is not
        ("where([true, false], 3, 1)[0]", 0),
        ("where([true, false], 4, 1)[0]", 1),
        ("sum(3 * ones(dim))", 0),
        ("percentile(cases.spacing, 50)[2]", 0),
        ("percentile(cases.spacing, 90)[2]", 1),
    ],
)
def test_numbers_that_should_be_parameters(write_pack: Write, expression: str, numbers: int) -> None:
    found = checks(write_pack, "", cases(f"when: n > 2, value: '{expression}'", "otherwise: 1"))
    assert found == [("warning", "literal")] * numbers


def test_texts(write_pack: Write) -> None:
    body = """
params: {p: {value: 1, unit: mm, doc: ''}}
functions: {f: {doc: F., args: [x], return: x + p}}
"""
    rules = """
  - {id: a, title: ends with a stop., kind: inferred, decides: a, value: f(p), because: ' '}
  - {id: b, title: '', kind: inferred, decides: b, value: f(p), because: so, source: me}
  - {id: c, title: Plans, kind: inferred, decides: c, value: f(p), because: so, source: me}
"""
    assert sorted(checks(write_pack, body, rules)) == sorted(
        [
            ("error", "no-because"),
            ("error", "no-doc"),
            ("error", "title"),  # empty
            ("note", "title"),  # ends with a stop, begins small
            ("note", "title"),  # the same as another rule's
            ("note", "no-source"),  # of the function
            ("warning", "no-source"),  # of the parameter
            ("warning", "no-source"),  # of the rule
        ]
    )


def test_fields_without_effect(write_pack: Write) -> None:
    rule = cases("otherwise: 1", let="{}") + "    because: lost\n    warn: lost\n"
    assert checks(write_pack, "", rule) == [("error", "ignored-field")] * 2


def test_configurations_that_nothing_plans(write_pack: Write) -> None:
    found = findings(write_pack, HEAD + "rules:\n" + cases("otherwise: 1", let="{}"))
    assert [(entry.severity, entry.check) for entry in found] == [("error", "no-configurations")]


OVERLAY = """
title: Longer
extends: nnunet@2.8.0
rules:
  - id: training.epochs
    title: Number of epochs
    kind: blueprint
    decides: training.epochs
    {replaces}
    value: inherited * 2
    because: more
    source: me
"""


def test_what_an_overlay_replaces_should_be_recorded(write_pack: Write) -> None:
    (found,) = findings(write_pack, OVERLAY.replace("{replaces}", ""))
    assert (found.severity, found.check) == ("note", "unrecorded-replacement")
    assert found.problem.fix is not None
    recorded = found.problem.fix.split("'")[1]
    assert recorded.startswith('replaces: "')
    path = write_pack(rules=OVERLAY.replace("{replaces}", recorded))
    assert lint_pack(path).findings == ()
    assert load_pack(path).warnings == ()
    (found,) = findings(write_pack, OVERLAY.replace("{replaces}", 'replaces: "000000000000"'))
    assert (found.severity, found.check) == ("warning", "replaces")


def test_what_an_overlay_inherits_is_not_looked_at(write_pack: Write) -> None:
    """The literals and unused names of the extended pack are not the overlay's."""
    found = findings(write_pack, OVERLAY.replace("{replaces}", ""))
    assert {entry.problem.where.partition(":")[0] for entry in found} == {"tiny.yaml"}


def test_test_files_are_read(write_pack: Write) -> None:
    path = write_pack(tests="tests: [{name: a}]")
    (found,) = [entry for entry in lint_pack(path).findings if entry.severity == "error"]
    assert found.check == "tests"


def test_the_worst_comes_first_and_the_report_is_json(write_pack: Write) -> None:
    rules = cases("when: n > 7, value: 1", "otherwise: 2") + "    because: lost\n"
    report = lint_pack(write_pack(rules=f"{HEAD}rules:{LISTING}{rules}"))
    assert [finding.severity for finding in report.findings] == ["error", "warning"]
    document = report.to_json()
    assert document["counts"] == {"error": 1, "warning": 1, "note": 0}
    assert document["ok"] is False
    assert document["findings"][1]["check"] == "literal"
    assert document["findings"][1]["where"].startswith("tiny.yaml:")


def test_a_missing_file_is_no_finding(tmp_path: Path) -> None:
    with pytest.raises(PackError):
        lint_pack(tmp_path / "no.yaml")
    with pytest.raises(PackError):
        lint_pack("nnunett@2.8.0")
