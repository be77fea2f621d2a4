"""Where rules and schemas lie: in the checkout when there is one, else in the installed wheel.

An editable install leaves a stale copy under ``_data``, so the checkout wins.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nnrules.errors import PackError, Problem

__all__ = ["rules_directory", "schemas_directory"]

_PACKAGE = Path(__file__).resolve().parent


@cache
def _directory(name: str, marker: str) -> Path:
    checkout = _PACKAGE.parent
    for candidate in (checkout / name, _PACKAGE / "_data" / name):
        is_ours = candidate.parent != checkout or (checkout / "pyproject.toml").is_file()
        if is_ours and (candidate / marker).exists():
            return candidate
    raise PackError(
        Problem(
            where=str(_PACKAGE),
            what=f"the folder '{name}' of nnrules is missing",
            expected=f"{_PACKAGE / '_data' / name} (wheel) or {checkout / name} (checkout)",
            fix="Reinstall nnrules.",
        )
    )


def rules_directory() -> Path:
    """Folder that holds the shipped rule packs, one subfolder a pack."""
    return _directory("rules", "nnunet/pack.yaml")


def schemas_directory() -> Path:
    """Folder that holds the JSON Schemas."""
    return _directory("schemas", "fingerprint.schema.json")
