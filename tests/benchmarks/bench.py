"""Measures planning and fingerprinting next to nnU-Net v2; `make bench` runs it.

Prints a table and writes docs/benchmarks/step1.md and step1.json. Targets are reported, not asserted. Parts
that need data beside the checkout (../shared) say so where it is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))  # the checkout, installed or not

import fingerprinting  # noqa: E402
import peer  # noqa: E402
import planning  # noqa: E402
from measurement import Measurement, skipped  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

REPORT = CHECKOUT / "docs" / "benchmarks" / "step1"
HEADER = ("what", "nnrules", "nnU-Net v2 or floor", "ratio", "target", "met", "note")


def _environment() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "SimpleITK": version("SimpleITK"),
        "peer": "nnunetv2 2.8.1, torch 2.13.0",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _markdown(rows: list[Measurement], environment: dict[str, str]) -> str:
    lines = [
        "# Speed: planning and fingerprints",
        "",
        "Written by `make bench`; all rows of one run, on one machine: "
        + ", ".join(f"{name} {value}" for name, value in environment.items())
        + ".",
        "",
        "Planning is measured from a loaded pack and parsed fingerprint to a checked plan with provenance;",
        "nnU-Net v2's planner from its constructor to the saved plans, without the import of torch. Whole",
        "processes include the start of Python. Medians of several runs; nnU-Net v2 runs once.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
    ]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each measurement of nnrules")
    parser.add_argument("--no-peer", action="store_true", help="measure nnrules alone; installs nothing")
    parser.add_argument("--no-report", action="store_true", help="print only")
    arguments = parser.parse_args()
    console = Console(width=150)
    python = None
    if not arguments.no_peer:
        console.print("nnU-Net v2 2.8.1: looking for it, or installing it into .bench/peer (about 1 GB) …")
        python = peer.interpreter(install=True)
    repeats = arguments.repeats
    parts: dict[str, Callable[[], list[Measurement]]] = {
        "planning the golden corpus": lambda: planning.corpus(max(1, repeats // 2)),
        "planning as a process": lambda: planning.command_line(repeats),
        "planning next to nnU-Net v2": lambda: planning.real_plans(python, repeats),
        "fingerprints": lambda: fingerprinting.hippocampus(python, repeats),
    }
    rows: list[Measurement] = []
    for name, part in parts.items():
        console.print(f"measuring: {name} …")
        try:
            rows += part()
        except (RuntimeError, subprocess.CalledProcessError) as exc:  # the other parts still count
            console.print(f"failed: {exc}")
            rows.append(skipped(name, "it failed"))
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)
    if arguments.no_report:
        return
    environment = _environment()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment, "measurements": [row.to_json() for row in rows]}
    REPORT.with_suffix(".json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    REPORT.with_suffix(".md").write_text(_markdown(rows, environment))
    console.print(f"written to {REPORT.with_suffix('.md').relative_to(CHECKOUT)}")


if __name__ == "__main__":
    main()
