"""Memory that this process and its workers may still take."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_bytes"]

_CGROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "sys/fs/cgroup/memory/memory.stat",
    ),
)


def available_bytes(root: Path = Path("/")) -> int | None:
    """What the machine has free, or its control group, if less.

    Args:
        root: where ``proc`` and ``sys`` lie; for tests.

    Returns:
        Bytes, or ``None`` on systems that do not tell.
    """
    found = []
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, usage, statistics in _CGROUPS:
        try:
            free = int((root / limit).read_text()) - int((root / usage).read_text())
        except (OSError, ValueError):  # "max": no limit
            continue
        found.append(free + _cached_bytes(root / statistics))
    return max(0, min(found)) if found else None


def _cached_bytes(path: Path) -> int:
    """File pages that the kernel gives back when asked; a control group counts them as used."""
    try:
        entries = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
        return int(entries.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
