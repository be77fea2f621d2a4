"""Every entry of ``corpus/``: a clear message with its place, exit code 2, no traceback, no half-written file."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from nnrules.cli import run
from nnrules.errors import Problem

CORPUS = Path(__file__).parent / "corpus"
Contents = Callable[[Path], dict[str, bytes]]
Check = Callable[[dict[str, Any], str], None]

# A rule with one expression as its value, which begins at my.yaml:10:13.
_RULE_OF_EXPRESSION = """\
title: One expression
extends: nnunet@2.8.0
rules:
  - id: training.probe
    title: Probe
    kind: empirical
    scope: configuration
    configurations: [2d]
    decides: training.probe
    value: {expression}
    because: tests
"""


def _completed(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its short forms ``expression`` and ``rules`` written out."""
    if "expression" in entry:
        entry["rules"] = _RULE_OF_EXPRESSION.format(
            expression=json.dumps(entry["expression"], ensure_ascii=False)
        )
    if "rules" in entry:
        entry.setdefault("files", {})["my.yaml"] = entry["rules"]
        entry.setdefault("run", "plan fingerprint.json --rules my.yaml -o out.json")
    return entry


def _entries() -> list[Any]:
    """Every entry as a test parameter."""
    return [
        pytest.param(_completed(entry), id=f"{path.stem}: {entry['case']}")
        for path in sorted(CORPUS.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


ENTRIES = _entries()
FIRST_OF_EACH_FILE = list({entry.id.partition(":")[0]: entry for entry in reversed(ENTRIES)}.values())


def check_problems(problems: list[dict[str, str]]) -> None:
    assert problems
    for problem in problems:
        assert problem["where"], problem
        assert problem["what"], problem
        # What to do is said, or plain from what was expected or from the line that shows the mistake. A refusal
        # says why, a requirement what it demands.
        what = problem["what"]
        says_itself = what.startswith(("this dataset is refused: ", "not planned: ")) or " must " in what
        assert says_itself or problem.keys() & {"fix", "expected", "excerpt"}, problem


@pytest.mark.parametrize("entry", ENTRIES)
def test_message_and_exit_code(
    *,
    entry: dict[str, Any],
    spoil: Callable[[Any], None],
    workspace: Path,
    contents: Contents,
    check_says: Check,
    capfd: pytest.CaptureFixture[str],
):
    spoil(entry)
    before = contents(workspace)

    code = run(shlex.split(entry["run"]) + ([] if "text" in entry else ["--json"]))

    out, err = capfd.readouterr()
    assert code == 2, f"exit code {code}\n{out[:1000]}\n{err}"
    assert contents(workspace) == before
    if "report" in entry:  # findings are what the verb was asked for, not an error
        assert err == ""
        json.loads(out)
        check_says(entry, json.dumps(json.loads(out), ensure_ascii=False).replace('\\"', '"'))
        return
    assert out == ""
    document = json.loads(err)
    assert list(document) == ["errors"]
    check_problems(document["errors"])
    check_says(entry, "\n".join(str(Problem(**problem)) for problem in document["errors"]))


@pytest.mark.parametrize("entry", FIRST_OF_EACH_FILE)
def test_process(
    *,
    entry: dict[str, Any],
    spoil: Callable[[Any], None],
    workspace: Path,
    contents: Contents,
    check_says: Check,
):
    """The same in a process of its own, and as text for people."""
    spoil(entry)
    before = contents(workspace)

    command = [sys.executable, "-m", "nnrules", *shlex.split(entry["run"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert contents(workspace) == before
    if "report" not in entry:
        assert done.stdout == ""
        check_says(entry, done.stderr)


def test_corpus_is_large_enough_and_has_no_entry_twice():
    names = [entry.id for entry in ENTRIES]
    assert len(names) >= 200
    assert len(set(names)) == len(names)
