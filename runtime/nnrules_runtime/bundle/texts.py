"""Texts that people write for a bundle: its licence and what they add to its card."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from nnrules.errors import Problem, UsageError

__all__ = ["MAX_TEXT_BYTES", "Licence", "printable", "read_licence", "read_text"]

MAX_TEXT_BYTES = 1 << 20
"""Most bytes of a text that a bundle takes along."""

# An SPDX licence expression (SPDX 2.3, annex D), without its brackets.
_ID = r"[A-Za-z0-9][A-Za-z0-9.-]*\+?"
_EXPRESSION = re.compile(rf"{_ID}(?: (?:AND|OR|WITH) {_ID})*\Z")
_ENDINGS = (".txt", ".md", ".rst", ".html", ".pdf")
_FILE_NAMES = ("license", "licence", "copying")


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """Under which licence a bundle is given away.

    Attributes:
        spdx: SPDX expression; ``None`` where a text says it.
        text: for the file ``LICENSE``.
    """

    spdx: str | None
    text: str


def read_licence(value: str | Path) -> Licence:
    """A licence from an option.

    Args:
        value: a file with its text, or an SPDX expression such as ``CC-BY-4.0``; https://spdx.org/licenses lists them.

    Raises:
        UsageError: it is neither.
    """
    path = Path(value)
    if path.is_file():
        text = read_text(path, "--licence")
        found = re.match(r"SPDX-License-Identifier: (.*)\Z", text.strip())
        is_id = found is not None and _EXPRESSION.match(found[1]) is not None
        return Licence(spdx=found[1] if found and is_id else None, text=text)
    name = str(value)
    is_path = name.lower().endswith(_ENDINGS) or name.lower() in _FILE_NAMES
    if is_path or not _EXPRESSION.match(name):
        raise UsageError(
            Problem(
                where="--licence",
                what="this is neither a file nor an SPDX licence identifier",
                got=name,
                expected="a text file, or an identifier such as CC-BY-4.0, Apache-2.0 or LicenseRef-ours",
                fix="https://spdx.org/licenses lists the identifiers.",
            )
        )
    return Licence(spdx=name, text=f"SPDX-License-Identifier: {name}\n")


def read_text(path: Path, where: str) -> str:
    """A text file, with one newline at its end.

    Args:
        path: UTF-8.
        where: the option that named it.

    Raises:
        UsageError: it cannot be read, is no text, or is too long.
    """
    got = None
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        text = content.decode("utf-8-sig")
        if len(content) > MAX_TEXT_BYTES:
            got = f"more than {MAX_TEXT_BYTES} bytes"
        elif "\0" in text:
            got = "zeros, which no text has"
    except OSError as exc:
        got = exc.strerror or str(exc)
    except UnicodeDecodeError:
        got = "bytes that are no UTF-8"
    if got is not None:
        raise UsageError(
            Problem(
                where=f"{where} {path}",
                what="this text cannot be read",
                got=got,
                fix="Name a text file in UTF-8.",
            )
        )
    return "\n".join(text.splitlines()).rstrip() + "\n"


def printable(text: str) -> str:
    """A text of unknown origin, fit for a terminal: without characters that steer it or turn the order of others."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else "\ufffd"
        for character in text
    )
