"""Every entry of ``corpus/``: a clear message with its place, exit code 2, no traceback, no half-written file."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from nnrules.cli import run as _arguments

CORPUS = Path(__file__).parent / "corpus"
OUTPUT = "out.json"

# One expression in a rule: the place is always my.yaml, line 10, from column 12.
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


def _entries() -> list[Any]:
    """Every entry as a test parameter; its name is ``file: case``."""
    found = []
    for path in sorted(CORPUS.glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            found.append(pytest.param(_complete(entry), id=f"{path.stem}: {entry['case']}"))
    return found


def _complete(entry: dict[str, Any]) -> dict[str, Any]:
    """Write out the short forms ``expression`` and ``rules``."""
    if "expression" in entry:
        entry["rules"] = _RULE_OF_EXPRESSION.format(expression=json.dumps(entry["expression"]))
    if "rules" in entry:
        entry.setdefault("files", {})["my.yaml"] = entry["rules"]
        entry.setdefault("run", f"plan fingerprint.json --rules my.yaml -o {OUTPUT}")
    return entry


ENTRIES = _entries()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too; measurements that ``fingerprint`` keeps of whole cases do not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not (path.suffix == ".npz" and path.parent.name.endswith(".cache"))
    }


def check_failure(entry: Mapping[str, Any], code: int, out: str, err: str) -> None:
    assert code == entry.get("exit", 2), f"exit code {code}\n{out}\n{err}"
    assert "Traceback" not in err
    for fragment in entry["says"]:
        assert str(fragment) in " ".join((out if code == 1 else err).split()), f"{fragment!r} not in\n{out}{err}"


def problems_of(text: str) -> list[dict[str, str]]:
    found = json.loads(text)
    assert list(found) == ["errors"]
    problems: list[dict[str, str]] = found["errors"]
    return problems


@pytest.mark.parametrize("entry", ENTRIES)
def test_bad_input(
    entry: dict[str, Any], spoil: Callable[[Any], None], workspace: Path, capfd: pytest.CaptureFixture[str]
):
    spoil(entry)
    before = contents(workspace)
    arguments = shlex.split(entry["run"])

    code = _arguments(arguments)
    out, err = capfd.readouterr()
    check_failure(entry, code, out, err)
    assert contents(workspace) == before

    code = _arguments([*arguments, "--json"])
    out, err = capfd.readouterr()
    assert contents(workspace) == before
    assert code == entry.get("exit", 2)
    if code == 1:  # findings are the result of `check`, not an error
        json.loads(out)
        return
    assert out == ""
    problems = problems_of(err)
    assert problems
    for problem in problems:
        assert problem["where"], problem
        assert problem["what"], problem
        # What to do must be there, or be plain from what was expected or from the source line.
        assert problem.keys() & {"fix", "expected", "excerpt"} or "is refused" in problem["what"], problem
