"""Memory that is left, as Linux tells it."""

from pathlib import Path

import pytest
from nnrules.memory import available_bytes


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 100 kB\nMemAvailable:    50 kB\n"}


def group(folder: str, limit: str, usage: str, statistics: str = "") -> dict[str, str]:
    names = ("memory.max", "memory.current") if folder == "sys/fs/cgroup" else (
        "memory.limit_in_bytes", "memory.usage_in_bytes"
    )  # fmt: skip
    return {
        f"{folder}/{names[0]}": limit,
        f"{folder}/{names[1]}": usage,
        f"{folder}/memory.stat": statistics,
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MEMINFO, 51200),
        ({**MEMINFO, **group("sys/fs/cgroup", "max\n", "10\n")}, 51200),
        ({**MEMINFO, **group("sys/fs/cgroup", "40000\n", "10000\n")}, 30000),
        ({**MEMINFO, **group("sys/fs/cgroup", "40000\n", "10000\n", "inactive_file 5000\nanon 3\n")}, 35000),
        ({**MEMINFO, **group("sys/fs/cgroup/memory", "40000\n", "50000\n")}, 0),
        ({"proc/meminfo": "MemAvailable: much\n"}, None),
    ],
)
def test_least_of_what_is_told(tmp_path, files, expected):
    assert available_bytes(write(tmp_path, files)) == expected
