"""Run the commands of the documentation again: ``python docs/transcripts.py DATASET [--check]``.

A transcript is a code block that begins with ``$ nnrules``; what follows up to the next ``$`` is the output,
both streams, 120 columns wide, with hashes cut. DATASET is the folder of the Decathlon's hippocampus task in
nnU-Net v2's layout. In the pages it is called ``path/to``; ``path/to/broken`` is a copy that lacks a label
map, and YAML blocks under a "Save this as NAME" exist under that name. Blocks of ``$ nnrules run`` take
minutes and show times: they are left as they are, and made by hand.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGES = (ROOT / "README.md", DOCS / "quickstart.md")
_BLOCK = re.compile(r"^```\n(\$ nnrules (?!run ).*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"[Ss]ave this as `([^`]+)`.*?```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HASH = re.compile(r"(sha256:)[0-9a-f]+…?")  # changes with every comment in a rule file
_LEFT_OUT = "hippocampus_017"


def prepare(folder: Path, dataset: Path) -> None:
    """Lay out the dataset and its broken copy below ``folder``."""
    (folder / "path").mkdir()
    (folder / "path" / "to").mkdir()
    for part in ("dataset.json", "imagesTr", "labelsTr"):
        (folder / "path/to" / part).symlink_to(dataset / part)
    broken = folder / "path/to/broken"
    (broken / "labelsTr").mkdir(parents=True)
    for part in ("dataset.json", "imagesTr"):
        (broken / part).symlink_to(dataset / part)
    for label in (dataset / "labelsTr").iterdir():
        if not label.name.startswith(f"{_LEFT_OUT}."):
            (broken / "labelsTr" / label.name).symlink_to(label)


def run(command: str, folder: Path) -> str:
    """The command and its output, as a transcript shows them."""
    result = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"},
    )
    if "Traceback (most recent call last)" in result.stdout:
        sys.exit(f"`{command}` crashed, so nothing was written:\n{result.stdout}")
    lines = [_HASH.sub(r"\1…", line).rstrip() for line in result.stdout.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join([f"$ {command}", *lines]) + "\n"


def updated(text: str, folder: Path) -> str:
    """A page with its transcripts made anew."""
    for name, content in _FILE.findall(text):
        (folder / name).write_text(content, encoding="utf-8")

    def transcript(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", block[1], re.MULTILINE)
        return "```\n" + "\n".join(run(command, folder) for command in commands) + "```"

    return _BLOCK.sub(transcript, text)


def main() -> int:
    """Update or check every page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    stale = []
    for page in PAGES:
        with tempfile.TemporaryDirectory() as scratch:
            prepare(Path(scratch), arguments.dataset.resolve())
            text = page.read_text(encoding="utf-8")
            if (new := updated(text, Path(scratch))) != text:
                stale.append(page.name)
                if not arguments.check:
                    page.write_text(new, encoding="utf-8")
    if stale and arguments.check:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run: python docs/transcripts.py DATASET\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
