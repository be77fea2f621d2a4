"""The one door to SimpleITK, which is imported on first use."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["simpleitk"]


@cache
def simpleitk() -> Any:
    """The module SimpleITK, typed as ``Any``: it is generated code without types.

    It takes 0.3 s to import; planning from a fingerprint must not pay for it.
    """
    module: Any = import_module("SimpleITK")
    # ITK writes warnings about headers to stderr from C++, past Python's logging; what matters is an error.
    module.ProcessObject.SetGlobalWarningDisplay(False)
    return module
