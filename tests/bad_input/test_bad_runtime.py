"""Every entry of ``corpus_runtime/``: a clear message with its place, exit code 2, no traceback, nothing half-written.

Full disks are in ``test_bad_runtime_disk.py``, hostile files in ``test_bad_runtime_hostile.py``.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from nnrules.cli import run
from nnrules.errors import Problem

pytestmark = pytest.mark.usefixtures("torch_as_before")

CORPUS = Path(__file__).parent / "corpus_runtime"
Contents = Callable[[Path], dict[str, bytes]]
Check = Callable[[dict[str, Any], str], None]
ENTRIES = [
    pytest.param(entry, id=f"{path.stem}: {entry['case']}")
    for path in sorted(CORPUS.glob("*.yaml"))
    for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
]
FIRST_OF_EACH_FILE = list({entry.id.partition(":")[0]: entry for entry in reversed(ENTRIES)}.values())


@pytest.fixture
def workspace(runtime_copy: Path) -> Path:
    """What ``spoil`` works on."""
    return runtime_copy


def arguments(entry: dict[str, Any], short: str) -> list[str]:
    return ["run", *shlex.split(entry["run"].replace("SHORT", short))]


def check_files(before: dict[str, bytes], contents: Contents, folder: Path, allowed: list[str]) -> None:
    """Nothing that was there has changed, and nothing is new but what may be."""
    after = contents(folder)
    changed = [name for name in before if after.get(name) != before[name]]
    assert not changed, changed
    new = [name for name in after.keys() - before.keys() if not any(fnmatch(name, one) for one in allowed)]
    assert not new, new
    # Whatever may be written is written whole.
    assert not [path for path in folder.rglob("*") if path.suffix in (".tmp", ".old")]


@pytest.mark.parametrize("entry", ENTRIES)
def test_message_and_exit_code(
    *,
    entry: dict[str, Any],
    spoil: Callable[[Any], None],
    workspace: Path,
    short: str,
    contents: Contents,
    check_says: Check,
    capfd: pytest.CaptureFixture[str],
) -> None:
    spoil(entry)
    before = contents(workspace)

    code = run([*arguments(entry, short), "--json"])

    out, err = capfd.readouterr()
    assert code == 2, f"exit code {code}\n{out[:1000]}\n{err}"
    check_files(before, contents, workspace, entry.get("new", []))
    assert bool(out) == entry.get("out", False), out
    problems = json.loads(err[err.index('{"errors"' if '{"errors"' in err else "{\n") :])["errors"]
    assert problems
    for problem in problems:
        assert problem["where"], problem
        assert problem["what"], problem
        assert problem.keys() & {"fix", "expected"} or " must " in problem["what"], problem
    check_says(entry, "\n".join(str(Problem(**problem)) for problem in problems))


@pytest.mark.parametrize("entry", FIRST_OF_EACH_FILE)
def test_process(
    *,
    entry: dict[str, Any],
    spoil: Callable[[Any], None],
    workspace: Path,
    short: str,
    contents: Contents,
    check_says: Check,
) -> None:
    """The same in a process of its own, and as text for people."""
    spoil(entry)
    before = contents(workspace)

    command = [sys.executable, "-m", "nnrules", *arguments(entry, short)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    check_files(before, contents, workspace, entry.get("new", []))
    check_says(entry, done.stderr)


def test_corpus_has_no_entry_twice() -> None:
    names = [entry.id for entry in ENTRIES]
    assert len(set(names)) == len(names)
