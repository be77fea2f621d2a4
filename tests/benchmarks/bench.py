"""Measures nnrules next to nnU-Net v2; `make bench` runs it.

Prints tables and writes docs/benchmarks/step1 (planning) and step2 (the runtime), .md and .json. Targets are reported,
not asserted. Parts that need data beside the checkout (../shared) say so where it is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "runtime")]  # the checkout, installed or not

import fingerprinting  # noqa: E402
import peer  # noqa: E402
import planning  # noqa: E402
import runtime  # noqa: E402
from measurement import Figure, Measurement, skipped  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

REPORTS = CHECKOUT / "docs" / "benchmarks"
QUICK_REPORTS = CHECKOUT / ".bench" / "quick"
HEADER = ("what", "nnrules", "nnU-Net v2 or floor", "ratio", "target", "met", "note")
PLANNING = """Planning is measured from a loaded pack and parsed fingerprint to a checked plan with provenance;
nnU-Net v2's planner from its constructor to the saved plans, without the import of torch. Whole
processes include the start of Python. Medians of several runs; nnU-Net v2 runs once."""

Row = Measurement | Figure


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the report.

    Attributes:
        title: its heading.
        introduction: how its rows were measured.
        parts: what is measured, by name.
        versions: packages that matter to it.
    """

    title: str
    introduction: str
    parts: Mapping[str, Callable[[], list[Row]]]
    versions: tuple[str, ...]


def _pages(python: Path | None, repeats: int, *, quick: bool) -> dict[str, Page]:
    step1 = Page(
        "Speed: planning and fingerprints",
        PLANNING,
        {
            "planning the golden corpus": lambda: [*planning.corpus(max(1, repeats // 2))],
            "planning as a process": lambda: [*planning.command_line(repeats)],
            "planning next to nnU-Net v2": lambda: [*planning.real_plans(python, repeats)],
            "fingerprints": lambda: [*fingerprinting.hippocampus(python, repeats)],
        },
        ("numpy", "SimpleITK"),
    )
    step2 = Page(
        "Speed: preprocessing, training, prediction",
        runtime.INTRODUCTION,
        runtime.parts(python, repeats, quick=quick),
        ("torch", "numpy", "SimpleITK", "blosc2"),
    )
    return {"step1": step1, "step2": step2}


def _environment(packages: tuple[str, ...]) -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "peer": "nnunetv2 2.8.1, torch 2.13.0",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _markdown(page: Page, rows: list[Row], environment: dict[str, str], *, quick: bool) -> str:
    lines = [
        f"# {page.title}",
        "",
        "Written by `make bench`; all rows of one run, on one machine: "
        + ", ".join(f"{name} {value}" for name, value in environment.items())
        + ".",
        "",
        *(
            ["**A quick run, to see whether everything runs: the numbers mean nothing.**", ""]
            if quick
            else []
        ),
        page.introduction,
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
    ]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _measured(page: Page, only: set[str], console: Console) -> list[Row]:
    rows: list[Row] = []
    for name, part in page.parts.items():
        if only and name not in only:
            continue
        console.print(f"measuring: {name} …")
        try:
            rows += part()
        except (RuntimeError, OSError, subprocess.CalledProcessError) as exc:  # the other parts still count
            console.print(f"failed: {exc}")
            rows.append(skipped(name, "it failed"))
    return rows


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, help="runs of each measurement (default: 5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="see whether everything runs; into .bench/quick")
    parser.add_argument("--page", action="append", help="step1 or step2 alone; may be repeated")
    parser.add_argument("--part", action="append", help="one part alone, by name; writes nothing")
    parser.add_argument("--no-peer", action="store_true", help="measure nnrules alone; installs nothing")
    parser.add_argument("--no-report", action="store_true", help="print only")
    parser.add_argument("--output", type=Path, help="folder of the pages (default: docs/benchmarks)")
    return parser.parse_args()


def main() -> None:
    arguments = _parsed()
    console = Console(width=150)
    python = None
    if not arguments.no_peer:
        console.print("nnU-Net v2 2.8.1: looking for it, or installing it into .bench/peer (about 1 GB) …")
        python = peer.interpreter(install=True)
    quick: bool = arguments.quick
    repeats = arguments.repeats or (1 if quick else 5)
    pages = _pages(python, repeats, quick=quick)
    only = set(arguments.part or ())
    known = {"page": set(pages), "part": {name for page in pages.values() for name in page.parts}}
    for kind, chosen in (("page", set(arguments.page or ())), ("part", only)):
        if unknown := chosen - known[kind]:
            raise SystemExit(
                f"no such {kind}: {', '.join(unknown)}; there are {', '.join(sorted(known[kind]))}"
            )
    folder = arguments.output or (QUICK_REPORTS if quick else REPORTS)
    for name, page in pages.items():
        if (arguments.page and name not in arguments.page) or (only and not only & set(page.parts)):
            continue
        rows = _measured(page, only, console)
        table = Table(*HEADER)
        for row in rows:
            table.add_row(*row.cells())
        console.print(table)
        if arguments.no_report or only:
            continue
        environment = _environment(page.versions)
        folder.mkdir(parents=True, exist_ok=True)
        document = {"environment": environment, "measurements": [row.to_json() for row in rows]}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n")
        (folder / f"{name}.md").write_text(_markdown(page, rows, environment, quick=quick))
        console.print(f"written to {folder / name}.md")


if __name__ == "__main__":
    main()
